"""Rows that no step sees, whose bound says which weights are best and how long to go on."""

from __future__ import annotations

import torch

from guides.variational import Noise
from inference.variational.bound import Bound
from inference.variational.position import Position
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.program.rows import rows_of

CHUNK = 500  # rows that are evaluated at a time


def parted(program: Program, asked: float) -> tuple[Program, Program]:
    """The program on the rows to train on and on those held back: a share of them, or, from 1 on, so many.

    Raises
    ------
    MethodError
        If too few rows are left to train on.
    """
    rows = len(program.data)
    count = round(asked * rows) if asked < 1 else int(asked)
    if not 0 < count <= rows // 2:
        raise MethodError(
            f"svi: validation={asked:g} holds {count} of {rows} rows back; it must be one at least and half at most"
        )
    order = torch.randperm(rows, device=program.device)
    train, held = (program.data.take(at.sort().values) for at in (order[count:], order[:count]))
    return program.rebind(train), program.rebind(held)


class HeldOut:
    """The bound of rows that were held back, at the same draws every time.

    Parameters
    ----------
    bound
        Of the rows that are trained on.
    program
        On the others.
    draws
        Of each row.

    Raises
    ------
    MethodError
        If q does not follow from a row.
    """

    def __init__(self, bound: Bound, program: Program, draws: int) -> None:
        if program.locals and not bound.q.amortized:
            raise MethodError(
                "svi: validation holds rows back, and this guide has a q of its own for each row that it climbs on, "
                "none for others; use guide=Encoder()"
            )
        self.bound, self.program = bound, program
        total = program.data.weights
        self.scale = bound.size / (len(program.data) if total is None else float(total.sum()))
        with torch.random.fork_rng(devices=[]):
            first, _ = bound.noise(1, 1, draws)  # behind the globals: the same for all rows
            self.noise = [(first, bound.noise(len(at), 1, draws)[1]) for at in self._chunks()]

    def _chunks(self) -> tuple[torch.Tensor, ...]:
        return tuple(torch.arange(len(self.program.data), device=self.program.device).split(CHUNK))

    @torch.no_grad()
    def __call__(self, position: Position, index: int) -> float:
        """Bound of these rows at one start, as if they were as many as those trained on; networks do not train."""
        bound, one = self.bound, position.only(index)
        modules: list[torch.nn.Module] = [bound.q, bound.program.model]
        training = [m.training for m in modules]
        for m in modules:
            m.eval()
        with bound.seeing(self.program):
            rest, rows = None, []
            for at, noise in zip(self._chunks(), self.noise, strict=True):
                rest, part = self._weighed(one, at, noise)
                rows.append(part)
        for m, was in zip(modules, training, strict=True):
            m.train(was)
        assert rest is not None
        weights = self.program.data.weights
        counts = torch.full((len(self.program.data),), self.scale, dtype=rest.dtype, device=rest.device)
        value, *_ = bound.reached(rest, torch.cat(rows, -1), counts if weights is None else counts * weights)
        return float(value)

    def _weighed(self, one: Position, at: torch.Tensor, noise: Noise) -> tuple[torch.Tensor, torch.Tensor]:
        batch = rows_of(self.program.data, at, torch.ones(len(at), dtype=self.program.dtype, device=at.device))
        return self.bound.log_weights(one, noise, batch)
