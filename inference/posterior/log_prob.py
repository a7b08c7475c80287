"""The posterior predictive density of rows, log p(x_i | fitted data)."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inference.approximations.adapted import proposals
from inference.approximations.approximation import Approximation
from inference.approximations.rows import NUMBERS, log_mean_exp, pointwise
from inference.posterior.answer import Answer
from inference.posterior.rows import row_chunks
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values


def log_prob(answer: Answer, new: Source | Data | None = None, samples: int = 1000) -> pd.Series:
    """log p(x_i | fitted data) of each row, averaged over `samples` draws; attrs hold its Monte Carlo errors.

    Raises
    ------
    FitError
        If the data have no rows, or rows have no density of their own.
    """
    program = answer.on(new)
    if program.rowless:
        raise FitError(f"log_prob needs a data plate: {program.rowless}")
    if program.shared:
        raise FitError(f"rows have no density of their own: they share the discrete latent {program.shared[0].name!r}")
    if program.coupled:
        raise FitError(f"rows have no density of their own: {program.coupled}; see `objective` for all together")
    count = samples if answer.has_draws or program.locals or answer.has_new_groups(program) else 1
    whole = bool(program.locals) and not answer.approximation.covers_new_rows
    chunks = list(row_chunks(program, whole=whole, draws=1 if program.locals else count))
    draws = answer.globals(count, program)
    parts = []
    for chunk in chunks:
        alike = sum(len(c.data) == len(chunk.data) for c in chunks)
        with answer.running(Stream.LOG_PROB):
            parts.append(_row_densities(chunk, answer.approximation, answer.points, draws, count, alike))
    value, error = (torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True))
    series = pd.Series(value, index=program.data.coords[program.row], name="log_prob")
    series.attrs.update(mcse=tuple(error.tolist()), mcse_total=float(np.sqrt(np.square(error).sum())))
    return series


def _row_densities(
    program: Program, approximation: Approximation, points: Values, draws: Values, count: int, repeats: int = 1
) -> tuple[Tensor, Tensor]:
    """log p(x_i) of each row and its Monte Carlo error, over `count` draws of the globals and locals, each (rows,).

    In float64; as many draws at a time as can be held.
    """
    if not program.locals:
        return log_mean_exp(pointwise(program, points, draws, None, repeats).double())
    size = max(1, NUMBERS // (len(program.data) * (program.view.local_size + 2)))
    if size >= count:
        local = proposals(program, approximation, points, draws, count)
        return log_mean_exp(pointwise(program, points, draws, local, repeats).double())
    first = second = torch.full((len(program.data),), -math.inf, dtype=torch.float64, device=program.device)
    pieces = -(-count // size)
    for some in torch.arange(count).tensor_split(pieces):
        own = {n: v[some] for n, v in draws.items()}
        local = proposals(program, approximation, points, own, len(some))
        log_weights = pointwise(program, points, own, local, repeats * pieces).double()
        first, second = first.logaddexp(log_weights.logsumexp(0)), second.logaddexp((2 * log_weights).logsumexp(0))
    relative = (second - 2 * first + math.log(count)).exp() - 1  # variance of the weights over their squared mean
    return first - math.log(count), (relative.clamp_min(0.0) / (count - 1)).sqrt()
