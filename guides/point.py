"""Point guide."""

from __future__ import annotations

from dataclasses import dataclass

from guides.guide import Delta, Guide, Start, Variational
from zoo.declare.program import Program


@dataclass(frozen=True)
class Point(Guide):
    """A single value for every latent: climbing the bound finds the posterior mode.

    q(z) = delta(z - z*). The mode is that of the density in the latents' own space, without the Jacobian of the
    unconstrained view.
    """

    point = True

    def build(self, program: Program, start: Start) -> Variational:
        """Make q at the start."""
        return Variational(Delta(start.globals, start.global_unit), Delta(start.locals, start.local_unit))
