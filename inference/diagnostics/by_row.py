"""How far a q over locals can be trusted where rows are independent: each row's draws are weighed by themselves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import local_draws, pointwise
from inference.diagnostics.importance import CELLS, Judgement, draws_for, finite
from inference.diagnostics.pareto import KHAT_GOOD, khat_note, shape_error, smoothed
from inference.diagnostics.shifts import shifts
from inference.diagnostics.verdict import CARE, DISTRUST, MEAN_OFF, SD_OFF, TRUST
from inference.method import Objective
from zoo.program.program import Program
from zoo.replay.evaluate import Values

ROW_DRAWS = 1000  # for the Pareto shape of a row
ROWS = 1000  # whose shapes are estimated, at most: the median and the share above 0.7 are known well enough
FEW_ROWS = 0.05  # share of rows that may be off in an answer that is trusted
SURE = 2.0  # Monte Carlo errors beyond which a row is held to be off


class Rows(NamedTuple):
    """What is known of some rows: Pareto shapes, and the largest shift of a mean and of a standard deviation."""

    shapes: np.ndarray
    mean: np.ndarray
    sd: np.ndarray


def judged_by_row(program: Program, q: Approximation, points: Values) -> bool:
    """Whether locals of rows that are independent of each other are all that q is about."""
    by_row = not program.globals and not program.chained and not program.shared
    return by_row and q.propose(program, points, 1) is not None


def judge_rows(program: Program, q: Approximation, points: Values, *, converged: bool, particles: int = 1) -> Judgement:
    """Weigh draws of each row's locals by themselves; they are handed out as q has them.

    As `judge`, but the evidence is a sum over rows, and a row's weights are its own. The verdict is about most rows.
    """
    count = -(-max(draws_for(program), particles) // particles) * particles
    weights = program.data.weights
    one = torch.ones(len(program.data), dtype=torch.float64, device=program.device)
    one = one if weights is None else weights.double()
    parts, logs = [], []
    chunk = max(particles, CELLS // 10 // max(1, len(program.data)) // particles * particles)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        rows, _ = _ratios(program, q, points, size)
        grouped = rows.reshape(size // particles, particles, -1).logsumexp(1) - math.log(particles)
        parts.append(grouped @ one)
        logs.append(torch.stack([rows.logsumexp(0), (2 * rows).logsumexp(0)]))
    bound = torch.cat(parts)
    first, second = torch.stack(logs).logsumexp(0)
    log_mean, relative = first - math.log(count), (second - 2 * first + math.log(count)).exp() - 1
    error = float((one.square() * relative.clamp_min(0) / max(1, count - 1)).sum().sqrt())
    spread = float(bound.std() / math.sqrt(len(bound))) if len(bound) > 1 else math.inf
    found = _looked_at(program, q, points)
    share = float(np.mean(found.shapes > KHAT_GOOD))
    diagnostics = {
        "khat": float(np.median(found.shapes)),
        "khat_error": shape_error(float(np.median(found.shapes)), ROW_DRAWS),
        "khat_rows": float((~np.isnan(found.shapes)).sum()),
        "khat_rows_above": share,
        "khat_rows_max": float(found.shapes.max()),
        "evidence": float(one @ log_mean),
        "evidence_error": error,
    }
    note = (
        f"khat > {KHAT_GOOD} for {share:.0%} of {len(found.shapes)} rows looked at (largest {found.shapes.max():.2f}): "
        "for these the guide is far from the posterior of their locals"
    )
    above = diagnostics["khat"] > KHAT_GOOD
    return Judgement(
        approximation=q,
        objective=Objective(float(bound.mean()), "elbo" if particles == 1 else "iwae", spread),
        diagnostics=diagnostics,
        warnings=[*([note] if share > 0 else []), *([khat_note(diagnostics["khat"])] if above else [])],
        verdict=_verdict(found, diagnostics, converged=converged),
    )


def _verdict(found: Rows, diagnostics: dict[str, float], *, converged: bool) -> str:
    """Say what most rows say."""
    number, shape = len(found.shapes), diagnostics["khat"]
    off = float(np.mean((found.mean > MEAN_OFF) | (found.sd > SD_OFF)))
    above = diagnostics["khat_rows_above"]
    if math.isnan(shape):
        level, why = CARE, "too few draws of each row can be weighed to see how far q is from its posterior"
    elif shape > KHAT_GOOD:
        level, why = DISTRUST, f"k-hat of the median row is {shape:.2f}, above {KHAT_GOOD}; try a richer guide"
    elif above > FEW_ROWS or off > FEW_ROWS:
        level, why = CARE, f"k-hat of the median row is {shape:.2f}"
    else:
        level, why = TRUST, f"k-hat of the median row is {shape:.2f}"
    if not math.isnan(shape):
        why += (
            f", above {KHAT_GOOD} in {above:.0%} of {number} rows; locals are handed out uncorrected, and a mean is "
            f"more than {MEAN_OFF} posterior sds or an sd more than {SD_OFF:.0%} off in {off:.0%} of the rows"
        )
    if not converged:
        why += ". The climb has not converged, so this describes where it stopped"
    log_p = f"log p(x) = {diagnostics['evidence']:.3f} +- {diagnostics['evidence_error']:.2g} by importance weighting"
    return f"{level}: {why}; {log_p}"


def _ratios(program: Program, q: Approximation, points: Values, count: int) -> tuple[Tensor, Values]:
    """log p(x_i, l_si) - log q(l_si), shape (count, rows), in float64; and the draws l."""
    locals_ = local_draws(program, q, points, {}, count)
    ratio = pointwise(program, points, {}, locals_).double()
    return finite(ratio, ratio.isfinite().all(1)), locals_[0]


def _looked_at(program: Program, q: Approximation, points: Values) -> Rows:
    """Pareto shapes and shifts of some of the rows, spread evenly."""
    entries = max(1, sum(v.numel() for v in program.data.values.values()) // len(program.data))
    size = max(1, min(len(program.data), ROWS, 2 * CELLS // (5 * entries * ROW_DRAWS)))
    whole = program
    if size < len(program.data) and not q.covers_new_rows:
        if len(program.data) * entries * ROW_DRAWS > 2 * CELLS:
            return Rows(*[np.full(1, np.nan)] * 3)  # q draws all of its rows together, and these are too many
    elif size < len(program.data):
        at = torch.linspace(0, len(program.data) - 1, size, device=program.device).long()
        whole = program.rebind(program.data.take(at))
    ratios, draws = _ratios(whole, q, points, ROW_DRAWS)
    columns = [_by_row(whole, name, value) for name, value in draws.items()]
    x = torch.cat(columns, -1).double().cpu().numpy()  # (draws, rows, locals of a row)
    return Rows(
        *(
            np.array(v)
            for v in zip(*(_row(r, x[:, i]) for i, r in enumerate(ratios.cpu().numpy().T[:size])), strict=True)
        )
    )


def _row(ratio: np.ndarray, x: np.ndarray) -> tuple[float, float, float]:
    """Pareto shape of a row, and how far its means and sds are off at least, as far as errors let it be known."""
    weights, shape = smoothed(ratio)
    off = shifts(x, weights)
    mean = np.abs(off.mean) - SURE * off.mean_error
    sd = np.abs(off.sd - 1) - SURE * off.sd_error
    return (0.0 if math.isnan(shape) else shape), float(mean.max()), float(sd.max())


def _by_row(program: Program, name: str, value: Tensor) -> Tensor:
    """Draws of a local as (draws, rows, entries)."""
    site = program.sites[name]
    moved = value.movedim(1 + site.batch_dim + site.plate_dim(program.row), 1)
    return moved.reshape(*moved.shape[:2], -1)
