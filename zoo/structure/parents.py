"""Parents of the arguments of a site: told apart by comparing arguments with the values of sites, run by run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, views
from zoo.structure.additivity import Quadruple
from zoo.structure.probes import Probes, arguments
from zoo.structure.runner import Check, Source

RELATIVE_GAP = 1e-3  # between two multiples that count as one: the runs that check see values far out, less exactly


def find_parents(name: str, probes: Probes, states: Values) -> dict[str, Parent]:
    """Say for each argument of a site what its parents are, if it holds in every run; else that it is a function.

    Parameters
    ----------
    name
        The site.
    probes
        Runs of the model.
    states
        Values of the enumerated sites that are in scope, each along a dimension of its own.
    """
    node = probes.base.nodes[name]
    first = arguments(node)
    batch_dim = len(node["fn"].batch_shape)
    args = {
        key: _compare(view, batch_dim, probes.sources[name, key], probes.values, states, probes.data)
        for key, view in first.items()
    }
    for check in probes.checks:
        for key, view in arguments(check.trace.nodes[name]).items():
            if args[key].kind == "constant" and check.data is not probes.data:
                continue  # it may say how many rows there are
            if not _confirmed(args[key], view, first[key], batch_dim, probes.sources[name, key], states, check):
                sites = args[key].sites if args[key].kind != "constant" else tuple(probes.values)
                args[key] = Parent("function", sites, args[key].index, args[key].data)
    return {key: _recognized(name, key, parent, first[key], probes, states) for key, parent in args.items()}


def _compare(view: Tensor, batch_dim: int, sources: set[Source], values: Values, states: Values, data: Data) -> Parent:
    """Compare one argument of one run with the values of the sites it depends on.

    Parameters
    ----------
    view
        The argument, with `batch_dim` dimensions of the batch and then those of the event.
    sources
        What it depends on.
    values, states, data
        Values of latents and parameters in the run, of enumerated sites, and the data.
    """
    fields = tuple(sorted(s.name for s in sources if s.kind == "data"))
    networks = tuple(sorted(f"network {s.name}" for s in sources if s.kind == "network"))
    sites = tuple(n for n in values if Source("site", n) in sources)
    index = tuple(n for n, code in states.items() if _varies(view, batch_dim, code))
    if not sites and not index and not networks:
        return Parent("constant", data=fields)
    if len(sites) == 1 and not networks:
        for parent, value in _placements(values[sites[0]], sites, index, fields, states, data):
            if fields and fields != (parent.by,):
                continue
            for dims in range(view.ndim - batch_dim + 1):
                scale = _ratio(view, value[(..., *[None] * dims)])
                if scale is not None:
                    return replace(parent, scale=scale, broadcast_dims=dims)
    return Parent("function", sites + networks, index, fields)


def _placements(
    value: Tensor, sites: tuple[str, ...], index: tuple[str, ...], fields: tuple[str, ...], states: Values, data: Data
) -> Iterator[tuple[Parent, Tensor]]:
    """Yield the ways in which a site's value may be laid out in an argument: itself, or indexed."""
    if not index:
        yield Parent("site", sites, (), fields), value
        for name in fields:
            codes = data.values[name]
            if not codes.is_floating_point() and value.ndim and codes.numel() and int(codes.max()) < value.shape[0]:
                yield Parent("indexed", sites, (), fields, by=name), value[codes]
        return
    if len(index) > value.ndim:
        return  # before there are as many orders as the factorial of dozens of sites
    for order in permutations(index):
        by = [states[n].long() for n in order]
        if all(int(c.max()) < value.shape[i] for i, c in enumerate(by)):
            yield Parent("indexed", sites, order, fields), value[tuple(by)]


def _confirmed(
    parent: Parent, view: Tensor, first: Tensor, batch_dim: int, sources: set[Source], states: Values, check: Check
) -> bool:
    """Tell whether what was seen of an argument in the first run holds in another."""
    if parent.kind in ("site", "indexed"):
        again = _compare(view, batch_dim, sources, check.values, states, check.data)
        # At a single value any number is a multiple of any other, so the multiples have to agree too.
        alike = replace(parent, scale=1.0) == replace(again, scale=1.0)
        return alike and abs(parent.scale / again.scale - 1) < RELATIVE_GAP
    if parent.kind == "constant" and not parent.data and view.shape == first.shape:
        return torch.allclose(view, first, rtol=1e-5, atol=1e-30, equal_nan=True)
    return True


def _recognized(name: str, key: str, parent: Parent, view: Tensor, probes: Probes, states: Values) -> Parent:
    """Look closer at an argument that is a function: it may be a multiple entry by entry, or a linear predictor."""
    if parent.kind == "function" and len(parent.sites) == 1 and parent.sites[0] in probes.values:
        parent = _scaled(name, key, parent, view, probes, states) or parent
    if parent.kind == "function" and key == "loc":
        parent = _linear(name, key, parent, probes, states) or _bilinear(name, key, parent, probes) or parent
    return parent


