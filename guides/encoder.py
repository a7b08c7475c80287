"""Amortized guide: a network from data row to the local latents' Normal."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from pydantic import PositiveInt
from torch import Tensor

from guides.guide import Guide
from guides.mean_field import MeanField
from guides.scope import in_constrained_space, restrict, restrict_start
from guides.start import Start
from guides.variational import LOG_2PI, Pushforward, Variational, normal
from zoo.data.data import Data
from zoo.errors import DataError
from zoo.networks import MLP
from zoo.program.program import Program

LOG_SCALE_LIMIT = 8.0  # natural steps, as a power of e: beyond it a draw of an untrained network would overflow


@dataclass(frozen=True)
class Encoder(Guide):
    """Amortized: a network from each data row to the Normal of its local latents.

    q(locals_i) = Normal(m(x_i), s(x_i)^2) with m and s from the network (Kingma and Welling 2014). Globals fall to a
    second guide; among `Guides`, to whichever covers them. Rows are standardized before they enter the network.

    Parameters
    ----------
    hidden
        Widths of the network's hidden layers.
    globals
        Guide for the global latents, where there are any among its sites.
    """

    hidden: tuple[PositiveInt, ...] = (128,)
    globals: Guide = field(default_factory=MeanField)

    def why_not(self, program: Program) -> str | None:
        """Refuse models without local latents."""
        if not program.locals:
            return "Encoder maps data rows to local latents, and there are none; use MeanField() or Point()"
        if isinstance(self.globals, Encoder):
            return "Encoder(globals=...) must be a guide for global latents, such as MeanField()"
        if (reason := self.lacks_counts(program.locals)) is not None:
            return reason
        return self.globals.why_not(self._globals(program)) if program.globals else None

    def named(self, program: Program) -> tuple[str, ...]:
        """Names of the locals, and of what the guide of the globals names."""
        return (*(s.name for s in program.locals), *self.globals.named(self._globals(program)))

    def build(self, program: Program, start: Start) -> Variational:
        """Make q with an untrained network."""
        seen = self._globals(program)
        q = self.globals.build(seen, restrict_start(program, start, [s.name for s in seen.latents]))
        if self.globals.point:
            q = in_constrained_space(q, seen.view)
        return Variational(q.over_globals, Amortized(program.data, start, self.hidden))

    def points(self, program: Program) -> tuple[str, ...]:
        """Names of the globals whose q is a point."""
        return self.globals.points(self._globals(program)) if program.globals else ()

    @staticmethod
    def _globals(program: Program) -> Program:
        return restrict(program, [s.name for s in program.globals])


class Amortized(Pushforward):
    """A Normal per row with location and log scale from a network of the standardized row."""

    amortized = True
    inverse: Tensor
    shift: Tensor
    start: Tensor
    unit: Tensor

    def __init__(self, data: Data, start: Start, hidden: tuple[int, ...]) -> None:
        super().__init__()
        features = data.features()
        spread = features.std(0, correction=0)
        self.register_buffer("inverse", 1 / torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.register_buffer("shift", -features.mean(0) * self.inverse)
        self.register_buffer("start", start.locals.mean(0))
        self.register_buffer("unit", start.local_unit.log().mean(0).exp())
        self.network = MLP(features.shape[1], hidden, 2 * start.locals.shape[1])
        self.network.to(features.device, features.dtype)

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate of each row."""
        return rows, len(self.start)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the locals of every row of `data`."""
        return normal(self.start, self.unit.expand(len(noise), -1), *self.moments(data), noise)

    def log_prob(self, data: Data, value: Tensor) -> Tensor:
        """Log density of the locals `value` (rows, L) of every row of `data`, with its gradient to the network."""
        loc, log_scale = self.moments(data)
        back = ((value - self.start) / self.unit - loc) * (-log_scale).exp()
        return -(0.5 * (LOG_2PI + back.square()) + log_scale + self.unit.log()).sum(-1)

    def moments(self, data: Data) -> tuple[Tensor, Tensor]:
        """Location and log scale of every row, in natural units about the start, (rows, L) each."""
        features = data.features()
        if features.shape[-1] != len(self.shift):
            raise DataError(
                f"the rows have {features.shape[-1]} features, and the encoder was trained on "
                f"{len(self.shift)}: a category is missing, or one has appeared that was not there before"
            )
        out = self.network(torch.addcmul(self.shift, features, self.inverse))
        loc, log_scale = out.chunk(2, -1)
        return loc, LOG_SCALE_LIMIT * torch.tanh(log_scale / LOG_SCALE_LIMIT)
