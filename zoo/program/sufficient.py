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

PAIRS = 4096  # products of all pairs, beyond which they are not made before they are summed
FEW = 512  # sums of all groups, up to which none of them is


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
        G for each group, and for all cells together last: (R * R, groups + 1).
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
    spreads: SeenCells
    logs: Tensor
    count: Tensor

    def log_marginal(self, values: Values) -> Tensor:
        """log m(phi).

        With A the products of (B, u(c0)) and of what is like them in the prior of the noise, the integral over c of
        exp(-|B (c - c0) - u(c0)|^2 / 2) is in the pivots of a Gaussian elimination of A, and in what it leaves.
        """
        sums, others, logs = self._told(values)
        height, within = others - 0.5 * math.log(2 * math.pi) * self.count - (self.logs * logs).sum(), sums[..., -1]
        entries = self.probes.layout.groups.shape[1]
        if entries:
            each = sums[..., :-1].movedim(-1, 0) + self._priors  # (J, Q, Q)
            left, fall = _eliminated(each, entries)
            within = within[entries:, entries:] + (left - sums[entries:, entries:, :-1].movedim(-1, 0)).sum(0)
            height = height - fall
        left, fall = _eliminated(within + self._prior, len(self.probes.layout.dense))
        return height - fall - 0.5 * left.squeeze()

    def conditional(self, values: Values) -> Conditional:
        """The same as `Conditional.of`."""
        layout, centre = self.probes.layout, self.probes.centre
        sums, others, logs = self._told(values)
        height = others - 0.5 * math.log(2 * math.pi) * (self.count + layout.size) - (self.logs * logs).sum()
        end, each, total = layout.groups.shape[1], sums[..., :-1].movedim(-1, 0), sums[..., -1]
        return Conditional(
            self.probes,
            height - 0.5 * (total[-1, -1] + centre.square().sum()),
            (_plus_one(each[:, :end, :end]), each[:, :end, end:-1], _plus_one(total[end:-1, end:-1])),
            (each[:, :end, -1] - centre[layout.groups], total[end:-1, -1] - centre[layout.dense]),
            {},
        )

    def _told(self, values: Values) -> tuple[Tensor, Tensor, Tensor]:
        """u' G v of all pairs among (B, u(c0)), (Q, Q, groups + 1); log density of other sites; log scales."""
        program, gone = self.program, (*self.cells.names, *self.probes.layout.names)

        def told(noise: Values) -> tuple[Tensor, Tensor, Tensor]:
            replay = program.replay(values, noise=noise, left_out=gone)
            others = program.eliminate(replay.log_probs).total(program.data.weights)
            return self.cells.residuals(replay)[0], others, self.spreads.residuals(replay)[1]

        found, others, logs = torch.vmap(told)(self.points)
        moved = torch.cat([found[-1:] - found[:-1], found[-1:]])
        return self._sums(moved), others[-1], logs[-1]

    def _sums(self, told: Tensor) -> Tensor:
        """u' G v of all pairs among (Q, R), for each group and all cells: (Q, Q, groups + 1)."""
        q, r = told.shape
        upper, lower, pair = self._pairs
        if q * q * self.moments.shape[1] > FEW and q * q * r * r <= PAIRS:
            products = (told[upper, :, None] * told[lower, None]).reshape(-1, r * r)
            sums = products @ self.moments  # (pairs, groups + 1)
        else:
            weighed = told @ self.moments.reshape(r, r, -1).movedim(-1, 0)  # (groups + 1, Q, R)
            sums = (weighed[:, upper] * told[lower]).sum(-1).T
        return sums[pair]

    @cached_property
    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """First and second of all pairs of Q, each once, (pairs,); and which pair two are, (Q, Q)."""
        q = len(next(iter(self.points.values())))
        upper, lower = torch.triu_indices(q, q, device=self.moments.device)
        pair = torch.empty(q, q, dtype=torch.long, device=self.moments.device)
        pair[upper, lower] = pair[lower, upper] = torch.arange(len(upper), device=self.moments.device)
        return upper, lower, pair

    @cached_property
    def _priors(self) -> Tensor:
        """What the noise's own density adds to A, for each group: (J, Q, Q)."""
        layout = self.probes.layout
        return _like_residuals(self.probes.centre[layout.groups], layout.groups.shape[1] + len(layout.dense) + 1)

    @cached_property
    def _prior(self) -> Tensor:
        """The same for dense entries, (K + 1, K + 1)."""
        layout = self.probes.layout
        return _like_residuals(self.probes.centre[layout.dense], len(layout.dense) + 1)


def _like_residuals(centre: Tensor, size: int) -> Tensor:
    """Products of the residuals -c0 - (c - c0) of noise, (..., entries): in the first places and the last of `size`."""
    entries = centre.shape[-1]
    columns = centre.new_zeros(*centre.shape, size)  # (..., residuals, Q)
    columns[..., torch.arange(entries), torch.arange(entries)] = 1.0
    columns[..., -1] = -centre
    return columns.mT @ columns


def _eliminated(table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What is left of symmetric matrices (..., Q, Q) without their first entries; half the log pivots, all summed."""
    fall = table.new_zeros(())
    for _ in range(count):
        pivot, column = table[..., :1, :1], table[..., 1:, :1]
        fall = fall + 0.5 * pivot.log().sum()
        table = table[..., 1:, 1:] - column * column.mT / pivot
    return table, fall


def _plus_one(precision: Tensor) -> Tensor:
    """Add the identity, which is what the noise's own density says."""
    return precision + torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