def _scaled(name: str, key: str, parent: Parent, view: Tensor, probes: Probes, states: Values) -> Parent | None:
    """Recognize a site's value times a constant per entry: the ratio is the same whatever the value."""
    batch_dim = len(probes.base.nodes[name]["fn"].batch_shape)
    candidates = _ratios(view, batch_dim, parent, probes.values, states, probes.data)
    checks = [c for c in probes.checks if c.data is probes.data]
    for check in checks:
        again = _ratios(arguments(check.trace.nodes[name])[key], batch_dim, parent, check.values, states, check.data)
        candidates = [
            (candidate, ratio)
            for candidate, ratio in candidates
            if any(
                candidate == other and ratio.shape == r.shape and torch.allclose(ratio, r, rtol=_tolerance(view))
                for other, r in again
            )
        ]
    return candidates[0][0] if candidates and checks else None


def _ratios(
    view: Tensor, batch_dim: int, parent: Parent, values: Values, states: Values, data: Data
) -> list[tuple[Parent, Tensor]]:
    """Return (parent, ratio) for each way in which an argument may be a site's value times a constant per entry."""
    ratios = []
    value = values[parent.sites[0]]
    for candidate, placed in _placements(value, parent.sites, parent.index, parent.data, states, data):
        for dims in range(view.ndim - batch_dim + 1):
            padded = placed[(..., *[None] * dims)].to(view.dtype)
            if _fits(view, padded) and bool((padded != 0).all()):
                ratios.append((replace(candidate, broadcast_dims=dims, entrywise=True), view / padded))
    return ratios


def _linear(name: str, key: str, parent: Parent, probes: Probes, states: Values) -> Parent | None:
    """Recognize an affine function of real sites jointly: f(a + b) - f(a) - f(b) + f(0) = 0."""
    additivity = probes.additivity
    if additivity is None or not parent.sites or not set(parent.sites) <= set(additivity.moved):
        return None
    if not all(_additive(name, key, runs) for runs in additivity.runs) or len(parent.index) > 1:
        return None
    if parent.index and not all(_by_state(name, key, s, parent.index[0], probes, states) for s in parent.sites):
        return None
    return Parent("linear", parent.sites, parent.index, parent.data)


def _bilinear(name: str, key: str, parent: Parent, probes: Probes) -> Parent | None:
    """Recognize a function affine in one local real site given the others, and affine in these given that one."""
    additivity = probes.additivity
    if additivity is None or not additivity.apart or not set(parent.sites) <= set(additivity.moved):
        return None
    if len(additivity.local.intersection(parent.sites)) != 1:
        return None
    if not all(_additive(name, key, runs) for group in additivity.apart for runs in group):
        return None
    return Parent("bilinear", parent.sites, parent.index, parent.data)


def _additive(name: str, key: str, runs: Quadruple) -> bool:
    """Tell whether f(a + b) - f(a) - f(b) + f(0) = 0, from runs at 0, a, b and a + b."""
    zero, a, b, both = (views(run.nodes[name]["fn"])[key] for run in runs)
    if not all(v.shape == zero.shape for v in (a, b, both)):
        return False
    size = max(float(v.abs().max()) for v in (zero, a, b, both))
    return float((both - a - b + zero).abs().max()) <= _tolerance(zero) * size


def _by_state(name: str, key: str, source: str, index: str, probes: Probes, states: Values) -> bool:
    """Tell whether entry k of a coefficient matters in state k only: its first entry must not move other states."""
    assert probes.additivity is not None
    code, coefficient = states[index], probes.values[source]
    if coefficient.ndim == 0 or coefficient.shape[0] != len(code):
        return False
    changed = probes.additivity.first_entry.get(source)
    if changed is None:
        return False
    before, after = (views(run.nodes[name]["fn"])[key] for run in (probes.base, changed))
    if before.shape != after.shape:
        return False
    axis = len(probes.base.nodes[name]["fn"].batch_shape) - code.ndim
    moved = (before != after).movedim(axis, 0)
    return bool(moved[0].any()) and not bool(moved[1:].any())


def _varies(view: Tensor, batch_dim: int, code: Tensor) -> bool:
    """Tell whether an argument changes along the dimension that an enumerated site is laid out on."""
    axis = batch_dim - code.ndim
    if axis < 0 or view.shape[axis] <= 1:
        return False
    return not torch.equal(view, view.narrow(axis, 0, 1).expand_as(view))


def _ratio(view: Tensor, value: Tensor) -> float | None:
    """Return c if `view` is c times `value`, broadcast without widening, for one constant c; otherwise None."""
    if not _fits(view, value):
        return None
    value = value.to(view.dtype).expand(view.shape)
    tolerance, largest = _tolerance(view), value.abs().max()
    anchor = value.abs().argmax()  # the entry whose quotient has the least rounding error
    scale = view.reshape(-1)[anchor] / value.reshape(-1)[anchor]
    if bool(((view - scale * value).abs() <= tolerance * (scale * largest).abs()).all()) and bool(scale != 0):
        number = float(scale)
        return 1.0 if abs(number - 1.0) < 10 * tolerance else number
    return None


def _fits(view: Tensor, value: Tensor) -> bool:
    """Tell whether a value broadcasts to an argument's shape, and not beyond it.

    Asked some hundred times for each model; `torch.broadcast_shapes` would take a tenth of all tracing.
    """
    lead = view.ndim - value.ndim
    return lead >= 0 and all(own in (1, size) for own, size in zip(value.shape, view.shape[lead:], strict=True))


def _tolerance(view: Tensor) -> float:
    """Relative difference that rounding explains: a few operations on numbers of this precision."""
    return 1e-9 if view.dtype == torch.float64 else 1e-4
