"""Whether numbers are uniform on (0, 1): exact p-values of the simultaneous envelope of their ECDF, and its shape."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtr, bdtrc, gammaln

POINTS = 100  # at which the ECDF is looked at, at most
CLEAR = 3.0  # standard errors from which on a shape is named
EXACT = 1e-10  # below it, rounding of 1 - P(inside) would show


def p_value(values: np.ndarray) -> float:
    """P(the ECDF of n uniform numbers leaves the narrowest envelope that this one touches), exactly.

    With counts R_i of numbers up to z_i = i / K, gamma = 2 min_i min(P(B_i <= R_i), P(B_i >= R_i)), B_i ~ Binomial(n,
    z_i), is the least pointwise p-value; the p-value is P(gamma' <= gamma) for uniform numbers (Säilynoja, Bürkner and
    Vehtari 2022, section 2). The counts are a Markov chain, R_(i+1) - R_i ~ Binomial(n - R_i, (z_(i+1) - z_i) / (1 -
    z_i)), along which P(gamma' > gamma) is summed: nothing is simulated.

    Parameters
    ----------
    values
        Numbers in [0, 1], shape (n,).
    """
    n = len(values)
    if n == 0:
        return math.nan
    z = _points(n)
    counts = np.searchsorted(np.sort(values), z, side="right")
    gamma = float(_tails(counts, n, z).min())
    if gamma >= 1.0:
        return 1.0
    bound = gamma * len(z)  # the sum of the points' own p-values
    return bound if bound < EXACT else max(0.0, 1.0 - _inside(gamma, n, z))


def _points(n: int) -> np.ndarray:
    """Where the ECDF of n numbers is looked at: (K - 1,) inner points of a grid."""
    pieces = max(2, min(n, POINTS))
    return np.arange(1, pieces) / pieces


def _tails(counts: np.ndarray, n: int, z: np.ndarray) -> np.ndarray:
    """Two-sided binomial p-value of each count."""
    below, above = bdtr(counts, n, z), np.where(counts > 0, bdtrc(counts - 1, n, z), 1.0)
    return np.asarray(np.minimum(1.0, 2 * np.minimum(below, above)))


def _inside(gamma: float, n: int, z: np.ndarray) -> float:
    """P(the two-sided p-values of all counts of n uniform numbers are above gamma)."""
    every = np.arange(n + 1)
    log_factorial = gammaln(every + 1.0)
    states, mass, last = np.zeros(1, dtype=int), np.ones(1), 0.0
    for point in z:
        new = every[_tails(every, n, np.full(n + 1, point)) > gamma * (1 + 1e-12)]
        if not len(new):
            return 0.0
        share = (point - last) / (1 - last)
        left, added = n - states[:, None], new - states[:, None]  # (old states, new states)
        possible = added >= 0
        k = np.where(possible, added, 0)
        log_p = log_factorial[left] - log_factorial[k] - log_factorial[left - k]
        log_p = log_p + k * math.log(share) + (left - k) * math.log1p(-share)
        mass = mass @ np.where(possible, np.exp(log_p), 0.0)
        states, last = new, point
    return float(mass.sum())


def holm(p: np.ndarray) -> np.ndarray:
    """p-values adjusted for their number: the least level at which Holm (1979) rejects each."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(stepped)
    adjusted[order] = np.minimum(1.0, stepped)
    return adjusted


def shape_of(values: np.ndarray) -> str:
    """What true values that rank like this say of the draws: too low, too high, too narrow, too wide.

    The mean of n uniform numbers u is 1/2 with variance 1 / (12 n), that of (u - 1/2)^2 is 1/12 with variance
    1 / (180 n); what is more than three standard errors away is named.
    """
    n, words = len(values), []
    shift = (values.mean() - 0.5) * math.sqrt(12 * n)
    spread = (np.square(values - 0.5).mean() - 1 / 12) * math.sqrt(180 * n)
    if abs(shift) > CLEAR:
        words.append("draws are too low" if shift > 0 else "draws are too high")
    if abs(spread) > CLEAR and abs(spread) > 0.5 * abs(shift):  # a shift alone also leaves the middle empty
        words.append("too narrow" if spread > 0 else "too wide")
    if not words:
        return "draws have another shape than the posterior"
    return " and ".join(words) if words[0].startswith("draws") else f"draws are {words[0]}"


def coverage(values: np.ndarray, level: float) -> float:
    """Share of true values inside the central interval of that level."""
    return float((np.abs(values - 0.5) <= 0.5 * level).mean())
