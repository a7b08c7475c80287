"""Full-rank guide."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from guides.guide import Guide
from guides.joint import joint, joint_size
from guides.start import Start
from guides.variational import LOG_2PI, LocationScale, Variational
from zoo.data.data import Data
from zoo.program.program import Program

LARGEST = 1000  # coordinates: beyond this the covariance has half a million entries


@dataclass(frozen=True, init=False, repr=False)
class FullRank(Guide):
    """One Normal with full covariance over all continuous latents.

    q(u) = Normal(u | m, L L^T) in unconstrained space. Globals and locals are one vector, so their dependence is part
    of q (Kucukelbir et al. 2017, section 2.3).

    Parameters
    ----------
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import FullRank
    >>> from inference import SVI, fit
    >>> line = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0.1, 0.9, 2.2, 2.9]}
    >>> result = fit(zoo.BayesianRegression(), line, method=SVI(guide=FullRank(), steps=100), seed=0)
    >>> list(result.posterior["posterior"].data_vars)
    ['precision', 'coefficients', 'intercept']
    """

    sites: tuple[str, ...] = ()

    def why_not(self, program: Program) -> str | None:
        # Refuse very long vectors
        if (reason := super().why_not(program)) is not None:
            return reason
        size = joint_size(program)
        if size > LARGEST:
            return (
                f"{type(self).__name__} over {size} coordinates needs {size * (size + 1) // 2} parameters (at most "
                f"{LARGEST} coordinates are allowed); use LowRank() or MeanField()"
            )
        return None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, centred at the start, with the curvature there for its covariance as far as that is known
        factor = None if program.locals else start.factor
        return joint(start, lambda point, unit: FullNormal(point, unit, factor))


class FullNormal(LocationScale):
    """u = start + C (loc + L eps), eps ~ Normal(0, I), L lower triangular with exp(log_scale) on its diagonal.

    C is the factor of a first guess of the covariance; by default diagonal, with the natural units.
    """

    factor: Tensor

    def __init__(self, start: Tensor, unit: Tensor, factor: Tensor | None = None) -> None:
        super().__init__(start, unit)
        self.register_buffer("factor", torch.diag(unit) if factor is None else factor.clone())
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.lower = nn.Parameter(start.new_zeros(len(start), len(start)))

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate."""
        return tuple(self.loc.shape)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the whole vector (size,).

        The noise is got back from the draw by the factor held fixed: the same numbers, but with their gradient through
        the draw only (`Pushforward.draw`).
        """
        tril = self.lower.tril(-1) + torch.diag(self.log_scale.exp())
        at = self.loc + tril @ noise
        back = torch.linalg.solve_triangular(tril.detach(), (at - self.loc.detach())[:, None], upper=False)[:, 0]
        log_unit = self.factor.diagonal().log()  # C is triangular too, so log|C| is the sum of these
        log_q = -(0.5 * (LOG_2PI + back.square()) + self.log_scale.detach() + log_unit).sum()
        return self.start + self.factor @ at, log_q
