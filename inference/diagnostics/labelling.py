"""One labelling of exchangeable states: the part of a symmetric posterior that an approximation in one mode stands for.

With K exchangeable states a posterior is the same under K! permutations. A region that holds one relabelling of every
value has 1 / K! of its mass, whatever its shape, and so importance weights inside of it estimate p(x) / K!, also where
modes overlap. Here the region is of the values that no permutation brings nearer to a centre: those that relabelling by
matching to the centre leaves as they are.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.diagnostics.relabelling import among
from zoo.program.exchangeable import exchangeable
from zoo.program.program import Program
from zoo.program.state_group import StateGroup
from zoo.replay.evaluate import Values

APART = 0.99  # share of the draws of an approximation in its own region, from which on modes are apart


@dataclass(frozen=True)
class Labelling:
    """The region of the values that are nearest to a centre among their relabellings.

    Attributes
    ----------
    groups
        States that are permuted together, of latents only.
    centres, scales
        Site -> mean and standard deviation of each entry over draws of the approximation.
    """

    groups: tuple[StateGroup, ...]
    centres: Values
    scales: Values

    @property
    def log_modes(self) -> float:
        """Log of the number of relabellings."""
        return sum(g.log_modes for g in self.groups)

    def __str__(self) -> str:
        """Say what is permuted."""
        return " and ".join(f"{len(g.states)}! labellings of {', '.join(g.sites)}" for g in self.groups)

    def best(self, group: StateGroup, values: Values) -> Tensor:
        """Permutation (draws, count) that brings each of several draws nearest to the centre."""
        return among(self._costs(group, values), group)

    def own(self, values: Values) -> Tensor:
        """Which draws lie in the region, (draws,)."""
        there = [(self.best(g, values) == torch.arange(g.count)).all(1) for g in self.groups]
        return torch.stack(there).all(0)

    def moved(self, values: Values) -> Values:
        """Relabel draws so that they lie in the region."""
        for group in self.groups:
            values = group.permute(values, self.best(group, values))
        return values

    def _costs(self, group: StateGroup, values: Values) -> Tensor:
        """Squared distance of each state's entries, in place of each other state, from the centre: (draws, K, K)."""
        states = torch.tensor(group.states)
        cost = torch.zeros(())
        for name, axis in _single(group, self.centres):
            value = _entries(values[name], axis, states, 1)
            centre, scale = (_entries(t[name], axis, states, 0) for t in (self.centres, self.scales))
            gap = (value[:, None] - centre[:, None]) / scale[:, None]  # (draws, place, state, entries)
            cost = cost + gap.square().sum(-1)
        for name, whole in group.reflected.items():
            if name in self.centres:
                value, centre, scale = (t[name].double().cpu() for t in (values, self.centres, self.scales))
                cost = cost + reflection_costs(value, whole, centre, scale)
        return cost


def labelling_of(program: Program, values: Values) -> Labelling | None:
    """Return the labelling around draws of q; None where states are not exchangeable, or not by latents alone."""
    if not program.enumerated:
        return None
    latents = {s.name for s in program.globals}
    groups = tuple(g for g in exchangeable(program) if _of_latents(g, latents, program))
    if not groups:
        return None
    names = {n for g in groups for n in (*g.axes, *g.reflected) if n in latents}
    spread = {n: values[n].double().std(0) for n in names}
    return Labelling(
        groups,
        {n: values[n].double().mean(0) for n in names},
        {n: torch.where(s > 0, s, torch.ones_like(s)) for n, s in spread.items()},
    )


def _of_latents(group: StateGroup, latents: set[str], program: Program) -> bool:
    """Whether all that the states index are global latents, and places can be told by entries of their own."""
    indexed = [n for n in (*group.axes, *group.reflected) if program.sites[n].role != "deterministic"]
    return set(indexed) <= latents and (bool(_single(group, latents)) or not latents.isdisjoint(group.reflected))


def _single(group: StateGroup, names: Collection[str]) -> list[tuple[str, int]]:
    """Those of some sites that have entries for each state by itself, and which axis that is."""
    return [(n, axes[0]) for n, axes in group.axes.items() if len(axes) == 1 and n in names]


def _entries(value: Tensor, axis: int, states: Tensor, lead: int) -> Tensor:
    """Entries of each state, (..., K, entries), `lead` dimensions being left where they are."""
    moved = value.double().cpu().movedim(axis, lead).index_select(lead, states)
    return moved.reshape(*moved.shape[: lead + 1], -1)


def reflection_costs(value: Tensor, whole: float, centre: Tensor, scale: Tensor) -> Tensor:
    """Squared distance of v (draws, ...) and c - v from a centre, as costs of each of two states: (draws, 2, 2).

    The cost of both states where they are is that of v, and of a swap that of c - v: half of it for each.
    """
    stay, turn = (((v - centre) / scale).square().reshape(len(value), -1).sum(-1) for v in (value, whole - value))
    return 0.5 * torch.stack([torch.stack([stay, turn], -1), torch.stack([turn, stay], -1)], 1)


def restricted(log_p: Tensor, values: Values, labelling: Labelling | None) -> Tensor:
    """log p at draws (draws,) inside the region, as much higher as there are relabellings; -inf outside."""
    if labelling is None:
        return log_p
    own = labelling.own(values).to(log_p.device)
    return torch.where(own, log_p + labelling.log_modes, -math.inf)
