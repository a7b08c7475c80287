"""States that are permuted together, with all that they index."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.replay.evaluate import Values


@dataclass(frozen=True)
class StateGroup:
    """States that are permuted together, and what is indexed by them.

    Attributes
    ----------
    sites
        Enumerated sites whose states these are.
    count
        How many states the sites have.
    states
        Those among them that are exchangeable with each other.
    axes
        Latent, parameter or deterministic site -> its axes that the states index, from the right: -1, -2, ...
    reflected
        Site -> c, where two states change places as its value v becomes c - v (the share of one of them, v -> 1 - v).
    """

    sites: tuple[str, ...]
    count: int
    states: tuple[int, ...]
    axes: Mapping[str, tuple[int, ...]]
    reflected: Mapping[str, float]

    def __str__(self) -> str:
        """Say which states and what they index."""
        which = "" if len(self.states) == self.count else f" ({', '.join(map(str, self.states))})"
        indexed = ", ".join((*self.axes, *self.reflected))
        return f"{len(self.states)} states{which} of {', '.join(self.sites)}, which index {indexed}"

    @property
    def log_modes(self) -> float:
        """Log of the number of permutations, log K!: as many equal modes has a posterior whose modes lie apart."""
        return math.lgamma(len(self.states) + 1)

    @classmethod
    def read(cls, described: Mapping[str, Any]) -> StateGroup:
        """Make it again from what `dataclasses.asdict` returned, by way of JSON."""
        axes = {n: tuple(a) for n, a in described["axes"].items()}
        sites, states = tuple(described["sites"]), tuple(described["states"])
        return cls(sites, described["count"], states, axes, described["reflected"])

    def permute(self, values: Mapping[str, Tensor], permutation: Tensor) -> Values:
        """Give states other labels: state j of the result is state ``permutation[j]`` of the values.

        Parameters
        ----------
        values
            Site -> value, or draws stacked along dimension 0: of latents, parameters, deterministic sites, and states
            of enumerated ones as whole numbers. Sites that the states do not index are handed back as they are.
        permutation
            Of all `count` states, shape (count,); or one for each draw, shape (draws, count).

        Examples
        --------
        Two components swapped: ``group.permute(fit.points, torch.tensor([1, 0]))``.
        """
        inverse, moved = permutation.argsort(-1), dict(values)
        for name, value in values.items():
            order = permutation.to(value.device)
            if name in self.sites:
                back = (
                    inverse.to(value.device).expand(len(value), -1) if inverse.ndim == 1 else inverse.to(value.device)
                )
                flat = value.long().reshape(len(value), -1)
                moved[name] = back.gather(1, flat).reshape(value.shape).to(value.dtype)
            for axis in self.axes.get(name, ()):
                shape = [1] * value.ndim
                shape[axis] = self.count
                if order.ndim == 2:
                    shape[0] = len(order)
                moved[name] = moved[name].take_along_dim(order.reshape(shape), axis)
            if name in self.reflected:
                swapped = order[..., 0] != 0
                swapped = swapped.reshape(-1, *[1] * (value.ndim - 1)) if swapped.ndim else swapped
                moved[name] = torch.where(swapped, self.reflected[name] - moved[name], moved[name])
        return moved
