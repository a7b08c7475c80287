"""The log joint of a program as a density over one flat unconstrained vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.program.program import Program
from zoo.program.terms import Terms
from zoo.replay.evaluate import Values, many

CHUNK = 256  # draws that are mapped to values in one vectorized call


class Density:
    """log p(x, z(u)) + log|dz/du| over one unconstrained vector u: globals, then the locals of each row.

    Enumerated sites are summed out and parameters stay at the values given.

    Parameters
    ----------
    program
        The program.
    points
        Values of its parameters and network weights.
    compiled
        `gradient` at each of several vectors, if that was compiled already.

    Attributes
    ----------
    like
        An empty tensor in its precision and on its device.
    """

    def __init__(
        self,
        program: Program,
        points: Values | None = None,
        compiled: Callable[[Tensor], tuple[Tensor, ...]] | None = None,
    ) -> None:
        self.program, self.view, self.points, self.compiled = program, program.view, points or {}, compiled
        self.like = torch.empty(0, dtype=program.dtype, device=program.device)
        self.size = self.view.global_size + self.view.local_size * len(program.data)

    def split(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Globals (G,) and locals (rows, L) of one vector."""
        cut = self.view.global_size
        return u[:cut], u[cut:].reshape(len(self.program.data), -1)

    def constrain(self, u: Tensor) -> Values:
        """Values of the latents at one vector u."""
        globals_, locals_ = self.split(u)
        return {**self.view.constrain_globals(globals_)[0], **self.view.constrain_locals(locals_)[0]}

    def constrain_all(self, u: Tensor) -> Values:
        """Values of the latents at many vectors (draws, size), stacked along dimension 0."""
        values: Values = many(lambda v: self.constrain(v["u"]), {"u": u}, len(u), CHUNK)
        return values

    def unconstrain(self, values: Values) -> Tensor:
        """Vector of the values of all latents."""
        parts = [self.view.unconstrain_globals(values).to(self.program.device, self.program.dtype)]
        if self.view.locals:
            parts.append(self.view.unconstrain_locals(values).reshape(-1))
        return torch.cat(parts)

    def name(self, coordinate: int) -> str:
        """Name of the site that a coordinate belongs to."""
        slots, at = self.view.globals, coordinate
        if coordinate >= self.view.global_size:
            slots, at = self.view.locals, (coordinate - self.view.global_size) % self.view.local_size
        return next(s.site.name for s in slots if s.start <= at < s.stop)

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density at one vector."""
        globals_, locals_ = self.split(u)
        values, jacobian = self.view.constrain_globals(globals_)
        local, row_jacobian = self.view.constrain_locals(locals_)
        terms = self.program.log_joint({**self.points, **values, **local})
        rows = terms.rows + row_jacobian if self.view.locals else terms.rows
        return Terms(terms.rest + jacobian, rows).total(self.program.data.weights)

    def log_volume(self, u: Tensor) -> Tensor:
        """log|dz/du| at one vector, that of each row's locals times its weight."""
        globals_, locals_ = self.split(u)
        _, jacobian = self.view.constrain_globals(globals_)
        _, row_jacobian = self.view.constrain_locals(locals_)
        return Terms(jacobian, row_jacobian).total(self.program.data.weights)

    def gradient(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log density and its gradient at one vector (size,), or at each of several (chains, size)."""
        if self.compiled is not None and u.ndim > 1:
            values, gradients = self.compiled(u.detach())
            return values, gradients
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            value = self.log_prob(leaf) if leaf.ndim == 1 else torch.vmap(self.log_prob)(leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach(), gradient
