"""Exchangeable states: states of enumerated sites that can be permuted, with what they index, and nothing changes.

A mixture's log joint is the same if components change places: p(x, tau(theta)) = p(x, theta) for each permutation tau,
so a posterior has one mode for each. Here the permutations are found from what the densities do, whatever sites are
called. Candidates are the axes of latents and parameters that are as long as there are states. Two states a and b are
exchangeable where some of these axes can have their entries a and b swapped such that every factor of the log joint,
at made-up values, is as before with the states a and b swapped. Whatever holds on some rows has to hold on all.
Two states may have one share v and 1 - v, written by hand: where no axes will do, sites on an interval or the real line
are reflected as well, v -> low + high - v or v -> -v.

Continuous symmetries (signs and rotations of factors) and those of locals alone are not looked for.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.program.program import Program
from zoo.program.solve import Relation, solve
from zoo.program.state_group import StateGroup
from zoo.replay.evaluate import Values, many, model_context
from zoo.replay.sites import Site
from zoo.structure.discover import made_up

POINTS = 3  # made-up values at which factors are compared
MOST_MOVES = 9  # that one factor may depend on: all subsets of them are tried
CHUNK = 32  # values looked at together
KEY = "exchangeable"
Entry = TypeVar("Entry")


def exchangeable(program: Program) -> tuple[StateGroup, ...]:
    """Find the groups of exchangeable states of a program; kept with it.

    Returns
    -------
    tuple
        One group for each set of states that are permuted together; empty if labels mean something: where the prior
        tells states apart, or some labels are known.
    """
    kept = program.plans.get(KEY)
    if not isinstance(kept, _Kept) or kept.data is not program.data:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            kept = program.plans[KEY] = _Kept(program.data, tuple(_find(program)))
    return kept.groups


@dataclass(frozen=True)
class _Kept:
    """Groups, and the data they are of: labels may be known in other rows."""

    data: Data
    groups: tuple[StateGroup, ...]


@dataclass(frozen=True)
class _Move:
    """A site's value with two entries swapped along axes, or reflected: c - v in place of v."""

    site: str
    axes: tuple[int, ...]
    reflected: float | None = None

    def __call__(self, value: Tensor, order: Tensor) -> Tensor:
        if self.reflected is not None:
            return self.reflected - value
        for axis in self.axes:
            value = value.index_select(axis, order)
        return value


def _find(program: Program) -> Iterator[StateGroup]:
    if program.whole is not program:  # its one log density has the symmetries of what it is the integral of
        for group in exchangeable(program.whole):
            left = {s.name for s in (*program.latents, *program.parameters)}
            axes = {n: a for n, a in group.axes.items() if n in left}
            reflected = {n: r for n, r in group.reflected.items() if n in left}
            if axes or reflected:
                yield replace(group, axes=axes, reflected=reflected)
        return
    rows = program.structure.example_rows
    if rows is not None and int(rows.max()) >= len(program.data):  # a program traced on more rows
        rows = None
    part = program if rows is None or program.chained else program.rebind(program.data.take(rows))
    for count in sorted({s.cardinality for s in program.enumerated} - {1}):
        sites = [s.name for s in program.enumerated if s.cardinality == count]
        try:
            few = _Factors(part, count)
            all_rows = few if part is program else _Factors(program, count, points=1)
        except (RuntimeError, ValueError, ModelError):  # no density at made-up values: nothing can be claimed
            continue
        if not few.moves:  # nothing is indexed by the states, of which there may be many
            continue
        done: set[tuple[str, int]] = set()
        for site, pair in itertools.product(sites, itertools.combinations(range(count), 2)):
            if (site, pair[0]) in done or (site, pair[1]) in done:
                continue
            found = few.search(site, pair)
            if found is None:
                continue
            states = _class_of(few, all_rows, found, pair)
            if len(states) > 1:
                done |= {(s, k) for s in found[0] for k in states}
                yield few.group(*found, states)


def _class_of(few: _Factors, all_rows: _Factors, found: _Found, pair: tuple[int, int]) -> tuple[int, ...]:
    """Return the states that can be swapped with the first of a pair, on all rows."""
    first, count = pair[0], few.count
    states = [first, *(k for k in range(first + 1, count) if few.holds(*found, _swap(first, k, count)))]
    if few is all_rows or len(states) == 1:
        return tuple(states)
    cycle = list(range(count))
    for here, there in zip(states, (*states[1:], first), strict=True):
        cycle[here] = there
    # A swap and a cycle make all permutations; where they fail, rows not looked at so far tell states apart.
    if all(all_rows.holds(*found, torch.tensor(o)) for o in (_swap(first, states[1], count).tolist(), cycle)):
        return tuple(states)
    return (first, *(k for k in states[1:] if all_rows.holds(*found, _swap(first, k, count))))


def _swap(a: int, b: int, count: int) -> Tensor:
    order = torch.arange(count)
    order[[a, b]] = order[[b, a]]
    return order


_Found = tuple[frozenset[str], frozenset[_Move]]  # enumerated sites and moves that belong together


