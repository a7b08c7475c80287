"""The bound of each row in parts: how far q is from the prior, how well codes explain the row, and what is unused."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inference.approximations.rows import FEW_AT_ONCE, NUMBERS, chunk_for
from inference.posterior.answer import Answer
from inference.posterior.codes import SD, coded, encode, some_rows
from inference.posterior.local_moments import entry_names
from inference.posterior.log_prob import log_prob
from inference.posterior.rows import row_chunks
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

ACTIVE = 0.01  # variance of E[z | x] over rows, in variances of the prior, below which a coordinate says nothing


class Parts(NamedTuple):
    """Of each row, from draws z of q(z): in nats, (rows,) each.

    Attributes
    ----------
    log_prob
        log of the mean of p(x, z) / q(z).
    kl
        KL(q(z) || p(z)), the mean of log q(z) - log p(z).
    reconstruction
        E_q[log p(x | z)].
    errors
        Monte Carlo standard errors of the three, and of their difference, the bound, (4, rows).
    """

    log_prob: np.ndarray
    kl: np.ndarray
    reconstruction: np.ndarray
    errors: np.ndarray


def bound_parts(answer: Answer, program: Program, samples: int) -> Parts:
    """Split the bound of each row of a program.

    Raises
    ------
    FitError
        If q says nothing of these rows, or rows have no density of their own.
    """
    coded(answer)
    if program.shared or program.coupled:
        raise FitError(f"rows have no bound of their own: {program.coupled or 'they share a discrete latent'}")
    q = answer.approximation
    some = program.rebind(program.data.take(torch.arange(1))) if q.covers_new_rows else program
    if q.propose(some, answer.points, 1) is None:
        raise FitError(
            "the bound of a row is about a distribution q of its latents, and this fit has none for these rows: fit "
            "with SVI(guide=Encoder())"
        )
    parts = []
    globals_ = answer.globals(samples, program)
    for chunk in row_chunks(program, whole=not q.covers_new_rows):
        with answer.running(Stream.LOG_PROB):
            parts.append(_of_rows(answer, chunk, globals_, samples))
    return Parts(*(np.concatenate(p, -1) for p in zip(*parts, strict=True)))


def _of_rows(answer: Answer, program: Program, globals_: Values, samples: int) -> Parts:
    """The same of rows that are looked at together, some draws at a time."""
    rows = len(program.data)
    size = max(1, NUMBERS // (rows * (program.view.local_size + 2)))
    names = [s.name for s in program.locals]
    sums = torch.zeros(6, rows, dtype=torch.float64, device=program.device)  # kl, reconstruction, bound; squares
    logs = torch.full((2, rows), -math.inf, dtype=torch.float64, device=program.device)

    def one(values: Values) -> tuple[Tensor, Tensor]:
        by_site = program.log_probs({**answer.points, **values})
        return program.log_prior(by_site, names).rows, program.eliminate(by_site).rows

    for some in torch.arange(samples).tensor_split(-(-samples // size)):
        proposed = answer.approximation.propose(program, answer.points, len(some))
        assert proposed is not None
        values, log_q = {**{n: v[some] for n, v in globals_.items()}, **proposed[0]}, proposed[1].double()
        if chunk_for(program) < FEW_AT_ONCE:
            pairs = [one({n: v[i] for n, v in values.items()}) for i in range(len(some))]
            prior, joint = (torch.stack(p).double() for p in zip(*pairs, strict=True))
        else:
            prior, joint = (v.double() for v in many(one, values, len(some), chunk_for(program)))
        terms = torch.stack([log_q - prior, joint - prior, joint - log_q])  # (3, draws, rows)
        sums += torch.cat([terms.sum(1), terms.square().sum(1)])
        logs = logs.logaddexp(torch.stack([terms[2].logsumexp(0), (2 * terms[2]).logsumexp(0)]))
    mean = sums[:3] / samples
    errors = ((sums[3:] / samples - mean.square()).clamp_min(0.0) / max(1, samples - 1)).sqrt()
    relative = (logs[1] - 2 * logs[0] + math.log(samples)).exp() - 1
    of_log = (relative.clamp_min(0.0) / max(1, samples - 1)).sqrt()
    found = torch.cat([torch.stack([logs[0] - math.log(samples), *mean[:2], of_log]), errors]).cpu().numpy()
    return Parts(found[0], found[1], found[2], found[3:])


def anomaly(answer: Answer, new: Source | Data | None, samples: int) -> pd.DataFrame:
    """Columns log_prob, kl and reconstruction of each row; attrs hold their Monte Carlo errors.

    Without codes there is log_prob alone.
    """
    if all(s.countable for s in answer.program.locals):
        series = log_prob(answer, new, samples)
        frame = series.to_frame()
        frame.attrs["mcse"] = {"log_prob": series.attrs["mcse"]}
        return frame
    program = answer.on(new)
    found = bound_parts(answer, program, samples)
    columns = {"log_prob": found.log_prob, "kl": found.kl, "reconstruction": found.reconstruction}
    frame = pd.DataFrame(columns, index=program.data.coords[program.row])
    frame.attrs["mcse"] = {n: tuple(e.tolist()) for n, e in zip(columns, found.errors, strict=False)}
    return frame


def rate_distortion(answer: Answer, new: Source | Data | None, samples: int) -> pd.DataFrame:
    """Mean over rows of rate, distortion and the bound, -distortion - rate, with standard errors; by row weights."""
    program = answer.on(some_rows(answer) if new is None else new)
    found = bound_parts(answer, program, samples)
    weights = program.data.weights
    share = np.ones(len(program.data)) if weights is None else weights.double().cpu().numpy()
    share = share / share.sum()
    values = {
        "rate": (found.kl, found.errors[1]),
        "distortion": (-found.reconstruction, found.errors[2]),
        "elbo": (found.reconstruction - found.kl, found.errors[3]),
    }
    table = {
        name: (float(share @ each), float(np.sqrt(np.square(share * error).sum())))
        for name, (each, error) in values.items()
    }
    frame = pd.DataFrame.from_dict(table, orient="index", columns=["nats", "mcse"])
    frame.attrs["rows"] = len(program.data)
    return frame


def active_units(answer: Answer, new: Source | Data | None) -> pd.DataFrame:
    """Var_x E_q[z | x] of each coordinate, and whether it is above 0.01 of the variance of the codes of all rows."""
    codes = encode(answer, some_rows(answer) if new is None else new)
    program = answer.program
    parts = []
    for site in coded(answer):
        means, sds = (codes[n].transpose(program.row, ...).to_numpy() for n in (site.name, site.name + SD))
        means, sds = means.reshape(len(means), -1), sds.reshape(len(sds), -1)
        variance, within = means.var(0, ddof=1), np.square(sds).mean(0)
        columns = {"variance": variance, "active": variance > ACTIVE * (variance + within)}
        parts.append(pd.DataFrame(columns, index=entry_names(program, site)))
    return pd.concat(parts)
