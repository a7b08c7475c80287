"""Runs of a model at values of one's choice, which show what each argument of each site depends on.

After a first run with the discrete latents enumerated, each source of variation in turn (a latent, a parameter, a
network, a data field) is given another value: the arguments that move depend on it. Then the model is run with
everything changed at once, near zero and far out, and each time on the other side of zero as well; what a comparison of
the first run finds has to hold there too. A function that is linear in pieces (|a|, a clamp) is so found out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.masked import UNOBSERVED
from zoo.replay.repeated import compact
from zoo.replay.sites import base_distribution, check_support, views
from zoo.structure.additivity import AdditivityRuns, additivity_runs
from zoo.structure.discover import Discover, is_enumerated, made_up, moved_to, sample_sites
from zoo.structure.failures import STATES
from zoo.structure.plates import fields_of, frames_of
from zoo.structure.runner import FAR, Check, Runner, Source
from zoo.structure.together import FEW, moved_by_each

SIGNS = 2  # ways of turning the signs of network weights: a unit that is off in one is likely on in another
SPREADS = (0.2, 3.0, 10.0)  # of made-up values in the runs that check what was seen: near zero and far out


@dataclass(frozen=True)
class Probes:
    """What the runs showed.

    Attributes
    ----------
    base
        The first run under enumeration.
    values, data
        Its made-up values, and the rows it saw.
    messenger
        Which gave the sites their values in the first run.
    sources
        (site, argument) -> what it depends on.
    made_from
        Observed site -> what its value depends on.
    fields
        Observed site -> the data field that its value is.
    checks
        Runs in which what was seen must hold too.
    additivity
        Runs that tell affine functions from others; None where no location can be one.
    """

    base: Any
    values: Values
    data: Data
    messenger: Discover
    sources: dict[tuple[str, str], set[Source]]
    made_from: dict[str, set[Source]]
    fields: dict[str, str]
    checks: list[Check]
    additivity: AdditivityRuns | None

    def observes(self, name: str) -> tuple[str, ...]:
        """Data fields that the value of an observed site is made from."""
        return tuple(sorted(s.name for s in self.made_from.get(name, ()) if s.kind == "data"))

    @property
    def needed(self) -> set[str]:
        """Sites that others depend on, but for the sites that pick between an observed and an unobserved part."""
        by_others = [on for (name, _), on in self.sources.items() if name + UNOBSERVED not in self.messenger.parted]
        return {s.name for on in (*by_others, *self.made_from.values()) for s in on if s.kind == "site"}


def probe(runner: Runner, data: Data, part: Data) -> Probes:
    """Run a model on a part of its data, and once on all of them.

    Raises
    ------
    ModelError
        If the model fails, or its sites have no density at the shapes of their values.
    """
    base, messenger = runner(part)
    _check_shapes(base)
    sources, made_from, fields = _sources(runner, part, base, messenger)
    checks = [] if part is data else [runner.check(data)]
    checks += _elsewhere(runner, part, messenger)
    local = frozenset(
        n for n, node in sample_sites(base) if n in messenger.values and part.row in (f.name for f in frames_of(node))
    )
    additivity = additivity_runs(runner, part, messenger, sources, local)
    return Probes(base, messenger.values, part, messenger, sources, made_from, fields, checks, additivity)


def _elsewhere(runner: Runner, part: Data, messenger: Discover) -> Iterator[Check]:
    """Yield runs at other values: near zero and far out, and each time on the other side of zero."""
    supports = messenger.supports

    def moved(values: Values, far: tuple[float, float] | None = None) -> Values:
        return {n: moved_to(v, supports[n], n, far) if n in supports else v for n, v in values.items()}

    def check(values: Values | None, spread: float = 1.0) -> Iterator[Check]:
        try:
            yield runner.check(part, spread, values)
        except ModelError:  # far-out values may break a factorization; nearer ones have been seen to work
            return

    yield from check(moved(messenger.values))
    for spread in SPREADS:
        for found in check(None, spread):
            yield found
            yield from check(moved(found.values))
    for real, other in FAR:
        yield from check(moved(messenger.values, (real, other)))
        yield from check(moved(messenger.values, (-real, -other)))


def arguments(node: Any) -> dict[str, Tensor]:
    """Return all parameterizations of the arguments of a site in a run, without repetitions."""
    return {key: compact(view) for key, view in views(node["fn"]).items()}


def _check_shapes(base: Any) -> None:
    """Raise if a site's distribution cannot take its value, or its plates do not fit its shape.

    Pyro packs log densities into dimensions with a symbol each, and marks what stands on which in the trace.
    """
    for name, node in sample_sites(base):
        node["log_prob"] = node["unscaled_log_prob"] = log_prob_of(name, node)
    try:
        base.pack_tensors()
    except ValueError as error:
        raise _unpacked(base, error) from error


def _unpacked(base: Any, error: ValueError) -> ModelError:
    """Return the error that says which site's log density has a dimension that is neither a plate's nor of states."""
    enumerated = [n for n, node in sample_sites(base) if is_enumerated(node["infer"])]
    for name, node in sample_sites(base):
        known, shape = node["infer"].get("_dim_to_symbol", {}), tuple(node["log_prob"].shape)
        dim = next((d for d in range(-len(shape), 0) if shape[d] > 1 and d not in known), None)
        if dim is None:
            continue
        plates = [f.name for f in frames_of(node)] or "none"
        said = f"site {name!r} is in plates {plates}, but its log density has shape {shape}"
        if enumerated:
            return ModelError(
                f"{said} with the states of {', '.join(map(repr, enumerated))} side by side, where it has no more than "
                f"its plates with one state of each: its dimension {dim} is no plate's. {STATES}"
            )
        return ModelError(
            f"{said}, whose dimension {dim} is no plate's. Let Pyro choose the plates' dimensions, and put each site "
            "inside the plates whose sizes its shape has"
        )
    names = ", ".join(repr(n) for n, _ in sample_sites(base))
    return ModelError(
        f"the plates do not fit the shapes of the sites ({names}): {str(error).partition(chr(10))[0]}. Let Pyro choose "
        "the plates' dimensions, and put each site inside the plates whose sizes its shape has"
    )


def log_prob_of(name: str, node: Any) -> Tensor:
    """Return a site's log density; turn a shape or value that does not fit into an error that says so."""
    fn, value = node["fn"], node["value"]
    try:
        log_prob: Tensor = scale_and_mask(fn.log_prob(value), node["scale"], node["mask"])
    except (RuntimeError, ValueError, IndexError) as error:
        family = type(base_distribution(fn)).__name__
        if node["is_observed"] and not bool(fn.support.check(value).all()):
            check_support(name, family, fn.support, value)
        first = str(error).partition("\n")[0]
        raise ModelError(
            f"site {name!r}: its {family} of batch shape {tuple(fn.batch_shape)} and event shape "
            f"{tuple(fn.event_shape)} cannot take values of shape {tuple(value.shape)}: {first}"
        ) from error
    return log_prob


