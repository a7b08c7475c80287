"""Multivariate Normals of which some entries are missing: log densities and conditional means, pattern by pattern.

Rows that miss the same entries share their matrices. A missing entry is cut off by giving it variance 1, no covariance
and no deviation: then the matrices of all patterns have one size, and the Cholesky factor, determinant and solutions
restricted to the observed entries are those of the observed block.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.data.patterns import Group, MissingCells, Patterns


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
        white = torch.linalg.solve_triangular(self.root, self.gap.mT, upper=False)  # (..., patterns, d, r)
        # Missing entries have a one on the diagonal and no gap, so they add nothing to either.
        log_det = self.root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        seen = (~self.group.missing).to(log_det).sum(-1) * (0.5 * math.log(2 * math.pi))
        density: Tensor = -0.5 * white.square().sum(-2) - (log_det + seen)[..., None]
        return density

    def deviation(self) -> Tensor:
        """E[x | x_o] - m = S_:o S_oo^-1 (x_o - m_o), shape (..., patterns, r, d)."""
        solved: Tensor = torch.cholesky_solve(self.gap.mT, self.root).mT  # 0 at the missing entries
        return torch.where(self.group.missing[:, None], solved @ self.covariance, self.gap)

    def remainder(self) -> Tensor:
        """Cov[x | x_o] = S - S_:o S_oo^-1 S_o:, 0 at the observed entries, shape (..., patterns, d, d)."""
        gone = self.group.missing
        known = torch.where(gone[:, :, None], 0.0, self.covariance)  # S_o:, the other rows 0
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
    shared = covariance.shape[-3] == 1
    patterns = cells.patterns if shared else cells.singles  # a matrix of one's own makes every row its own pattern

    def groups() -> Iterator[Solved]:
        for group in patterns.groups:
            s = covariance if shared else covariance[..., group.rows[:, 0], :, :]  # (..., patterns or 1, d, d)
            m = loc[..., None, :, :] if loc.shape[-2] == 1 else loc[..., group.rows, :]  # (..., patterns, r, d)
            gone = group.missing
            gap = torch.where(gone[:, None], 0.0, value[group.rows] - m)
            cut = torch.where(gone[:, :, None] | gone[:, None], torch.diag_embed(gone.to(s)), s)
            yield Solved(group, gap, torch.linalg.cholesky(cut), s)

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


def by_row(tensor: Tensor, plates: torch.Size, event_dim: int) -> Tensor:
    """Lay (..., plates, event) out as (..., rows or 1, event): one dimension for all plates, 1 if all of them are."""
    lead = tensor.ndim - event_dim
    tensor = tensor[(None,) * max(0, len(plates) - lead)]
    lead = max(lead, len(plates)) - len(plates)
    if any(size > 1 for size in tensor.shape[lead : lead + len(plates)]):
        tensor = tensor.expand(*tensor.shape[:lead], *plates, *tensor.shape[tensor.ndim - event_dim :])
    return tensor.flatten(lead, lead + len(plates) - 1) if len(plates) > 1 else tensor
