"""Posteriors in factor models: of the latent of every row, and of the coefficients of every column."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.coefficients import Entangled
from inference.conjugate.exponential_family import Moments
from inference.conjugate.factor_tables import AffineMap, PatternMap
from inference.conjugate.posteriors import Posterior, mix
from zoo.replay.evaluate import Values


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
        affine: AffineMap | PatternMap | None = None,
    ) -> None:
        self.names, self.tril, self.events, self.affine = names, tril, events, affine
        if loc is not None:
            self.loc = loc

    def moved(self, tril: Tensor, affine: AffineMap | PatternMap) -> LocalNormal:
        """Return the same with other locations and covariances."""
        return LocalNormal(self.names, tril, self.events, affine=affine)

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
        return z.reshape(*z.shape[: z.ndim - len(self.events)], self.tril.shape[-1])

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


class PatternNormal(LocalNormal):
    """z_i ~ Normal(loc_i, L_p L_p^T), p the pattern of what row i misses: tril (patterns, q, q).

    Parameters
    ----------
    names, tril, events, loc, affine
        As of `LocalNormal`.
    which
        Pattern of each row, (n,).
    """

    kind = "pattern_normal"

    def __init__(
        self,
        names: tuple[str, ...],
        tril: Tensor,
        which: Tensor,
        events: tuple[int, ...] = (),
        loc: Tensor | None = None,
        affine: AffineMap | PatternMap | None = None,
    ) -> None:
        super().__init__(names, tril, events, loc, affine)
        self.which = which

    def moved(self, tril: Tensor, affine: AffineMap | PatternMap) -> LocalNormal:
        """Return the same with other locations and covariances."""
        return PatternNormal(self.names, tril, self.which, self.events, affine=affine)

    @cached_property
    def cov(self) -> Tensor:
        """Of each row, (n, q, q)."""
        return (self.tril @ self.tril.mT)[self.which]

    def sample(self, count: int) -> Values:
        """Independent draws."""
        noise = torch.randn(count, *self.loc.shape, dtype=self.loc.dtype, device=self.loc.device)
        return {self.names[0]: self._shaped(self.loc + (self.tril[self.which] @ noise[..., None])[..., 0])}

    def log_prob(self, values: Values) -> Values:
        """Log density of every row, (..., n)."""
        gap = self._flat(values) - self.loc
        white = torch.linalg.solve_triangular(self.tril[self.which], gap[..., None], upper=False)
        return {self.names[0]: -0.5 * white.square().sum((-1, -2)) - self._volumes()}

    def _volumes(self) -> Tensor:
        """(q log 2 pi + log |L_p L_p^T|) / 2 of each row, (n,)."""
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return (0.5 * self.tril.shape[-1] * math.log(2 * math.pi) + log_det)[self.which]

    def entropy(self) -> Values:
        """(q log 2 pi e + log |L_p L_p^T|) / 2 of every row."""
        return {self.names[0]: self._volumes() + 0.5 * self.tril.shape[-1]}

    def cross(self, other: Self) -> Values:
        """-(tr(C'^-1 C) + d^T C'^-1 d) / 2 - volume' of every row, d the difference of the means."""
        root = other.tril[other.which]
        trace = torch.linalg.solve_triangular(root, self.tril[self.which], upper=False).square().sum((-1, -2))
        gap = torch.linalg.solve_triangular(root, (self.loc - other.loc)[..., None], upper=False)
        return {self.names[0]: -0.5 * (trace + gap.square().sum((-1, -2))) - other._volumes()}

    def moments(self, name: str) -> Moments:
        """Mean, variances and covariance of every row."""
        variance = self.cov.diagonal(dim1=-2, dim2=-1)
        return {"mean": self._shaped(self.loc), "var": self._shaped(variance), "cov": self.cov}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """The distribution itself."""
        normal = dist.MultivariateNormal(self.loc, scale_tril=self.tril[self.which])
        return normal if len(self.events) == 1 else Entangled(normal, self._shaped(self.loc).shape, len(self.events))

    def blend(self, other: Self, rate: float) -> Self:
        """Mix precisions, and precision-weighted means; of the same rows."""
        own, theirs = torch.cholesky_inverse(self.tril), torch.cholesky_inverse(other.tril)
        cov = torch.cholesky_inverse(torch.linalg.cholesky(mix(own, theirs, rate)))
        mine, others = ((q.loc[:, None] @ p[q.which])[:, 0] for q, p in ((self, own), (other, theirs)))
        right = mix(mine, others, rate)
        loc = (cov[self.which] @ right[..., None])[..., 0]
        return type(self)(self.names, torch.linalg.cholesky(cov), self.which, self.events, loc)

    def tensors(self) -> dict[str, Tensor]:
        """loc, tril, which."""
        return {**super().tensors(), "which": self.which}
