"""What a model is made of, learned by running it: its sites, their plates and families, and their parents.

The model is run with made-up values inside the supports. The first run finds sites and checks plates. The second
enumerates the discrete latents. Further runs (`probes`) tell what each argument depends on, and comparing an argument
with a site's value (`parents`) tells "this site itself" from "a function of it".
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.utils.flop_counter import FlopCounterMode

from zoo.data.data import Data
from zoo.data.slices import Slice
from zoo.declare.model import Model
from zoo.errors import ModelError, ZooError
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.sites import Parent, Role, Site, Structure, Tie, base_distribution, support_of
from zoo.structure.differentiable import check_slopes, check_torch
from zoo.structure.discover import Discover, is_enumerated, run, sample_sites, symbol_of
from zoo.structure.few_rows import networks_on_few
from zoo.structure.linear_gaussian import check_linear_gaussian, check_own_rows, integrated_sources
from zoo.structure.many_states import Bounded, many_states
from zoo.structure.masks import check_masks, check_scales, without_parts
from zoo.structure.parents import find_parents
from zoo.structure.partly import check_raw, sites_to_complete, sites_to_part, with_evidence
from zoo.structure.plates import check_chain, check_plates, frames_of
from zoo.structure.probes import Probes, probe
from zoo.structure.repeatable import check_names, check_repeatable
from zoo.structure.runner import Runner
from zoo.structure.side_by_side import check_states
from zoo.structure.stand_in import check_same, sample_rows, standing_for_all, with_all_rows
from zoo.structure.ties import find_ties, not_drawn

PERTURBATION = 0.1  # of network weights, standard deviation
MOST_DIMENSIONS = 63  # for plates and states: tensors have 64, and draws take one
CHAINS = ("MarkovChain", "LinearGaussianChain")
NETWORK_ROWS = 1000  # rows that stand for all where each goes through networks, as often as it is looked at


def trace(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> Structure:
    """Learn the structure of `model` on `data`; runs without Pyro's validation, whose checks are made here.

    Of large data some rows stand for all, unless the model cannot do with these or says other things of more.

    Raises
    ------
    ModelError
        If the model fails, or its plates do not fit its data.
    """
    rows = standing_for_all(data)
    if rows is not None:
        with suppress(ZooError), _own_randomness(data):
            return _of_some(model, data, rows, networks, priors)
    return _of_all(model, data, networks, priors)


def _of_some(model: Model, data: Data, rows: Tensor, networks: Values, priors: dict[str, Any]) -> Structure:
    """Learn the structure on some rows, which is that on all.

    Raises
    ------
    ModelError
        If it differs from that on other rows, or if it would have to be seen on all.
    """
    some = data.take(rows)
    found = _of_all(model, some, networks, priors)
    if data.weights is not None and any(s.family in CHAINS for s in found.sites.values()):
        raise ModelError("weights of a chain's rows have to be looked at in all of them")
    first = Discover(priors, completed=found.completed)
    again = data.take(torch.cat([rows, rows[: len(rows) // 2]]))  # what they show is the same, and their number another
    plain = run(model, replace(again, parted=found.parted), networks, first, None)
    check_same(found.sites, plain, first, data.row)
    at = rows if found.example_rows is None else rows[found.example_rows]
    return replace(found, sites=with_all_rows(found.sites, data, len(rows)), example_rows=at)


def _of_all(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> Structure:
    """Learn the structure of a model from runs on all rows, and on a part."""
    spread = spread_rows(data, networks)
    with nullcontext() if spread is None else networks_on_few(model, len(data)):
        with _own_randomness(data):
            completed = sites_to_complete(model, data, networks, priors)
            parted = sites_to_part(model, data, networks, priors)
            data = replace(data, parted=parted)
            check_raw(model, data, networks, priors)
        first = Discover(priors, completed=completed)
        plain = run(model, data, networks, first, None)
    depth = 0
    check_names(plain, data.row)
    for name, node in sample_sites(plain):
        depth = max([depth, *(-f.dim for f in frames_of(node))])
        check_plates(model, data, name, node)
        check_chain(data, name, node, masked=name in first.masks)
    rows = sample_rows(data)
    part = data if rows is None else data.take(rows)
    with _own_randomness(data):
        check_torch(model, part, networks, priors)
    # A network that starts at zero shows nothing of what feeds it.
    with _own_randomness(data):
        moved = {n: v + PERTURBATION * torch.randn_like(v) if v.is_floating_point() else v for n, v in networks.items()}
    shapes = {n: tuple(v.shape) for n, v in first.values.items()}
    runner = Runner(model, moved, priors, -1 - depth, shapes, completed)
    with _within_dimensions(plain, depth):
        try:
            probes = probe(runner, data if spread is None else data.take(spread), part)
            if part is not data and not _same_shapes(plain, probes.base, data.row):
                probes = probe(runner, data, data)
        except ModelError:  # the model may need what the other rows show
            if part is data:
                raise
            probes = probe(runner, data, data)
        _check_dimensions(probes.base)
        with _own_randomness(data):
            check_repeatable(runner, probes.data, probes.values)
            check_slopes(runner, probes)
        check_scales(probes.base)
        sites, plates = _describe(data, plain, first, probes)
        check_linear_gaussian(runner, probes, sites)
    with _own_randomness(data):
        products = _products(runner, probes) if networks else 0
        check_masks(runner, probes.data, probes.base, probes.messenger)
        check_states(runner, probes)
        ties = find_ties(runner, probes)
        undrawn, in_turn = not_drawn(runner, probes, ties)
        improper = tuple(n for n, node in sample_sites(plain) if n in first.values and _is_improper(node["fn"]))
    check_own_rows(sites, ties)
    sites = without_parts(_untied(sites, ties), probes.base, probes.messenger, probes.needed)
    return Structure(
        with_evidence(sites, completed, data),
        plates,
        {n: v for n, v in probes.values.items() if n in sites and sites[n].role != "integrated"},
        rows if probes.data is part else None,
        ties,
        undrawn,
        improper,
        completed,
        parted,
        in_turn,
        products,
    )


def spread_rows(data: Data, networks: Collection[str]) -> Tensor | None:
    """Rows, spread evenly, that stand for all of a model with networks; None for all of them."""
    if not (networks and data.row and len(data) > NETWORK_ROWS):
        return None
    return torch.linspace(0, len(data) - 1, NETWORK_ROWS).long()


def _products(runner: Runner, probes: Probes) -> int:
    """How many products a row takes in the networks, with all states of its discrete latents side by side."""
    with FlopCounterMode(display=False) as counter:
        runner(probes.data, probes.values)
    return int(counter.get_total_flops()) // 2 // max(1, len(probes.data))


def _is_improper(fn: Any) -> bool:
    """Tell whether a prior cannot be drawn from, as `ImproperUniform`."""
    try:
        with warnings.catch_warnings():  # torch warns of singular draws of a wide Wishart; here nobody looks at them
            warnings.simplefilter("ignore", UserWarning)
            fn.sample()
    except NotImplementedError:
        return True
    return False


def _own_randomness(data: Data) -> AbstractContextManager[None]:
    """Leave the generators as they are: a seed keeps the start that it has had, whatever else is looked at."""
    used = {v.device for v in data.values.values() if v.device.type == "cuda"}
    return torch.random.fork_rng(devices=list(used))


@contextmanager
def _within_dimensions(plain: Any, depth: int) -> Iterator[None]:
    """End a run whose states would fill the memory; say of one that fails whether it has too many sites to sum out."""
    try:
        with Bounded() if many_states(plain) else nullcontext():
            yield
    except (ModelError, RuntimeError) as error:
        summed = sum(is_enumerated(node["infer"]) for _, node in sample_sites(plain))
        if summed + depth <= MOST_DIMENSIONS:
            raise
        raise _too_many(summed) from error


def _check_dimensions(enumerated: Any) -> None:
    """Raise if sites are laid out along more dimensions than tensors have in all computations that follow."""
    dims = {n: node["infer"]["_enumerate_dim"] for n, node in sample_sites(enumerated) if is_enumerated(node["infer"])}
    if dims and -min(dims.values()) > MOST_DIMENSIONS:
        raise _too_many(len(dims))


def _too_many(summed: int) -> ModelError:
    return ModelError(
        f"{summed} discrete latents are summed out, each along a dimension of its own, and of the 64 dimensions of a "
        "tensor plates and draws take some; make them one site in a pyro.plate, or, where each depends on the one "
        "before, loop over them with pyro.markov"
    )


def _untied(sites: dict[str, Site], ties: tuple[Tie, ...]) -> dict[str, Site]:
    """Say of arguments by which the rows of a local latent are tied no more than that they are a function of it."""
    found = dict(sites)
    for tie in ties:
        if tie.kind == "local" and tie.site in found:
            site = found[tie.site]
            args = {
                key: replace(p, kind="function", scale=1.0, by="", entrywise=False, broadcast_dims=0)
                if tie.source in p.sites
                else p
                for key, p in site.args.items()
            }
            found[tie.site] = replace(site, args=args)
    return found


def _same_shapes(plain: Any, sampled: Any, row: str) -> bool:
    """Tell whether sites outside the data plate have the same shape and states on the sampled rows as on all."""
    for name, node in sample_sites(plain):
        other = sampled.nodes.get(name)
        if other is None:  # as many sites as rows
            return False
        if node["is_observed"] or row in (f.name for f in frames_of(node)):
            continue
        if is_enumerated(node["infer"]):
            full, part = (n["fn"].enumerate_support(expand=False) for n in (node, other))
        else:
            full, part = node["value"], other["value"]
        if full.shape != part.shape:
            return False
    return True


def _describe(data: Data, plain: Any, first: Discover, probes: Probes) -> tuple[dict[str, Site], dict[str, str]]:
    """Put together the sites, and the symbol of each plate, from the runs."""
    base = probes.base
    _check_same_sites([plain, base, *(check.trace for check in probes.checks)])
    sites: dict[str, Site] = {
        name: Site(
            name, "parameter", shape=tuple(initial.shape), support=constraint, initial=initial, event_dim=initial.ndim
        )
        for name, (initial, constraint) in first.params.items()
    }
    # A copy, because Pyro marks states with the address of the distribution they came from, which another may reuse.
    states = {n: node["value"].clone() for n, node in sample_sites(base) if is_enumerated(node["infer"])}
    dimensions = _dimensions([base.nodes[n] for n in states])
    plates: dict[str, str] = {}
    for name, node in sample_sites(plain):
        symbols = _symbols(base.nodes[name])
        plates.update({f.name: symbols[f.dim] for f in frames_of(node) if f.dim in symbols})
        # With pyro.markov a dimension serves several enumerated sites; those in scope are the ones with its symbol.
        scope = {n: v for n, v in states.items() if symbol_of(base.nodes[n]) in symbols.values()}
        args = (
            _of_states(node, base.nodes[name], scope, integrated_sources(name, probes))
            if is_deterministic(node)
            else find_parents(name, probes, scope)
        )
        site = _site(data, name, node, base.nodes[name], args, states.get(name), drawn=name in first.values)
        if site.latent:  # a later state may matter to its posterior, whose entropy has that dimension
            site = replace(site, symbols={**dimensions, **site.symbols})
        if site.role == "observed":
            whole, made_from = probes.fields.get(name), probes.observes(name)
            part = None if whole or len(made_from) != 1 else _slice(data, made_from[0], node["value"])
            site = replace(site, field=whole, observes=made_from, part=part)
        sites[name] = site
    if not probes.messenger.completed and not any(s.role == "observed" for s in sites.values()):
        raise ModelError("the model observes nothing: give the data to a site with obs=...")
    _check_supports(sites)
    return sites, plates


def _slice(data: Data, field: str, value: Any) -> Slice | None:
    """The slice of a field that an observed value is; None if it is none."""
    return Slice.find(field, data.values[field], value) if isinstance(value, Tensor) else None


def _of_states(plain: Any, enumerated: Any, scope: Values, integrated: tuple[str, ...]) -> dict[str, Parent]:
    """Parents of a deterministic site among states: enumerated ones along whose dimensions it was laid out; chains."""
    if integrated:
        return {"value": Parent("function", integrated)}
    value, more = enumerated["value"], enumerated["value"].ndim - plain["value"].ndim
    index = tuple(n for n, code in scope.items() if code.ndim > 0 and value.ndim >= code.ndim and more > 0)
    return {"value": Parent("function", (), index)} if index or value.shape != plain["value"].shape else {}


def _check_same_sites(traces: list[Any]) -> None:
    """Raise if a site is not in every run."""
    for name in {n: None for trace in traces for n, _ in sample_sites(trace)}:
        if any(name not in trace.nodes for trace in traces):
            raise ModelError(f"site {name!r} is not in every run; a model must have the same sites in every run")


def _site(
    data: Data, name: str, node: Any, enumerated: Any, args: dict[str, Parent], states: Tensor | None, *, drawn: bool
) -> Site:
    """Describe one site by its message in the plain run and in the enumerated one.

    Parameters
    ----------
    args
        The parents of its arguments.
    states
        Its values, if it is enumerated.
    drawn
        Whether it was given a made-up value.
    """
    frames, value = frames_of(node), node["value"]
    names = tuple(f.name for f in frames)
    role = _role(data, node, names, enumerated=states is not None, drawn=drawn)
    deterministic = role == "deterministic"
    return Site(
        name,
        role,
        type(base_distribution(node["fn"])).__name__,
        names,
        tuple(f.dim for f in frames),
        tuple(value.shape),
        max(value.ndim - len(frames), 0) if deterministic else node["fn"].event_dim,
        args,
        constraints.real if deterministic else support_of(node["fn"]),
        states=states,
        enum_dim=enumerated["infer"].get("_enumerate_dim", 0),
        symbols=_symbols(enumerated),
    )


def _role(data: Data, node: Any, plates: tuple[str, ...], *, enumerated: bool, drawn: bool) -> Role:
    """Name the part that a site plays; see `Site.role`."""
    if is_deterministic(node):
        return "deterministic"
    if node["is_observed"]:
        return "observed"
    if enumerated:
        return "enumerated"
    if isinstance(base_distribution(node["fn"]), LinearGaussianChain):
        return "integrated"
    if not drawn:
        return "unsupported"
    return "local" if data.row and data.row in plates else "global"


def _dimensions(enumerated: list[Any]) -> dict[int, str]:
    """Symbol of each dimension of states; none where, with pyro.markov, one dimension serves several sites."""
    pairs = [(node["infer"]["_enumerate_dim"], symbol_of(node)) for node in enumerated]
    found = {dim: symbol for dim, symbol in pairs if symbol is not None}
    return found if len(found) == len(pairs) else {}


def _symbols(node: Any) -> dict[int, str]:
    """Symbol of each dimension of a site's log density, as Pyro has packed it."""
    return dict(node["infer"].get("_dim_to_symbol", {}))


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