class _Factors:
    """The factors of a log joint at made-up values, and what becomes of them as entries of values are swapped."""

    def __init__(self, program: Program, count: int, points: int = POINTS) -> None:
        self.program, self.count = program, count
        self.sites = {s.name: s for s in (*program.latents, *program.parameters)}
        self.fixed = {s.name for s in program.enumerated if s.cardinality != count}
        enumerated_plates = {p for s in program.enumerated for p in s.plates} | {program.row}
        self.moves = [m for s in self.sites.values() for m in _moves(s, count, enumerated_plates)]
        self.sums = {n: _summed(s, enumerated_plates) for n, s in program.sites.items()}
        networks = {n: p.detach() for n, p in program.model.named_parameters() if n in program.networks}
        with model_context(program.dtype, torch.device("cpu")):
            self.points = [
                {n: made_up(s.support, program.site_shape(s), n).to(program.device) for n, s in self.sites.items()}
                for _ in range(points)
            ]
        self.points = [{**networks, **values} for values in self.points]
        self.names = list(program.log_probs(self.points[0]))
        self.before = [self._evaluate([values])[0] for values in self.points]

    def search(self, site: str, pair: tuple[int, int]) -> _Found | None:
        """Find the fewest moves that swap a pair of states of a site, and the other sites whose states they swap."""
        plain = [m for m in self.moves if m.reflected is None]
        found = self._search(site, pair, plain)
        return self._search(site, pair, self.moves) if found is None and len(plain) < len(self.moves) else found

    def _search(self, site: str, pair: tuple[int, int], moves: Sequence[_Move]) -> _Found | None:
        order = _swap(*pair, self.count)
        values, before = self.points[0], self.before[0]
        single = self._evaluate([self.moved(values, (m,), order) for m in moves])
        needed: dict[str, list[_Move]] = {
            name: [m for m, after in zip(moves, single, strict=True) if not _alike(after[name], before[name])]
            for name in self.names
        }
        if any(len(some) > MOST_MOVES for some in needed.values()):
            return None
        subsets = list({frozenset(some) for all_of in needed.values() for some in _subsets(all_of)})
        legal = [s for s in subsets if self._inside(s, order)]
        moved = dict(zip(legal, self._evaluate([self.moved(values, s, order) for s in legal]), strict=True))
        relations = []
        for name in self.names:
            enumerated = self._enumerated(name, before[name])
            rows = [
                {*some, *states}
                for some in map(frozenset, _subsets(needed[name]))
                if some in moved
                for states in _subsets(enumerated)
                if self._equivariant(name, before[name], moved[some][name], states, order)
            ]
            relations.append(Relation((*needed[name], *enumerated), rows))
        solution = solve(relations, site)
        if solution is None:
            return None
        sites = frozenset(n for n in solution if isinstance(n, str))
        chosen = frozenset(m for m in solution if isinstance(m, _Move))
        return (sites, chosen) if self.holds(sites, chosen, order) else None

    def holds(self, sites: frozenset[str], moves: frozenset[_Move], order: Tensor) -> bool:
        """Tell whether every factor is as before, with states permuted, at all points."""
        if not self._inside(moves, order) or (any(m.reflected is not None for m in moves) and self.count != 2):
            return False
        after = self._evaluate([self.moved(v, moves, order) for v in self.points])
        return all(
            self._equivariant(n, old[n], new[n], sites, order)
            for old, new in zip(self.before, after, strict=True)
            for n in self.names
        )

    def group(self, sites: frozenset[str], moves: frozenset[_Move], states: tuple[int, ...]) -> StateGroup:
        """Return what was found, sites in the order of the story."""
        axes: dict[str, tuple[int, ...]] = {}
        for move in self.moves:
            if move in moves and move.reflected is None:
                axes[move.site] = (*axes.get(move.site, ()), *move.axes)
        reflected = {m.site: m.reflected for m in self.moves if m in moves and m.reflected is not None}
        derived, turned = self._derived(moves, _swap(states[0], states[1], self.count))
        order = {n: i for i, n in enumerate(self.program.sites)}
        axes = dict(sorted({**axes, **derived}.items(), key=lambda item: order[item[0]]))
        reflected = dict(sorted({**reflected, **turned}.items(), key=lambda item: order[item[0]]))
        return StateGroup(tuple(sorted(sites, key=order.__getitem__)), self.count, states, axes, reflected)

    def moved(self, values: Values, moves: Collection[_Move], order: Tensor) -> Values:
        """Return values with their entries in another order."""
        moved, order = dict(values), order.to(self.program.device)
        for move in moves:
            moved[move.site] = move(moved[move.site], order)
        return moved

    def _inside(self, moves: Collection[_Move], order: Tensor) -> bool:
        """Whether moved values are inside their supports: those of ordered vectors or intervals may not be."""
        moved = self.moved(self.points[0], moves, order)
        return all(bool(self.sites[m.site].support.check(moved[m.site]).all()) for m in moves)

    def _evaluate(self, values: Sequence[Values]) -> list[Values]:
        """Log densities of all sites at each of several values."""
        if not values:
            return []
        if len(self.points) == 1:  # of all rows, where blocks of them are faster than a vectorized call
            return [self.program.log_probs(v) for v in values]

        def densities(v: Values) -> tuple[Tensor, ...]:
            by_site = self.program.log_probs(v)
            return tuple(by_site[n] for n in self.names)

        stacked = {n: torch.stack([v[n] for v in values]) for n in values[0]}
        factors = many(densities, stacked, len(values), CHUNK)
        return [dict(zip(self.names, row, strict=True)) for row in zip(*factors, strict=True)]

    def _enumerated(self, name: str, factor: Tensor) -> list[str]:
        """Enumerated sites whose states a factor depends on."""
        symbols = self.program.sites[name].symbols
        return [
            s.name
            for s in self.program.enumerated
            if s.name not in self.fixed
            and (s.name == name or symbols.get(s.enum_dim) == s.symbols[s.enum_dim])
            and factor.ndim >= -s.enum_dim
            and factor.shape[s.enum_dim] > 1
        ]

    def _equivariant(self, name: str, old: Tensor, new: Tensor, sites: Collection[str], order: Tensor) -> bool:
        """Tell whether a factor has changed just as if the states of some sites had been permuted."""
        order = order.to(old.device)
        for site in self._enumerated(name, old):
            if site in sites:
                axis = self.program.sites[site].enum_dim
                if name in self.program.chains:  # its factor: initial probabilities, and below them the transitions
                    old = old.index_select(axis, torch.cat([order.new_zeros(1), order + 1]))
                    axis = -1
                old = old.index_select(axis, order)
        dims = [d for d in self.sums[name] if old.ndim >= -d]
        return _alike(new.sum(dims), old.sum(dims)) if dims else _alike(new, old)

    def _derived(self, moves: frozenset[_Move], order: Tensor) -> tuple[dict[str, tuple[int, ...]], dict[str, float]]:
        """Deterministic sites whose entries are permuted along with the moves, by axes; and what others add up to."""
        before = [self.program.deterministic(v) for v in self.points]
        after = [self.program.deterministic(self.moved(v, moves, order)) for v in self.points]
        order = order.to(self.program.device)
        axes: dict[str, tuple[int, ...]] = {}
        reflected: dict[str, float] = {}
        for name, old in before[0].items():
            along = [d for d in range(-old.ndim, 0) if old.shape[d] == self.count]
            some = (a for a in _subsets(along) if a and _alike(after[0][name], _Move(name, a)(old, order)))
            found = next(some, None)
            if found is not None:
                axes[name] = found
            elif old.numel() and not _alike(after[0][name], old):
                sums = torch.stack([b[name] + a[name] for b, a in zip(before, after, strict=True)])
                if _alike(sums, sums.flatten()[0].expand_as(sums)):
                    reflected[name] = float(sums.flatten()[0])
        return axes, reflected


