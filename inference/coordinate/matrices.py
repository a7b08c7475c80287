"""Maps from unconstrained numbers to positive-definite matrices, for gradient steps on covariances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from zoo.replay.bijections import PositiveDefiniteVector

RIDGE = 1e-8  # c of A A^T + c I, as a share of the largest diagonal entry of what is mapped back


class _Square(Transform):
    """Base of the maps from square matrices of unconstrained numbers."""

    domain = constraints.independent(constraints.real, 2)
    codomain: constraints.Constraint = constraints.positive_definite
    bijective = False

    def __eq__(self, other: object) -> bool:
        """All instances are the same map."""
        return type(self) is type(other)

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the unconstrained matrix: that of the matrix."""
        return shape

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the matrix: that of the unconstrained one."""
        return shape


class CholeskySquare(_Square):
    """S = L L^T, L the lower triangle of the numbers, of any sign on the diagonal (Pinheiro and Bates 1996, 2.1)."""

    def _call(self, x: Tensor) -> Tensor:
        lower = x.tril()
        made: Tensor = lower @ lower.mT
        return made

    def _inverse(self, y: Tensor) -> Tensor:
        root: Tensor = torch.linalg.cholesky(y)
        return root


class Additive(_Square):
    """S = A A^T, to which the gradient step adds c I; mapped back by the symmetric square root."""

    def _call(self, x: Tensor) -> Tensor:
        made: Tensor = x @ x.mT
        return made

    def _inverse(self, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(y)
        root: Tensor = (vectors * values.clamp_min(RIDGE * values[..., -1:]).sqrt()[..., None, :]) @ vectors.mT
        return root


class MatrixLog(_Square):
    """S = exp(B), B the symmetric part of the numbers (Pinheiro and Bates 1996, section 2.4)."""

    def _call(self, x: Tensor) -> Tensor:
        made: Tensor = torch.linalg.matrix_exp(0.5 * (x + x.mT))
        return made

    def _inverse(self, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(y)
        log: Tensor = (vectors * values.clamp_min(RIDGE * values[..., -1:]).log()[..., None, :]) @ vectors.mT
        return log


POSITIVE_DEFINITE: dict[str, type[Transform]] = {
    "log_cholesky": PositiveDefiniteVector,
    "cholesky": CholeskySquare,
    "additive": Additive,
    "matrix_log": MatrixLog,
}
