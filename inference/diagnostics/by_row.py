"""How far a q over locals can be trusted where rows are independent: each row's draws are weighed by themselves."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from inference.approximations.approximation import Approximation
from inference.approximations.corrected_rows import CorrectedRows, back, by_row, shared_points
from inference.approximations.pareto import KHAT_GOOD, khat_note, shape_error, smoothed_rows
from inference.approximations.trained import Trained
from inference.diagnostics.importance import CELLS
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.row_totals import entries, of_all, of_some, ratios, too_many
from inference.diagnostics.shifts import shifts
from inference.diagnostics.verdict import CARE, DISTRUST, FEWEST_WORTH, MEAN_OFF, SD_OFF, TRUST
from inference.method import Objective
from zoo.program.program import Program
from zoo.replay.evaluate import Values

ROW_DRAWS = 1000  # for the Pareto shape of a row
ROWS = 1000  # whose shapes are estimated, at most: the median and the share above 0.7 are known well enough
UNUSED = (
    0.01  # variance of E[z | x] over rows, in variances of z, of a coordinate that says nothing (Burda et al. 2016)
)
FEW_ROWS = 0.05  # share of rows that may be off in an answer that is trusted
SURE = 2.0  # Monte Carlo errors beyond which a row is held to be off


class Rows(NamedTuple):
    """What is known of some rows.

    Attributes
    ----------
    shapes, worth
        Pareto shape of each, and how many draws are left in effect when they are weighed, (rows,).
    mean, sd
        By how much a mean and a standard deviation of q are off at least, the largest of each row, (rows,).
    shifts
        Statistic -> site -> array in the shape of the site, if these are all rows.
    unused
        Which entries of a row's latents have the same mean in all rows, (entries,).
    """

    shapes: np.ndarray
    worth: np.ndarray
    mean: np.ndarray
    sd: np.ndarray
    shifts: dict[str, Values]
    unused: np.ndarray

    @property
    def median(self) -> float:
        """Pareto shape of the median row."""
        return float(np.median(self.shapes))

    @property
    def above(self) -> np.ndarray:
        """Which rows are too far from their posterior to be corrected."""
        return self.shapes > KHAT_GOOD

    @property
    def thin(self) -> np.ndarray:
        """Which other rows have so few draws in effect that means are known to 0.1 sds only."""
        return ~self.above & (self.worth < FEWEST_WORTH)


def judged_by_row(program: Program, q: Approximation, points: Values) -> bool:
    """Whether all that q is about are locals of rows that are independent of each other, given points of the rest."""
    fixed = q.guide.points(program) if isinstance(q, Trained) else ()
    known = all(s.name in fixed for s in program.globals)
    by_row = known and bool(program.locals) and not program.chained and not program.shared
    some = program.rebind(program.data.take(torch.arange(1))) if by_row and q.covers_new_rows else program
    return by_row and q.propose(some, points, 1) is not None


def judge_rows(
    program: Program, q: Approximation, points: Values, *, converged: bool, particles: int = 1, corrected: bool = True
) -> Judgement:
    """Weigh draws of each row's locals by themselves, and correct each row by its own weights where these allow it.

    As `judge`, but the evidence is a sum over rows, and a row's weights are its own. The verdict is about most rows.
    """
    everything, shared = shared_points(program, q, points)
    totals = of_some if too_many(program, q) else of_all
    seen = totals(program, q, everything, particles)
    found = _looked_at(program, q, everything)
    share = float(np.mean(found.above))
    diagnostics = {
        "khat": found.median,
        "khat_error": shape_error(found.median, ROW_DRAWS),
        "khat_rows": float((~np.isnan(found.shapes)).sum()),
        "khat_rows_above": share,
        "khat_rows_max": float(found.shapes.max()),
        "evidence": seen.evidence,
        "evidence_error": seen.error,
        **({"evidence_rows": float(seen.rows)} if seen.rows < len(program.data) else {}),
    }
    left = ", and their draws are handed out as q has them" if corrected else ""
    note = (
        f"khat > {KHAT_GOOD} for {share:.0%} of {len(found.shapes)} rows looked at (largest {found.shapes.max():.2f}): "
        f"for these the guide is far from the posterior of their locals{left}"
    )
    above = diagnostics["khat"] > KHAT_GOOD
    kind = "elbo" if particles == 1 else "iwae"
    return Judgement(
        approximation=CorrectedRows(q, points) if corrected else q,
        objective=Objective(seen.bound, f"{kind}_at_point" if shared else kind, seen.spread),
        diagnostics=diagnostics,
        warnings=[
            *([note] if share > 0 else []),
            *([khat_note(diagnostics["khat"])] if above else []),
            *_collapse(program, q, found),
        ],
        verdict=_verdict(
            found, diagnostics, tuple(shared), len(program.data), converged=converged, corrected=corrected
        ),
        shifts=found.shifts,
    )


def _collapse(program: Program, q: Approximation, found: Rows) -> list[str]:
    """Say so where an encoder says nothing of its rows in most coordinates."""
    off, total = int(found.unused.sum()), len(found.unused)
    if not (program.networks and q.covers_new_rows and off > total / 2):
        return []
    return [
        f"posterior collapse: in {off} of {total} coordinates of a row's latents E[z | x] has less than {UNUSED:.0%} "
        "of their variance over rows, so that they say nothing of the row; see active_units(). Try warm_up, fewer "
        "coordinates or a decoder that can do less without them"
    ]


def _verdict(
    found: Rows, diagnostics: dict[str, float], fixed: tuple[str, ...], rows: int, *, converged: bool, corrected: bool
) -> str:
    """Say what most rows say."""
    shape, above, thin = found.median, diagnostics["khat_rows_above"], float(np.mean(found.thin))
    wrong = (found.mean > MEAN_OFF) | (found.sd > SD_OFF)
    off = float(np.mean(wrong & found.above if corrected else wrong))  # others are resampled
    level, why = TRUST, f"k-hat of the median row is {shape:.2f} +- {diagnostics['khat_error']:.2f}"
    if math.isnan(shape):
        level, why = CARE, "too few draws of each row can be weighed to see how far q is from its posterior"
    elif shape > KHAT_GOOD:
        level = DISTRUST
    elif max(above, off) > FEW_ROWS or (corrected and above + thin > FEW_ROWS) or fixed:
        level = CARE
    if not math.isnan(shape):
        why += f", above {KHAT_GOOD} in {above:.0%} of {len(found.shapes)} rows, "
        why += _how(above, thin) if corrected else "and locals are handed out uncorrected"
        why += f"; means more than {MEAN_OFF} posterior sds or sds more than {SD_OFF:.0%} off in {off:.0%} of the rows"
        why += "; try a richer guide" if level == DISTRUST else ""
    if fixed:
        why = f"{', '.join(fixed)} at a point without spread, and given that {why}"
    if not converged:
        why += ". The climb has not converged, so this describes where it stopped"
    of = ", ".join(("x", *fixed))
    log_p = f"log p({of}) = {diagnostics['evidence']:.3f} +- {diagnostics['evidence_error']:.2g}"
    some = f" of {diagnostics['evidence_rows']:.0f} of {rows} rows" if "evidence_rows" in diagnostics else ""
    return f"{level}: {why}; {log_p} by importance weighting{some}"


def _how(above: float, thin: float) -> str:
    """Say how rows are corrected."""
    text = "which q hands out as they are, and the others" if above else "and all"
    text += " are resampled, each by weights of its own"
    return text + (f" ({thin:.0%} of the rows with fewer than {FEWEST_WORTH:.0f} draws in effect)" if thin else "")


def _looked_at(program: Program, q: Approximation, points: Values) -> Rows:
    """Pareto shapes and shifts of some of the rows, spread evenly."""
    numbers = entries(program)
    size = max(1, min(len(program.data), ROWS, 2 * CELLS // (5 * numbers * ROW_DRAWS)))
    whole = program
    if size < len(program.data) and not q.covers_new_rows:
        if len(program.data) * numbers * ROW_DRAWS > 2 * CELLS:
            nothing = np.full(1, np.nan)  # q draws all of its rows together, and these are too many
            return Rows(nothing, nothing, nothing, nothing, {}, np.zeros(0, dtype=bool))
    elif size < len(program.data):
        at = torch.linspace(0, len(program.data) - 1, size, device=program.device).long()
        whole = program.rebind(program.data.take(at))
    log_ratios, draws = ratios(whole, q, points, ROW_DRAWS)
    weights, shapes = smoothed_rows(log_ratios[:, :size])
    columns = {n: by_row(whole, n, v, 1)[:, :size] for n, v in draws.items()}  # (draws, rows, entries of a row)
    x = torch.cat(list(columns.values()), -1).double()
    off = shifts(
        x.flatten(1).cpu().numpy(), weights[..., None].expand(x.shape).flatten(1).cpu().numpy()
    )  # of scalars, those of a row side by side
    between = (x.mean(0).var(0) - x.var(0).mean(0) / len(x)).clamp_min(0.0) if size > 1 else x.new_ones(x.shape[-1])
    shapes = shapes.nan_to_num(nan=0.0, posinf=math.inf)
    table = {n: v.reshape(size, -1) for n, v in off.table.items()}
    told = {}
    if size == len(program.data):
        widths = [v.shape[-1] for v in columns.values()]
        of_rows = {"khat": shapes.cpu().numpy()[:, None].repeat(x.shape[-1], 1)}
        for statistic, values in (table | of_rows).items():
            parts = torch.from_numpy(values).split(widths, 1)
            told[statistic] = {n: back(program, n, v, 0) for n, v in zip(columns, parts, strict=True)}
    return Rows(
        shapes=shapes.cpu().numpy(),
        worth=(1 / weights.square().sum(0)).cpu().numpy(),
        mean=(np.abs(table["mean_shift"]) - SURE * table["mean_error"]).max(1),
        sd=(np.abs(table["sd_ratio"] - 1) - SURE * table["sd_error"]).max(1),
        shifts=told,
        unused=(between < UNUSED * (between + x.var(0).mean(0))).cpu().numpy(),
    )
