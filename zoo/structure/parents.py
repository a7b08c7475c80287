"""What feeds the arguments of a site: told apart by comparing them with the values of sites, run by run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, views


@dataclass(frozen=True)
class Seen:
    """What the comparing runs found.

    Attributes
    ----------
    base, values, part
        The first run under enumeration, its values and data.
    sources
        (site, argument) -> what it depends on.
    again
        Runs at other values, with those values and their data, in which what was seen must hold too.
    affine
        Runs that tell affine functions from others, if any argument may be one.
    """

    base: Any
    values: Values
    part: Data
    sources: dict[tuple[str, str], set[str]]
    again: list[tuple[Any, Values, Data]]
    affine: Affine | None = None


@dataclass(frozen=True)
class Affine:
    """Runs with all real sites at 0, at a, at b and at a + b; and with only the first entry of one site changed.

    Where local sites are among them, `apart` has such runs with the local sites moved alone, the others staying at a,
    and with the others moved alone.
    """

    moved: tuple[str, ...]
    runs: tuple[Any, ...]
    first_entry: dict[str, Any]
    local: frozenset[str] = frozenset()
    apart: tuple[tuple[Any, ...], ...] = ()


def compact(view: Tensor) -> Tensor:
    """Drop the repetitions of an expanded argument, keeping its dimensions."""
    for dim in range(view.ndim):
        if view.shape[dim] > 1 and view.stride(dim) == 0:
            view = view.narrow(dim, 0, 1)
    return view


def _feed(view: Tensor, batch_dim: int, sources: set[str], sites: Values, states: Values, part: Data) -> Parent:
    """Compare one argument with the values of the sites it depends on."""
    data = tuple(sorted(o.removeprefix("data ") for o in sources if o.startswith("data ")))
    nets = tuple(sorted(o for o in sources if o.startswith("network ")))
    origin = tuple(n for n in sites if n in sources)
    index = tuple(n for n, code in states.items() if _varies(view, batch_dim, code))
    if not origin and not index and not nets:
        return Parent("constant", data=data)
    if len(origin) == 1 and not nets:
        for parent, value in _placements(sites[origin[0]], origin, index, data, states, part):
            if data and data != (parent.by,):
                continue
            for pad in range(view.ndim - batch_dim + 1):
                scale = _ratio(view, value[(..., *[None] * pad)])
                if scale is not None:
                    return replace(parent, scale=scale, broadcast_dims=pad)
    return Parent("function", origin + nets, index, data)


def _placements(
    value: Tensor, origin: tuple[str, ...], index: tuple[str, ...], data: tuple[str, ...], states: Values, part: Data
) -> Iterator[tuple[Parent, Tensor]]:
    """Yield the ways in which a site's value may be laid out in an argument: itself, or indexed."""
    if not index:
        yield Parent("site", origin, (), data), value
        for name in data:
            codes = part.values[name]
            if not codes.is_floating_point() and value.ndim and codes.numel() and int(codes.max()) < value.shape[0]:
                yield Parent("indexed", origin, (), data, by=name), value[codes]
        return
    for order in permutations(index):
        by = [states[n].long() for n in order]
        if value.ndim >= len(by) and all(int(c.max()) < value.shape[i] for i, c in enumerate(by)):
            yield Parent("indexed", origin, order, data), value[tuple(by)]


def _entrywise(view: Tensor, batch_dim: int, parent: Parent, sites: Values, states: Values, part: Data) -> list[Any]:
    """Return (feed, ratio) for each way in which an argument may be a site's value times a constant per entry."""
    found = []
    for candidate, value in _placements(sites[parent.sites[0]], parent.sites, parent.index, parent.data, states, part):
        for pad in range(view.ndim - batch_dim + 1):
            padded = value[(..., *[None] * pad)].to(view.dtype)
            try:
                if torch.broadcast_shapes(view.shape, padded.shape) != view.shape:
                    continue
            except RuntimeError:
                continue
            if bool((padded != 0).all()):
                found.append((replace(candidate, broadcast_dims=pad, entrywise=True), view / padded))
    return found


def feeds(name: str, seen: Seen, states: Values, part: Data) -> dict[str, Parent]:
    """Say what feeds each argument of a site, if it holds in every run; else that it is a function of its sources."""
    fn = seen.base.nodes[name]["fn"]
    batch_dim, args = len(fn.batch_shape), {}
    first = {key: compact(view) for key, view in views(fn).items()}
    for key, view in first.items():
        args[key] = _feed(view, batch_dim, seen.sources[name, key], seen.values, states, part)
    for other, values, its in seen.again:
        for key, view in views(other.nodes[name]["fn"]).items():
            parent, view = args[key], compact(view)
            if parent.kind in ("site", "indexed"):
                if not _same(parent, _feed(view, batch_dim, seen.sources[name, key], values, states, its)):
                    args[key] = Parent("function", parent.sites, parent.index, parent.data)
            elif parent.kind == "constant" and not parent.data and not _equal(view, first[key]):
                args[key] = Parent("function", tuple(seen.values), data=parent.data)
    for key, parent in args.items():
        if parent.kind == "function" and len(parent.sites) == 1 and parent.sites[0] in seen.values:
            args[key] = _scaled(name, key, parent, first[key], batch_dim, seen, states, part) or parent
    for key in ("loc",):
        if key in args and args[key].kind == "function":
            parent = args[key]
            args[key] = _linear(name, key, parent, seen, states) or _bilinear(name, key, parent, seen) or parent
    return args


