"""A log joint density in two parts: what rows share, and a number for each row."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """A log joint density in two parts: `rest`, a scalar, and `rows`, one log density per row, shape (rows,)."""

    rest: Tensor
    rows: Tensor

    def total(self, weights: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """Return rest + scale * sum_i w_i rows_i."""
        rows = self.rows.sum() if weights is None else (weights * self.rows).sum()
        return self.rest + scale * rows


def sum_of(tensors: Iterable[Tensor]) -> Tensor:
    """Add up at least one tensor."""
    first, *others = tensors
    for other in others:
        first = first + other
    return first
