"""Maps from unconstrained numbers to positive-definite matrices, for gradient steps on covariances."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from zoo.replay.bijections import PositiveDefiniteVector

RIDGE = 1e-8  # smallest eigenvalue of what is mapped back, as a share of its largest: rounding leaves some below 0


class _Square(Transform):
    """Base of the maps from square matrices of unconstrained numbers, (..., d, d), to as many matrices.

    They have more numbers than the matrix has: d^2 for d (d + 1) / 2. Several of them map to the same matrix, and a
    climb does not mind which.
    """

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
    """S = L L^T, L the lower triangle of the numbers, of any sign on the diagonal (Pinheiro and Bates 1996, 2.1).

    Smooth where an entry of the diagonal passes 0, which the log of "log_cholesky" takes for minus infinity.
    """

    def _call(self, x: Tensor) -> Tensor:
        lower = x.tril()  # what is above the diagonal has no gradient, and stays where it is
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
        # y = V diag(values) V^T with values ascending; V scaled column by column, and no matrix diag(values) is made.
        values, vectors = torch.linalg.eigh(y)
        root: Tensor = (vectors * values.clamp_min(RIDGE * values[..., -1:]).sqrt()[..., None, :]) @ vectors.mT
        return root


class MatrixLog(_Square):
    """S = exp(B), B the symmetric part of the numbers (Pinheiro and Bates 1996, section 2.4).

    Equivariant under rotations: no entry of the matrix is treated unlike the others.
    """

    def _call(self, x: Tensor) -> Tensor:
        # By scaling and squaring: the gradient of an eigendecomposition is 0 / 0 where eigenvalues are equal, as those
        # of a starting covariance often are.
        made: Tensor = torch.linalg.matrix_exp(0.5 * (x + x.mT))
        return made

    def _inverse(self, y: Tensor) -> Tensor:
        values, vectors = torch.linalg.eigh(y)  # never differentiated: maps are inverted at a start only
        log: Tensor = (vectors * values.clamp_min(RIDGE * values[..., -1:]).log()[..., None, :]) @ vectors.mT
        return log


POSITIVE_DEFINITE: dict[str, type[Transform]] = {
    "log_cholesky": PositiveDefiniteVector,
    "cholesky": CholeskySquare,
    "additive": Additive,
    "matrix_log": MatrixLog,
}
