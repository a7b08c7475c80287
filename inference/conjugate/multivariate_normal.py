"""Multivariate Normal distributions: the likelihood of vectors, and the prior of a mean vector."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import (
    Arguments,
    ConjugatePrior,
    Entries,
    Moments,
    OuterProduct,
)
from inference.conjugate.location_scale import LocationScale, Scale
from inference.conjugate.wishart import inverse
from zoo.constant_columns import FLOOR


def _precision(tril: Tensor) -> Moments:
    """E[P] and E[log |P|] of a known P = (L L^T)^-1."""
    return {"mean": torch.cholesky_inverse(tril), "logdet": -2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)}


class MultivariateNormal(LocationScale, ConjugatePrior):
    """x ~ Normal(m, P^-1): T = (x, x x^T), eta = (P m, -P / 2), A = (m^T P m - log |P|) / 2, h = (2 pi)^(-d/2).

    x and m are taken about the data's mean. Given P, a mean m ~ Normal(m0, P0^-1) has a posterior with precision
    P0 + sum w P and mean precision^-1 (P0 m0 + sum w P x); given m, a precision P ~ Wishart(nu, V) has the posterior
    Wishart(nu + sum w, (V^-1 + sum w (x - m)(x - m)^T)^-1); P and m by their moments where they are unknown too
    (Murphy 2007, sections 6 to 8).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.MultivariateNormal,)
    dims: ClassVar[tuple[int, ...]] = (1, 2)
    event_dim: ClassVar[int] = 1
    conjugate: ClassVar[Mapping[str, str]] = {"loc": "MultivariateNormal", "precision_matrix": "Wishart"}
    alternatives: ClassVar[Mapping[str, Mapping[str, Callable[[Moments], Moments]]]] = {
        "precision_matrix": {
            "covariance_matrix": lambda c: _precision(torch.linalg.cholesky(c["mean"])),
            "scale_tril": lambda root: _precision(root["mean"]),
        }
    }
    scales: ClassVar[Mapping[str, Scale]] = {
        "precision_matrix": Scale(1, inverse, inverse),
        "covariance_matrix": Scale(-1, torch.clone, torch.clone),
        "scale_tril": Scale(-2, lambda root: root @ root.mT, torch.linalg.cholesky),
    }
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale_tril")
    centered: ClassVar[bool] = True
    completes: ClassVar[bool] = True

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[x] and E[x x^T]."""
        x = value["mean"]
        outer = x[..., :, None] * x[..., None, :]
        return x, outer + value["cov"] if "cov" in value else outer

    def row_statistics(self, fn: Any, value: Moments) -> tuple[Tensor | OuterProduct, ...]:
        """x and x x^T, not multiplied out."""
        return value["mean"], OuterProduct(value["mean"])

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[P m] and -E[P] / 2; E[log |P| - m^T P m] / 2. `quad` is E[(m - E m)^T P (m - E m)] of dependent m and P."""
        loc, precision = argument("loc"), argument("precision_matrix")
        m, p = loc["mean"] if center is None else loc["mean"] - center, precision["mean"]
        pm = (p @ m[..., None])[..., 0]
        spread: Tensor | float = 0.0
        if "quad" in loc:
            spread = loc["quad"]
        elif "cov" in loc:
            spread = (p * loc["cov"]).sum((-1, -2))
        return (pm, -0.5 * p), 0.5 * (precision["logdet"] - (pm * m).sum(-1) - spread)

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-d log(2 pi) / 2."""
        return -0.5 * float(fn.event_shape[-1]) * math.log(2 * math.pi)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (m, m m^T): sum w P x and -sum w P / 2; to (log |P|, P): half the count, minus half the scatter."""
        if argument != "loc":
            return 0.5 * entries.count, -0.5 * self.deviations(entries)
        p = entries.argument("precision_matrix")["mean"]
        first = entries.sums[0] + entries.offset * entries.count[..., None]
        return (p @ first[..., None])[..., 0], -0.5 * entries.count[..., None, None] * p

    def deviations(self, entries: Entries) -> Tensor:
        """sum w E[(x - m)(x - m)^T], about the center that x is about."""
        loc, center = entries.argument("loc"), entries.current.center(entries.site)
        m = loc["mean"] if center is None else loc["mean"] - center
        first, second = entries.sums
        cross, weight = m[..., :, None] * first[..., None, :], entries.count[..., None, None]
        scatter = second - cross - cross.mT + weight * (m[..., :, None] * m[..., None, :])
        return scatter + weight * loc["cov"] if "cov" in loc else scatter

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Precision -2 eta_2, mean precision^-1 eta_1."""
        root = torch.linalg.cholesky(-2 * natural[1])
        loc = torch.cholesky_solve(natural[0][..., None], root)[..., 0]
        tril = torch.linalg.cholesky(torch.cholesky_inverse(root))
        return dist.MultivariateNormal(loc if center is None else center + loc, scale_tril=tril)

    def moments(self, fn: Any) -> Moments:
        """Mean and covariance."""
        return {"mean": fn.loc, "cov": fn.covariance_matrix}

    def entropy(self, fn: Any) -> Tensor:
        """(d log 2 pi e + log |C|) / 2: <E[T], eta> is -d / 2, which no product of C and its inverse gives as well."""
        entropy: Tensor = fn.entropy()
        return entropy

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """-eta_2^-1 eta_1 / 2; not finite where eta_2 is 0."""
        precision = -2 * natural[1]
        empty = precision.diagonal(dim1=-2, dim2=-1).sum(-1) == 0
        eye = torch.eye(precision.shape[-1], dtype=precision.dtype, device=precision.device)
        found = torch.linalg.solve(torch.where(empty[..., None, None], eye, precision), natural[0][..., None])[..., 0]
        mode: Tensor = torch.where(empty[..., None], torch.nan, found)
        return mode

    def bounded(self, dispersion: Tensor, spread: Tensor, axes: Tensor | None = None) -> Tensor:
        """Raise eigenvalues below FLOOR, in units of the data's standard deviations, to FLOOR.

        This is the maximum of the likelihood over covariances with no eigenvalue below the floor, so EM stays monotone.
        With `axes`, the units along these are smaller where the data are tight.
        """
        scale = _outer(spread.sqrt())
        scaled = 0.5 * (dispersion + dispersion.mT) / scale
        if axes is not None:
            inverse = torch.linalg.inv(axes)
            scaled = inverse @ scaled @ inverse
            scaled = 0.5 * (scaled + scaled.mT)
        floor = FLOOR * torch.eye(spread.shape[-1], dtype=spread.dtype, device=spread.device)
        batched = torch._C._functorch.is_batchedtensor(scaled)
        if not batched and not bool(torch.linalg.cholesky_ex(scaled - floor).info.any()):
            # All are above it; a Cholesky factorization takes a tenth of the time of eigenvalues.
            return scaled * scale if axes is None else dispersion
        values, vectors = torch.linalg.eigh(scaled)
        raised = (vectors * values.clamp_min(FLOOR)[..., None, :]) @ vectors.mT
        still = (scaled == 0).all(-1)  # columns that do not vary, which rounding must not tie to others
        raised = torch.where(still[..., :, None] | still[..., None, :], floor, raised)
        if axes is not None:
            raised, scaled = axes @ raised @ axes, axes @ scaled @ axes
        bounded: Tensor = torch.where(values[..., :1, None] < FLOOR, raised, scaled) * scale
        return bounded

    def at_floor(self, dispersion: Tensor, spread: Tensor, axes: Tensor | None = None) -> Tensor:
        """Whether the smallest eigenvalue of each covariance, without columns of no spread, is next to its floor."""
        still = spread <= 0
        scaled = dispersion / _outer(torch.where(still, 1.0, spread).sqrt())
        if axes is not None:
            inverse = torch.linalg.inv(axes)
            scaled = inverse @ scaled @ inverse
        least: Tensor = torch.linalg.eigvalsh(scaled + torch.diag_embed(still.to(scaled)))[..., 0]
        return least <= 10 * FLOOR


def _outer(unit: Tensor) -> Tensor:
    """Products of the standard deviations of two columns."""
    return unit[..., :, None] * unit[..., None, :]
