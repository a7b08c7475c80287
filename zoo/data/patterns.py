"""Multivariate Normals of which some entries are missing: log densities and conditional means, pattern by pattern.

Rows that miss the same entries share their matrices. A missing entry is cut off by giving it variance 1, no covariance
and no deviation: then the matrices of all patterns have one size, and the Cholesky factor, determinant and solutions
restricted to the observed entries are those of the observed block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MOST = 512  # rows that are handled by one copy of their pattern's matrix
ENTRIES = 1 << 16  # numbers of rows and matrices in one group, for each component


@dataclass(frozen=True)
class Group:
    """Some patterns, each with as many rows: those with fewer repeat one.

    Attributes
    ----------
    missing
        Entries that are missing, shape (patterns, d).
    rows
        Positions of the rows, shape (patterns, r).
    real
        1, or 0 where a row is such a repetition, shape (patterns, r).
    """

    missing: Tensor
    rows: Tensor
    real: Tensor


@dataclass(frozen=True)
class Patterns:
    """The rows of a matrix by which entries they miss.

    Attributes
    ----------
    groups
        Patterns with similar numbers of rows.
    place
        Where each row stands among all rows of all groups, laid end to end.
    """

    groups: list[Group]
    place: Tensor

    @classmethod
    def of(cls, missing: Tensor, most: int = MOST) -> Patterns:
        """Sort rows, `missing` of shape (rows, d), by pattern; at most so many share a copy of their pattern."""
        n, d = missing.shape
        if most == 1:
            patterns, which = missing, torch.arange(n, device=missing.device)
        else:
            patterns, which = torch.unique(missing, dim=0, return_inverse=True)
        order = which.argsort(stable=True)
        counts = which.bincount(minlength=len(patterns))
        rank = torch.arange(n, device=missing.device) - (counts.cumsum(0) - counts)[which[order]]
        pieces, counts = torch.unique(torch.stack([which[order], rank // most]), dim=1, return_counts=True)
        patterns, starts = patterns[pieces[0]], counts.cumsum(0) - counts
        width = counts.double().log2().ceil().exp2().long()
        groups, place, begin = [], torch.empty_like(order), 0
        for size in width.unique().tolist():
            alike = (width == size).nonzero()[:, 0]
            for part in alike.split(max(1, ENTRIES // (d * (d + size)))):
                at = torch.arange(size, device=missing.device)
                real = at < counts[part, None]
                rows = order[starts[part, None] + torch.where(real, at, 0)]
                cells = begin + torch.arange(rows.numel(), device=missing.device).reshape(rows.shape)
                place[rows[real]] = cells[real]
                groups.append(Group(patterns[part], rows, real))
                begin += rows.numel()
        return cls(groups, place)


@dataclass(frozen=True)
class MissingCells:
    """Which cells of a field are missing.

    Attributes
    ----------
    value
        The values, with finite numbers in place of the missing ones.
    missing
        True where a cell is missing, in the same shape.
    """

    value: Tensor
    missing: Tensor

    @cached_property
    def patterns(self) -> Patterns:
        """Rows (all entries along the last dimension) that miss the same entries, together."""
        return Patterns.of(self.missing.reshape(-1, self.missing.shape[-1]))

    @cached_property
    def singles(self) -> Patterns:
        """Every row by itself, for matrices that differ by row."""
        return Patterns.of(self.missing.reshape(-1, self.missing.shape[-1]), 1)


@dataclass(frozen=True)
class Solved:
    """What the observed entries of the rows of one group say, for each component: leading dimensions are components'.

    Attributes
    ----------
    group
        The rows.
    gap
        x - m at the observed entries, 0 at the missing ones, shape (..., patterns, r, d).
    root
        Cholesky factor of the observed block, with ones at the missing entries, shape (..., patterns, d, d).
    covariance
        Of all entries, shape (..., patterns or 1, d, d).
    """

    group: Group
    gap: Tensor
    root: Tensor
    covariance: Tensor

    def log_prob(self) -> Tensor:
        """log Normal(x_o; m_o, S_oo), shape (..., patterns, r)."""
        white = torch.linalg.solve_triangular(self.root, self.gap.mT, upper=False)
        log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        seen = (~self.group.missing).sum(-1) * (0.5 * math.log(2 * math.pi))
        density: Tensor = -0.5 * white.square().sum(-2) - (log_det + seen)[..., None]
        return density

    def deviation(self) -> Tensor:
        """E[x | x_o] - m = S_:o S_oo^-1 (x_o - m_o), shape (..., patterns, r, d)."""
        solved: Tensor = torch.cholesky_solve(self.gap.mT, self.root).mT
        return torch.where(self.group.missing[:, None], solved @ self.covariance, self.gap)

    def remainder(self) -> Tensor:
        """Cov[x | x_o] = S - S_:o S_oo^-1 S_o:, 0 at the observed entries, shape (..., patterns, d, d)."""
        gone = self.group.missing
        known = torch.where(gone[:, :, None], 0.0, self.covariance)
        half = torch.linalg.solve_triangular(self.root, known, upper=False)
        return torch.where(gone[:, :, None] & gone[:, None], self.covariance - half.mT @ half, 0.0)


def solve(value: Tensor, loc: Tensor, covariance: Tensor, cells: MissingCells) -> tuple[Patterns, Iterator[Solved]]:
    """Split rows by pattern, and solve for each under Normal(m, S).

    Parameters
    ----------
    value
        Rows x, shape (rows, d).
    loc
        m, shape (..., rows or 1, d).
    covariance
        S, shape (..., rows or 1, d, d).
    cells
        What is missing in the rows.
    """
    patterns = cells.patterns if covariance.shape[-3] == 1 else cells.singles

    def groups() -> Iterator[Solved]:
        for group in patterns.groups:
            own = covariance if covariance.shape[-3] == 1 else covariance[..., group.rows[:, 0], :, :]
            m = loc[..., None, :, :] if loc.shape[-2] == 1 else loc[..., group.rows, :]
            gone = group.missing
            gap = torch.where(gone[:, None], 0.0, value[group.rows] - m)
            cut = torch.where(gone[:, :, None] | gone[:, None], torch.diag_embed(gone.to(own)), own)
            yield Solved(group, gap, torch.linalg.cholesky(cut), own)

    return patterns, groups()


def marginal_log_prob(value: Tensor, loc: Tensor, covariance: Tensor, cells: MissingCells) -> Tensor:
    """log Normal of the observed entries of each row, shape (..., rows); arguments as for `solve`."""
    patterns, groups = solve(value, loc, covariance, cells)
    return torch.cat([g.log_prob().flatten(-2) for g in groups], -1)[..., patterns.place]


def filled(value: Tensor, loc: Tensor, covariance: Tensor, cells: MissingCells) -> Tensor:
    """E[x | x_o] of each row, shape (..., rows, d); arguments as for `solve`.

    With a draw of x from Normal(m, S) for m this is a draw of x given x_o: what is added to the draw depends on the
    observed entries only, and makes them right (conditioning by kriging).
    """
    patterns, groups = solve(value, loc, covariance, cells)
    away = torch.cat([g.deviation().flatten(-3, -2) for g in groups], -2)[..., patterns.place, :]
    return torch.where(cells.missing.reshape(value.shape), loc + away, value)


def by_row(tensor: Tensor, plates: torch.Size, own: int) -> Tensor:
    """Lay (..., plates, own dims) out as (..., rows or 1, own dims): one dimension for all plates, 1 if all are."""
    lead = tensor.ndim - own
    tensor = tensor[(None,) * max(0, len(plates) - lead)]
    lead = max(lead, len(plates)) - len(plates)
    if any(size > 1 for size in tensor.shape[lead : lead + len(plates)]):
        tensor = tensor.expand(*tensor.shape[:lead], *plates, *tensor.shape[tensor.ndim - own :])
    return tensor.flatten(lead, lead + len(plates) - 1) if len(plates) > 1 else tensor
