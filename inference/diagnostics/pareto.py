"""Pareto shapes of importance ratios p / q: whether draws of q can be corrected to draws of p."""

from __future__ import annotations

import math

import numpy as np

from inference.diagnostics.arviz import psis

KHAT_GOOD = 0.7  # largest Pareto shape at which importance ratios can be trusted (Vehtari et al. 2024)
ENOUGH = 0.99  # effective draws to a draw, above which importance ratios are as good as constant
TENTH = 0.1  # effective draws to a draw, from which on ratios with ties are trusted
PLATEAU = 0.02  # of the range of the log ratios in a tail, that those on a plateau differ by
MOST_OF_TAIL = 0.8  # share of a usual tail that there is beyond its first differences
FEWEST_BEYOND = 25  # ratios that a shape is fitted to
ZERO = 700.0  # nats below which a weight is as good as 0, beside the smallest that a float holds: exp(-745)


def khat(log_ratio: np.ndarray) -> float:
    """Pareto shape of importance ratios log p - log q: below 0.7, q is close enough to p to be corrected.

    Yao et al. (2018), "Yes, but did it work?". NaN if all ratios are the same: q is exact. 0 if they are so nearly the
    same that the draws are worth 99 % of as many from p: the shape would be that of differences which do not matter.
    Where most of the largest ratios are equal, as those of counts are, no Pareto distribution fits: it is 0 if the
    draws are worth at least a tenth of as many from p, else infinite.
    """
    if np.ptp(log_ratio) < 1e-8 * max(1.0, float(np.abs(log_ratio).max())):
        return float("nan")
    worth = _effective_share(log_ratio)
    if worth >= ENOUGH:
        return 0.0
    if _tied(log_ratio):
        return 0.0 if worth >= TENTH else float("inf")
    _, shape = psis(log_ratio, _tail_share(log_ratio))
    return shape if np.isfinite(shape) else float("inf")


def smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance weights, summing to 1 (Vehtari et al. 2024), and k-hat as by `khat`."""
    ratio = np.maximum(log_ratio, log_ratio[np.isfinite(log_ratio)].min() - ZERO)
    shape = khat(ratio)
    logs = ratio
    if np.isfinite(shape) and not _tied(ratio):  # else there is no tail to smooth
        logs, _ = psis(ratio, _tail_share(ratio))
    weights = np.exp(logs - logs.max())
    return weights / weights.sum(), shape


def most_shape(count: int) -> float:
    """Largest shape at which so many ratios can be trusted, min(1 - 1 / log10 S, 0.7) (Vehtari et al. 2024, eq. 13)."""
    return min(1 - 1 / math.log10(max(count, 11)), KHAT_GOOD)


def shape_error(shape: float, count: int) -> float:
    """Standard error of a Pareto shape from so many ratios, (1 + k) / sqrt(M), M the number in the tail.

    That of the maximum likelihood estimate (Smith 1987), where the variance of the ratios' tail exists at all; NaN and
    infinity for themselves.
    """
    if math.isnan(shape):
        return shape
    return (1 + max(shape, 0.0)) / math.sqrt(tail(count))


def tail(count: int) -> int:
    """How many of so many ratios a Pareto distribution is fitted to (Vehtari et al. 2024, section 3)."""
    return math.ceil(min(0.2 * count, 3 * math.sqrt(count)))


def khat_note(shape: float) -> str:
    """Say what a large Pareto shape of an approximation means."""
    return (
        f"khat {shape:.2f} > {KHAT_GOOD}: the ratios of posterior to approximation have a heavy tail, so the "
        "approximation may miss part of the posterior"
    )


def _effective_share(log_ratio: np.ndarray) -> float:
    """Effective sample size of importance weights to their number, (sum w)^2 / (n sum w^2) (Kong 1992)."""
    ratio = np.exp(log_ratio - log_ratio.max())
    return float(ratio.sum() ** 2 / (len(ratio) * np.square(ratio).sum()))


def _tail_share(log_ratio: np.ndarray) -> float:
    """Share of the usual tail that lies beyond a plateau.

    Where q is all but p over most of its mass, ratios pile up just below a highest value there, and only beyond it does
    the tail begin. Excesses over a threshold on the plateau would range over many powers of ten, and the shape that is
    fitted to them be far too large.
    """
    count = tail(len(log_ratio))
    top = np.sort(log_ratio)[-count:]
    beyond = int((top > top[0] + PLATEAU * (top[-1] - top[0])).sum())
    return 1.0 if beyond >= MOST_OF_TAIL * count else max(beyond, FEWEST_BEYOND) / count


def _tied(log_ratio: np.ndarray) -> bool:
    """Whether the tail that a Pareto distribution is fitted to has few different values."""
    count = tail(len(log_ratio))
    return 2 * len(np.unique(np.sort(log_ratio)[-count:])) < count
