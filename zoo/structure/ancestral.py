"""Whether entries of a row that read each other can be drawn in turn, as those of an autoregressive density can.

Each entry of what a model explains is changed in turn, while what is observed keeps its value: entries whose log
density moves come after it. Where no entry comes after itself, the entries of a row are the variables of a directed
acyclic graph, in whatever order the model has, and the product of their densities is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from zoo.errors import ZooError
from zoo.replay.sites import base_distribution
from zoo.structure.probes import Probes, other_data_of
from zoo.structure.runner import Runner

MOST = 1024  # entries of a row that are looked at, spread evenly: one run of the model changes one for each row it has
ROUNDS = 2  # times that each is changed, in two rows: a unit of a network may be off in one of them


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
    """
    observed = {f: n for n, f in probes.fields.items() if f in fields}  # field -> the site that explains it
    if set(observed) != set(fields) or set(fields) - set(probes.data.row_fields) or set(names) - set(observed.values()):
        return False
    try:
        reads = _reads(runner, probes, observed)
    except ZooError:  # made-up data do not fit the model
        return False
    if reads is None or bool(reads.diagonal().any()):
        return False
    circles, _ = connected_components(reads.cpu().numpy(), directed=True, connection="strong")
    return int(circles) == len(reads)


def _reads(runner: Runner, probes: Probes, observed: dict[str, str]) -> Tensor | None:
    """Which entry reads which, [read, reader]; None where entries of a site have no densities of their own."""
    data, values = probes.data, probes.values
    fixed = {n: probes.base.nodes[n]["value"] for n in observed.values()}
    sizes = {f: data.values[f][0].numel() for f in observed}
    picked = {f: torch.linspace(0, n - 1, min(n, MOST // len(sizes))).long().unique() for f, n in sizes.items()}

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
        moved = torch.zeros(len(at), before.shape[1], dtype=torch.bool, device=value.device)
        for start in (start for _ in range(ROUNDS) for start in range(0, len(at), len(value))):
            entries = torch.arange(start, min(start + len(value), len(at)))
            rows = torch.randperm(len(value))[: len(entries)]
            changed = value.flatten(1).clone() if value.ndim > 1 else value[:, None].clone()
            changed[rows, at[entries]] = other.reshape(changed.shape)[rows, at[entries]]
            now = densities(replace(data, values={**data.values, field: changed.reshape(value.shape)}))
            if now is None:
                return None
            same = (now == before) | (now.isnan() & before.isnan())
            moved[entries] |= ~same[rows]
        found.append(moved)
    return torch.cat(found)


def _by_entry(node: Any, shape: torch.Size, at: Tensor) -> Tensor | None:
    """Log densities of these entries of a row, (rows, entries), those of all enumerated states side by side summed."""
    each: Tensor = base_distribution(node["fn"]).log_prob(node["value"])
    if each.shape[each.ndim - len(shape) :] != shape:
        return None
    flat = each.reshape(-1, shape[0], shape[1:].numel())
    return flat[..., at.to(flat.device)].double().sum(0)
