"""What data say of jointly Normal latents, as sums over their cells that no latent changes.

Let u_i(c; phi) = (y_i - loc_i) / scale_i be the residual of cell i, affine in the noise c: u_i = u_i(c0) - B_i (c - c0).
The precision 1 + sum_i w_i B_i' B_i and all else of p(c | phi, y) are sums over cells of products of these. Where a
model has few covariates, u as a vector over cells stays in a space of few dimensions, whatever phi and c are. Then few
cells R tell all others, u_i = E_i u_R (interpolative decomposition; Cheng, Gimbutas, Martinsson and Rokhlin 2005), and

    sum_i w_i u_i v_i = u_R' G v_R,    G = sum_i w_i E_i' E_i,

where G, one for each group of cells, is all that is needed of the data. One evaluation does not go through rows then,
and has no gradient in it. That it is so is found at values of phi, and held to the general way at others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

import scipy.linalg
import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.program.conjugate_conditional import Conditional, Layout, Probes
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Site, base_distribution

Found = TypeVar("Found")
MOST = 40  # cells that tell all others
NUMBERS = 100_000  # of G for all groups
SAME = 1e-12  # relative singular values that are rounding
DIRECTIONS = 64  # in which other latents are moved
WHOLE = 1e-6  # how far a group's number may be off a whole one
INLINE = 4096  # products that are merged into the loops around them when compiled
MIDDLING = (0.3, -0.3, 1.0, -1.0, 0.7, -0.7, 1.7, -1.7)  # of the other latents, unconstrained
EXACT = 1e-9  # relative difference from the general way that is rounding


@dataclass(frozen=True)
class Cells:
    """Cells of Normal sites in one vector of N.

    Attributes
    ----------
    names
        The sites.
    at
        Which of a site's flat cells are seen, one tensor for each.
    weights
        What each counts for, (N,).
    """

    names: tuple[str, ...]
    at: tuple[Tensor, ...]
    weights: Tensor

    @classmethod
    def of(cls, program: Program, sites: list[Site], replay: Replay) -> Cells:
        """All that is not missing, with the weights of rows."""
        places, weights = [], []
        for site in sites:
            value, missing = replay.seen[site.name], program.missing(site)
            weight = torch.ones_like(value)
            if program.data.weights is not None and program.row in site.plates:
                axis = site.plate_dim(program.row) - site.event_dim
                weight = weight * program.data.weights.reshape(-1, *[1] * (-1 - axis))
            seen = torch.ones_like(value, dtype=torch.bool) if missing is None else ~missing.missing.reshape(value.shape)
            places.append(seen.reshape(-1).nonzero().squeeze(-1))
            weights.append(weight.reshape(-1)[places[-1]])
        return cls(tuple(s.name for s in sites), tuple(places), torch.cat(weights))

    def taken(self, chosen: Tensor) -> Cells:
        """Only some of them."""
        order, parts, start = chosen.sort().values, [], 0
        for at in self.at:
            mine = order[(order >= start) & (order < start + len(at))]
            parts.append(at[mine - start])
            start += len(at)
        return Cells(self.names, tuple(parts), self.weights[order])

    def rows(self, program: Program) -> Tensor:
        """Rows that they are in, each once, in order."""
        found = []
        for name, at in zip(self.names, self.at, strict=True):
            inner = _inside_of_row(program, name)
            found.append(at // inner % len(program.data))
        return torch.cat(found).unique()

    def on(self, program: Program, rows: Tensor) -> Cells:
        """The same where the program has no other rows than these."""
        places, count = [], len(program.data)
        for name, at in zip(self.names, self.at, strict=True):
            inner = _inside_of_row(program, name)
            outer, row = at // (inner * count), torch.searchsorted(rows, at // inner % count)
            places.append((outer * len(rows) + row) * inner + at % inner)
        return replace(self, at=tuple(places))

    def residuals(self, replay: Replay) -> tuple[Tensor, Tensor]:
        """(y - loc) / scale and log scale of the cells."""
        found, spread = [], []
        for name, at in zip(self.names, self.at, strict=True):
            fn, value = base_distribution(replay.distributions[name]), replay.seen[name]
            residual, scale = (value - fn.loc) / fn.scale, fn.scale.expand(value.shape)
            found.append(residual.reshape(-1)[at])
            spread.append(scale.reshape(-1)[at].log())
        return torch.cat(found), torch.cat(spread)


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
    cells: Cells
    moments: Tensor
    spreads: Cells
    logs: Tensor
    count: Tensor

    def log_marginal(self, values: Values) -> Tensor:
        """log m(phi).

        With A the products of (B, u(c0)) and of what is like them in the prior of the noise, the integral over c of
        exp(-|B (c - c0) - u(c0)|^2 / 2) is in the pivots of a Gaussian elimination of A, and what is left of it at last.
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
        if q * q * self.moments.numel() <= INLINE:
            products = (told[:, None, :, None] * told[:, None]).reshape(q, q, r * r, 1)
            return (products * self.moments).sum(-2)
        by_group = self.moments.reshape(r, r, -1).movedim(-1, 0)  # (groups + 1, R, R)
        return (told @ by_group @ told.mT).movedim(0, -1)

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
    """Products of the residuals -c0 - (c - c0) of noise: of (..., entries), in the first places and the last of size."""
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
        table = table[..., 1:, 1:] - column * (column.mT / pivot)
    return table, fall


