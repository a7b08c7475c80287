"""The posterior predictive density of rows, log p(x_i | fitted data)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from inference.approximations.rows import row_densities
from inference.posterior.answer import Answer, Stream
from inference.posterior.rows import row_chunks
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.errors import FitError


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
            parts.append(row_densities(chunk, answer.approximation, answer.points, draws, count, alike))
    value, error = (torch.cat(p).cpu().numpy() for p in zip(*parts, strict=True))
    series = pd.Series(value, index=program.data.coords[program.row], name="log_prob")
    series.attrs.update(mcse=tuple(error.tolist()), mcse_total=float(np.sqrt(np.square(error).sum())))
    return series
