"""Observed sites of finite support of which some cells are missing, and which other sites depend on.

Where nothing depends on such a site, a missing cell is left out of the likelihood, for its density integrates to one.
Where something does, what is missing is a latent: the site is summed over its states in all rows, and what is observed
of it is evidence about them, as for `obs_mask` (`zoo/replay/masked.py`). In a model of nothing but sites of finite
support, a Bayesian network, every missing cell is a latent, for its posterior is what one asks for.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.data.missing import place
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError
from zoo.replay.chain import MarkovChain
from zoo.replay.evaluate import Values, is_deterministic
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.masked import OBSERVED, UNOBSERVED
from zoo.replay.sites import Parent, Site
from zoo.structure.discover import Discover, run, sample_sites
from zoo.structure.plates import fields_of
from zoo.structure.probes import arguments
from zoo.structure.runner import Runner


def sites_to_complete(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> dict[str, str]:
    """Find the observed sites whose missing cells have to be summed over as a latent's.

    Returns
    -------
    dict
        Site -> the field that it observes.
    """
    if not data.missing:
        return {}
    messenger = Discover(priors)
    plain = run(model, data, networks, messenger, None)
    nodes = {n: node for n, node in sample_sites(plain) if not is_deterministic(node)}
    found = {n: field for n, node in nodes.items() if (field := _field_with_gaps(data, node)) is not None}
    finite = {n: field for n, field in found.items() if _is_finite(nodes[n])}
    if not messenger.values and not networks and all(_is_finite(node) for node in nodes.values()):
        return finite
    runner = Runner(model, networks, priors, -1, {})
    states = {n: node["value"] for n, node in nodes.items()}
    return {n: field for n, field in finite.items() if _feeds(runner, data, messenger.values, states, nodes, n)}


def sites_to_part(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> dict[str, str]:
    """Find the observed sites whose missing cells other sites read, and which have no states to be summed over.

    Returns
    -------
    dict
        Site -> the field that it observes.

    Raises
    ------
    DataError
        If a site reads the field itself, where made-up numbers stand in missing cells, and not what was sampled.
    """
    if not data.missing:
        return {}
    messenger = Discover(priors)
    plain = run(model, data, networks, messenger, None)
    nodes = {n: node for n, node in sample_sites(plain) if not is_deterministic(node) and _is_continuous(node["fn"])}
    found = {n: field for n, node in nodes.items() if (field := _field_with_gaps(data, node)) is not None}
    if not found:
        return {}
    part = replace(data, parted=found)
    base = Discover(priors)
    before = run(model, part, networks, base, None)
    states = _states(base, before)
    read = {}
    for name, field in found.items():
        latent = name + UNOBSERVED
        other = base.values[latent].roll(1, 0) + 1.0 if base.values[latent].ndim else base.values[latent] + 1.0
        after = run(model, part, networks, Discover(priors, {**base.values, latent: other}, fixed=states), None)
        if _moved(before, after, name):
            read[name] = field
    return read


def _is_continuous(fn: Any) -> bool:
    """Whether entries are continuous and one by one, so that each of them can be a latent."""
    chain = isinstance(fn, MarkovChain | LinearGaussianChain)
    return not chain and fn.event_dim == 0 and not getattr(fn.support, "is_discrete", False)


def check_raw(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> None:
    """Raise if a site reads made-up numbers in the missing cells of a field whose site is parted.

    Raises
    ------
    DataError
        Naming the field, the site that reads it, and the remedy.
    """
    if not data.parted:
        return
    messenger = Discover(priors)
    before = run(model, data, networks, messenger, None)
    states = _states(messenger, before)
    for name, field in data.parted.items():
        value, gone = data.values[field], data.missing[field]
        other = value[~gone].flatten()
        changed = torch.where(gone, torch.where(value == other.max(), other.min(), other.max()), value)
        shifted = replace(data, values={**data.values, field: changed})
        after = run(model, shifted, networks, Discover(priors, messenger.values, fixed=states), None)
        reader = _moved(before, after, name)
        if reader:
            raise DataError(
                f"field {field!r} has missing values (NaN), {place(data, field)}, and site {reader!r} reads the field "
                f"itself, where there is none; let the model read what pyro.sample({name!r}, ..., obs={field}) "
                "returns, and each missing value is a latent"
            )


def _states(messenger: Discover, trace: Any) -> Values:
    """States of discrete latents in a run; drawn anew, they would move what depends on them."""
    return {n: trace.nodes[n]["value"] for n in messenger.enumerated}


def _moved(before: Any, after: Any, name: str) -> str:
    """The first site but for the parts of `name` whose arguments differ between two runs; empty if there is none."""
    own = {name, name + OBSERVED, name + UNOBSERVED}
    for other, node in sample_sites(after):
        if other in own or is_deterministic(node):
            continue
        first, then = arguments(before.nodes[other]), arguments(node)
        if any(k not in then or not torch.equal(v, then[k]) for k, v in first.items()):
            return other
    return ""


def _field_with_gaps(data: Data, node: Any) -> str | None:
    """The field with missing cells that an observed site's value is; None if there is none."""
    value = node["value"]
    if not node["is_observed"] or not isinstance(value, Tensor):
        return None
    same = fields_of({n: data.values[n] for n in data.missing}, node["name"], value)
    itself = (n for n in same if n == node["name"] or data.values[n].data_ptr() == value.data_ptr())
    return next(itself, None)


def _is_finite(node: Any) -> bool:
    return bool(node["fn"].has_enumerate_support) and not isinstance(node["fn"], MarkovChain)


def _feeds(runner: Runner, data: Data, values: Values, states: Values, nodes: dict[str, Any], name: str) -> bool:
    """Whether another site moves with the value of a site."""
    fn, value = nodes[name]["fn"], nodes[name]["value"]
    listed = fn.enumerate_support(expand=False).reshape(-1).to(value.dtype)
    following = listed.roll(-1)[torch.searchsorted(listed, value.clamp(listed[0], listed[-1]).contiguous())]
    try:
        moved = runner.drawn(data, values, {**states, name: following})
    except ModelError:  # what cannot be run at other states depends on them
        return True
    for other, node in sample_sites(moved):
        if other == name or is_deterministic(node):
            continue
        before = nodes.get(other)
        first, then = ({} if n is None else arguments(n) for n in (before, node))
        if first.keys() != then.keys() or any(not _same(v, then[k]) for k, v in first.items()):
            return True
    return False


def _same(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second)


def with_evidence(sites: dict[str, Site], completed: dict[str, str], data: Data) -> dict[str, Site]:
    """Add, behind each completed site, an observed one: the evidence about its states."""
    found: dict[str, Site] = {}
    for name, site in sites.items():
        found[name] = site
        if name in completed:
            field = completed[name]
            found[name + OBSERVED] = replace(
                site,
                name=name + OBSERVED,
                role="observed",
                family="Evidence",
                args={"value": Parent("function", (), (name,))},
                field=field,
                observes=(field,),
                states=None,
            )
    return found
