"""Bijections from unconstrained vectors onto the supports of sites, with their log Jacobians."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ComposeTransform, StickBreakingTransform, Transform, identity_transform
from torch.nn.functional import pad

from zoo.errors import ModelError
from zoo.replay.bernoulli import log_sigmoid

as_they_are = ComposeTransform([])  # counts among real numbers, with nothing to change and no Jacobian


def _tril(vector: Tensor, size: int) -> Tensor:
    """Fill the lower triangle of a `size` x `size` matrix from a vector, exponentiating the diagonal."""
    row, column = torch.tril_indices(size, size, device=vector.device)
    where = torch.zeros(size, size, dtype=torch.long, device=vector.device)
    where[row, column] = torch.arange(len(row), device=vector.device)
    lower = vector[..., where].tril(-1)
    return lower + torch.diag_embed(vector[..., where.diagonal()].exp())


def _flatten(tril: Tensor) -> Tensor:
    size = tril.shape[-1]
    row, column = torch.tril_indices(size, size, device=tril.device)
    vector = tril[..., row, column]
    return torch.where(row == column, vector.clamp_min(torch.finfo(vector.dtype).tiny).log(), vector)


def _size(length: int) -> int:
    return (math.isqrt(8 * length + 1) - 1) // 2


class CholeskyVector(Transform):
    """u in R^{D(D+1)/2} -> lower triangular L with L_ii = exp(u_ii); log|J| = sum_i u_ii."""

    domain = constraints.real_vector
    codomain: constraints.Constraint = constraints.lower_cholesky
    bijective = True

    def __eq__(self, other: object) -> bool:
        """All instances are the same map."""
        return type(self) is type(other)

    def _call(self, x: Tensor) -> Tensor:
        return _tril(x, _size(x.shape[-1]))

    def _inverse(self, y: Tensor) -> Tensor:
        return _flatten(y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log Jacobian, summed over the matrix."""
        return y.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def forward_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the matrix for a vector's shape."""
        size = _size(shape[-1])
        return torch.Size((*shape[:-1], size, size))

    def inverse_shape(self, shape: torch.Size) -> torch.Size:
        """Shape of the vector for a matrix's shape."""
        return torch.Size((*shape[:-2], shape[-1] * (shape[-1] + 1) // 2))


class PositiveDefiniteVector(CholeskyVector):
    """u -> S = L L^T with L_ii = exp(u_ii); log|J| = D log 2 + sum_{i=1..D} (D - i + 2) u_ii.

    The Jacobian of L -> L L^T is 2^D prod_i L_ii^{D - i + 1} (Muirhead 1982, theorem 2.1.9).
    """

    codomain = constraints.positive_definite

    def _call(self, x: Tensor) -> Tensor:
        tril = _tril(x, _size(x.shape[-1]))
        return tril @ tril.mT

    def _inverse(self, y: Tensor) -> Tensor:
        return _flatten(torch.linalg.cholesky(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log Jacobian, summed over the matrix."""
        size = y.shape[-1]
        where = torch.tensor([i * (i + 3) // 2 for i in range(size)], device=x.device)
        power = torch.arange(size + 1, 1, -1, dtype=x.dtype, device=x.device)
        return size * math.log(2.0) + (power * x[..., where]).sum(-1)


class LogStickBreaking(StickBreakingTransform):
    """u in R^(K-1) -> probabilities, by fractions of what is left: y_k = z_k prod_{j<k} (1 - z_j).

    z_k = sigmoid(u_k - log(K - k)), so u = 0 is the uniform distribution (Stan's simplex). The product is a sum of
    logarithms here: fewer operations than torch's, and no 0 for a 1 - z that is small.
    """

    def _call(self, x: Tensor) -> Tensor:
        log_taken, log_left = self._parts(x)
        return (pad(log_taken, (0, 1)) + pad(log_left, (1, 0))).exp()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return sum_k log(1 - z_k) + log y_k, k < K."""
        log_taken, log_left = self._parts(x)
        return (log_left + log_taken).sum(-1)

    @staticmethod
    def _parts(x: Tensor) -> tuple[Tensor, Tensor]:
        """log z, and log of what is left after each."""
        left = torch.arange(x.shape[-1], 0, -1, dtype=x.dtype, device=x.device)
        z = x - left.log()
        return log_sigmoid(z), log_sigmoid(-z).cumsum(-1)


def lowest_count(support: constraints.Constraint) -> int | None:
    """Return the least of the integers that a support without upper end begins with; None for any other support."""
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    return int(base.lower_bound) if isinstance(base, type(constraints.nonnegative_integer)) else None


def bijection(support: constraints.Constraint, site: str) -> Transform:
    """Return the bijection from unconstrained space onto `support`; counts stand there as they are.

    Raises
    ------
    ModelError
        If there is none: the support of `site` is discrete or unknown to torch.
    """
    base = support.base_constraint if isinstance(support, constraints.independent) else support
    if base is constraints.real or base is constraints.real_vector:
        return identity_transform
    if base is constraints.positive_definite:
        return PositiveDefiniteVector()
    if base is constraints.lower_cholesky:
        return CholeskyVector()
    if base is constraints.simplex:
        return LogStickBreaking()
    if lowest_count(support) is not None:
        return as_they_are
    try:
        transform: Transform = biject_to(support)
    except NotImplementedError:
        raise ModelError(f"site {site!r}: no bijection from unconstrained space onto its support {support}") from None
    return transform


def log_abs_det(transform: Transform, x: Tensor, y: Tensor, batch_dim: int) -> Tensor:
    """Log Jacobian of `transform` at x -> y, with every dimension right of the first `batch_dim` summed."""
    if transform is identity_transform:
        return x.new_zeros(x.shape[:batch_dim])
    value: Tensor = transform.log_abs_det_jacobian(x, y)
    return value.reshape(*value.shape[:batch_dim], -1).sum(-1)
