"""Gradients of one step from several mini-batches, one after the other or in several processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from guides.variational import Noise
from inference.runtime.processes import ALONE, Processes
from inference.variational.bound import Bound
from zoo.errors import MethodError
from zoo.program.rows import Batch

MOST_PASSES = 1000  # over all rows in one step


@dataclass(frozen=True)
class Gathered:
    """Where the gradients of a step come from.

    Every mini-batch is weighted so that it stands for all rows, and so is the share of it that one process takes: the
    mean of the gradients, over mini-batches and processes, is that of all these rows in one batch.

    Attributes
    ----------
    parts
        Mini-batches to a step.
    processes
        Each of which takes its share of the rows of every mini-batch.
    """

    parts: int = 1
    processes: Processes = ALONE

    @property
    def alone(self) -> bool:
        """Whether one mini-batch in one process is all."""
        return self.parts == 1 and self.processes.world == 1

    def check(self, each: int, rows: int) -> None:
        """Raise if one step is to pass over all rows more than some hundred times.

        Raises
        ------
        MethodError
            Naming the numbers of mini-batches and rows.
        """
        if self.parts > 1 and self.parts * each > MOST_PASSES * rows:
            raise MethodError(
                f"accumulate={self.parts} mini-batches of {each} rows are more than {MOST_PASSES} passes over "
                f"all {rows} rows in each step; ask for fewer"
            )

    def own(self, bound: Bound, noise: Noise, batch: Batch) -> tuple[Noise, Batch]:
        """What this process takes of a mini-batch and of the noise (S, K, ...) behind the draws of its rows.

        Raises
        ------
        MethodError
            If there are fewer rows than processes, or the noise cannot be taken apart by rows.
        """
        if self.processes.world == 1:
            return noise, batch
        by_row, rows = bound.program.data.row_fields, batch.rows
        weights = batch.weights
        if rows is None:
            rows = torch.arange(len(bound.program.data), device=bound.program.device)
            weights = bound.program.data.weights
        if len(rows) < self.processes.world:
            raise MethodError(
                f"distributed=True shares {len(rows)} rows of a step among {self.processes.world} processes; raise "
                "batch_size"
            )
        first, second = noise
        by_rows = second.ndim > 2 and second.shape[2] == len(rows)
        if second.numel() and not by_rows:
            raise MethodError(
                "distributed=True shares rows among processes, and this guide draws the locals of all rows from one "
                "vector of noise; use Encoder() or MeanField()"
            )
        own = slice(*self.processes.share(len(rows)))
        fields = batch.fields or bound.program.data.values
        fields = {n: v[own] if n in by_row else v for n, v in fields.items()}
        if weights is None:
            weights = torch.ones(len(rows), dtype=bound.program.dtype, device=rows.device)
        batch = Batch(fields, rows[own], weights[own] * self.processes.world)
        return (first, second[:, :, own] if by_rows else second), batch

    def mean(
        self, gradient: Callable[..., Any], each: Sequence[tuple[Any, ...]], leaves: Sequence[Tensor]
    ) -> list[Tensor]:
        """The bound, (S,), and its gradient to the leaves (S, ...), on average over mini-batches and processes.

        Where one breaks down the bound is NaN in all processes, which have to take the same steps.
        """
        total = [leaves[0].new_zeros(len(leaves[0])), *(torch.zeros_like(leaf) for leaf in leaves)]
        for inputs in each:
            try:
                found = gradient(*inputs)
            except RuntimeError as error:
                if "linalg" not in str(error):
                    raise
                total[0].fill_(math.nan)
                break
            total = [a + b for a, b in zip(total, found, strict=True)]
        count = len(each) * self.processes.world
        return [t / count for t in self.processes.add_up(total)]
