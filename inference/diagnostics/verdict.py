"""Whether the draws that a fit hands out can be trusted, in words that begin with one of three."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from inference.approximations.pareto import KHAT_GOOD, most_shape, shape_error
from inference.diagnostics.shifts import Shifts

TRUST, CARE, DISTRUST = "trust", "usable with care", "do not trust"  # what every verdict begins with
MEAN_OFF, SD_OFF = 0.1, 0.1  # posterior standard deviations, and share of one, that a trusted answer may be off by
LIMITS = {"mean": MEAN_OFF, "sd": SD_OFF, "tail": 0.02}  # and mass beyond its 5 % and 95 % quantiles
FAR_OFF = 3.0  # times as far off is no answer any more
KNOWN = 0.4  # of these, the largest Monte Carlo error with which anything is held to be known
SURE = 2.0  # Monte Carlo errors beyond which something is held to be off
SHAPE_SURE = 1.64  # those by which a shape has to be below its limit if nothing else speaks for the draws
FEWEST_WORTH = 100.0  # draws in effect below which a few have all the weight


@dataclass(frozen=True)
class Evidence:
    """What is known of the draws that are handed out.

    Attributes
    ----------
    shape, count
        Pareto shape of p / q, from so many draws of q; NaN where there is no spread.
    worth
        How many of them are left in effect when they are weighed.
    corrected
        Whether what is handed out is resampled by these weights.
    uncorrected
        Why it is not, if it was to be.
    away
        How far means and sds that are handed out are from the best estimate of the posterior's.
    name
        Names the scalars that `away` is of.
    confirmed
        Whether that estimate comes from draws that owe little to q; None if there are no such draws.
    missed
        What q is known to lack; empty if nothing.
    converged
        Whether the fit came to its end.
    log_p
        The evidence in words.
    """

    shape: float
    count: int
    worth: float
    corrected: bool
    away: Shifts
    name: Callable[[int], str] = field(repr=False)
    confirmed: bool | None
    missed: str
    converged: bool
    log_p: str
    uncorrected: str = ""


def verdict(known: Evidence) -> str:
    """Say in words whether the draws that are handed out can be trusted.

    They are trusted where nothing else speaks against them and no mean is estimated to be more than 0.1 posterior
    standard deviations off, nor a standard deviation more than 10 %, with a Monte Carlo error of 0.04 and 4 % at most;
    and, where a wider look can tell, 3 to 7 % of the mass lie beyond each 5 % and 95 % quantile. The words give the sum
    of estimate and error.
    """
    level, why = _judged(known)
    if not known.converged:
        why = f"{why}. The climb has not converged, so this describes where it stopped"
    return f"{level}: {why}; {known.log_p}"


def _judged(known: Evidence) -> tuple[str, str]:
    shape, limit = known.shape, most_shape(known.count)
    if math.isinf(shape):
        return DISTRUST, "the approximation misses part of the posterior (k-hat is infinite)"
    if shape > limit:
        return DISTRUST, (
            f"k-hat {shape:.2f} is above {limit:.2g}, the approximation is far from the posterior where that has mass, "
            "so its draws are handed out as they are; means may be right, spreads and the evidence are not. Try a "
            "richer guide, or nuts"
        )
    if known.worth < FEWEST_WORTH:
        return DISTRUST, (
            f"a few draws outweigh all others (of {known.count} draws {known.worth:.0f} are left in effect); the "
            "approximation misses where most of the posterior is. Try a richer guide, restarts, or better starting "
            "values"
        )
    if known.missed:
        return DISTRUST, known.missed
    drawn = f"k-hat {shape:.2f} +- {shape_error(shape, known.count):.2f}" if shape == shape else "p / q has no spread"
    if known.uncorrected:
        drawn += f", uncorrected: {known.uncorrected}"
    elif known.corrected:
        drawn += f", draws resampled by weights, {known.worth:.0f} of {known.count} in effect"
    return _by_shifts(known, drawn)


def _by_shifts(known: Evidence, drawn: str) -> tuple[str, str]:
    """Judge by how far means and sds are from the best estimates there are."""
    scores, limits = _scores(known.away), LIMITS
    near = {n: value + error for n, (value, error) in scores.items()}
    sure = {n: value - SURE * error for n, (value, error) in scores.items()}
    said = "; ".join(_worst(known, n, gap) for n, gap in near.items() if gap.size)
    if any(bool((sure[n] > FAR_OFF * limits[n]).any()) for n in limits):
        return DISTRUST, f"{drawn}, but {said}. Try a richer guide, or nuts"
    if any(bool((value > limits[n]).any()) for n, (value, _) in scores.items()):
        return CARE, f"{drawn}; off: {said}"
    if any(not bool((scores[n][1] <= KNOWN * limits[n]).all()) for n in limits):
        return CARE, f"{drawn}; known only roughly: {said}"
    if known.confirmed is False:
        return CARE, f"{drawn}: a wider look at the posterior finds where a few draws outweigh all others; {said}"
    if not known.confirmed and known.shape + SHAPE_SURE * shape_error(known.shape, known.count) > KHAT_GOOD:
        return CARE, f"{drawn}: too near {KHAT_GOOD}, and no wider look at the posterior was possible; {said}"
    seen = "a wider look at the posterior" if known.confirmed else "the weighted draws"
    return TRUST, f"{drawn}; against {seen}, {said}"


def is_clear(away: Shifts) -> bool:
    """Whether these say, beyond Monte Carlo errors, that something is off, or that nothing is."""
    scores, limits = _scores(away), LIMITS
    beyond = any(bool((value - SURE * error > limits[n]).any()) for n, (value, error) in scores.items())
    return beyond or all(
        bool(((value + error <= limits[n]) & (error <= KNOWN * limits[n])).all())
        for n, (value, error) in scores.items()
    )


def _scores(away: Shifts) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """How far each scalar is off, and the error of that."""
    return {
        "mean": (np.abs(away.mean), away.mean_error),
        "sd": (np.abs(away.sd - 1), away.sd_error),
        "tail": (np.abs(away.tail), away.tail_error),
    }


def _worst(known: Evidence, kind: str, near: np.ndarray) -> str:
    at = int(np.argmax(np.nan_to_num(near, nan=np.inf)))
    off, name = near.flat[at], known.name(at % near.shape[-1])
    if kind == "mean":
        return f"means within {off:.2f} posterior sds ({name})"
    if kind == "sd":
        return f"sds within {100 * off:.0f} % ({name})"
    return f"5 and 95 % quantiles within {100 * off:.1f} % of the mass ({name})"
