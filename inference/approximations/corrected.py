"""Draws of q that importance weights have moved to the posterior: what q is after SVI, Laplace and Pathfinder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from inference.approximations.approximation import Approximation, describe, read
from inference.approximations.sampled import some_of
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass
class Corrected(Approximation):
    """Draws of q, resampled by Pareto-smoothed weights p / q: E_p[f] is their plain mean of f (Vehtari et al. 2024).

    A draw may come more than once. Locals of new rows are proposed by q, as before.

    Attributes
    ----------
    uncorrected
        q itself.
    values
        Site -> draws of a latent, shape (draws, ...).
    log_p, log_q
        log p(x, z) and log q(z) of each, shape (draws,).
    weight
        The weight that each had among the draws it was taken from, whose mean weight is 1, shape (draws,).
    states
        Enumerated site -> draws of its states given the other latents.
    """

    uncorrected: Approximation
    values: Values
    log_p: Tensor
    log_q: Tensor
    weight: Tensor
    states: Mapping[str, Tensor] = field(default_factory=dict)
    exact = True
    kind = "corrected"

    def __post_init__(self) -> None:
        """Hold draws as they would be read from a file, and show their densities and weights beside them."""
        self.values = {n: v.contiguous() for n, v in self.values.items()}
        both = {"log_q": self.log_q, "weight": self.weight}
        self.stats: Mapping[str, np.ndarray] = {n: v.cpu().numpy()[None] for n, v in both.items()}

    @property
    def kept(self) -> int | None:
        """How many draws there are."""
        return len(self.log_p)

    @property
    def covers_new_rows(self) -> bool:
        """Whether q also says what the locals of rows never seen are."""
        return self.uncorrected.covers_new_rows

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return the draws themselves if as many are asked for as there are, else some of them at random.

        They stand for the posterior, so log q stands at log p(x, z), which differs from it by a constant.
        """
        return some_of(self.values, self.log_p, count)

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals of the program's rows from q."""
        return self.uncorrected.propose(program, points, count)

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """None: they are averaged over the draws."""
        return None

    def describe(self) -> dict[str, Any]:
        """Return what q is."""
        return {"uncorrected": describe(self.uncorrected)}

    def tensors(self) -> dict[str, Tensor]:
        """Return all draws, and the tensors of q."""
        tensors = TensorFolder(log_p=self.log_p, log_q=self.log_q, weight=self.weight)
        tensors.add("value", self.values)
        tensors.add("state", self.states)
        tensors.add("q", self.uncorrected.tensors())
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Corrected:
        """Make it again."""
        folders = TensorFolder(tensors)
        return cls(
            uncorrected=read(described["uncorrected"], folders.folder("q"), program),
            values=folders.folder("value"),
            log_p=tensors["log_p"],
            log_q=tensors["log_q"],
            weight=tensors["weight"],
            states=folders.folder("state"),
        )
