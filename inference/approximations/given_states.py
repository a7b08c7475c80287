"""Draws of a posterior that is a mixture over states that all rows share, with the exact probabilities of these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from inference.approximations.sampled import Sampled
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass
class SampledGivenStates(Sampled):
    """Independent draws from p(z, s | x), and p(s | x) as it is.

    Attributes
    ----------
    probabilities
        Shared discrete site -> p(s | x), shape (states,).
    evidence
        log p(x).
    """

    probabilities: Values = field(default_factory=dict)
    evidence: float = 0.0
    exact = False
    kind = "sampled_given_states"

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return draws of the latents, and log q of each: log p(x, z) less the log evidence."""
        values, log_p = super().draw(program, count)
        return values, log_p - self.evidence

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """Return p(s | x) of each shared site."""
        return dict(self.probabilities)

    def describe(self) -> dict[str, Any]:
        """Return what all draws have, and the evidence."""
        return {**super().describe(), "evidence": self.evidence}

    def tensors(self) -> dict[str, Tensor]:
        """Return all draws, and the probabilities."""
        tensors = TensorFolder(super().tensors())
        tensors.add("probability", self.probabilities)
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> SampledGivenStates:
        """Make it again."""
        draws = Sampled.read(described, tensors, program)
        known = TensorFolder(tensors).folder("probability")
        own = draws.values, draws.log_p, draws.states, draws.stats, draws.sampler, draws.chains
        return cls(*own, known, described["evidence"])
