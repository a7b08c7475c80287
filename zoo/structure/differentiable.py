"""Runs of a model with gradients on: latents and parameters must reach its densities through torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values
from zoo.structure.discover import Discover, run
from zoo.structure.failures import through_numpy
from zoo.structure.probes import Probes, arguments
from zoo.structure.repeatable import is_drawn_anew
from zoo.structure.runner import Runner

FINER = 64.0  # what is rounded moves with one of two small steps at most, what is smooth with both


class _Leaves(Discover):
    """Made-up values of which gradients are taken, as methods do."""

    def _value(self, name: str, support: Any, shape: tuple[int, ...]) -> Tensor:
        return _leaf(super()._value(name, support, shape))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if value.is_floating_point() else value


def check_torch(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> None:
    """Raise if the model hands a latent, a parameter or what is made of them to NumPy.

    Raises
    ------
    ModelError
        That names the site after which it does. Whatever else goes wrong is left to the runs that learn the structure.
    """
    leaves = {n: _leaf(v) for n, v in networks.items()}
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            run(model, data, leaves, _Leaves(priors), None)
    except ModelError as error:
        if error.__cause__ is not None and through_numpy(error.__cause__):
            raise


def check_slopes(runner: Runner, probes: Probes) -> None:
    """Raise if an argument moves smoothly with a latent or parameter, and no gradient passes.

    Raises
    ------
    ModelError
        Naming the latent or parameter, the argument and its site.
    """
    leaves = {n: _leaf(v) for n, v in probes.values.items()}
    bits = {id(v): 1 << i for i, v in enumerate(leaves.values()) if v.requires_grad}
    if not bits or is_drawn_anew(probes.base, probes.values):
        return
    with torch.inference_mode(mode=False), torch.enable_grad():
        trace, _ = runner(probes.data, leaves)
        reached: dict[Any, int] = {}
        cut: dict[tuple[str, str], set[str]] = {}
        for (site, key), on in probes.sources.items():
            view = arguments(trace.nodes[site]).get(key) if site in trace.nodes else None
            if view is None or not view.is_floating_point():
                continue
            seen = bits.get(id(view), 0) | _reached(view.grad_fn, bits, reached)
            own = {s.name: bits.get(id(leaves[s.name]), 0) for s in on if s.kind == "site"}
            names = {n for n, bit in own.items() if bit & ~seen}
            if names:
                cut[site, key] = names
    for name in sorted(set().union(*cut.values())):
        moved = {at for at, names in cut.items() if name in names}
        for finer in (1.0, FINER):
            changed, _ = runner(probes.data, {**probes.values, name: _nudged(probes, name, finer)})
            moved = {(site, key) for site, key in moved if not _equal(trace, changed, site, key)}
        what = "parameter" if trace.nodes[name]["type"] == "param" else "site"
        for site, key in sorted(moved):
            raise ModelError(
                f"{what} {name!r}: argument {key!r} of {site!r} moves with it, and no gradient passes; .detach(), "
                ".item(), float(...), torch.tensor(...) or torch.no_grad() is in the way: keep to torch's "
                "differentiable functions of it"
            )


def _reached(end: Any, bits: dict[int, int], known: dict[Any, int]) -> int:
    """Which leaves the graph behind a result comes from, as a sum of their bits."""
    stack = [end]
    while stack:
        node = stack[-1]
        before = [f for f, _ in node.next_functions if f is not None] if node is not None else []
        ahead = [f for f in before if f not in known]
        if ahead and node not in known:
            stack.extend(ahead)
            continue
        own = bits.get(id(getattr(node, "variable", None)), 0)
        for f in before:
            own |= known[f]
        known[stack.pop()] = own
    return known[end]


def _nudged(probes: Probes, name: str, finer: float) -> Tensor:
    to = bijection(probes.messenger.supports[name], name)
    u = to.inv(probes.values[name])
    moved: Tensor = to(u + torch.finfo(u.dtype).eps ** (1 / 3) / finer)
    return moved


def _equal(one: Any, two: Any, site: str, key: str) -> bool:
    a, b = (arguments(trace.nodes[site])[key].detach() for trace in (one, two))
    return torch.equal(a.nan_to_num(), b.nan_to_num())
