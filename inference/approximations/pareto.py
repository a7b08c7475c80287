"""Pareto shapes of importance ratios p / q: whether draws of q can be corrected to draws of p."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

KHAT_GOOD = 0.7  # largest Pareto shape at which importance ratios can be trusted (Vehtari et al. 2024)
ENOUGH = 0.99  # effective draws to a draw, above which importance ratios are as good as constant
TENTH = 0.1  # effective draws to a draw, from which on ratios with ties are trusted
PLATEAU = 0.02  # of the range of the log ratios in a tail, that those on a plateau differ by
MOST_OF_TAIL = 0.8  # share of a usual tail that there is beyond its first differences
FEWEST_BEYOND = 25  # ratios that a shape is fitted to
FEWEST_IN_TAIL = 5  # below which nothing is fitted
ZERO = 700.0  # nats below which a weight is as good as 0, beside the smallest that a float holds: exp(-745)
CELLS = 20_000_000  # numbers of the largest arrays of a fit, beyond which rows are taken in parts
PRIOR_SCALE, PRIOR_SHAPE, PRIOR_DRAWS = 3.0, 0.5, 10.0  # of the fit: Zhang and Stephens (2009); Vehtari et al. (2024)


class Smoothed(NamedTuple):
    """Pareto-smoothed importance weights (draws, rows), summing to 1 in each row, and k-hat of each row, (rows,)."""

    weights: Tensor
    shapes: Tensor


def khat(log_ratio: np.ndarray) -> float:
    """Pareto shape of importance ratios log p - log q, as `smoothed_rows` has it for one row."""
    return smoothed(log_ratio)[1]


def smoothed(log_ratio: np.ndarray) -> tuple[np.ndarray, float]:
    """Pareto-smoothed importance weights (draws,), summing to 1 (Vehtari et al. 2024), and their Pareto shape k-hat."""
    found = smoothed_rows(torch.from_numpy(np.ascontiguousarray(log_ratio, dtype=float))[:, None])
    weights: np.ndarray = found.weights[:, 0].numpy()
    return weights, float(found.shapes[0])


def smoothed_rows(log_ratio: Tensor) -> Smoothed:
    """Pareto-smoothed importance weights and Pareto shapes of rows that are independent, (draws, rows), all at once.

    Below 0.7 the shape k-hat says that q is close enough to p to be corrected: Yao et al. (2018), "Yes, but did it
    work?". It is NaN if all ratios of a row are the same: q is exact; 0 if they are so nearly the same that the draws
    are worth 99 % of as many from p, for the shape would be that of differences which do not matter. Where most of the
    largest ratios are equal, as those of counts are, no Pareto distribution fits: it is 0 if the draws are worth at
    least a tenth of as many from p, else infinite.
    """
    ratio = log_ratio.double().mT
    size = max(1, CELLS // (max(ratio.shape[1], tail(ratio.shape[1]) ** 2) + 1))
    parts = [_smoothed(part) for part in ratio.split(size)]
    return Smoothed(torch.cat([p.weights for p in parts]).mT, torch.cat([p.shapes for p in parts]))


def _smoothed(ratio: Tensor) -> Smoothed:
    """The same of log ratios (rows, draws), and weights (rows, draws)."""
    count = ratio.shape[1]
    lowest = torch.where(ratio.isfinite(), ratio, math.inf).amin(1, keepdim=True)
    ratio = ratio.maximum(lowest - ZERO)
    most = ratio.amax(1, keepdim=True)
    same = (most[:, 0] - ratio.amin(1)) < 1e-8 * ratio.abs().amax(1).clamp_min(1.0)
    logs, order = (ratio - most).sort(1)
    raw = logs.exp()
    worth = raw.sum(1).square() / (count * raw.square().sum(1))  # effective draws to a draw (Kong 1992)
    last = logs[:, count - tail(count) :]
    tied = 2 * (1 + (last.diff(dim=1) != 0).sum(1)) < last.shape[1]
    number = (min(0.2 * count, 3 * math.sqrt(count)) * _tail_share(last)).floor().long()
    shape, high = _fitted(logs, number)
    fits = shape.isfinite() & high.isfinite().all(1) & (number >= FEWEST_IN_TAIL)
    smooth = (fits & ~tied & ~same)[:, None] & (torch.arange(count, device=ratio.device) >= count - number[:, None])
    logs = torch.where(smooth, torch.nn.functional.pad(high, (count - high.shape[1], 0)), logs)
    weights = torch.empty_like(logs).scatter_(1, order, torch.softmax(logs, 1))
    shape = torch.where(fits, shape, math.inf)
    shape = torch.where(tied, torch.where(worth >= TENTH, 0.0, math.inf), shape)
    shape = torch.where(worth >= ENOUGH, 0.0, shape)
    return Smoothed(weights, torch.where(same, math.nan, shape))


def _tail_share(top: Tensor) -> Tensor:
    """Share of the usual tail (rows, tail) that lies beyond a plateau, (rows,).

    Where q is all but p over most of its mass, ratios pile up just below a highest value there, and only beyond it does
    the tail begin. Excesses over a threshold on the plateau would range over many powers of ten, and the shape that is
    fitted to them be far too large.
    """
    usual = top.shape[1]
    first, most = top[:, :1], top[:, -1:]
    beyond = (top > first + PLATEAU * (most - first)).sum(1).double()
    return torch.where(beyond >= MOST_OF_TAIL * usual, 1.0, beyond.clamp_min(FEWEST_BEYOND).clamp_max(usual) / usual)


def _fitted(logs: Tensor, number: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a generalized Pareto distribution to the largest `number` (rows,) of sorted ratios exp(logs), (rows, draws).

    The posterior mean of Zhang and Stephens (2009), its shape drawn to 0.5 as by ten more draws (Vehtari et al. 2024,
    appendix C). Returns shapes (rows,) and the logs of the distribution's own quantiles in place of those of the tail,
    (rows, largest number), at the right.
    """
    rows, count = logs.shape
    longest = max(1, int(number.max()))
    number = number.clamp(1, count - 1)
    own, n = torch.arange(longest, device=logs.device) >= longest - number[:, None], number[:, None].double()
    cutoff = logs.gather(1, count - 1 - number[:, None]).exp()
    x = torch.where(own, logs[:, count - longest :].exp() - cutoff, 0.0)  # excesses, rising; 0 beside the tail
    grid = (30 + number.double().sqrt().floor())[:, None]  # (rows, 1): how many values of b = -k / sigma
    at = torch.arange(1, int(grid.max()) + 1, device=logs.device)
    quarter = x.gather(1, longest - number[:, None] + (n / 4 + 0.5).long().clamp_min(1) - 1)
    b = (1 - (grid / (at - 0.5)).sqrt()) / (PRIOR_SCALE * quarter) + 1 / x[:, -1:]  # (rows, grid)
    k = torch.log1p(-b[:, :, None] * x[:, None]).sum(2) / n
    height = torch.where(at <= grid, n * ((-b / k).log() - k - 1), -math.inf)
    share = torch.softmax(height, 1)
    share = torch.where(share >= 10 * torch.finfo(share.dtype).eps, share, 0.0)
    mean = torch.where(share > 0, b * share, 0.0).sum(1, keepdim=True) / share.sum(1, keepdim=True)
    k = torch.log1p(-mean * x).sum(1, keepdim=True) / n
    sigma = -k / mean
    k = (n * k + PRIOR_DRAWS * PRIOR_SHAPE) / (n + PRIOR_DRAWS)
    place = torch.arange(longest, device=logs.device) - (longest - n) + 0.5
    beyond = torch.where(own, -torch.log1p(-place / n), 0.0)  # -log(1 - p)
    high = cutoff + sigma * torch.where(k == 0, beyond, torch.expm1(k * beyond) / k)
    high = torch.where(sigma > 0, high.log().clamp_max(0.0), math.nan)
    return k.reshape(rows), high


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
