"""What data say of jointly Normal latents, as sums over their cells that no latent changes.

Let u_i(c; phi) = (y_i - loc_i) / scale_i be the residual of cell i, affine in the noise: u_i = u_i(c0) - B_i (c - c0).
The precision 1 + sum_i w_i B_i' B_i and all else of p(c | phi, y) are sums over cells of products of these. Where a
model has few covariates, u as a vector over cells stays in a space of few dimensions, whatever phi and c are. Then few
cells R tell all others, u_i = E_i u_R (interpolative decomposition; Cheng, Gimbutas, Martinsson and Rokhlin 2005), and

    sum_i w_i u_i v_i = u_R' G v_R,    G = sum_i w_i E_i' E_i,

where G, one for each group of cells, is all that is needed of the data. One evaluation does not go through rows then,
and has no gradient in it. That it is so is found at values of phi, and held to the general way at others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from zoo.program.conjugate_conditional import Conditional, Probes
from zoo.program.program import Program
from zoo.program.seen_cells import SeenCells
from zoo.replay.evaluate import Values


@dataclass(frozen=True)
class Sufficient:
    """p(c | phi, y) of Normal latents, and log m(phi), from few cells.

    Attributes
    ----------
    program
        One on the rows that are needed.
    probes
        The reference c0.
    points
        Noise where all entries of one place in their groups are moved from c0 by 1, where one dense entry is, and c0
        itself last: Q of each site's on those rows.
    cells
        Those that tell the residuals of all, R.
    moments
        G of each group, groups last: (R, R, J).
    total
        G of all cells together, (R, R).
    spreads
        Cells that tell the scales of all.
    logs
        How often each one's log scale counts.
    count
        Sum of all weights.
    """

    program: Program
    probes: Probes
    points: Values
    cells: SeenCells
    moments: Tensor
    total: Tensor
    spreads: SeenCells
    logs: Tensor
    count: Tensor

    def log_marginal(self, values: Values) -> Tensor:
        """log m(phi).

        The integral over c of exp(-|B (c - c0) - u(c0)|^2 / 2), the noise's own density included, is in the pivots of
        a Gaussian elimination of the products of (B, u(c0)), and in what it leaves. Entries of groups go first: what
        they leave is summed over groups among R, before anything is made of it.
        """
        told, others, logs = self._told(values)
        entries, total = self.probes.layout.groups.shape[1], self._total
        height = others - 0.5 * math.log(2 * math.pi) * self.count - (self.logs * logs).sum()
        if entries:
            taken, fall = _over_groups(told[:entries], [*self._weighed(told[:entries])])
            total, height = total - taken, height - fall
        outer = told[entries:]
        left, fall = _eliminated(outer @ total @ outer.mT + self._prior, len(self.probes.layout.dense))
        return height - fall - 0.5 * left.squeeze()

    def conditional(self, values: Values) -> Conditional:
        """The same as `Conditional.of`."""
        layout = self.probes.layout
        told, others, logs = self._told(values)
        height = others - 0.5 * math.log(2 * math.pi) * (self.count + layout.size) - (self.logs * logs).sum()
        inner, outer = told.tensor_split([layout.groups.shape[1]])
        corner, rows = outer @ self._total @ outer.mT + self._prior, self._weighed(inner).movedim(-1, 0)
        inside, beside = rows @ inner.mT, rows @ outer.mT  # (J, M, M), (J, M, K + 1)
        return Conditional(
            self.probes,
            height - 0.5 * corner[-1, -1],
            (inside + torch.eye(len(inner)).to(inside), beside[..., :-1], corner[:-1, :-1]),
            (beside[..., -1], corner[:-1, -1]),
            {},
        )

    def _told(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        """(B, u(c0)) of the cells that tell all, (Q, R) or (Q, R + 1); log density of other sites; log scales.

        Where c0 of groups is not zero, the residual -c0 of their noise is as one more cell.
        """
        program, gone = self.program, (*self.cells.names, *self.probes.layout.names)

        def told(noise: Values) -> tuple[Tensor, Tensor, Tensor]:
            replay = program.replay(values, noise=noise, left_out=gone)
            others = program.eliminate(replay.log_probs).total(program.data.weights)
            return self.cells.residuals(replay)[0], others, self.spreads.residuals(replay)[1]

        found, others, logs = torch.vmap(told)(self.points)
        moved = torch.cat([found[-1:] - found[:-1], found[-1:]])
        if self._aside:
            moved = torch.cat([moved, self._last], -1)
        return moved, others[-1], logs[-1]

    def _weighed(self, inner: Tensor) -> Tensor:
        """Products of entries of groups with R, (M, R, J), where their B is (M, R)."""
        size, count = inner.shape[1], self.moments.shape[-1]
        if not self._aside:
            return (inner @ self.moments.reshape(size, size * count)).reshape(-1, size, count)
        rows = (inner[:, :-1] @ self.moments.reshape(size - 1, (size - 1) * count)).reshape(-1, size - 1, count)
        return torch.cat([rows, -self._centres.mT.unsqueeze(1)], 1)

    @cached_property
    def _centres(self) -> Tensor:
        """c0 of groups, (J, M)."""
        return self.probes.centre[self.probes.layout.groups]

    @cached_property
    def _aside(self) -> bool:
        """Whether some of it is not zero."""
        return bool(self._centres.any())

    @cached_property
    def _last(self) -> Tensor:
        """The residual -c0 of groups' noise as a cell: it is in u(c0) alone, (Q, 1)."""
        count = len(next(iter(self.points.values())))
        return (torch.arange(count) == count - 1).to(self.total).unsqueeze(-1)

    @cached_property
    def _total(self) -> Tensor:
        """G of all cells, that one included."""
        return torch.block_diag(self.total, self._centres.square().sum()) if self._aside else self.total

    @cached_property
    def _prior(self) -> Tensor:
        """What the noise's own density adds to the products of dense entries, (K + 1, K + 1)."""
        centre = self.probes.centre[self.probes.layout.dense]
        columns = torch.cat([torch.eye(len(centre)).to(centre), -centre.unsqueeze(-1)], -1)
        return columns.mT @ columns


def _over_groups(inner: Tensor, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """What elimination of the entries of groups takes from products of R, (R, R), and half the log pivots, summed.

    B of entries is (M, R), their products with R in each group are (R, J) for each.
    """
    inside = [[*(row * inner[k:].unsqueeze(-1)).sum(1)] for k, row in enumerate(rows)]  # from the diagonal on, (J,)
    for products in inside:
        products[0] = 1.0 + products[0]  # what the noise's own density says
    taken, fall = [], []
    while rows:
        (pivot, *beside), row, scaled = inside[0], rows[0], rows[0] / inside[0][0]
        taken.append(scaled @ row.mT)
        fall.append(pivot.log().sum())
        factors = [b / pivot for b in beside]
        rows = [other - f * row for other, f in zip(rows[1:], factors, strict=True)]
        inside = [
            [p - f * b for p, b in zip(products, beside[k:], strict=True)]
            for k, (products, f) in enumerate(zip(inside[1:], factors, strict=True))
        ]
    return torch.stack(taken).sum(0), 0.5 * torch.stack(fall).sum()


def _eliminated(table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What is left of a symmetric matrix (Q, Q) without its first entries, and half their log pivots, summed."""
    fall = table.new_zeros(())
    for _ in range(count):
        pivot, column = table[:1, :1], table[1:, :1]
        fall = fall + 0.5 * pivot.log().sum()
        table = table[1:, 1:] - column * column.mT / pivot
    return table, fall
