"""What a model is made of, learned by running it: its sites, their plates and families, and what feeds what.

The model is run with made-up values inside the supports. The first run finds sites and checks plates. The second
enumerates the discrete latents. Then each source of variation in turn (a latent, a parameter, a network, a data field)
is given another value: the arguments that move depend on it, and comparing an argument with a site's value tells
"this site itself" from "a function of it".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.data import Data
from zoo.declare.discover import (
    Discover,
    check_plates,
    field_of,
    frames_of,
    is_enumerated,
    made_up,
    run,
    sample_sites,
)
from zoo.declare.evaluate import Values, is_deterministic
from zoo.declare.model import Model
from zoo.declare.sites import Feed, Site, Structure, base_distribution, views
from zoo.errors import ModelError

SAMPLE_ROWS = 64  # rows that the comparing runs see: enough to tell values apart, whatever the size of the data


def trace(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> Structure:
    """Learn the structure of `model` on `data`; runs without Pyro's validation, whose checks are made here.

    Raises
    ------
    ModelError
        If the model fails, or its plates do not fit its data.
    """
    first = Discover(priors)
    plain = run(model, data, networks, first, None)
    depth = 0
    for name, node in sample_sites(plain):
        depth = max([depth, *(-f.dim for f in frames_of(node))])
        check_plates(model, data, name, node)
    part = data
    if data.row and len(data) > SAMPLE_ROWS:
        part = data.take(torch.arange(SAMPLE_ROWS))
    given = first.values if part is data else {}
    try:
        return _compare(model, data, part, networks, priors, plain, first, Discover(priors, given), depth)
    except ModelError:
        if part is data:
            raise
        return _compare(model, data, data, networks, priors, plain, first, Discover(priors, first.values), depth)


def _compare(
    model: Model,
    data: Data,
    part: Data,
    networks: Values,
    priors: dict[str, Any],
    plain: Any,
    first: Discover,
    second: Discover,
    depth: int,
) -> Structure:
    """Enumerate, give each source another value in turn, and describe what moved."""
    base = run(model, part, networks, second, -1 - depth)
    for _, node in sample_sites(base):
        log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        node["log_prob"] = node["unscaled_log_prob"] = log_prob
    base.pack_tensors()
    seen = {name: views(node["fn"]) for name, node in sample_sites(base)}
    sources: dict[tuple[str, str], set[str]] = {(n, key): set() for n, found in seen.items() for key in found}
    changes: list[tuple[str, Data, Values, Values]] = []
    for name, value in second.values.items():
        other = made_up(second.supports[name], tuple(value.shape), name)
        changes.append((name, part, networks, {**second.values, name: other}))
    for name in dict.fromkeys(n.partition(".")[0] for n in networks):
        moved = {n: v + 0.1 * torch.randn_like(v) if n.partition(".")[0] == name else v for n, v in networks.items()}
        changes.append((f"network {name}", part, moved, second.values))
    for name, value in part.values.items():
        shuffled = replace(part, values={**part.values, name: value.flip(0) if value.ndim else value})
        changes.append((f"data {name}", shuffled, networks, second.values))
    for source, rows, weights, values in changes:
        moved_trace = run(model, rows, weights, Discover(priors, values), -1 - depth)
        for name, node in sample_sites(moved_trace):
            for key, view in views(node["fn"]).items() if name in seen else ():
                before = seen[name].get(key)
                if before is None or before.shape != view.shape or not torch.equal(before, view):
                    sources.setdefault((name, key), set()).add(source)
    return _describe(data, plain, base, first, second, sources)


def _feed(view: Tensor, batch_dim: int, sources: set[str], sites: Values, states: Values) -> Feed:
    """Compare one argument with the values of the sites it depends on."""
    data = tuple(sorted(o.removeprefix("data ") for o in sources if o.startswith("data ")))
    nets = tuple(sorted(o for o in sources if o.startswith("network ")))
    origin = tuple(n for n in sites if n in sources)
    index = tuple(n for n, code in states.items() if _varies(view, batch_dim, code))
    if not origin and not index and not nets:
        return Feed("constant", data=data)
    if len(origin) == 1 and len(index) <= 1 and not nets:
        value = sites[origin[0]]
        if index:
            code = states[index[0]].long()
            if value.ndim == 0 or int(code.max()) >= value.shape[0]:
                return Feed("function", origin, index, data)
            value = value[code]
        for pad in range(view.ndim - batch_dim + 1):
            scale = _ratio(view, value[(..., *[None] * pad)])
            if scale is not None:
                return Feed("indexed" if index else "site", origin, index, data, scale, pad)
    return Feed("function", origin + nets, index, data)


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


def _describe(
    data: Data,
    plain: Any,
    enumerated_run: Any,
    first: Discover,
    second: Discover,
    sources: dict[tuple[str, str], set[str]],
) -> Structure:
    """Put together the sites from the two runs."""
    sites: dict[str, Site] = {
        name: Site(
            name, "parameter", shape=tuple(initial.shape), support=constraint, initial=initial, event_dim=initial.ndim
        )
        for name, (initial, constraint) in first.params.items()
    }
    states = {n: node["value"] for n, node in sample_sites(enumerated_run) if is_enumerated(node["infer"])}
    plates: dict[str, str] = {}
    for name, node in sample_sites(plain):
        if name not in enumerated_run.nodes:
            raise ModelError(
                f"site {name!r} comes and goes between runs; the sites of a model must be the same in every run"
            )
        other, frames = enumerated_run.nodes[name], frames_of(node)
        symbols = dict(other["infer"].get("_dim_to_symbol", {}))
        plates.update({f.name: symbols[f.dim] for f in frames if f.dim in symbols})
        names, value = tuple(f.name for f in frames), node["value"]
        fn = base_distribution(node["fn"])
        args = (
            {}
            if is_deterministic(node)
            else {
                key: _feed(view, len(other["fn"].batch_shape), sources[name, key], second.values, states)
                for key, view in views(other["fn"]).items()
            }
        )
        if is_deterministic(node):
            role = "deterministic"
        elif node["is_observed"]:
            role = "observed"
        elif name in states:
            role = "enumerated"
        elif name not in first.values:
            role = "unsupported"
        else:
            role = "local" if data.row and data.row in names else "global"
        event_dim = max(value.ndim - len(frames), 0) if role == "deterministic" else node["fn"].event_dim
        sites[name] = Site(
            name,
            role,
            type(fn).__name__,
            names,
            tuple(f.dim for f in frames),
            tuple(value.shape),
            event_dim,
            args,
            node["fn"].support if role != "deterministic" else constraints.real,
            field=field_of(data, name, value) if role == "observed" else None,
            states=states.get(name),
            enum_dim=other["infer"].get("_enumerate_dim", 0),
            symbols=symbols,
        )
    if not any(s.role == "observed" for s in sites.values()):
        raise ModelError("the model observes nothing: give the data to a site with obs=...")
    _check_supports(sites)
    return Structure(sites, plates)


def _check_supports(sites: dict[str, Site]) -> None:
    """Refuse latents whose support moves with another site: no fixed bijection exists."""
    for site in sites.values():
        if site.latent and site.family in ("Uniform", "Pareto"):
            moving = [s for feed in site.args.values() for s in feed.sites]
            if moving:
                raise ModelError(
                    f"site {site.name!r}: the support of its {site.family} depends on {moving[0]!r}; "
                    "sample it on a fixed support and transform it with pyro.deterministic"
                )
