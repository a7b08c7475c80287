"""Latent vectors of discrete entries, written with a latent for each entry, which can be enumerated.

``pyro.sample("z", Bernoulli(p).to_event(1))`` is ``z_0 ~ Bernoulli(p[..., 0])``, ``z_1 ~ Bernoulli(p[..., 1])``, ...,
and z the vector of these. The density is the same; all 2^d vectors are laid out side by side and summed out exactly,
and posteriors are those of the entries, jointly.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.replay.entries import unwrapped
from zoo.replay.mixtures import arguments, rebuilt, standard

MOST_VECTORS = 1024  # beyond which a vector is not taken apart: the model is run at all of them side by side


class Apart(Messenger):
    """Give each entry of a latent vector of discrete entries a site of its own."""

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and 0 < vectors(msg["fn"]) <= MOST_VECTORS:
            name, fn = msg["name"], msg["fn"]
            z = pyro.deterministic(name, _drawn(name, fn), event_dim=fn.event_dim)
            msg["value"], msg["done"], msg["stop"] = z, True, True


def vectors(fn: Any) -> int:
    """How many vectors there are in the support of independent discrete entries; 0 of any other distribution."""
    base, events = unwrapped(fn)
    if not events or base.event_dim or not getattr(base, "has_enumerate_support", False) or standard(fn) is None:
        return 0
    return int(len(base.enumerate_support(expand=False)) ** math.prod(fn.event_shape))


def _drawn(name: str, fn: Any) -> Tensor:
    """Draw each entry of a vector at a site of its own; return the vector."""
    base: Any = standard(fn)
    given, entries = arguments(base), list[Tensor]()
    for i, entry in enumerate(itertools.product(*map(range, fn.event_shape))):
        at: Any = (..., *entry)
        own = {n: v[(*at, *[slice(None)] * base.arg_constraints[n].event_dim)] for n, v in given.items()}
        entries.append(pyro.sample(f"{name}_{i}", rebuilt(base, own)))
    z = torch.stack(torch.broadcast_tensors(*entries), -1)
    return z.reshape(*z.shape[:-1], *fn.event_shape)
