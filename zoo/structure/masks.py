"""Masks and scales of latents: legal where what they take out, or count several times, changes no sum or integral."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.replay.evaluate import is_deterministic
from zoo.replay.masked import UNOBSERVED
from zoo.replay.sites import Parent, Site
from zoo.structure.discover import Discover, is_enumerated, made_up, sample_sites, symbol_of
from zoo.structure.probes import log_prob_of
from zoo.structure.runner import Runner


def check_scales(trace: Any) -> None:
    """Raise if an enumerated site, or one that depends on it, is scaled: the sum over states is then of other powers.

    Raises
    ------
    ModelError
        Naming the site.
    """
    summed = {symbol_of(node) for _, node in sample_sites(trace) if is_enumerated(node["infer"])}
    for name, node in sample_sites(trace):
        symbols = set(node["infer"].get("_dim_to_symbol", {}).values())
        if symbols & summed and not bool((torch.as_tensor(node["scale"]) == 1).all()):
            raise ModelError(
                f"site {name!r} is scaled (poutine.scale), and a discrete latent is summed out of it: the sum of "
                "scaled terms is no scaled sum. Give rows weights, fit(..., weights=...), instead"
            )


def check_masks(runner: Runner, data: Data, base: Any, messenger: Discover) -> None:
    """Raise if something depends on entries of a latent that are masked: these have no prior there.

    Raises
    ------
    ModelError
        Naming the latent and what depends on it.
    """
    for name, mask in messenger.masks.items():
        mask = torch.as_tensor(mask)
        if bool(mask.all()) or name in messenger.labelled:
            continue
        node, child = base.nodes[name], None
        if is_enumerated(node["infer"]):
            others = (n for n, _ in sample_sites(base) if n != name)
            child = next((n for n in others if _by_state(base.nodes[n], node, mask, messenger.masks.get(n))), None)
        elif name in messenger.values:
            value, events = messenger.values[name], node["fn"].event_dim
            other = made_up(messenger.supports[name], tuple(value.shape), name)
            changed = torch.where(mask[(..., *[None] * events)], value, other)
            after = runner(data, {**messenger.values, name: changed})[0]
            child = _moved(base, after, name, messenger.masks)
        if child is not None and is_enumerated(base.nodes[name]["infer"]):
            which = "some" if bool(mask.any()) else "all"
            raise ModelError(
                f"site {name!r} is masked in {which} entries, so that its states have no probabilities there, but site "
                f"{child!r} depends on these entries. Take the mask off {name!r}, and where its state is known give "
                "that the probability 1: torch.where(mask, probs, 1.0); what is observed may stay masked"
            )
        if child is not None and not bool(mask.any()):
            raise ModelError(
                f"site {name!r} is masked in all entries, so that it has no prior, but site {child!r} depends on it; "
                "write a flat prior as dist.ImproperUniform(constraints.real, (), ())"
            )
        if child is not None:
            raise ModelError(
                f"site {name!r} is masked in some entries, so that it has no prior there, but site {child!r} depends "
                f"on these entries and is not masked. Mask {child!r} too, or take the mask off {name!r}"
            )


def _by_state(other: Any, node: Any, mask: Tensor, own: Any) -> bool:
    """Whether a site's log density differs between the states of an enumerated site where that is masked.

    `own` is the site's own mask, if it is a latent.
    """
    dim, log_prob = node["infer"]["_enumerate_dim"], other["log_prob"]
    if other["infer"].get("_dim_to_symbol", {}).get(dim) != symbol_of(node) or log_prob.ndim < -dim:
        return False
    differs = log_prob != log_prob.narrow(dim, 0, 1)
    return bool((differs & ~mask & (True if own is None else own)).any())


def _moved(before: Any, after: Any, name: str, masks: Mapping[str, Any]) -> str | None:
    """Return the first site other than `name` whose log density moved, where no mask takes it out."""
    for other, node in sample_sites(after):
        if other == name or is_deterministic(node):
            continue
        old, new = before.nodes[other]["log_prob"], log_prob_of(other, node)
        same = (old == new) | (old.isnan() & new.isnan()) if old.shape == new.shape else torch.zeros(1).bool()
        if not bool((same | ~torch.as_tensor(masks.get(other, True))).all()):
            return other
    return None


def without_parts(sites: dict[str, Site], base: Any, messenger: Discover, needed: set[str]) -> dict[str, Site]:
    """Describe partly observed sites as what they are.

    The observed part of an enumerated one is evidence about its states. The unobserved part of another, if nothing
    depends on it, is left out, and the site that picks with it: it has an integral of one.

    Parameters
    ----------
    sites
        As they were seen.
    base
        The run under enumeration.
    messenger
        That gave the sites their values.
    needed
        Sites that others depend on.
    """
    sites = dict(sites)
    for name, other in messenger.labelled.items():
        symbols = dict(base.nodes[name]["infer"].get("_dim_to_symbol", {}))
        state = {"value": Parent("function", (), (name,), sites[other].observes)}
        sites[other] = replace(
            sites[other], family="Evidence", args=state, symbols=symbols, enum_dim=sites[name].enum_dim
        )
        sites.pop(name.removesuffix(UNOBSERVED), None)
    for name in messenger.parted - needed:
        del sites[name]
        sites.pop(name.removesuffix(UNOBSERVED), None)
    return sites
