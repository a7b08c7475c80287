"""States laid out side by side against states drawn: a model must say the same of both.

Under enumeration a discrete latent has its states along a dimension of its own, and one entry for all rows. What
couples rows through their states (a cumulative sum, a shift, a count) then sees no rows: its density is not what is
meant.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.errors import ModelError
from zoo.replay.chain import MarkovChain
from zoo.replay.evaluate import Values, is_deterministic
from zoo.structure.discover import is_enumerated, sample_sites, symbol_of
from zoo.structure.plates import frames_of
from zoo.structure.probes import Probes, log_prob_of
from zoo.structure.runner import Runner

DRAWS = 2  # assignments that are looked at


def check_states(runner: Runner, probes: Probes) -> None:
    """Raise if a site's log density at drawn states is not its entry for these states under enumeration.

    Raises
    ------
    ModelError
        Naming the site and the discrete latent.
    """
    base = probes.base
    nodes = {n: node for n, node in sample_sites(base) if is_enumerated(node["infer"])}
    for _ in range(DRAWS if nodes else 0):
        positions = {n: torch.randint(_count(node), _cells(node)) for n, node in nodes.items()}
        values: Values = {n: _states(nodes[n])[at] for n, at in positions.items()}
        drawn = runner.drawn(probes.data, probes.values, values)
        for name, node in sample_sites(drawn):
            labelled = name in probes.messenger.labelled.values()
            if is_deterministic(node) or isinstance(node["fn"], MarkovChain) or labelled or name not in base.nodes:
                continue
            table, index = base.nodes[name]["log_prob"], positions
            if not _agree(_entries(base.nodes[name], table, nodes, index), log_prob_of(name, node)):
                before = [n for n in nodes if n != name]
                raise ModelError(
                    f"site {name!r}: what it makes of the states of {', '.join(map(repr, before))} is not the same for "
                    "states side by side, as they are summed over, as for one state in each row: rows are coupled "
                    "through them (a cumulative sum, a shift, a count), or entries of another plate (a sum over it), "
                    "so that they cannot be summed out. Write a chain with zoo.MarkovChain or pyro.markov, and let "
                    "each entry depend on its own states"
                )


def _count(node: Any) -> int:
    return int(node["fn"].enumerate_support(expand=False).shape[0])


def _states(node: Any) -> Tensor:
    """The states one below the other, shape (K, *event)."""
    states: Tensor = node["fn"].enumerate_support(expand=False)
    return states.reshape(len(states), *states.shape[states.ndim - node["fn"].event_dim :])


def _cells(node: Any) -> tuple[int, ...]:
    """Shape of one state for each entry of the site's plates."""
    frames = frames_of(node)
    shape = [1] * max((-f.dim for f in frames), default=0)
    for frame in frames:
        shape[frame.dim] = frame.size
    return tuple(shape)


def _entries(node: Any, table: Tensor, enumerated: dict[str, Any], positions: dict[str, Tensor]) -> Tensor:
    """Entries of a log density for the states at these positions, each enumerated site's dimension left at size 1."""
    symbols = node["infer"].get("_dim_to_symbol", {})
    for name, other in enumerated.items():
        dim = other["infer"]["_enumerate_dim"]
        if symbols.get(dim) == symbol_of(other) and table.ndim >= -dim and table.shape[dim] > 1:
            axis, at = table.ndim + dim, positions[name]
            at = at.reshape([1] * (table.ndim - at.ndim) + list(at.shape))
            whole = list(torch.broadcast_shapes(at.shape, table.narrow(axis, 0, 1).shape))
            full = table.expand([*whole[:axis], table.shape[axis], *whole[axis + 1 :]])
            table = full.gather(axis, at.expand(whole))
    return table


def _agree(entries: Tensor, drawn: Tensor) -> bool:
    """Whether log densities are the same up to rounding, beside dimensions of size 1."""
    try:
        shape = torch.broadcast_shapes(entries.shape, drawn.shape)
    except RuntimeError:
        return False
    if shape.numel() != drawn.numel():
        return False
    entries, drawn = entries.expand(shape), drawn.expand(shape)
    tolerance = 1e-7 if drawn.dtype == torch.float64 else 1e-3
    same = (entries - drawn).abs() <= tolerance * (1 + drawn.abs())
    return bool((same | (entries == drawn) | (entries.isnan() & drawn.isnan())).all())
