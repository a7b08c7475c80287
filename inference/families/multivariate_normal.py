"""Multivariate Normal with unknown mean and covariance; Normal-Wishart prior."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from inference.families.family import EMPTY, Block, Expected
from inference.families.location_scale import FLOOR, LocationScaleBlock, LocationScaleFamily
from zoo.declare.densities import BLOCK
from zoo.declare.evaluate import Values
from zoo.declare.sites import Site


class MultivariateNormalFamily(LocationScaleFamily):
    """x ~ Normal(m, S): statistics sum w, sum w x, sum w x x^T.

    Maximum m = sum w x / sum w, S = sum w (x - m)(x - m)^T / sum w, pooled over components if S is shared. With
    P = S^-1 ~ Wishart(nu, V) and m ~ Normal(m0, (kappa P)^-1) the mode of the Normal-Wishart posterior
    (Murphy 2007, section 8).
    """

    likelihoods: ClassVar[dict[str, str]] = {"MultivariateNormal": "loc"}
    scales: ClassVar[dict[str, str]] = {"covariance_matrix": "", "precision_matrix": "Wishart"}
    joint = "precision_matrix"
    rank = 0

    def block(self, site: Site, names: tuple[str, str], argument: str, kappa: float) -> Block:
        """Make the block for one site."""
        return MultivariateNormalBlock(site, names, argument, kappa)


class MultivariateNormalBlock(LocationScaleBlock):
    """Update of means and covariances."""

    def smallest(self, value: Tensor, spread: Tensor) -> Tensor:
        """Smallest eigenvalue, in units of the data's standard deviations."""
        covariance = value if self.argument == "covariance_matrix" else inverse(value)
        unit = spread.sqrt()
        scaled = covariance / (unit[:, None] * unit)
        found: Tensor = torch.linalg.eigvalsh(scaled.reshape(-1, *scaled.shape[-2:]))[:, 0]
        return found

    def update(self, expected: Expected, weight: Tensor, x: Tensor, center: Tensor, spread: Tensor) -> Values:
        """Update from weights (k, n) and centred rows (n, d)."""
        s0, s1 = weight.sum(1), weight @ x
        loc, mean, prior_mean = self.location(expected, s0[:, None], s1, center)
        second = outer_products(weight, x)
        cross = mean[:, :, None] * s1[:, None, :]
        scatter = second - cross - cross.mT + s0[:, None, None] * mean[:, :, None] * mean[:, None, :]
        current = expected.values[self.names[1]]
        if not self.site.args[self.argument].index:
            scatter, count = scatter.sum(0, keepdim=True), s0.sum(0, keepdim=True)
        else:
            count = s0
        prior = self.prior(expected)
        unit = spread.sqrt()
        if prior is None:
            covariance = floored(scatter / count.clamp_min(EMPTY)[:, None, None], unit)
            new = covariance if self.argument == "covariance_matrix" else inverse(covariance)
            alive = count > EMPTY
        else:
            inner = scatter + prior.precision_matrix
            power = prior.df - (x.shape[1] + 1) + count
            if self.kappa:
                shift = mean - prior_mean
                outer = self.kappa * shift[:, :, None] * shift[:, None, :]
                inner, power = inner + (outer if len(count) > 1 else outer.sum(0, keepdim=True)), power + 1.0
            new, alive = power[:, None, None] * inverse(inner), power > 0
        new = torch.where(alive[:, None, None], new, current.reshape(new.shape))
        return {self.names[0]: loc, self.names[1]: new.reshape(current.shape)}


def outer_products(weight: Tensor, x: Tensor) -> Tensor:
    """sum_i w_ki x_i x_i^T, shape (k, d, d), from weights (k, n) and rows (n, d), a block of rows at a time."""
    k, d = len(weight), x.shape[1]
    total = x.new_zeros(k, d, d)
    size = max(64, BLOCK // (k * d))
    for start in range(0, len(x), size):
        part = x[start : start + size]
        weighted = weight[:, start : start + size, None] * part
        total.baddbmm_(weighted.mT, part.expand(k, *part.shape))
    return total


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of positive-definite matrices through their Cholesky factors."""
    inverted: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(0.5 * (matrix + matrix.mT)))
    return inverted


def floored(covariance: Tensor, unit: Tensor) -> Tensor:
    """Raise eigenvalues below FLOOR, in units of the data's standard deviations, to FLOOR.

    This is the maximum of the likelihood over covariances with no eigenvalue below the floor, so EM stays monotone.
    """
    scale = unit[:, None] * unit[None, :]
    scaled = 0.5 * (covariance + covariance.mT) / scale
    floor = FLOOR * torch.eye(len(unit), dtype=covariance.dtype, device=covariance.device)
    if not bool(torch.linalg.cholesky_ex(scaled - floor).info.any()):
        return scaled * scale
    values, vectors = torch.linalg.eigh(scaled)
    raised: Tensor = (vectors * values.clamp_min(FLOOR)[..., None, :]) @ vectors.mT * scale
    return raised
