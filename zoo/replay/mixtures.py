"""Mixtures whose states have been summed out by hand, written with a discrete latent that can be enumerated.

``pyro.sample("x", MixtureSameFamily(Categorical(w), Normal(m, s)))``, observed or a prior, is ``x_component ~
Categorical(w)`` and ``x ~ Normal(m[x_component], s[x_component])`` with the component summed out; a
`ZeroInflatedPoisson` is ``x_gate ~ Bernoulli(gate)`` and ``x ~ Poisson((1 - x_gate) rate)``. The density is the same;
closed forms, posteriors of the component of each row and its draws come on top.
"""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.replay.entries import unwrapped
from zoo.replay.sites import ALTERNATIVES

COMPONENT, GATE = "_component", "_gate"


class Opened(Messenger):
    """Give mixtures a site of their own for the component."""

    def _pyro_sample(self, msg: Any) -> None:
        name, fn = msg["name"], msg["fn"]
        if type(fn) is dist.MixtureSameFamily and (inner := standard(fn.component_distribution)) is not None:
            states: Any = rebuilt(standard(fn.mixture_distribution), {})
            z = pyro.sample(name + COMPONENT, states)
            msg["fn"] = picked(inner, fn.component_distribution.event_dim, z)
        elif type(fn) is dist.ZeroInflatedPoisson:
            rate = fn.base_dist.rate
            gate = {"logits": fn.gate_logits} if "gate_logits" in vars(fn) else {"probs": fn.gate}
            z = pyro.sample(name + GATE, dist.Bernoulli(**gate))
            msg["fn"] = dist.Poisson(rate * (1 - z))


def standard(fn: Any) -> Any | None:
    """Return the distribution inside of events that are independent, if it is all in its arguments; else None."""
    fn, _ = unwrapped(fn)
    own = getattr(dist, type(fn).__name__, None)
    known = type(fn).__module__.startswith(("torch.distributions.", "pyro.distributions."))
    plain = not isinstance(fn, torch.distributions.TransformedDistribution | dist.MaskedDistribution)
    return fn if own is not None and known and plain and fn.arg_constraints else None


def arguments(fn: Any) -> dict[str, Tensor]:
    """Return the arguments that a distribution was made of: one of each group of parameterizations."""
    names = list(fn.arg_constraints)
    for group in ALTERNATIVES:
        both = [n for n in names if n in group]
        kept = next((n for n in both if n in vars(fn)), both[0] if both else "")
        names = [n for n in names if n not in both or n == kept]
    return {n: getattr(fn, n) for n in names}


def rebuilt(fn: Any, changed: dict[str, Tensor]) -> Any:
    """Return a distribution of the same kind, some of its arguments changed."""
    return getattr(dist, type(fn).__name__)(**{**arguments(fn), **changed})


def picked(fn: Any, event_dim: int, z: Tensor) -> Any:
    """Return the component z of a batch of components on the right, whose events have so many dimensions.

    Arguments of fn have shape (*plates, K, *event); z is (*plates), or (K, 1, ..., 1) where all states are laid out.
    """
    independent = event_dim - len(fn.event_shape)
    found = {}
    for name, value in arguments(fn).items():
        events = fn.arg_constraints[name].event_dim + independent
        batch = value.ndim - events - 1
        while batch and value.stride(0) == 0:  # repeated by plates: a row says nothing of its own
            value, batch = value[0], batch - 1
        at = (..., z.long(), *[slice(None)] * events)
        found[name] = Vindex(value)[at] if batch else value[z.long()]
    made = rebuilt(fn, found)
    return made.to_event(independent) if independent else made
