"""The bound and the evidence of all rows where each is weighed by itself: from all of them, or from some."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.corrected_rows import draws_by_row
from inference.diagnostics.importance import CELLS, PRODUCTS, draws_for, finite
from zoo.program.program import Program
from zoo.replay.evaluate import Values

OVER = 2 * CELLS  # entries of the data times draws on all rows, beyond which the evidence is that of some rows
SOME_DRAWS = 100  # of each of these
SOME_ROWS = 200  # of these, at least, or
FEWER_ROWS = 50  # where all rows are few: weighing shall take less than training did
SHARE = 100  # rows that one of them stands for, between the two
AT_ONCE = 1000  # rows that go through the networks together


class Totals(NamedTuple):
    """Sums over all rows, by their weights, with what belongs to no row.

    Attributes
    ----------
    bound, spread
        The bound of so many particles, and its standard error.
    evidence, error
        The log evidence by importance weighting, and its standard error.
    rows
        How many rows the evidence has been seen in.
    """

    bound: float
    spread: float
    evidence: float
    error: float
    rows: int


def too_many(program: Program, q: Approximation) -> bool:
    """Whether the draws that there are to be at least would take too long on all rows."""
    return q.covers_new_rows and draws_for(program) * entries(program) * len(program.data) > OVER


def of_all(program: Program, q: Approximation, points: Values, particles: int) -> Totals:
    """The same draws of all rows give the bound and the evidence."""
    count = -(-max(draws_for(program), particles) // particles) * particles
    one = _weights(program)
    parts, logs = [], []
    chunk = max(particles, CELLS // 10 // max(1, len(program.data)) // particles * particles)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        rows = ratios(program, q, points, size)[0]
        parts.append(_bounds(rows, particles) @ one)
        logs.append(torch.stack([rows.logsumexp(0), (2 * rows).logsumexp(0)]))
    rest = _rest(program, q, points)
    bound = torch.cat(parts) + rest
    first, second = torch.stack(logs).logsumexp(0)
    log_mean, relative = first - math.log(count), (second - 2 * first + math.log(count)).exp() - 1
    error = float((one.square() * relative.clamp_min(0) / max(1, count - 1)).sum().sqrt())
    spread = float(bound.std() / math.sqrt(len(bound))) if len(bound) > 1 else math.inf
    return Totals(float(bound.mean()), spread, float(one @ log_mean) + rest, error, len(program.data))


def of_some(program: Program, q: Approximation, points: Values, particles: int) -> Totals:
    """One bound of every row, and what the evidence of a row is above its bound, in some rows drawn at random.

    With y_i the bound of row i by draws of its own, and g_i = log p(x_i) - E[y_i], the evidence is sum_i y_i + n g, g
    the mean over m rows (a difference estimator: Särndal, Swensson and Wretman 1992, section 6.3): rows differ in log
    p by much more than in g. Its variance is n mean(var(y_i)) + n^2 var(g_i) / m, with the Monte Carlo error of g_i.
    """
    rows, one = len(program.data), _weights(program)
    bound = torch.zeros((), dtype=torch.float64, device=program.device)
    for at in torch.arange(rows).split(AT_ONCE):
        log_ratios, _ = ratios(program.rebind(program.data.take(at)), q, points, particles)
        bound += _bounds(log_ratios, particles)[0] @ one[at.to(one.device)]
    rest = _rest(program.rebind(program.data.take(torch.arange(1))), q, points)
    count = -(-max(SOME_DRAWS, particles) // particles) * particles
    least = min(SOME_ROWS, max(FEWER_ROWS, rows // SHARE))
    size = min(rows, max(least, CELLS // 2 // (entries(program) * count)))
    gaps, within = [], []
    for at in torch.randperm(rows)[:size].split(AT_ONCE // 10):
        log_ratios, _ = ratios(program.rebind(program.data.take(at)), q, points, count)
        own, weight = _bounds(log_ratios, particles), one[at.to(one.device)]
        gaps.append(weight * (log_ratios.logsumexp(0) - math.log(count) - own.mean(0)))
        spare = own if len(own) > 1 else log_ratios  # of one bound there is no variance; that of one draw is larger
        within.append(weight.square() * spare.var(0))
    gap, variance = torch.cat(gaps), rows * float(torch.cat(within).mean())
    total = float(bound) + rest
    error = math.sqrt(variance + rows**2 * float(gap.var()) / size)
    return Totals(total, math.sqrt(variance), total + rows * float(gap.mean()), error, size)


def _bounds(log_ratios: Tensor, particles: int) -> Tensor:
    """Importance-weighted bounds of so many draws (draws / particles, rows) from log ratios (draws, rows)."""
    return log_ratios.reshape(-1, particles, log_ratios.shape[1]).logsumexp(1) - math.log(particles)


def _weights(program: Program) -> Tensor:
    """What each row counts, in float64."""
    weights = program.data.weights
    one = torch.ones(len(program.data), dtype=torch.float64, device=program.device)
    return one if weights is None else weights.double()


def entries(program: Program) -> int:
    """Numbers of a row: its data, or its latents or what its way through the networks counts as if these are more."""
    data = sum(v.numel() for v in program.data.values.values()) // len(program.data)
    return max(1, program.view.local_size, data, program.structure.products // PRODUCTS)


def ratios(program: Program, q: Approximation, points: Values, count: int) -> tuple[Tensor, Values]:
    """log p(x_i, l_si) - log q(l_si), shape (count, rows), in float64; and the draws l."""
    drawn = draws_by_row(program, q, points, count)
    return finite(drawn.log_ratio, drawn.log_ratio.isfinite().all(1)), drawn.values


def _rest(program: Program, q: Approximation, points: Values) -> float:
    """The part of the log joint that belongs to no row: of latents at a point, and of data outside of the rows."""
    drawn = draws_by_row(program, q, points, 1)
    return float(program.log_joint({**points, **{n: v[0] for n, v in drawn.values.items()}}).rest)
