"""Low-rank guide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from guides.guide import Guide, names_of
from guides.joint import joint, joint_size
from guides.start import Start
from guides.variational import LOG_2PI, LocationScale, Variational
from zoo.data.data import Data
from zoo.program.program import Program

LARGEST = 10_000_000  # numbers in the factor
FIRST = 0.1  # natural steps: size of the factor at the start, where zero would be a saddle point


@dataclass(frozen=True, init=False, repr=False)
class LowRank(Guide):
    """One Normal over all continuous latents with a covariance of low rank plus a diagonal.

    q(u) = Normal(u | m, U U^T + D^2) in unconstrained space, U of shape (coordinates, rank), D diagonal. Globals and
    locals are one vector, as in `FullRank`; time and memory grow with coordinates times rank (Ong, Nott and Smith 2018,
    "Gaussian variational approximation with a factor covariance structure").

    Parameters
    ----------
    rank
        Columns of U. None: the square root of the number of coordinates, rounded.
    names
        Sites it covers, where another guide covers the others.

    Examples
    --------
    >>> import zoo
    >>> from guides import LowRank
    >>> from inference import SVI, fit
    >>> line = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0.1, 0.9, 2.2, 2.9]}
    >>> result = fit(zoo.BayesianRegression(), line, method=SVI(guide=LowRank(rank=1), steps=100), seed=0)
    >>> dict(result.sample(10, seed=0).sizes)
    {'chain': 1, 'draw': 10, 'feature': 1}
    """

    rank: PositiveInt | None = None
    sites: tuple[str, ...] = ()

    def __init__(self, rank: PositiveInt | None = None, *names: str, sites: Sequence[str] = ()) -> None:
        self.set_fields(rank=rank, sites=names_of("LowRank", names, sites))

    def why_not(self, program: Program) -> str | None:
        # Refuse factors that do not fit in memory
        if (reason := super().why_not(program)) is not None:
            return reason
        size = joint_size(program)
        if size * self._rank(size) > LARGEST:
            return (
                f"LowRank over {size} coordinates needs {size * self._rank(size)} parameters at rank "
                f"{self._rank(size)} (at most {LARGEST} are allowed); use a lower rank, or MeanField()"
            )
        return None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, centred at the start with one natural step as its standard deviation, nearly without correlation
        return joint(start, lambda point, unit: LowRankNormal(point, unit, self._rank(len(point))))

    def _rank(self, size: int) -> int:
        return max(1, round(size**0.5)) if self.rank is None else self.rank


class LowRankNormal(LocationScale):
    """u = start + unit * (loc + U eps_1 + exp(log_scale) * eps_2), eps ~ Normal(0, I).

    With C = I + U^T D^-2 U, log q follows from the Woodbury identity (U U^T + D^2)^-1 = D^-2 - D^-2 U C^-1 U^T D^-2
    and from |U U^T + D^2| = |C| |D|^2.
    """

    def __init__(self, start: Tensor, unit: Tensor, rank: int) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.factor = nn.Parameter(FIRST * rank**-0.5 * torch.randn(len(start), rank).to(start))

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each column of U and for each coordinate."""
        return (sum(self.factor.shape),)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the whole vector (size,).

        The density is evaluated at the draw, because the noise is rank + size numbers and cannot be got back from size.
        """
        size, rank = self.factor.shape
        common, own = noise.split([rank, size])
        at = self.loc + self.factor @ common + self.log_scale.exp() * own
        log_scale = self.log_scale.detach()
        whitened = self.factor.detach() * (-log_scale).exp()[:, None]  # D^-1 U, (size, rank)
        gap = (at - self.loc.detach()) * (-log_scale).exp()  # D^-1 (u - m)
        tril = torch.linalg.cholesky(torch.eye(rank).to(whitened) + whitened.mT @ whitened)  # of C, (rank, rank)
        # By Woodbury the quadratic form is |gap|^2 - |inner|^2: no matrix of size x size is ever made.
        inner = torch.linalg.solve_triangular(tril, (whitened.mT @ gap)[:, None], upper=False)[:, 0]
        log_det = tril.diagonal().log().sum() + (log_scale + self.unit.log()).sum()
        log_q = -0.5 * (size * LOG_2PI + gap.square().sum() - inner.square().sum()) - log_det
        return self.start + self.unit * at, log_q
