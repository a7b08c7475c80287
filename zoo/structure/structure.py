"""What a model is made of, learned by running it: its sites, their plates and families, and what feeds what.

The model is run with made-up values inside the supports. The first run finds sites and checks plates. The second
enumerates the discrete latents. Then each source of variation in turn (a latent, a parameter, a network, a data field)
is given another value: the arguments that move depend on it, and comparing an argument with a site's value tells
"this site itself" from "a function of it".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch.distributions import constraints
from torch.distributions.transforms import identity_transform

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.sites import Site, Structure, base_distribution, check_support, support_of, views
from zoo.structure.discover import Discover, is_enumerated, made_up, run, sample_sites
from zoo.structure.parents import Affine, Seen, compact, feeds
from zoo.structure.plates import check_chain, check_plates, field_of, frames_of

SPREADS = (0.2, 3.0, 10.0)  # of made-up values in the runs that check what was seen: near zero and far out
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
        check_chain(data, name, node)
    part, rows = data, None
    if data.row and len(data) > SAMPLE_ROWS:
        rows = torch.linspace(0, len(data) - 1, SAMPLE_ROWS).long()
        part = data.take(rows)
    runs = _Runs(model, networks, priors, -1 - depth)
    try:
        seen = _compare(runs, data, part)
        if part is not data and not _same_shapes(plain, seen.base, data.row):
            seen = _compare(runs, data, data)
    except ModelError:
        if part is data:
            raise
        seen = _compare(runs, data, data)
    described = _describe(data, plain, first, seen)
    return replace(described, example=seen.values, example_rows=rows if seen.part is part else None)


def _same_shapes(plain: Any, sampled: Any, row: str) -> bool:
    """Tell whether sites outside the data plate have the same shape and states on the sampled rows as on all."""
    for name, node in sample_sites(plain):
        other = sampled.nodes.get(name)
        if other is None or node["is_observed"] or row in (f.name for f in frames_of(node)):
            continue
        if is_enumerated(node["infer"]):
            full, part = (n["fn"].enumerate_support(expand=False) for n in (node, other))
        else:
            full, part = node["value"], other["value"]
        if full.shape != part.shape:
            return False
    return True


@dataclass(frozen=True)
class _Runs:
    """Runs a model under enumeration with values, network weights and data of one's choice."""

    model: Model
    networks: Values
    priors: dict[str, Any]
    first_dim: int

    def __call__(
        self, data: Data, values: Values | None = None, *, networks: Values | None = None, spread: float = 1.0
    ) -> tuple[Any, Discover]:
        messenger = Discover(self.priors, values, spread)
        return run(self.model, data, networks or self.networks, messenger, self.first_dim), messenger


def _compare(runs: _Runs, data: Data, part: Data) -> Seen:
    """Enumerate, give each source another value in turn and note what moved; then change everything at once."""
    base, messenger = runs(part)
    for name, node in sample_sites(base):
        try:
            log_prob = scale_and_mask(node["fn"].log_prob(node["value"]), node["scale"], node["mask"])
        except (RuntimeError, ValueError, IndexError) as error:
            if node["is_observed"] and not bool(node["fn"].support.check(node["value"]).all()):
                family = type(base_distribution(node["fn"])).__name__
                check_support(name, family, node["fn"].support, node["value"])
            first = str(error).partition("\n")[0]
            raise ModelError(
                f"site {name!r}: its {type(base_distribution(node['fn'])).__name__} of batch shape "
                f"{tuple(node['fn'].batch_shape)} and event shape {tuple(node['fn'].event_shape)} cannot take "
                f"values of shape {tuple(node['value'].shape)}: {first}"
            ) from error
        node["log_prob"] = node["unscaled_log_prob"] = log_prob
    try:
        base.pack_tensors()
    except ValueError as error:
        names = ", ".join(repr(n) for n, _ in sample_sites(base))
        raise ModelError(
            f"the plates do not fit the shapes of the sites ({names}): {str(error).partition(chr(10))[0]}. Let Pyro "
            "choose the plates' dimensions, and put each site inside the plates whose sizes its shape has"
        ) from error
    values, networks = messenger.values, runs.networks
    seen = {name: {k: compact(v) for k, v in views(node["fn"]).items()} for name, node in sample_sites(base)}
    sources: dict[tuple[str, str], set[str]] = {(n, key): set() for n, found in seen.items() for key in found}

    def note(source: str, changed: Any) -> None:
        for name, node in sample_sites(changed):
            for key, view in views(node["fn"]).items() if name in seen else ():
                before = seen[name].get(key)
                view = compact(view)
                if before is None or before.shape != view.shape or not torch.equal(before, view):
                    sources.setdefault((name, key), set()).add(source)

    for name, value in values.items():
        for spread in (1.0, 4.0):
            other = made_up(messenger.supports[name], tuple(value.shape), name, spread)
            try:
                note(name, runs(part, {**values, name: other})[0])
            except ModelError:  # a far-out value may break a factorization; the nearer one has to work
                if spread == 1.0:
                    raise
    for name in dict.fromkeys(n.partition(".")[0] for n in networks):
        others = {n: v + 0.1 * torch.randn_like(v) if n.partition(".")[0] == name else v for n, v in networks.items()}
        note(f"network {name}", runs(part, values, networks=others)[0])
    for name in part.values:
        for other_data in _other_data(runs.model, part, name):
            try:
                note(f"data {name}", runs(other_data, values)[0])
            except ModelError:  # these made-up data do not fit the model, which says nothing about the real ones
                continue
    again: list[tuple[Any, Values, Data]] = [] if part is data else [_kept(runs(data), data)]
    for spread in SPREADS:
        try:
            again.append(_kept(runs(part, spread=spread), part))
        except ModelError:  # far-out values may break a factorization; nearer ones have been seen to work
            continue
    local = frozenset(
        n for n, node in sample_sites(base) if n in values and part.row in (f.name for f in frames_of(node))
    )
    affine = _affine_runs(runs, part, values, messenger.supports, sources, local)
    return Seen(base, values, part, sources, again, affine)


