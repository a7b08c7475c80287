"""The bound of many data sets of one model at once: each start climbs for data of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from guides.guide import Guide
from guides.start import Start
from guides.variational import Noise
from inference.variational.bound import Bound
from inference.variational.position import Fixed
from zoo.program.program import Program
from zoo.program.rows import Batch
from zoo.replay.evaluate import Values

MOST = 500  # data sets in one tensor program
CELLS = 4_000_000  # entries of the data times states and draws in one step


class BoundOfEach(Bound):
    """One bound of one guide for several programs that differ in their data only.

    Fields of the data are laid out as what does not climb: each start has its own, shape (starts, ...).

    Parameters
    ----------
    programs
        On data of the same shape, without missing cells.
    guide
        Not amortized: what it is made of does not depend on the rows.
    starts
        One for each program.
    alpha, covering, warmed
        As for `Bound`.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        guide: Guide,
        starts: list[tuple[Start, Values]],
        *,
        alpha: float = 1.0,
        covering: bool = False,
        warmed: bool = False,
    ) -> None:
        super().__init__(programs[0], guide, starts, alpha=alpha, covering=covering, warmed=warmed)
        fields = {n: torch.stack([p.data.values[n] for p in programs]) for n in programs[0].data.values}
        self.start = replace(self.start, fixed=self.start.fixed._replace(fields=fields))

    def _log_weight(
        self, coordinates: Tensor, weights: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, ...]:
        """log w of one draw, on the data of its start."""
        own = Batch(fixed.fields, None, self.program.data.weights)
        return super()._log_weight(coordinates, weights, fixed, noise, beta, own)


def together(program: Program, draws: int) -> int:
    """How many data sets like the program's one step can hold."""
    states = max([1, *(s.cardinality for s in program.enumerated)])
    cells = draws * states * sum(v.numel() for v in program.data.values.values())
    return max(1, min(MOST, CELLS // max(1, cells)))
