"""A point: what q is after EM and MAP."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass
class PointMass(Approximation):
    """One value per latent."""

    values: Values
    point = True
    kind = "point"

    def __post_init__(self) -> None:
        """Hold values as they would be read from a file."""
        self.values = {n: v.contiguous() for n, v in self.values.items()}

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return the point, repeated."""
        zeros = torch.zeros(count, dtype=program.dtype, device=program.device)
        return {n: v.expand(count, *v.shape) for n, v in self.values.items()}, zeros

    def tensors(self) -> dict[str, Tensor]:
        """Return the point."""
        return dict(self.values)

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> PointMass:
        """Make it again."""
        return cls(tensors)
