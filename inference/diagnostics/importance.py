"""How far a fitted q can be trusted: its draws are weighed against the posterior."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import chunk_for, local_draws, log_mean_exp, pointwise
from inference.approximations.trained import Trained
from inference.diagnostics.agreement import RHAT_GOOD, rhat_of_starts
from inference.diagnostics.pareto import KHAT_GOOD, khat, khat_note
from inference.diagnostics.verdict import verdict
from inference.method import Objective
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

DRAWS = 10_000  # Pareto shapes from fewer are noisy
FEWEST_DRAWS = 10  # for a bound with an error, however large the data
FEWEST_FOR_KHAT = 200  # of fewer, the tail that a Pareto distribution is fitted to has less than 40
CELLS = 20_000_000  # entries of the data times draws that are evaluated: some seconds of work
ROW_DRAWS = 1000  # for the Pareto shape of a row
ROWS = 1000  # whose shapes are estimated, at most: the median and the share above 0.7 are known well enough
ERROR_GOOD = 0.3  # of a log evidence: beyond it some ten draws have all the weight
FAR, FAR_EACH = 3.0, 0.3  # nats below the evidence, and more for each coordinate, at which an ELBO is far

Weighed = tuple[Objective, dict[str, float], list[str]]  # the bound, the diagnostics, and what to warn of


@dataclass(frozen=True)
class Judgement:
    """What draws of a fitted q say of it when they are weighed against the posterior.

    Attributes
    ----------
    objective
        The ELBO, or the importance-weighted bound of several particles.
    diagnostics
        "khat", "evidence" and "evidence_error"; of rows also "khat_rows", "khat_rows_above" and "khat_rows_max".
    warnings
        Where q is far from the posterior.
    verdict
        In words, whether q can be trusted.
    """

    objective: Objective
    diagnostics: dict[str, float]
    warnings: list[str]
    verdict: str


def judge(program: Program, q: Approximation, points: Values, *, converged: bool, particles: int = 1) -> Judgement:
    """Weigh draws of a fitted q against the posterior.

    The ELBO is the mean of log p - log q over fresh draws; log p(x) is estimated by the log of the mean of p / q, with
    its standard error; the Pareto shape k-hat of p / q says whether that error, and q itself, can be believed (Yao et
    al. 2018). With local latents only, all of this is done row by row.

    Parameters
    ----------
    program
        The program.
    q, points
        The fitted distribution, and the values of parameters and network weights.
    converged
        Whether the fit came to its end, for the verdict.
    particles
        Draws of the importance-weighted bound to report; 1 for the ELBO.

    Raises
    ------
    FitError
        If the log density is not finite at draws of q.
    """
    by_row = not program.globals and not program.chained and not program.shared
    weigh = _weigh_rows if by_row and q.propose(program, points, 1) is not None else _weigh_draws
    objective, diagnostics, warnings = weigh(program, q, points, particles)
    evidence, error, shape = (diagnostics[n] for n in ("evidence", "evidence_error", "khat"))
    if shape > KHAT_GOOD:
        warnings = [*warnings, khat_note(shape)]
    fixed = q.guide.points(program) if isinstance(q, Trained) else ()
    if fixed:  # all of this is about the other latents, and log p(x, z*)
        objective = replace(objective, kind=f"{objective.kind}_at_point")
    gap = evidence - objective.value if particles == 1 else 0.0
    words = verdict(
        shape,
        converged,
        evidence,
        error,
        ", ".join(("x", *fixed)),
        far=gap if gap > FAR + FAR_EACH * coordinates(program) else 0.0,
        few=error > ERROR_GOOD and "khat_rows" not in diagnostics and draws_for(program) >= FEWEST_FOR_KHAT,
    )
    return Judgement(objective, diagnostics, warnings, words)


def coordinates(program: Program) -> int:
    """How many numbers a draw has."""
    return program.view.global_size + program.view.local_size * len(program.data)


def draws_for(program: Program, cells: int = CELLS) -> int:
    """How many draws to evaluate on all rows."""
    entries = max(1, sum(v.numel() for v in program.data.values.values()))
    return max(FEWEST_DRAWS, min(DRAWS, cells // entries))


def ratios(program: Program, approximation: Approximation, points: Values, count: int) -> Tensor:
    """log p(x, z) - log q(z) at `count` draws of all latents, shape (count,), in float64."""
    draws, log_q = approximation.draw(program, count)

    def joint(values: Values) -> Tensor:
        return program.log_joint({**points, **values}).total(program.data.weights)

    ratio: Tensor = (many(joint, draws, count, chunk_for(program)) - log_q).double()
    return _finite(ratio, ratio.isfinite())


def _finite(ratio: Tensor, good: Tensor) -> Tensor:
    """Return log ratios as they are, or raise if they are not `good`, shape (draws,), at all draws."""
    bad = int((~good).sum())
    if bad:
        raise FitError(
            f"the log density is not finite at {bad} of {len(good)} draws from the fitted guide; the model's density "
            "is not a number, or zero, where the posterior has mass. Restrict the supports of its latents"
        )
    return ratio


def _weigh_draws(program: Program, q: Approximation, points: Values, particles: int) -> Weighed:
    """Weigh draws of all latents together."""
    count = draws_for(program)
    ratio = ratios(program, q, points, count)
    shape = khat(ratio.cpu().numpy()) if count >= FEWEST_FOR_KHAT else math.nan
    value, error = log_mean_exp(ratio)
    diagnostics = {"khat": shape, "evidence": float(value), "evidence_error": float(error)}
    return _objective(ratio, particles), diagnostics, []


def _objective(ratio: Tensor, particles: int) -> Objective:
    groups = len(ratio) // particles
    bound = torch.logsumexp(ratio[: groups * particles].reshape(groups, particles), 1) - math.log(particles)
    error = float(bound.std() / math.sqrt(groups)) if groups > 1 else math.inf
    return Objective(float(bound.mean()), "elbo" if particles == 1 else "iwae", error)


def _weigh_rows(program: Program, q: Approximation, points: Values, particles: int) -> Weighed:
    """Weigh draws of each row's locals by themselves."""
    count = -(-max(draws_for(program), particles) // particles) * particles
    weights = program.data.weights
    one = torch.ones(len(program.data), dtype=torch.float64, device=program.device)
    one = one if weights is None else weights.double()
    parts, logs = [], []
    chunk = max(particles, CELLS // 4 // max(1, len(program.data)) // particles * particles)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        rows = _row_ratios(program, q, points, size)
        grouped = rows.reshape(size // particles, particles, -1).logsumexp(1) - math.log(particles)
        parts.append(grouped @ one)
        logs.append(torch.stack([rows.logsumexp(0), (2 * rows).logsumexp(0)]))
    bound = torch.cat(parts)
    first, second = torch.stack(logs).logsumexp(0)
    log_mean, relative = first - math.log(count), (second - 2 * first + math.log(count)).exp() - 1
    error = float((one.square() * relative.clamp_min(0) / max(1, count - 1)).sum().sqrt())
    spread = float(bound.std() / math.sqrt(len(bound))) if len(bound) > 1 else math.inf
    objective = Objective(float(bound.mean()), "elbo" if particles == 1 else "iwae", spread)
    shapes = _row_shapes(program, q, points)
    share = float(np.mean(shapes > KHAT_GOOD))
    diagnostics = {
        "khat": float(np.median(shapes)),
        "khat_rows": float((~np.isnan(shapes)).sum()),
        "khat_rows_above": share,
        "khat_rows_max": float(shapes.max()),
        "evidence": float(one @ log_mean),
        "evidence_error": error,
    }
    note = (
        f"khat > {KHAT_GOOD} for {share:.0%} of {len(shapes)} rows looked at (largest {shapes.max():.2f}): for "
        "these the guide is far from the posterior of their locals"
    )
    return objective, diagnostics, [note] if share > 0 else []


def _row_ratios(program: Program, q: Approximation, points: Values, count: int) -> Tensor:
    """log p(x_i, l_si) - log q(l_si), shape (count, rows), in float64."""
    locals_ = local_draws(program, q, points, {}, count)
    ratio = pointwise(program, points, {}, locals_).double()
    return _finite(ratio, ratio.isfinite().all(1))


def _row_shapes(program: Program, q: Approximation, points: Values) -> np.ndarray:
    """Pareto shapes of some of the rows, spread evenly."""
    entries = max(1, sum(v.numel() for v in program.data.values.values()) // len(program.data))
    size = max(1, min(len(program.data), ROWS, 2 * CELLS // (entries * ROW_DRAWS)))
    whole = program
    if size < len(program.data) and not q.covers_new_rows:
        if len(program.data) * entries * ROW_DRAWS > 4 * CELLS:
            return np.full(1, np.nan)  # q draws all of its rows together, and these are too many
    elif size < len(program.data):
        at = torch.linspace(0, len(program.data) - 1, size, device=program.device).long()
        whole = program.rebind(program.data.take(at))
    log_ratios = _row_ratios(whole, q, points, ROW_DRAWS).cpu().numpy()
    shapes = np.array([khat(column) for column in log_ratios.T[:size]])
    return np.where(np.isnan(shapes), 0.0, shapes)  # no spread that matters: q is as good as the posterior there


def with_agreement(program: Program, judgement: Judgement, ends: Sequence[tuple[Approximation, Values]]) -> Judgement:
    """Add R-hat of the log joint over draws from the ends of several starts, which no relabelling changes.

    Parameters
    ----------
    program
        The program.
    judgement
        Of the best end.
    ends
        q, and the values of parameters and network weights, where each start has ended.
    """
    value = rhat_of_starts(program, ends)
    note = f"the {len(ends)} starts end in different places (R-hat of the log joint {value:.2f}); the best is kept"
    return replace(
        judgement,
        diagnostics={**judgement.diagnostics, "rhat_restarts": value},
        warnings=[*judgement.warnings, *([note] if value > RHAT_GOOD else [])],
    )
