"""Variances, precisions and covariances on this side of a floor: densities of columns that do not vary need one."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints, transform_to
from torch.distributions.transforms import ExpTransform, Transform

from zoo.replay.bijections import PositiveDefiniteVector

Kind = Literal["variances", "precisions", "covariances"]


class Above(constraints.Constraint):
    """Variances above floors, v_j > f_j; precisions with 1 / p_j > f_j; covariances with C - diag(f) positive definite.

    Parameters
    ----------
    floor
        f, shape (columns,).
    of
        What values are.
    """

    def __init__(self, floor: Tensor, of: Kind = "variances") -> None:
        self.floor, self.of = floor, of

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        """Dimensions that are checked together."""
        return 2 if self.of == "covariances" else 0

    def __repr__(self) -> str:
        """Say what values are."""
        return f"{self.of} above a floor"

    def check(self, value: Tensor) -> Tensor:
        """Whether values are above."""
        if self.of == "variances":
            return value > self.floor
        if self.of == "precisions":
            return (value > 0) & (value * self.floor < 1)
        inside: Tensor = constraints.positive_definite.check(value - torch.diag(self.floor))
        return inside


class _Floored(Transform):
    """Base of the maps from unconstrained numbers to values above a floor."""

    def __init__(self, floor: Tensor) -> None:
        super().__init__()
        self.floor = floor

    def __eq__(self, other: object) -> bool:
        """The same floor is the same map."""
        return type(self) is type(other) and torch.equal(self.floor, getattr(other, "floor", torch.tensor([])))


class AboveExp(_Floored, ExpTransform):
    """u -> f + exp(u); log|J| = u."""

    def _call(self, x: Tensor) -> Tensor:
        return self.floor + x.exp()

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.floor).log()


class BelowReciprocal(AboveExp):
    """u -> 1 / (f + exp(-u)); log|J| = -u - 2 log(f + exp(-u))."""

    def _call(self, x: Tensor) -> Tensor:
        return super()._call(-x).reciprocal()

    def _inverse(self, y: Tensor) -> Tensor:
        return -super()._inverse(y.reciprocal())

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the log Jacobian of each entry."""
        return 2 * y.log() - x


class AbovePositiveDefinite(_Floored, PositiveDefiniteVector):
    """u -> diag(f) + L L^T, with the Jacobian of the latter."""

    def _call(self, x: Tensor) -> Tensor:
        return super()._call(x) + torch.diag(self.floor)

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse(y - torch.diag(self.floor))


def _bijection(support: Above) -> Any:
    kinds = {"variances": AboveExp, "precisions": BelowReciprocal, "covariances": AbovePositiveDefinite}
    return kinds[support.of](support.floor)


for registry in (biject_to, transform_to):
    registry.register(Above, _bijection)
