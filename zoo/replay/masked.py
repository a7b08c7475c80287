"""Latents that a mask takes out in some rows, and sites of which some rows are observed (`obs_mask`).

A latent entry under a false mask is not there. It keeps its own prior, which integrates to one where nothing else
depends on the entry (`zoo/structure/masks.py` sees to that): without a prior it would count once for each of its
states, or have a flat density over the whole line.

`pyro.sample(name, fn, obs=y, obs_mask=seen)` makes three sites: ``name_observed`` under the mask, ``name_unobserved``
under its complement, and ``name``, which picks. Where the latent one is enumerated, ``name`` is its states in all rows
and ``name_observed`` is evidence about them: log 1 for the state that was seen, log 0 for all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from zoo.errors import ModelError
from zoo.replay.sites import base_distribution

OBSERVED, UNOBSERVED = "_observed", "_unobserved"  # how Pyro names the two parts
IMPOSSIBLE = -1e4  # log weight of a state that was not seen: exp of it is 0, and it has a gradient


def partner(name: str, names: Collection[str]) -> str | None:
    """Name of the observed part of a site whose unobserved part is `name`; None if it is none."""
    stem = name.removesuffix(UNOBSERVED)
    return stem + OBSERVED if stem != name and stem + OBSERVED in names else None


def unmask(msg: Any) -> Any:
    """Take the mask off a latent site, by a handler around it or of the distribution itself; return it (None: none).

    Raises
    ------
    ModelError
        If it is inside the distribution, where it cannot be taken off.
    """
    masks = [] if msg["mask"] is None else [msg["mask"]]
    msg["mask"] = None
    while isinstance(msg["fn"], dist.MaskedDistribution):
        masks.append(msg["fn"]._mask)
        msg["fn"] = msg["fn"].base_dist
    inner = msg["fn"]
    while (inner := getattr(inner, "base_dist", None)) is not None:
        if isinstance(inner, dist.MaskedDistribution):
            raise ModelError(
                f"site {msg['name']!r}: its distribution is masked inside an event; call .mask() last, after "
                ".to_event() and .expand()"
            )
    mask = None
    for one in masks:
        mask = one if mask is None else mask & one
    return mask


def evidence(states: Tensor, seen: Tensor, mask: Any, event_dim: int) -> Tensor:
    """Log evidence about an enumerated site of which some entries were seen.

    Parameters
    ----------
    states
        Its states along their own dimension, shape (K, 1, ..., *event).
    seen
        What was observed, shape (*plates, *event).
    mask
        Where the site is *not* observed.
    event_dim
        How many dimensions on the right are one event.

    Returns
    -------
    Tensor
        0 where nothing was seen or the state is what was seen, else `IMPOSSIBLE`; shape (K, ..., *plates).
    """
    same = states == seen
    same = same.flatten(same.ndim - event_dim).all(-1) if event_dim else same
    return torch.where(torch.as_tensor(mask, device=states.device) | same, 0.0, IMPOSSIBLE)


def picked(name: str, enumerated: Collection[str], seen: Mapping[str, Tensor]) -> Tensor | None:
    """States that a partly observed, enumerated site stands for; None where `name` is no such site."""
    latent = name + UNOBSERVED
    return seen[latent] if latent in enumerated and partner(latent, seen) else None


def stand_in(msg: Any, value: Tensor) -> None:
    """Let a deterministic site have another value."""
    msg["value"], msg["fn"] = value, dist.Delta(value, event_dim=msg["fn"].event_dim).mask(False)


def impossible(fn: Any, value: Tensor, missing: Tensor | None) -> Tensor:
    """Where a value has probability 0 under a Categorical or Bernoulli that is given by probabilities.

    Parameters
    ----------
    fn, value
        The distribution and the value.
    missing
        Which cells of the value are missing; None: none.

    Returns
    -------
    Tensor
        In the shape of the log density, or of one that broadcasts to it.
    """
    base = base_distribution(fn)
    probs = base.__dict__.get("probs")
    if type(base).__name__ not in ("Categorical", "Bernoulli") or probs is None or base._param is not probs:
        return torch.zeros((), dtype=torch.bool, device=value.device)
    if type(base).__name__ == "Bernoulli":
        zero = torch.where(value == 1, probs == 0, probs == 1)
    else:
        at, zeros = torch.broadcast_tensors(value.long()[..., None], probs == 0)
        zero = zeros.gather(-1, at[..., :1])[..., 0]
    if missing is not None:
        zero = zero & ~missing
    events = fn.event_dim - base.event_dim
    return zero.flatten(zero.ndim - events).any(-1) if events else zero
