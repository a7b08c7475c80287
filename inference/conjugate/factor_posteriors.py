"""Posteriors in factor models: of the latent of every row, and of the coefficients of every column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.coefficients import Entangled
from inference.conjugate.exponential_family import Moments
from inference.conjugate.posteriors import Posterior, mix
from zoo.replay.evaluate import Values


@dataclass(eq=False)
class Table:
    """Rows of all the columns that one latent feeds, about the means of the columns.

    Attributes
    ----------
    x
        Shape (n, D).
    weights
        Of the rows; None for 1.
    spans
        Site -> its columns.
    """

    x: Tensor
    weights: Tensor | None
    spans: dict[str, slice]

    @cached_property
    def count(self) -> float:
        """Sum of the weights."""
        return float(len(self.x) if self.weights is None else self.weights.sum())

    @cached_property
    def squares(self) -> Tensor:
        """sum_i w_i x_ij^2 in double precision, (D,)."""
        if self.moments is not None:
            return self.moments.diagonal()[1:]
        x = self.x.double()
        return x.square().sum(0) if self.weights is None else self.weights.double() @ x.square()

    @cached_property
    def moments(self) -> Tensor | None:
        """sum_i w_i (1, x_i) (1, x_i)^T in double precision, (D + 1, D + 1); None if columns outnumber rows."""
        if self.x.shape[1] > len(self.x):
            return None
        one = torch.nn.functional.pad(self.x.double(), (1, 0), value=1.0)
        return one.mT @ (one if self.weights is None else self.weights.double()[:, None] * one)

    def sums(self, loc: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
        """sum w E[(1, z)(1, z)^T], (q + 1, q + 1), and sum w E[(1, z)] x^T, (q + 1, D); z_i ~ Normal(loc_i, cov)."""
        one = torch.nn.functional.pad(loc.double(), (1, 0), value=1.0)
        weighted = one if self.weights is None else self.weights.double()[:, None] * one
        return one.mT @ weighted + self.count * padded(cov), weighted.mT @ self.x.double()


def padded(cov: Tensor) -> Tensor:
    """Return a covariance with a row and a column of zeros before it: that of (1, z)."""
    return torch.nn.functional.pad(cov, (1, 0, 1, 0))


@dataclass(eq=False)
class AffineMap:
    """E[(1, z_i)] = gain (1, x_i): the latent of every row by the same affine map of the row.

    Attributes
    ----------
    table
        The rows.
    gain
        Shape (q + 1, D + 1), double precision.
    cov
        Covariance of z_i given x_i, (q, q), double precision.
    """

    table: Table
    gain: Tensor
    cov: Tensor

    def loc(self) -> Tensor:
        """E[z_i] of all rows, (n, q)."""
        x = self.table.x
        return torch.addmm(self.gain[1:, 0].to(x.dtype), x, self.gain[1:, 1:].mT.to(x.dtype))

    @cached_property
    def sums(self) -> tuple[Tensor, Tensor]:
        """`Table.sums`, from the second moments of the rows where these are known."""
        moments = self.table.moments
        if moments is None:
            return self.table.sums(self.loc(), self.cov)
        cross = self.gain @ moments
        return cross @ self.gain.mT + self.table.count * padded(self.cov), cross[:, 1:]


class LocalNormal(Posterior):
    """z_i ~ Normal(loc_i, L L^T), independent between rows, with the same covariance in all.

    Parameters
    ----------
    names
        Name of the latent.
    tril
        L, shape (q, q).
    events
        Shape of one row's value.
    loc
        Shape (n, q).
    affine
        What `loc` is made of when it is needed, in place of it.
    """

    kind: ClassVar[str] = "local_normal"

    def __init__(
        self,
        names: tuple[str, ...],
        tril: Tensor,
        events: tuple[int, ...] = (),
        loc: Tensor | None = None,
        affine: AffineMap | None = None,
    ) -> None:
        self.names, self.tril, self.events, self.affine = names, tril, events, affine
        if loc is not None:
            self.loc = loc

    @cached_property
    def loc(self) -> Tensor:
        """Mean of every row, (n, q)."""
        assert self.affine is not None
        return self.affine.loc()

    @cached_property
    def cov(self) -> Tensor:
        """L L^T."""
        return self.tril @ self.tril.mT

    def _shaped(self, z: Tensor) -> Tensor:
        return z.reshape(*z.shape[:-1], *self.events)

    def _flat(self, values: Mapping[str, Tensor]) -> Tensor:
        z = values[self.names[0]]
        return z.reshape(*z.shape[: z.ndim - len(self.events)], len(self.tril))

    def mean(self) -> Values:
        """The location."""
        return {self.names[0]: self._shaped(self.loc)}

    def sample(self, count: int) -> Values:
        """Independent draws."""
        noise = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return {self.names[0]: self._shaped(torch.baddbmm(self.loc[None], noise, self.tril.mT.expand(count, -1, -1)))}

    def log_prob(self, values: Values) -> Values:
        """Log density of every row, (..., n)."""
        gap = self._flat(values) - self.loc
        white = torch.linalg.solve_triangular(self.tril.mT, gap, upper=True, left=False)
        return {self.names[0]: -0.5 * white.square().sum(-1) - self._volume()}

    def _volume(self) -> Tensor:
        """(q log 2 pi + log |L L^T|) / 2."""
        return 0.5 * len(self.tril) * math.log(2 * math.pi) + self.tril.diagonal().log().sum()

    def entropy(self) -> Values:
        """(q log 2 pi e + log |L L^T|) / 2 of every row."""
        rows = len(self.loc) if self.affine is None else len(self.affine.table.x)
        return {self.names[0]: (self._volume() + 0.5 * len(self.tril)).expand(rows)}

    def cross(self, other: Self) -> Values:
        """-(tr(C'^-1 C) + d^T C'^-1 d) / 2 - volume' of every row, d the difference of the means."""
        trace = torch.linalg.solve_triangular(other.tril, self.tril, upper=False).square().sum()
        gap = torch.linalg.solve_triangular(other.tril.mT, self.loc - other.loc, upper=True, left=False)
        return {self.names[0]: -0.5 * (trace + gap.square().sum(-1)) - other._volume()}

    def moments(self, name: str) -> Moments:
        """Mean of every row; variances, and covariance, of any."""
        variance = self.cov.diagonal().reshape(self.events)
        return {"mean": self._shaped(self.loc), "var": variance, "cov": self.cov}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """The distribution itself."""
        normal = dist.MultivariateNormal(self.loc, scale_tril=self.tril)
        return normal if len(self.events) == 1 else Entangled(normal, self._shaped(self.loc).shape, len(self.events))

    def blend(self, other: Self, rate: float) -> Self:
        """Mix precisions, and precision-weighted means."""
        own, theirs = torch.cholesky_inverse(self.tril), torch.cholesky_inverse(other.tril)
        root = torch.linalg.cholesky(mix(own, theirs, rate))
        right = mix(self.loc @ own, other.loc @ theirs, rate)
        tril = torch.linalg.cholesky(torch.cholesky_inverse(root))
        return type(self)(self.names, tril, self.events, torch.cholesky_solve(right.mT, root).mT)

    def tensors(self) -> dict[str, Tensor]:
        """loc, tril."""
        return {"loc": self.loc, "tril": self.tril}

    def describe(self) -> dict[str, Any]:
        """Shape of one row's value."""
        return {"events": list(self.events)}