def _sources(
    runner: Runner, part: Data, base: Any, messenger: Discover
) -> tuple[dict[tuple[str, str], set[Source]], dict[str, set[Source]], dict[str, str]]:
    """Give each source another value in turn; note which arguments and which observed values move.

    Of the data, note too which fields observed values are, whatever these hold.
    """
    plain = ((n, node) for n, node in sample_sites(base) if node["is_observed"] and not is_deterministic(node))
    observed = {n: torch.as_tensor(node["value"]) for n, node in plain}
    made_from: dict[str, set[Source]] = {n: set() for n in observed}
    fields = {n: fields_of(part.values, n, v) for n, v in observed.items()}
    first = {name: arguments(node) for name, node in sample_sites(base)}
    sources: dict[tuple[str, str], set[Source]] = {(n, key): set() for n, args in first.items() for key in args}
    silent = _unread(runner, part, messenger.values, first)
    together = _together(runner, part, messenger, first, observed)
    for name, keys in (together or {}).items():
        for key in keys:
            if key[1] is None:
                made_from[key[0]].add(Source("site", name))
            else:
                sources.setdefault((key[0], key[1]), set()).add(Source("site", name))
    for source, data, changed in _one_at_a_time(runner, part, messenger, silent, sites=together is None):
        for name, node in sample_sites(changed):
            if name in observed:
                value = torch.as_tensor(node["value"])
                if not torch.equal(value, observed[name]):
                    made_from[name].add(source)
                if source.kind == "data":
                    fields[name] = [n for n in fields[name] if n in fields_of(data.values, name, value)]
        for argument in _moved(first, changed):
            sources.setdefault(argument, set()).add(source)
    for sign in range(SIGNS if runner.networks else 0):  # units that are off show nothing of what feeds them
        turned = {n: v * (2 * torch.randint_like(v, 2) - 1 if sign else -1) for n, v in runner.networks.items()}
        with suppress(ModelError):  # such weights do not fit the model
            other = replace(runner, networks=turned)
            before = {name: arguments(node) for name, node in sample_sites(other(part, messenger.values)[0])}
            for source, _, changed in _one_at_a_time(other, part, messenger, silent):
                for argument in _moved(before, changed):
                    sources.setdefault(argument, set()).add(source)
    return sources, made_from, {name: found[0] for name, found in fields.items() if found}