def _kept(done: tuple[Any, Discover], data: Data) -> tuple[Any, Values, Data]:
    return done[0], done[1].values, data


def _affine_runs(
    runs: _Runs,
    part: Data,
    values: Values,
    supports: dict[str, Any],
    sources: dict[tuple[str, str], set[str]],
    local: frozenset[str],
) -> Affine | None:
    """Run with the real sites that feed a location moved, if one depends on any with others or data, or on a local."""
    real = [n for n in values if bijection(supports[n], n) is identity_transform]
    feeding = {
        n for (_, key), found in sources.items() if key == "loc" and (len(found) > 1 or found & local) for n in found
    }
    moved = tuple(n for n in real if n in feeding)
    if not moved:
        return None
    a = {n: values[n] for n in moved}
    b = {n: made_up(supports[n], tuple(values[n].shape), n) for n in moved}
    points = ({n: torch.zeros_like(v) for n, v in a.items()}, a, b, {n: a[n] + b[n] for n in moved})
    apart = []
    try:
        done = [runs(part, {**values, **at})[0] for at in points]
        for group in (local.intersection(moved), frozenset(moved) - local) if local.intersection(moved) else ():
            moves = [{**values, **{n: at[n] for n in group}} for at in points]
            apart.append(tuple(done[1] if at is a else runs(part, to)[0] for at, to in zip(points, moves, strict=True)))
        first_entry = {}
        for name in moved:
            if values[name].ndim:
                other = values[name].clone()
                other[0] = b[name][0]
                first_entry[name] = runs(part, {**values, name: other})[0]
    except ModelError:
        return None
    return Affine(moved, tuple(done), first_entry, local, tuple(apart))


def _other_data(model: Model, data: Data, name: str) -> Iterator[Data]:
    """Yield the data with one field given other values of its kind, and with its rows in another order."""
    value, kind = data.values[name], model.fields[name]
    if kind.integer:
        other = (value + 1) % max(1, len(data.levels.get(name, ())))
    elif kind.support is constraints.boolean:
        other = 1 - value
    elif kind.support is constraints.unit_interval:
        other = torch.rand_like(value)
    elif kind.support is constraints.nonnegative_integer:
        other = value + torch.randint_like(value, 3)
    elif kind.support is constraints.positive:
        other = value * torch.randn_like(value).exp()
    else:
        other = value + torch.randn_like(value)
    for changed in (other, value.flip(0) if value.ndim else value):
        yield replace(data, values={**data.values, name: changed})


def symbol_of(node: Any) -> str | None:
    """Symbol of the dimension that an enumerated site is laid out on."""
    symbol: str | None = node["infer"].get("_dim_to_symbol", {}).get(node["infer"].get("_enumerate_dim"))
    return symbol


def _describe(data: Data, plain: Any, first: Discover, seen: Seen) -> Structure:
    """Put together the sites from the runs."""
    base = seen.base
    sites: dict[str, Site] = {
        name: Site(
            name, "parameter", shape=tuple(initial.shape), support=constraint, initial=initial, event_dim=initial.ndim
        )
        for name, (initial, constraint) in first.params.items()
    }
    # A copy, because Pyro marks states with the address of the distribution they came from, which another may reuse.
    states = {n: node["value"].clone() for n, node in sample_sites(base) if is_enumerated(node["infer"])}
    plates: dict[str, str] = {}
    runs = (plain, base, *(again for again, *_ in seen.again))
    for name in {n: None for made in runs for n, _ in sample_sites(made)}:
        if any(name not in made.nodes for made in runs):
            raise ModelError(
                f"site {name!r} comes and goes between runs; the sites of a model must be the same in every run"
            )
    for name, node in sample_sites(plain):
        other, frames = base.nodes[name], frames_of(node)
        symbols = dict(other["infer"].get("_dim_to_symbol", {}))
        plates.update({f.name: symbols[f.dim] for f in frames if f.dim in symbols})
        names, value = tuple(f.name for f in frames), node["value"]
        fn = base_distribution(node["fn"])
        # With pyro.markov a dimension serves several enumerated sites; those in scope are the ones with its symbol.
        scope = {n: v for n, v in states.items() if symbol_of(base.nodes[n]) in symbols.values()}
        args = {} if is_deterministic(node) else feeds(name, seen, scope, seen.part)
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
            support_of(node["fn"]) if role != "deterministic" else constraints.real,
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
            moving = [s for parent in site.args.values() for s in parent.sites]
            if moving:
                raise ModelError(
                    f"site {site.name!r}: the support of its {site.family} depends on {moving[0]!r}; "
                    "sample it on a fixed support and transform it with pyro.deterministic"
                )
