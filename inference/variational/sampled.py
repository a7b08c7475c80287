"""Fits to a stream: the rows at hand are a sample, and each stands for as many of the stream's."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from inference.approximations.corrected_rows import draws_by_row
from inference.method import Outcome
from zoo.program.program import Program


def standing_for_all(program: Program) -> Program:
    """Return the program, where its rows are a sample of a stream, with the weights that make these stand for all."""
    data = program.data
    if data.stream is None or data.stream.count is None:
        return program
    share = data.stream.count / len(data)
    weights = torch.full((len(data),), share, dtype=data.dtype, device=program.device)
    return program.rebind(replace(data, weights=weights))


def with_sampling_error(program: Program, outcome: Outcome) -> Outcome:
    """Return the outcome, the error of its objective and evidence being also that of a sample of rows for all.

    Of N rows n were looked at: the sum over all is known to N sd sqrt((1 - n / N) / n), sd that of the rows' densities.
    """
    stream, rows = program.data.stream, len(program.data)
    assert stream is not None
    assert stream.count is not None
    with torch.no_grad():
        if program.locals:
            each = draws_by_row(program, outcome.approximation, outcome.points, 1).log_ratio[0]
        else:
            drawn, _ = outcome.approximation.draw(program, 1) if program.latents else ({}, None)
            each = program.log_joint({**outcome.points, **{n: v[0] for n, v in drawn.items()}}).rows
    error = stream.count * float(each.double().std()) * math.sqrt((1 - rows / stream.count) / rows)
    known = {n: math.hypot(v, error) if n == "evidence_error" else v for n, v in outcome.diagnostics.items()}
    objective = replace(outcome.objective, error=math.hypot(outcome.objective.error, error))
    return replace(outcome, objective=objective, diagnostics=known)
