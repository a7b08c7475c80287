"""Full-rank guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guides.guide import LOG_2PI, DiagonalNormal, Guide, Part, Start, Variational
from zoo.declare.data import Data
from zoo.declare.program import Program

LARGEST = 1000  # coordinates: beyond this the covariance has half a million entries


@dataclass(frozen=True)
class FullRank(Guide):
    """q(u) = Normal(u | m, L L^T): a Normal with full covariance over the continuous latents in unconstrained space.

    For models without local latents; those grow with the data, and with `Encoder(globals=FullRank())` or `MeanField`
    they have parts of their own.
    """

    def why_not(self, program: Program) -> str | None:
        """Refuse local latents and very long vectors."""
        if program.locals:
            return (f"FullRank covers global latents, but {program.locals[0].name!r} is local (one per row); use "
                    "MeanField() or Encoder(globals=FullRank())")
        size = program.view.global_size
        if size > LARGEST:
            return f"FullRank over {size} coordinates needs {size * (size + 1) // 2} parameters; use MeanField()"
        return None

    def build(self, program: Program, start: Start) -> Variational:
        """Make q, centred at the start with one natural step as its standard deviation."""
        return Variational(FullNormal(start.globals, start.global_unit),
                           DiagonalNormal(start.locals, start.local_unit))


class FullNormal(Part):
    """u = start + unit * (loc + L eps), eps ~ Normal(0, I), L lower triangular with exp(log_scale) on its diagonal."""

    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.register_buffer("unit", unit.clone())
        self.loc = nn.Parameter(torch.zeros_like(start))
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))

    def draw(self, data: Data, rows: Tensor | None, *, analytic: bool) -> tuple[Tensor, Tensor]:
        """Draw the whole vector."""
        eps = torch.randn_like(self.loc)
        tril = self.lower.tril(-1) + torch.diag(self.log_scale.exp())
        u = self.start + self.unit * (self.loc + tril @ eps)
        square = torch.ones_like(eps) if analytic else eps.square()
        return u, -(0.5 * (LOG_2PI + square) + self.log_scale + self.unit.log()).sum()
