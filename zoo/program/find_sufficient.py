"""Which few cells tell what all data say of jointly Normal latents: found at values, held to the general way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from zoo.errors import ZooError
from zoo.program.conjugate_conditional import Conditional, Layout, Probes
from zoo.program.program import Program
from zoo.program.seen_cells import SeenCells
from zoo.program.sufficient import Sufficient
from zoo.replay.evaluate import Replay, Values
from zoo.replay.sites import Site

MOST = 40  # cells that tell all others
NUMBERS = 100_000  # of G for all groups
SAME = 1e-12  # relative singular values that are rounding
DIRECTIONS = 64  # in which other latents are moved
WHOLE = 1e-6  # how far a group's number may be off a whole one
MIDDLING = (0.3, -0.3, 1.0, -1.0, 0.7, -0.7, 1.7, -1.7)  # of the other latents, unconstrained
EXACT = 1e-9  # relative difference from the general way that is rounding


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

    def agreeing(found: Sufficient | None) -> Sufficient | None:
        good = found is not None and all(_close(found, general(values), values) for values in tried[:4])
        return found if good else None

    with torch.no_grad():
        found = _unless_it_fails(lambda: _found(program, probes, sites, tried))
        if found is None:
            return None
        few = _unless_it_fails(lambda: agreeing(_on_few(found)))
        return few or _unless_it_fails(lambda: agreeing(found))


def _unless_it_fails(work: Callable[[], Sufficient | None]) -> Sufficient | None:
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
    cells = SeenCells.of(program, sites, _run(program, layout, tried[0], centre))
    (looked, spreads), again = (_looked(program, layout, cells, some, points) for some in (tried[1:], tried[:1]))
    groups = _groups(program, probes, cells, tried[0])
    chosen, known = _interpolated(looked, again[0]), _interpolated(spreads, again[1])
    if chosen is None or known is None or groups is None:
        return None
    (few, told), (some, logs) = chosen, known
    count, weights = len(layout.groups), cells.weights
    if len(few) ** 2 * (count + 1) > NUMBERS:
        return None
    products = weights[:, None, None] * told[:, :, None] * told[:, None]  # (N, R, R)
    moments = products.new_zeros(count + 1, len(few), len(few)).index_add(0, groups, products)[:count]
    noise = layout.values(points)
    return Sufficient(
        program,
        probes,
        noise,
        cells.taken(few),
        moments.movedim(0, -1).contiguous(),
        products.sum(0),
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


def _looked(
    program: Program, layout: Layout, cells: SeenCells, tried: list[Values], points: Tensor
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
    import scipy.linalg  # it takes long to import

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


def _groups(program: Program, probes: Probes, cells: SeenCells, values: Values) -> Tensor | None:
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


def _close(found: Sufficient, other: Conditional, values: Values) -> bool:
    """Whether the conditional and the marginal are those of the general way."""
    one = found.conditional(values)
    pairs = [(one.height, other.height), *zip(one.shift, other.shift, strict=True)]
    pairs += [*zip(one.precision, other.precision, strict=True)]
    pairs += [(found.log_marginal(values), other.log_marginal())]
    return all(_same(a, b) for a, b in pairs)


def _same(a: Tensor, b: Tensor) -> bool:
    return not a.numel() or bool((a - b).abs().amax() <= EXACT * b.abs().amax().clamp_min(1.0))