def _together(
    runner: Runner, part: Data, messenger: Discover, first: dict[str, dict[str, Tensor]], observed: Values
) -> dict[str, set[tuple[str, str | None]]] | None:
    """What each of many sites moves, (site, argument) or (site, None) for an observed value; None to see singly."""
    values, supports = messenger.values, messenger.supports
    if len(values) < FEW:
        return None

    def moves(names: Sequence[str]) -> set[tuple[str, str | None]]:
        found: set[tuple[str, str | None]] = set()
        for spread in (1.0, 4.0, 4.0):  # what goes by thresholds is missed no more often than one at a time, by two
            others = {n: made_up(supports[n], tuple(values[n].shape), n, spread) for n in names}
            changed = runner(part, {**values, **others})[0]
            found.update(_moved(first, changed))
            for name, was in observed.items():
                if name in changed.nodes and not torch.equal(torch.as_tensor(changed.nodes[name]["value"]), was):
                    found.add((name, None))
        return found

    with suppress(ModelError):  # so many far-out values at once may break a factorization
        return moved_by_each(list(values), moves)
    return None


def _moved(before: dict[str, dict[str, Tensor]], changed: Any) -> Iterator[tuple[str, str]]:
    """Sites and their arguments that are not what they were."""
    for name, node in sample_sites(changed):
        for key, view in arguments(node).items() if name in before else ():
            was = before[name].get(key)
            if was is None or was.shape != view.shape or not torch.equal(was.nan_to_num(), view.nan_to_num()):
                yield name, key


def _unread(runner: Runner, part: Data, values: Values, first: dict[str, dict[str, Tensor]]) -> set[str]:
    """Fields of completed sites, if no argument reads one of them: all changed at once, nothing moves."""
    fields = set(runner.completed.values())
    others = {n: next(other_data_of(runner.model, part, n)).values[n] for n in fields}
    try:
        changed = runner(replace(part, values={**part.values, **others}), values)[0] if fields else None
    except ModelError:
        return set()
    for name, node in sample_sites(changed) if fields else ():
        then = arguments(node)
        if any(key not in then or not torch.equal(v, then[key]) for key, v in first.get(name, {}).items()):
            return set()
    return fields


def _one_at_a_time(
    runner: Runner, part: Data, messenger: Discover, silent: set[str], *, sites: bool = True
) -> Iterator[tuple[Source, Data, Any]]:
    """Yield each source but silent fields, and sites if told, and the data of and a run in which it alone changed."""
    values, networks = messenger.values, runner.networks
    for name, value in values.items() if sites else ():
        for spread in (1.0, 4.0):
            other = made_up(messenger.supports[name], tuple(value.shape), name, spread)
            try:
                yield Source("site", name), part, runner(part, {**values, name: other})[0]
            except ModelError:  # a far-out value may break a factorization; the nearer one has to work
                if spread == 1.0:
                    raise
    for name in dict.fromkeys(n.partition(".")[0] for n in networks):
        others = {n: v + 0.1 * torch.randn_like(v) if n.partition(".")[0] == name else v for n, v in networks.items()}
        yield Source("network", name), part, runner(part, values, networks=others)[0]
    for name in (n for n in part.values if n not in silent):
        for other_data in other_data_of(runner.model, part, name):
            try:
                yield Source("data", name), other_data, runner(other_data, values)[0]
            except ModelError:  # these made-up data do not fit the model, which says nothing about the real ones
                continue


def other_data_of(model: Model, data: Data, name: str) -> Iterator[Data]:
    """Yield the data with one field given other values of its kind, and with its rows in another order."""
    value, kind = data.values[name], model.fields[name]
    if kind.integer:
        other = (value + 1) % max(1, len(data.levels.get(name, ())))
    elif kind.support is constraints.boolean:
        other = 1 - value
    elif kind.support is constraints.unit_interval:
        other = torch.rand_like(value)
    elif kind.support is constraints.nonnegative_integer:
        more = torch.randint_like(value, 3)
        other = value + (more if bool(more.any()) else 1.0)  # all of a few may be 0
    elif kind.support is constraints.positive:
        other = value * torch.randn_like(value).exp()
    else:
        other = value + torch.randn_like(value)
    for changed in (other, value.flip(0)) if value.ndim else (other,):
        yield replace(data, values={**data.values, name: changed})