def sufficient(
    program: Program, probes: Probes, general: Callable[[Values], Conditional], made_up: Callable[[float], Values]
) -> Sufficient | None:
    """Find the few cells that tell what all data say of Normal latents; None if there are none.

    Parameters
    ----------
    program
        The program.
    probes
        The reference.
    general
        The conditional at values of the other latents, in the general way.
    made_up
        Values of the other latents, unconstrained ones about so far from zero.
    """
    layout = probes.layout
    sites = _seen_of(program, layout)
    if not sites:
        return None
    tried = [made_up(s) for s in MIDDLING]

    def agrees(found: Sufficient) -> bool:
        return all(_close(found, general(values), values) for values in tried[:4])

    with torch.no_grad():
        found = _unless_it_fails(lambda: _found(program, probes, sites, tried))
        if found is None:
            return None
        for candidate in (_unless_it_fails(lambda: _on_few(found)), found):
            if candidate is not None and _unless_it_fails(lambda c=candidate: agrees(c)):
                return candidate
    return None


def _unless_it_fails(work: Callable[[], Found]) -> Found | None:
    try:
        return work()
    except (RuntimeError, ValueError, IndexError, ZooError):  # no density there, none of few rows, or not vectorized
        return None


def _seen_of(program: Program, layout: Layout) -> list[Site]:
    """Observed sites that depend on what is collapsed, if all are Normal and all that is collapsed is; else none."""
    sites = [s for s in program.observed if any(set(layout.names) & set(p.sites) for p in s.args.values())]
    plain = all(s.family == "Normal" and not set(s.args["scale"].sites) & set(layout.names) for s in sites)
    return sites if plain and not layout.forms and not program.enumerated else []


def _found(program: Program, probes: Probes, sites: list[Site], tried: list[Values]) -> Sufficient | None:
    layout, centre = probes.layout, probes.centre
    columns = [*layout.groups.mT, *layout.dense[:, None]]
    points = torch.stack([*(centre.index_add(0, at, torch.ones_like(centre[at])) for at in columns), centre])
    cells = Cells.of(program, sites, _run(program, layout, tried[0], centre))
    (looked, spreads), again = (_looked(program, layout, cells, some, points) for some in (tried[1:], tried[:1]))
    groups = _groups(program, probes, cells, tried[0])
    chosen, known = _interpolated(looked, again[0]), _interpolated(spreads, again[1])
    if chosen is None or known is None or groups is None:
        return None
    (few, told), (some, logs) = chosen, known
    count = len(layout.groups) + 1
    if len(few) ** 2 * count > NUMBERS:
        return None
    products = (cells.weights[:, None, None] * told[:, :, None] * told[:, None]).flatten(1)  # (N, R * R)
    moments = products.new_zeros(count, len(few) ** 2).index_add(0, groups, products)
    moments[-1] = products.sum(0)
    weights = cells.weights
    noise = layout.values(points)
    return Sufficient(
        program,
        probes,
        noise,
        cells.taken(few),
        moments.T.contiguous(),
        cells.taken(some),
        weights @ logs,
        weights.sum(),
    )


def _on_few(found: Sufficient) -> Sufficient | None:
    """The same on the rows of its cells alone; None if something else needs other rows."""
    program, names = found.program, found.probes.layout.names
    stays = [s for s in program.locals if s.name not in names]
    inside = {s.name for s in program.observed if program.row in s.plates}
    if stays or inside != {s.name for s in program.observed} or inside != set(found.cells.names):
        return None
    rows = torch.cat([c.rows(program) for c in (found.cells, found.spreads)]).unique()
    points = dict(found.points)
    for site in program.locals:
        points[site.name] = points[site.name].index_select(1 + site.batch_dim + site.plate_dim(program.row), rows)
    return replace(
        found,
        program=program.rebind(program.data.take(rows)),
        points=points,
        cells=found.cells.on(program, rows),
        spreads=found.spreads.on(program, rows),
    )


def _inside_of_row(program: Program, name: str) -> int:
    """How many cells of a site are to the right of a row."""
    site = program.sites[name]
    return math.prod(site.shape[len(site.shape) + site.plate_dim(program.row) - site.event_dim + 1 :])


