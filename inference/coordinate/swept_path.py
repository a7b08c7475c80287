"""The path from prior to posterior of a mixture, all rows in one sweep for all particles."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.compiled.compile import Compile, Lowered
from inference.conjugate import closed_form
from inference.coordinate.mixture import ACCURACY, Mixture
from inference.coordinate.source import RowSource
from inference.coordinate.sweep import Swept
from inference.sampling.tempered import Evaluated, Tempered
from zoo.errors import ModelError
from zoo.program.program import Program

ENTRIES = 1 << 18  # log densities of rows and components at a time: they should stay in cache
FEW = 64  # particles on which the sweep is held against the program's own density


class SweptPath(Tempered):
    """log p_b by <eta, T> instead of by the program: gradients in eta are the expected statistics, R T.

    The model is not run on the rows, and there is nothing to compile. The gradient in u is that of
    log p_0 + b (<eta, R T> + <c, R>) with R T and R held fixed.

    Use `SweptPath.of`, which returns None where a program is no mixture that can be swept.
    """

    def __init__(self, mixture: Mixture, particles: int) -> None:
        self.mixture = mixture
        super().__init__(mixture.program, particles, particles, False, 0)

    @classmethod
    def of(cls, program: Program, particles: int) -> SweptPath | None:
        """Lay out the rows of a mixture."""
        if not program.one_state_per_row or program.locals or not program.row:
            return None
        try:
            mixture = Mixture.of(closed_form(program), RowSource(program), program.initial())
        except ModelError:  # there is no density where the model would start; particles start elsewhere
            return None
        return None if mixture is None else cls(mixture, particles)

    def _lower(self, example: tuple[Tensor, Tensor], how: Compile, calls: int) -> Lowered:
        self._by_half = self._together
        return Lowered(self._together, False)

    def _parts(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """eta (k, p), c (k,), what is the same in all components, and log p_0, at one vector (size,)."""
        values, jacobian = self.density.view.constrain_globals(u)
        expected = self.mixture.expected(values)
        natural, constant, shared = self.mixture.natural(expected)
        return natural, constant, shared, self.mixture.rest(expected) + jacobian

    def _together(self, u: Tensor, temperature: Tensor) -> Evaluated:
        """Both log densities of vectors (chunk, size), and the gradient of the tempered one."""
        with torch.enable_grad():
            leaf = u.detach().requires_grad_()
            natural, constant, shared, prior = torch.vmap(self._parts)(leaf)
            swept = self._swept(natural.detach(), constant.detach())
            along = _product(natural, swept.sums) + _product(constant, swept.counts)
            (gradient,) = torch.autograd.grad((prior + temperature * (along + shared)).sum(), leaf)
        joint = prior + shared + swept.value + self.mixture.base
        return prior.detach(), joint.detach(), gradient

    def _swept(self, natural: Tensor, constant: Tensor) -> Swept:
        """Sweep the rows for some particles at a time: (particles, k, p) and (particles, k)."""
        size = max(1, ENTRIES // (natural.shape[1] * max(1, len(self.program.data))))
        pieces = zip(natural.split(size), constant.split(size), strict=True)
        found = [self.mixture.sweep(eta, c) for eta, c in pieces]
        return Swept(*(torch.cat([getattr(f, n) for f in found]) for n in ("value", "counts", "sums")))

    def accurate(self, u: Tensor, joint: Tensor) -> bool:
        """Whether log p_1 at vectors (count, size) is what the program says: rounding of expanded squares may show."""
        each = torch.linspace(0, len(u) - 1, min(FEW, len(u)), device=u.device).long()
        known = torch.vmap(self.density.log_prob)(u[each])
        off = (joint[each] - known).abs()
        return bool((off <= ACCURACY[self.program.dtype] * (1 + known.abs())).all())


def _product(coefficients: Tensor, statistics: Tensor) -> Tensor:
    """<coefficients, statistics> of each particle, (particles,); coefficients of -inf go with statistics of 0."""
    return torch.where(coefficients.isfinite(), coefficients * statistics, 0.0).flatten(1).sum(1)