def _scaled(
    name: str, key: str, parent: Parent, view: Tensor, batch_dim: int, seen: Seen, states: Values, part: Data
) -> Parent | None:
    """Recognize a site's value times a constant per entry: the ratio is the same whatever the value."""
    candidates = _entrywise(view, batch_dim, parent, seen.values, states, part)
    confirmed = 0
    for other, values, its in seen.again:
        if its is not part:
            continue
        again: Tensor = compact(views(other.nodes[name]["fn"])[key])
        ratios = _entrywise(again, batch_dim, parent, values, states, its)
        confirmed += 1
        tolerance = 1e-9 if view.dtype == torch.float64 else 1e-4
        candidates = [
            (f, r)
            for f, r in candidates
            if any(f == g and r.shape == q.shape and torch.allclose(r, q, rtol=tolerance) for g, q in ratios)
        ]
    return candidates[0][0] if candidates and confirmed else None


def _linear(name: str, key: str, parent: Parent, seen: Seen, states: Values) -> Parent | None:
    """Recognize an affine function of real sites jointly: f(a + b) - f(a) - f(b) + f(0) = 0."""
    if seen.affine is None or not parent.sites or not set(parent.sites) <= set(seen.affine.moved):
        return None
    if not _additive(name, key, seen.affine.runs) or len(parent.index) > 1:
        return None
    if parent.index and not all(_own_state(name, key, s, parent.index[0], seen, states) for s in parent.sites):
        return None
    return Parent("linear", parent.sites, parent.index, parent.data)


def _bilinear(name: str, key: str, parent: Parent, seen: Seen) -> Parent | None:
    """Recognize a function affine in one local real site given the others, and affine in these given that one."""
    if seen.affine is None or not seen.affine.apart or parent.index or not set(parent.sites) <= set(seen.affine.moved):
        return None
    if len(seen.affine.local.intersection(parent.sites)) != 1:
        return None
    if not all(_additive(name, key, runs) for runs in seen.affine.apart):
        return None
    return Parent("bilinear", parent.sites, (), parent.data)


def _additive(name: str, key: str, runs: tuple[Any, ...]) -> bool:
    """Tell whether f(a + b) - f(a) - f(b) + f(0) = 0, from runs at 0, a, b and a + b."""
    zero, a, b, both = (views(run.nodes[name]["fn"])[key] for run in runs)
    if not all(v.shape == zero.shape for v in (a, b, both)):
        return False
    size = max(float(v.abs().max()) for v in (zero, a, b, both))
    tolerance = 1e-9 if zero.dtype == torch.float64 else 1e-4
    return float((both - a - b + zero).abs().max()) <= tolerance * size


def _own_state(name: str, key: str, source: str, index: str, seen: Seen, states: Values) -> bool:
    """Whether entry k of a coefficient matters in state k only."""
    assert seen.affine is not None
    code = states[index]
    if seen.values[source].ndim == 0 or seen.values[source].shape[0] != len(code):
        return False
    changed = seen.affine.first_entry.get(source)
    if changed is None:
        return False
    before, after = (views(run.nodes[name]["fn"])[key] for run in (seen.base, changed))
    if before.shape != after.shape:
        return False
    axis = len(seen.base.nodes[name]["fn"].batch_shape) - code.ndim
    moved = (before != after).movedim(axis, 0)
    return bool(moved[0].any()) and not bool(moved[1:].any())


def _equal(view: Tensor, other: Tensor) -> bool:
    """Tell whether two arguments are the same up to rounding; of another number of rows they are not compared."""
    return view.shape != other.shape or torch.allclose(view, other, rtol=1e-5, atol=1e-30, equal_nan=True)


def _same(parent: Parent, again: Parent) -> bool:
    """Tell whether what was seen at one value was seen at another: a number is a multiple of any other number."""
    return replace(parent, scale=1.0) == replace(again, scale=1.0) and abs(parent.scale / again.scale - 1) < 1e-3


def _varies(view: Tensor, batch_dim: int, code: Tensor) -> bool:
    """Tell whether an argument changes along the dimension that an enumerated site is laid out on."""
    axis = batch_dim - code.ndim
    if axis < 0 or view.shape[axis] <= 1:
        return False
    return not torch.equal(view, view.narrow(axis, 0, 1).expand_as(view))


def _ratio(view: Tensor, value: Tensor) -> float | None:
    """Return c if `view` is c times `value`, broadcast without widening, for one constant c; otherwise None."""
    try:
        if torch.broadcast_shapes(view.shape, value.shape) != view.shape:
            return None
    except RuntimeError:
        return None
    value = value.to(view.dtype).expand(view.shape)
    tolerance = 1e-9 if view.dtype == torch.float64 else 1e-4
    largest = value.abs().max()
    anchor = value.abs().argmax()
    scale = view.reshape(-1)[anchor] / value.reshape(-1)[anchor]
    if bool(((view - scale * value).abs() <= tolerance * (scale * largest).abs()).all()) and bool(scale != 0):
        number = float(scale)
        return 1.0 if abs(number - 1.0) < 10 * tolerance else number
    return None
