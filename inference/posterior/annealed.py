"""log p(x_i) of each row by annealed importance sampling: a check on importance weighting that owes nothing to q."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from inference.approximations.rows import log_mean_exp
from inference.posterior.answer import Answer
from inference.posterior.codes import coded
from inference.posterior.streams import Stream
from inference.sampling.annealed import annealed
from zoo.data.bind import Source
from zoo.errors import FitError

AT_ONCE = 4000  # chains of all rows that move at once


def annealed_log_prob(answer: Answer, new: Source | None, chains: int, temperatures: int, steps: int) -> pd.Series:
    """log p(x_i) of each row over `chains` chains from the prior to the posterior of its latents.

    Raises
    ------
    FitError
        If rows have no density of their own, or global latents have draws.
    """
    coded(answer)
    program = answer.on(new)
    if program.shared or program.coupled:
        raise FitError(f"rows have no density of their own: {program.coupled or 'they share a discrete latent'}")
    if any(s.countable for s in program.locals):
        raise FitError("annealing moves latents along gradients, and some of the rows' are counts; see log_prob()")
    if answer.has_draws and answer.fixed is None:
        raise FitError(
            "annealing is about rows given what they share, and this fit has draws of global latents; see log_prob()"
        )
    globals_ = {n: v[0] for n, v in answer.globals(1, program).items()}
    found: list[tuple[torch.Tensor, float]] = []
    with answer.running(Stream.ANNEAL):
        for some in torch.arange(len(program.data)).split(max(1, AT_ONCE // chains)):
            own = program.rebind(program.data.take(some))
            found.append(annealed(own, {**answer.points, **globals_}, chains, temperatures, steps))
    value, error = (v.cpu().numpy() for v in log_mean_exp(torch.cat([f[0] for f in found], 1)))
    series = pd.Series(value, index=program.data.coords[program.row], name="log_prob")
    accepted = float(np.mean([f[1] for f in found]))
    series.attrs.update(
        mcse=tuple(error.tolist()), mcse_total=float(np.sqrt(np.square(error).sum())), accepted=accepted
    )
    return series
