"""Whether entries of a row that read each other can be drawn in turn, as those of an autoregressive density can.

Each entry of what a model explains is changed in turn, while what is observed keeps its value: entries whose log
density moves come after it. Where no entry comes after itself, the entries of a row are the variables of a directed
acyclic graph, in whatever order the model has, and the product of their densities is one. Where one does, the product
is a pseudo-likelihood at best, whose integral is not one: a network that leaks would score as high as one likes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ModelError, ZooError
from zoo.replay.sites import base_distribution
from zoo.structure.probes import Probes, other_data_of
from zoo.structure.runner import Runner

MOST = 1024  # entries of a row that are looked at, spread evenly: one run of the model changes one for each row it has
ROUNDS = 2  # times that each is changed, in two rows: a unit of a network may be off in one of them
CLEAR = 1e-4  # of a log density, relative to its size: a move that rounding in the order of sums does not make


def drawn_in_turn(runner: Runner, probes: Probes, fields: Sequence[str], names: Sequence[str]) -> bool:
    """Whether the sites `names`, which read `fields`, observe entries of rows that can be drawn one after the other.

    Parameters
    ----------
    runner, probes
        That runs the model, and what runs have shown.
    fields
        What is read and explained.
    names
        The sites that read it.

    Raises
    ------
    ModelError
        If an entry clearly reads itself, or two read each other: the product of their densities is none.
    """
    observed = {f: n for n, f in probes.fields.items() if f in fields}  # field -> the site that explains it
    if set(observed) != set(fields) or set(fields) - set(probes.data.row_fields) or set(names) - set(observed.values()):
        return False
    try:
        reads = _reads(runner, probes, observed)
    except ZooError:  # made-up data do not fit the model
        return False
    if reads is None:
        return False
    _check_acyclic(reads > CLEAR, probes.data, observed)
    return not bool(_circular(reads > 0).any())


def _circular(reads: Tensor) -> Tensor:
    """Which entries read which and are read by them in turn, themselves included, (entries, entries)."""
    from scipy.sparse.csgraph import connected_components  # it takes long to import

    _, label = connected_components(reads.cpu().numpy(), directed=True, connection="strong")
    group = torch.as_tensor(label)
    same = group[:, None] == group
    return torch.where(torch.eye(len(reads), dtype=torch.bool), reads.cpu(), same)


def _check_acyclic(reads: Tensor, data: Data, observed: dict[str, str]) -> None:
    """Raise if an entry comes after itself, naming the first that does or the first two that read each other."""
    circular = _circular(reads)
    if not bool(circular.any()):
        return
    entries = [(field, at) for field, some in _picked(data, observed).items() for at in some.tolist()]
    alone, mutual = circular.diagonal().nonzero(), circular & reads.cpu() & reads.cpu().T
    first, second = (alone[0, 0], alone[0, 0]) if len(alone) else (mutual if mutual.any() else circular).nonzero()[0]
    field, _ = entries[first]
    told = [_entry(data, *entries[i]) for i in (first, second)]
    way = "" if first == second or bool(mutual.any()) else ", by way of others"
    does = (
        f"its entry {told[0]} depends on its own value"
        if first == second
        else f"its entries {told[0]} and {told[1]} depend on each other's values{way}"
    )
    raise ModelError(
        f"site {observed[field]!r} is no density: the distribution of {does}, so that the product over the "
        "entries of a row does not integrate to one, and log densities and bounds would be too high. Let each entry "
        "read only those before it in some order: mask the network, with centre=False in the first "
        "zoo.networks.MaskedConv2d and True in later ones, or shift what it reads by one. What is known beforehand (a "
        "standard error, neighbours in a pseudo-likelihood) can be a field of its own, given which it is a density"
    )


def _entry(data: Data, field: str, at: int) -> str:
    """An entry of a row in words: x[channel 0, height 3, width 4]."""
    sizes, dims = data.values[field].shape[1:], data.dims[field][1:]
    index = [int(i) for i in torch.unravel_index(torch.tensor(at), sizes)] if sizes else []
    where = ", ".join(f"{d} {i}" for d, i in zip(dims, index, strict=True))
    return f"{field}[{where}]" if where else field


def _picked(data: Data, observed: dict[str, str]) -> dict[str, Tensor]:
    """Which entries of a row are looked at, by field."""
    sizes = {f: data.values[f][0].numel() for f in observed}
    return {f: torch.linspace(0, n - 1, min(n, MOST // len(sizes))).long().unique() for f, n in sizes.items()}


def _reads(runner: Runner, probes: Probes, observed: dict[str, str]) -> Tensor | None:
    """How far each log density moves with each entry (relative), [read, reader]; None if entries have none."""
    data, values = probes.data, probes.values
    fixed = {n: probes.base.nodes[n]["value"] for n in observed.values()}
    picked = _picked(data, observed)

    def densities(of: Any) -> Tensor | None:
        """Log densities of the picked entries, (rows, entries)."""
        trace = runner(of, values, fixed=fixed)[0]
        parts = [_by_entry(trace.nodes[observed[f]], data.values[f].shape, at) for f, at in picked.items()]
        known = [p for p in parts if p is not None]
        return torch.cat(known, 1) if len(known) == len(parts) else None

    before, found = densities(data), []
    if before is None:
        return None
    for field, at in picked.items():
        value = data.values[field]
        other = next(iter(other_data_of(runner.model, data, field))).values[field].to(value.dtype)
        other = torch.where(other == value, value + 1, other) if value.is_floating_point() else other
        moved = before.new_zeros(len(at), before.shape[1])
        for start in (start for _ in range(ROUNDS) for start in range(0, len(at), len(value))):
            entries = torch.arange(start, min(start + len(value), len(at)))
            rows = torch.randperm(len(value))[: len(entries)]
            changed = value.flatten(1).clone() if value.ndim > 1 else value[:, None].clone()
            changed[rows, at[entries]] = other.reshape(changed.shape)[rows, at[entries]]
            now = densities(replace(data, values={**data.values, field: changed.reshape(value.shape)}))
            if now is None:
                return None
            same = (now == before) | (now.isnan() & before.isnan())
            by = ((now - before).abs() / before.abs().clamp_min(1)).nan_to_num(math.inf, math.inf).where(~same, 0.0)
            moved[entries] = torch.maximum(moved[entries], by[rows])
        found.append(moved)
    return torch.cat(found)


def _by_entry(node: Any, shape: torch.Size, at: Tensor) -> Tensor | None:
    """Log densities of these entries of a row, (rows, entries), those of all enumerated states side by side summed."""
    each: Tensor = base_distribution(node["fn"]).log_prob(node["value"])
    if each.shape[each.ndim - len(shape) :] != shape:
        return None
    flat = each.reshape(-1, shape[0], shape[1:].numel())
    return flat[..., at.to(flat.device)].double().sum(0)
