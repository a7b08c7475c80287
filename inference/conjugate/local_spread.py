"""How far apart neighbours in a column of data are, or rows along an axis: what a floor of variances is relative to."""

from __future__ import annotations

import math

import torch
from torch import Tensor

ROWS = 4096  # that are looked at
STEPS = 32  # spacings span one part in so many of the rows
SHARE = 0.05  # of the spacings that are shorter
TIGHT = 1e-3  # share of the variance of a column below which an axis is tight
DIGITS = 100.0  # multiples of the rounding error of the variance, below which no floor is
AXIS_DIGITS = 10.0  # the same along an axis, where columns are next to linear combinations of each other


def local_spread(columns: Tensor, variance: Tensor, floor: float) -> Tensor:
    """Variance (...) of columns (n, ...), NaN where missing, less where the columns are tight groups far apart.

    The m-spacings x_(i+m) - x_(i) of a column, of which a small quantile is taken, are held against those of a Normal
    distribution of the same variance (Pyke 1965): variance * min(1, (spacing / Normal spacing)^2). It is the variance
    for one group, and about that within a group that has a tenth of the rows or more, however far the others are.
    Times `floor` it is never within the rounding error of the variance. Ties count as no spacing.
    """
    if len(columns) > ROWS:
        columns = columns[torch.linspace(0, len(columns) - 1, ROWS, device=columns.device).long()]
    rows = len(columns)
    step = max(3, rows // STEPS)
    if rows <= step + 1:
        return variance
    normal = torch.special.ndtri((torch.arange(rows, dtype=columns.dtype, device=columns.device) + 0.5) / rows)
    scores = normal / normal.square().mean().sqrt()
    ratio = _spacing(columns, step) / (_spacing(scores, step) * variance.sqrt())
    least = min(1.0, DIGITS * torch.finfo(columns.dtype).eps / floor)
    return variance * ratio.square().nan_to_num(1.0).clamp(least, 1.0)


def tight_axes(columns: Tensor, floor: float) -> Tensor | None:
    """Symmetric root (d, d) of the variance along each axis of columns (n, d) in their own units, 1 where that is wide.

    Columns that are next to linear combinations of each other are tight along an axis that is none of theirs: what is
    small there is no collapse. None if there is no such axis, or no rows that would show it. Singular values of the
    rows themselves are known to their last digits, eigenvalues of products only to those of the largest.
    """
    rows, wide = columns.shape
    if not 1 < wide < rows:
        return None
    if rows > ROWS and rows > 2 * wide:
        columns = columns[torch.linspace(0, rows - 1, max(ROWS, 2 * wide), device=columns.device).long()]
    _, singular, vectors = torch.linalg.svd(columns - columns.mean(0), full_matrices=False)
    variance = singular.square() / len(columns)
    if not bool((variance < TIGHT).any()):
        return None
    least = min(1.0, AXIS_DIGITS * torch.finfo(columns.dtype).eps / floor)
    root = torch.where(variance < TIGHT, variance.clamp_min(least), 1.0).sqrt()
    axes: Tensor = (vectors.mT * root) @ vectors
    return axes


def _spacing(columns: Tensor, step: int) -> Tensor:
    """Small quantile (...) of the positive `step`-spacings of columns (n, ...); NaN where there is none."""
    ordered = columns.sort(0).values  # NaN last
    apart = ordered[step:] - ordered[:-step]
    positive = apart > 0
    apart = torch.where(positive, apart, math.inf).sort(0).values
    at = (SHARE * positive.sum(0, keepdim=True)).long()
    found = apart.gather(0, at)[0]
    return torch.where(found.isfinite(), found, torch.nan)
