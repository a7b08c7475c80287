"""Draws of the posterior by Markov chains: what q is after MCMC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.replay.evaluate import Values


def some_of(values: Values, log_p: Tensor, count: int) -> tuple[Values, Tensor]:
    """Return draws as they are if as many are asked for as there are; else some of them at random, or with repeats."""
    total = len(log_p)
    if count == total:
        return values, log_p
    at = torch.randperm(total)[:count] if count < total else torch.randint(total, (count,))
    at = at.to(log_p.device)
    return {n: v[at] for n, v in values.items()}, log_p[at]


@dataclass
class Sampled(Approximation):
    """The empirical distribution of draws from p(z | x), chain after chain.

    Attributes
    ----------
    values
        Site -> draws of a latent, shape (chains * draws, ...).
    log_p
        log p(x, z) of each draw, shape (chains * draws,).
    states
        Enumerated site -> draws of its states given the other latents, as whole numbers.
    stats
        What the sampler says of each draw, shape (chains, draws).
    sampler
        Which sampler it was.
    chains
        Number of chains.
    """

    values: Values
    log_p: Tensor
    states: Mapping[str, Tensor] = field(default_factory=dict)
    stats: Mapping[str, np.ndarray] = field(default_factory=dict)
    sampler: str = ""
    chains: int = 1
    exact = True
    kind = "sampled"

    @property
    def kept(self) -> int | None:
        """How many draws there are."""
        return len(self.log_p)

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return the draws themselves if as many are asked for as there are, else some of them at random.

        q is the posterior, so log q stands at log p(x, z), which differs from it by a constant.
        """
        return some_of(self.values, self.log_p, count)

    def describe(self) -> dict[str, Any]:
        """Return how many chains there are, and whose."""
        return {"chains": self.chains, "sampler": self.sampler}

    def tensors(self) -> dict[str, Tensor]:
        """Return all draws."""
        tensors = TensorFolder(log_p=self.log_p)
        tensors.add("value", self.values)
        tensors.add("state", self.states)
        tensors.add("stat", {n: torch.from_numpy(v) for n, v in self.stats.items()})
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Sampled:
        """Make it again."""
        folders = TensorFolder(tensors)
        return cls(
            values=folders.folder("value"),
            log_p=tensors["log_p"],
            states=folders.folder("state"),
            stats={n: v.numpy() for n, v in folders.folder("stat").items()},
            sampler=described["sampler"],
            chains=described["chains"],
        )