def _moves(site: Site, count: int, plates: Collection[str]) -> Iterator[_Move]:
    """Yield the axes along which entries of a site may be swapped, neither rows nor parts of a matrix; reflections."""
    base = site.support.base_constraint if isinstance(site.support, constraints.independent) else site.support
    matrix = base.event_dim if base.event_dim > 1 else 0
    ndim = len(site.shape)
    rows = {site.batch_dim + d for p, d in zip(site.plates, site.plate_dims, strict=True) if p in plates}
    for axis in range(ndim - matrix):
        if site.shape[axis] == count and axis not in rows:
            yield _Move(site.name, (axis - ndim,))
    if matrix == 2 and site.shape[-2:] == (count, count):
        yield _Move(site.name, (-2, -1))
    if count == 2 and base is constraints.real:
        yield _Move(site.name, (), 0.0)
    elif count == 2 and isinstance(base, constraints.interval):
        sums = torch.as_tensor(base.lower_bound + base.upper_bound).flatten()
        if bool((sums == sums[0]).all()):
            yield _Move(site.name, (), float(sums[0]))


def _summed(site: Site, plates: Collection[str]) -> list[int]:
    """Dimensions of a site's log density over which it is only ever summed: plates without rows or enumerated sites."""
    return [d for p, d in zip(site.plates, site.plate_dims, strict=True) if p not in plates]


def _subsets(entries: Sequence[Entry]) -> Iterator[tuple[Entry, ...]]:
    """Yield all subsets, small ones first."""
    return itertools.chain.from_iterable(itertools.combinations(entries, size) for size in range(len(entries) + 1))


def _alike(a: Tensor, b: Tensor) -> bool:
    """Whether two factors are the same but for rounding."""
    if a.shape != b.shape:
        return False
    finite = b.isfinite()
    if not torch.equal(finite, a.isfinite()) or bool(b.isnan().any()):
        return False
    tolerance = 1e-11 if b.dtype == torch.float64 else 1e-5
    largest = torch.where(finite, b, 0).abs().max() if b.numel() else b.new_zeros(())
    return bool(((a - b).abs() <= tolerance * (1 + largest))[finite].all())
