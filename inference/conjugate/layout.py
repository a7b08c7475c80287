"""How entries, states and unknowns are laid out beside each other: broadcasting, and sums that undo it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from inference.conjugate.exponential_family import Moments, Statistics
from zoo.replay.sites import Site


def collapsed(site: Site, weight: Tensor, parts: tuple[Tensor, ...], dims: tuple[int, ...], outer: int) -> Statistics:
    """Sum weighted statistics over all plates at once, by matrix products.

    `weight` is (states, plates) and T_j (states or none, plates, `outer` event dims, its own dims).
    """
    plates = max((-d for d in site.plate_dims), default=0)
    lead = weight.shape[: weight.ndim - plates]
    flat = weight.reshape(lead.numel(), -1)
    count = flat.sum(-1).reshape((*lead, *[1] * plates))[(..., *[None] * outer)]
    if site.role == "enumerated":  # its states are the same in every row
        return count, tuple(count[(..., *[None] * i)] * t for i, t in zip(dims, parts, strict=True))
    sums = []
    for i, t in zip(dims, parts, strict=True):
        own = t.shape[t.ndim - outer - i :]
        if t.ndim > plates + len(own):  # it differs by state
            along = list(range(-plates - len(own), -len(own)))
            sums.append((weight[(..., *[None] * len(own))] * t).sum(along, keepdim=True))
            continue
        t = t.expand((*weight.shape[weight.ndim - plates :], *own))
        sums.append((flat @ t.reshape(flat.shape[1], -1)).reshape((*lead, *[1] * plates, *own)))
    return count, tuple(sums)


@lru_cache(maxsize=4096)
def broadcast(*shapes: tuple[int, ...]) -> torch.Size:
    """Shape that shapes which fit are broadcast to; `torch.broadcast_shapes` takes ten times as long."""
    ndim = max(len(s) for s in shapes)
    return torch.Size(max(s[len(s) - i] if i <= len(s) else 1 for s in shapes) for i in range(ndim, 0, -1))


def in_order(codes: tuple[Tensor, ...]) -> bool:
    """Whether codes run through all states, each along a dimension of its own, in the order of the dimensions."""
    dims = [c.ndim for c in codes]
    return all(c.numel() == c.shape[0] and c.ndim > 1 for c in codes) and dims == sorted(dims, reverse=True)


def sum_to(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Sum a tensor down to a shape it would be broadcast from, expanding it where it is itself broadcast."""
    if tensor.shape == shape:
        return tensor
    if len(shape) > tensor.ndim:
        tensor = tensor.reshape((1,) * (len(shape) - tensor.ndim) + tuple(tensor.shape))
    lead = tensor.ndim - len(shape)
    full = [max(a, b) for a, b in zip(tensor.shape[lead:], shape, strict=True)]
    return tensor.expand((*tensor.shape[:lead], *full)).sum_to_size(shape)


def scaled(moments: Moments, factor: Tensor | float) -> Moments:
    """Moments of a constant times an unknown."""
    if isinstance(factor, float) and factor == 1.0:
        return moments
    c = torch.as_tensor(factor, dtype=moments["mean"].dtype, device=moments["mean"].device)
    found = {**moments, "mean": c * moments["mean"]}
    if "log" in moments:
        found["log"] = moments["log"] + c.log()
    if "inverse" in moments:
        found["inverse"] = moments["inverse"] / c
    for name in ("var", "quad"):
        if name in moments:
            found[name] = c.square() * moments[name]
    if "logdet" in moments:
        found["logdet"] = moments["logdet"] + moments["mean"].shape[-1] * (c[..., 0, 0] if c.ndim > 1 else c).log()
    return found
