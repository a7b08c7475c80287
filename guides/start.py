"""Where a guide starts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.program.program import Program


@dataclass(frozen=True)
class Start:
    """Where a guide starts.

    Attributes
    ----------
    globals, locals
        Unconstrained starting point, shapes (G,) and (rows, L).
    parameters
        Unconstrained starting values of the model's parameters (without network weights), one vector.
    global_unit, local_unit, parameter_unit
        Size of a natural step along each coordinate: one over the square root of the log joint's curvature there.
        Guides work in these units, so that one learning rate serves data in any units.
    factor
        Cholesky factor of the inverse curvature over all globals, where it is known: (G, G).
    """

    globals: Tensor
    locals: Tensor
    parameters: Tensor
    global_unit: Tensor
    local_unit: Tensor
    parameter_unit: Tensor
    factor: Tensor | None = None

    @classmethod
    def blank(cls, program: Program) -> Start:
        """Zeros in units of one: for a q whose state is loaded afterwards."""
        like, view = torch.empty(0, dtype=program.dtype, device=program.device), program.view
        u, v = like.new_zeros(view.global_size), like.new_zeros(len(program.data), view.local_size)
        t = like.new_zeros(program.parameter_view.global_size)
        return cls(u, v, t, torch.ones_like(u), torch.ones_like(v), torch.ones_like(t))