def _looked(
    program: Program, layout: Layout, cells: Cells, tried: list[Values], points: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors over cells, in rows: residuals at all points and how they change with others; log scales."""
    found, spreads = [], []
    for values in tried:
        told, logs = torch.vmap(lambda c, v=values: cells.residuals(_run(program, layout, v, c)))(points)
        found.append(told)
        spreads.append(logs[-1:])
    values = {n: v for n, v in tried[0].items() if v.is_floating_point()}
    ends = list(accumulate(v.numel() for v in values.values()))
    units = torch.eye(ends[-1], dtype=points.dtype, device=points.device)[:DIRECTIONS]

    def back(weights: Tensor) -> Values:
        at = torch.func.vjp(lambda v: cells.residuals(_run(program, layout, v, points[-1]))[0], values)[1]
        pulled: Values = at(weights)[0]
        return pulled

    along = torch.func.vjp(back, torch.zeros_like(found[0][0]))[1]  # linear: its own gradient is the change

    def changed(unit: Tensor) -> Tensor:
        parts = unit.tensor_split(ends[:-1])
        change: Tensor = along({n: p.reshape(v.shape) for (n, v), p in zip(values.items(), parts, strict=True)})[0]
        return change

    return torch.cat([*found, torch.vmap(changed)(units)]), torch.cat(spreads)


def _interpolated(vectors: Tensor, others: Tensor) -> tuple[Tensor, Tensor] | None:
    """Entries that tell all others of vectors (count, N), in order (R,), and how, (N, R); None if many do.

    They are found among `vectors` and held to `others`.
    """
    table, again = (t / torch.where((size := t.norm(dim=1, keepdim=True)) > 0, size, 1.0) for t in (vectors, others))
    if not bool(table.isfinite().all() and again.isfinite().all()):
        return None
    _, upper, order = scipy.linalg.qr(table.cpu().numpy(), mode="economic", pivoting=True)
    diagonal = abs(upper.diagonal())
    rank = max(1, int((diagonal > SAME * diagonal[0]).sum()))
    if rank > min(MOST, len(table) // 2):
        return None
    rest = scipy.linalg.solve_triangular(upper[:rank, :rank], upper[:rank])
    told = vectors.new_zeros(table.shape[1], rank)
    told[torch.as_tensor(order, device=told.device)] = torch.as_tensor(rest.T, device=told.device, dtype=told.dtype)
    few, at = torch.as_tensor(order[:rank], device=told.device).sort()
    told = told[:, at].contiguous()
    off = again - again[:, few] @ told.mT
    return (few, told) if bool((off.norm(dim=1) <= SAME).all()) else None


def _groups(program: Program, probes: Probes, cells: Cells, values: Values) -> Tensor | None:
    """Which group each cell depends on, (N,), the number of groups if on none; None if on several."""
    layout, centre = probes.layout, probes.centre

    def residuals(c: Tensor) -> Tensor:
        return cells.residuals(_run(program, layout, values, c))[0]

    at, numbers = residuals(centre), torch.arange(1.0, len(layout.groups) + 1).to(centre)
    found = torch.full_like(at, len(layout.groups), dtype=torch.long)
    for entries in layout.groups.mT:
        one, own = (at - residuals(centre.index_add(0, entries, by)) for by in (torch.ones_like(numbers), numbers))
        touched = one.abs() > SAME * at.abs().amax()
        number = torch.where(touched, own / torch.where(touched, one, 1.0), 1.0)
        group = number.round().long() - 1
        known = found < len(layout.groups)
        if bool(((number - number.round()).abs() > WHOLE * number.abs()).any() or (group < 0).any()):
            return None
        if bool((group >= len(layout.groups)).any() or (touched & known & (found != group)).any()):
            return None
        found = torch.where(touched, group, found)
    return found


def _run(program: Program, layout: Layout, values: Values, c: Tensor) -> Replay:
    """Run the model without densities."""
    return program.replay(values, densities=False, noise=layout.values(c))


def _plus_one(precision: Tensor) -> Tensor:
    """Add the identity, which is what the noise's own density says."""
    return precision + torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)


def _close(found: Sufficient, other: Conditional, values: Values) -> bool:
    """Whether the conditional and the marginal are those of the general way."""
    one = found.conditional(values)
    pairs = [(one.height, other.height), *zip(one.shift, other.shift, strict=True)]
    pairs += [*zip(one.precision, other.precision, strict=True)]
    pairs += [(found.log_marginal(values), other.log_marginal())]
    return all(_same(a, b) for a, b in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    return not a.numel() or bool((a - b).abs().amax() <= EXACT * b.abs().amax().clamp_min(1.0))
