"""The rows of factor models, sorted by which cells they miss, and the sums over them that updates are made of."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoo.data.patterns import Patterns


@dataclass(frozen=True)
class RowSums:
    """Sums over rows of what regressions of each column on (1, z) need; cells that are missing are left out.

    Attributes
    ----------
    total
        sum_i w_i E[(1, z_i)(1, z_i)^T], whatever is missing, (q + 1, q + 1).
    second
        The same over the rows in which column j is observed, (D, q + 1, q + 1); of all columns alike, (1, ...).
    cross
        sum_i w_i E[(1, z_i)] x_i^T, (q + 1, D).
    """

    total: Tensor
    second: Tensor
    cross: Tensor


def padded(cov: Tensor) -> Tensor:
    """Return a covariance with a row and a column of zeros before it: that of (1, z)."""
    return torch.nn.functional.pad(cov, (1, 0, 1, 0))


@dataclass(eq=False)
class Table:
    """Rows of all the columns that one latent feeds, about the means of the columns.

    Attributes
    ----------
    x
        Shape (n, D); 0 where a cell is missing.
    weights
        Of the rows; None for 1.
    spans
        Site -> its columns.
    missing
        Which cells are missing, (n, D); None if none is.
    """

    x: Tensor
    weights: Tensor | None
    spans: dict[str, slice]
    missing: Tensor | None = None

    @cached_property
    def count(self) -> float:
        """Sum of the weights."""
        return float(len(self.x) if self.weights is None else self.weights.sum())

    @cached_property
    def counts(self) -> Tensor:
        """sum_i w_i over the rows in which column j is observed, (D,), double precision."""
        if self.missing is None:
            return self.x.new_full((self.x.shape[1],), self.count, dtype=torch.float64)
        seen = (~self.missing).double()
        return seen.sum(0) if self.weights is None else self.weights.double() @ seen

    @cached_property
    def squares(self) -> Tensor:
        """sum_i w_i x_ij^2 in double precision, (D,)."""
        if self.moments is not None:
            return self.moments.diagonal()[1:]
        x = self.x.double()
        return x.square().sum(0) if self.weights is None else self.weights.double() @ x.square()

    @cached_property
    def moments(self) -> Tensor | None:
        """sum_i w_i (1, x_i) (1, x_i)^T, double precision; None where cells are missing, or columns outnumber rows."""
        if self.x.shape[1] > len(self.x) or self.missing is not None:
            return None
        one = torch.nn.functional.pad(self.x.double(), (1, 0), value=1.0)
        return one.mT @ (one if self.weights is None else self.weights.double()[:, None] * one)

    # -- rows by what they miss ---------------------------------------------------------------------------------

    @cached_property
    def patterns(self) -> Patterns:
        """Rows that miss the same cells, together."""
        return Patterns.of(torch.zeros_like(self.x, dtype=torch.bool) if self.missing is None else self.missing)

    @cached_property
    def seen(self) -> Tensor:
        """Whether a column is observed in each pattern, (patterns, D), double precision."""
        return torch.cat([(~group.missing).double() for group in self.patterns.groups])

    @cached_property
    def which(self) -> Tensor:
        """The pattern of each row, (n,)."""
        found, begin = [], 0
        for group in self.patterns.groups:
            own = torch.arange(begin, begin := begin + len(group.rows), device=group.rows.device)
            found.append(own[:, None].expand_as(group.rows).flatten())
        return torch.cat(found)[self.patterns.place]

    def times(self, rows: Tensor, matrices: Tensor) -> Tensor:
        """Multiply rows (n, q), by a symmetric matrix for each pattern, (patterns, q, q)."""
        parts = matrices.split([len(g.rows) for g in self.patterns.groups])
        done = [(rows[g.rows] @ m).flatten(0, 1) for g, m in zip(self.patterns.groups, parts, strict=True)]
        return torch.cat(done)[self.patterns.place]

    # -- sums ---------------------------------------------------------------------------------------------------

    def sums(self, loc: Tensor, cov: Tensor) -> RowSums:
        """Sums for z_i ~ Normal(loc_i, cov), cov (q, q), or one for each pattern."""
        one = torch.nn.functional.pad(loc.double(), (1, 0), value=1.0)
        weighted = one if self.weights is None else self.weights.double()[:, None] * one
        cross = weighted.mT @ self.x.double()
        if self.missing is None:
            total = one.mT @ weighted + self.count * padded(cov)
            return RowSums(total, total[None], cross)
        each, counts = [], []
        for group in self.patterns.groups:  # (patterns, rows, q + 1)
            weight = group.real.double() * (1.0 if self.weights is None else self.weights.double()[group.rows])
            each.append((weight[..., None] * one[group.rows]).mT @ one[group.rows])
            counts.append(weight.sum(-1))
        parts = torch.cat(each) + torch.cat(counts)[:, None, None] * padded(cov.double())
        second = (self.seen.mT @ parts.flatten(1)).unflatten(1, parts.shape[1:])
        return RowSums(parts.sum(0), second, cross)

    def add_up(self, rows: Tensor) -> Tensor:
        """sum_i w_i v_i of a number for each row, (n,)."""
        if rows.stride(0) == 0:
            return self.count * rows[0]
        return rows.sum() if self.weights is None else self.weights.to(rows) @ rows


@dataclass(eq=False)
class AffineMap:
    """E[(1, z_i)] = gain (1, x_i): the latent of every row by the same affine map of the row.

    Attributes
    ----------
    table
        The rows.
    gain
        Shape (q + 1, D + 1), double precision.
    cov
        Covariance of z_i given x_i, (q, q), double precision.
    """

    table: Table
    gain: Tensor
    cov: Tensor

    def loc(self) -> Tensor:
        """E[z_i] of all rows, (n, q)."""
        x = self.table.x
        return torch.addmm(self.gain[1:, 0].to(x.dtype), x, self.gain[1:, 1:].mT.to(x.dtype))

    @cached_property
    def sums(self) -> RowSums:
        """`Table.sums`, from the second moments of the rows where these are known."""
        moments = self.table.moments
        if moments is None:
            return self.table.sums(self.loc(), self.cov)
        cross = self.gain @ moments
        total = cross @ self.gain.mT + self.table.count * padded(self.cov)
        return RowSums(total, total[None], cross[:, 1:])

    def turned(self, turn: Tensor) -> AffineMap:
        """Return that of turn (1, z_i), (q + 1, q + 1) with first row (1, 0, ..., 0)."""
        return AffineMap(self.table, turn @ self.gain, turn[1:, 1:] @ self.cov @ turn[1:, 1:].mT)


@dataclass(eq=False)
class PatternMap:
    """z_i given what is observed of x_i, where rows miss cells: a covariance for each pattern of missing cells.

    Attributes
    ----------
    table
        The rows.
    mean
        E[z_i], (n, q), double precision.
    cov
        Shape (patterns, q, q), double precision.
    """

    table: Table
    mean: Tensor
    cov: Tensor

    def loc(self) -> Tensor:
        """E[z_i] of all rows, (n, q)."""
        return self.mean.to(self.table.x.dtype)

    @cached_property
    def sums(self) -> RowSums:
        """`Table.sums`."""
        return self.table.sums(self.mean, self.cov)

    def turned(self, turn: Tensor) -> PatternMap:
        """Return that of turn (1, z_i), (q + 1, q + 1) with first row (1, 0, ..., 0)."""
        mean = turn[1:, 0] + self.mean @ turn[1:, 1:].mT
        return PatternMap(self.table, mean, turn[1:, 1:] @ self.cov @ turn[1:, 1:].mT)
