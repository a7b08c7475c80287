"""Mixtures of Student's t over unconstrained vectors, fitted to weighted draws: proposals that do not miss tails."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

DEGREES = 5.0  # of freedom: tails heavier than a Normal's, means and covariances finite
LEAST = 0.02  # share of a component, so that none is given up
FEW = 10  # draws in effect, and some for each coordinate, that a refitted component is blended with


@dataclass(frozen=True)
class Students:
    """sum_k share_k t_5(u | m_k, L_k L_k^T).

    Attributes
    ----------
    shares, means, trils
        Shapes (K,), (K, size) and (K, size, size).
    fixed
        How many of the components, the last ones, are never refitted.
    """

    shares: Tensor
    means: Tensor
    trils: Tensor
    fixed: int

    def draw(self, count: int) -> Tensor:
        """Draws, shape (count, size), of each component as many as its share says."""
        sizes = (self.shares * count).floor().long()
        sizes[0] += count - int(sizes.sum())
        which = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        noise = torch.randn(count, self.means.shape[1], dtype=self.means.dtype)
        half = torch.full((count,), DEGREES / 2, dtype=self.means.dtype)
        noise = noise * (torch._standard_gamma(half) * 2 / DEGREES).rsqrt()[:, None]
        return self.means[which] + torch.einsum("sij,sj->si", self.trils[which], noise)

    def distances(self, u: Tensor) -> Tensor:
        """Squared distances of vectors (count, size) from each component's centre, (K, count)."""
        gaps = (u[None] - self.means[:, None]).mT
        back: Tensor = torch.linalg.solve_triangular(self.trils, gaps, upper=False)
        return back.square().sum(1)

    def log_parts(self, u: Tensor, distances: Tensor) -> Tensor:
        """log share_k t_5(u | ...) of each component, (K, count)."""
        size = u.shape[1]
        constant = (
            math.lgamma((DEGREES + size) / 2) - math.lgamma(DEGREES / 2) - 0.5 * size * math.log(math.pi * DEGREES)
        )
        volume = self.trils.diagonal(dim1=1, dim2=2).log().sum(1)
        heads = self.shares.log() + constant - volume
        return heads[:, None] - 0.5 * (DEGREES + size) * (distances / DEGREES).log1p()

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density of vectors, (count,)."""
        return self.log_parts(u, self.distances(u)).logsumexp(0)

    def refitted(self, u: Tensor, weights: Tensor) -> Students:
        """One step of EM on draws (count, size) with weights (count,) (Cappé et al. 2008, section 5)."""
        size = u.shape[1]
        distances = self.distances(u)
        parts = self.log_parts(u, distances)
        share = (parts - parts.logsumexp(0)).exp() * weights  # (K, count)
        near = share * (DEGREES + size) / (DEGREES + distances)
        total = share.sum(1).clamp_min(1e-300)
        worth = total.square() / share.square().sum(1).clamp_min(1e-300)
        trust = (worth / (worth + FEW + 3 * size))[:, None]
        trust = torch.where(torch.arange(len(total))[:, None] < len(total) - self.fixed, trust, 0.0)
        means = torch.einsum("ks,si->ki", near, u) / near.sum(1).clamp_min(1e-300)[:, None]
        means = trust * means + (1 - trust) * self.means
        gaps = (u[None] - means[:, None]) * near.sqrt()[..., None]
        spread = trust[..., None] * (gaps.mT @ gaps) / total[:, None, None]
        spread = spread + (1 - trust[..., None]) * (self.trils @ self.trils.mT)
        trils, failed = torch.linalg.cholesky_ex(spread)
        good = (failed == 0) & trils.isfinite().all(-1).all(-1) & means.isfinite().all(-1)
        shares = total.clamp_min(LEAST * float(total.sum()))
        shares = torch.where(torch.arange(len(total)) < len(total) - self.fixed, shares, self.shares * shares.sum())
        return Students(
            shares / shares.sum(),
            torch.where(good[:, None], means, self.means),
            torch.where(good[:, None, None], trils, self.trils),
            self.fixed,
        )
