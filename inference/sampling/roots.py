"""Roots of covariances: of all particles together, or of those near each value of a coordinate that changes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = 6.0  # particles further out than so many robust standard deviations say nothing more of the scale
# Shares of the particles between which covariances are taken, small ones at the ends: what lies further out is taken
# to be as there, and where that is wrong, trajectories cannot reach it. Where particles are few, the ends are left out.
EDGES = (0.015, 0.05, 0.12, 0.22, 0.34, 0.45, 0.55, 0.66, 0.78, 0.88, 0.95, 0.985)
EACH = 25  # particles per coordinate in each part, at least: rough covariances make for small steps
WORTH = 0.1  # by which scales along the coordinate have to be smaller than overall: mean logarithm
WIDEST = 40  # coordinates whose covariance may change along one of them; a matrix a particle is factorized


@dataclass(frozen=True)
class Root:
    """y = L z.

    Attributes
    ----------
    root
        L, lower triangular, shape (size, size).
    """

    root: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (count, size), and the log determinant of its derivatives up to a constant (count,)."""
        return z @ self.root.mT, z.new_zeros(len(z))

    def inverse(self, y: Tensor) -> Tensor:
        """Return z (count, size)."""
        solved: Tensor = torch.linalg.solve_triangular(self.root, y.mT, upper=False).mT
        return solved

    def pull(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Gradient in z of f(y(z)) plus the log determinant, from that of f in y: (count, size) each."""
        return gradient @ self.root


@dataclass(frozen=True)
class RootAlong:
    """y_t = z_t s, and for the other coordinates y_r = m(y_t) + L(y_t) z_r, m and L linear between knots.

    Attributes
    ----------
    along, rest
        Which coordinate t is, and the others in their order, (size - 1,).
    scale
        s for that coordinate and 1 for the others, (size,).
    knots
        Values of y_t, increasing, shape (knots,); beyond the first and the last m and L are as there.
    middles, roots
        m, shape (knots, size - 1), and L, lower triangular, (knots, size - 1, size - 1), at the knots.
    """

    along: int
    rest: Tensor
    scale: Tensor
    knots: Tensor
    middles: Tensor
    roots: Tensor

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return y (count, size), and the log determinant of its derivatives up to a constant (count,)."""
        y = z * self.scale
        weights, _ = self._weights(y[:, self.along])
        rest = weights @ self.middles + _mixed(weights, self._by_knot(z))
        return y.index_copy(1, self.rest, rest), (weights @ self._diagonals).log().sum(1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return z (count, size)."""
        weights, _ = self._weights(y[:, self.along])
        roots = torch.tensordot(weights, self.roots, 1)  # (count, size - 1, size - 1)
        off = (y[:, self.rest] - weights @ self.middles)[..., None]
        return (y / self.scale).index_copy(1, self.rest, torch.linalg.solve_triangular(roots, off, upper=False)[..., 0])

    def pull(self, z: Tensor, gradient: Tensor) -> Tensor:
        """Gradient in z of f(y(z)) plus the log determinant, from that of f in y: (count, size) each."""
        scale = self.scale[self.along]
        weights, slopes = self._weights(z[:, self.along] * scale)
        mine = gradient[:, self.rest]
        back = _mixed(weights, mine @ self.roots)
        moved = slopes @ self.middles + _mixed(slopes, self._by_knot(z))
        grown = ((slopes @ self._diagonals) / (weights @ self._diagonals)).sum(1)
        of_t = scale * (gradient[:, self.along] + (mine * moved).sum(1) + grown)
        left, right = back.split([self.along, back.shape[1] - self.along], 1)
        return torch.cat([left, of_t[:, None], right], 1)

    @property
    def _diagonals(self) -> Tensor:
        return self.roots.diagonal(dim1=1, dim2=2)  # (knots, size - 1)

    def _by_knot(self, z: Tensor) -> Tensor:
        """L z at every knot, (knots, count, size - 1)."""
        return z[:, self.rest] @ self.roots.mT

    def _weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the knots at values (count,) of t, and their derivatives, (count, knots) each."""
        below = torch.searchsorted(self.knots, t.contiguous()).sub(1).clamp(0, len(self.knots) - 2)
        width = self.knots[below + 1] - self.knots[below]
        share = (t - self.knots[below]) / width
        inside = (share > 0) & (share < 1)
        share = share.clamp(0.0, 1.0)
        slope = torch.where(inside, 1 / width, 0.0)
        weights = t.new_zeros(len(t), len(self.knots))
        pair = torch.stack([below, below + 1], 1)
        return (
            weights.scatter(1, pair, torch.stack([1 - share, share], 1)),
            weights.scatter(1, pair, torch.stack([-slope, slope], 1)),
        )


def _mixed(weights: Tensor, values: Tensor) -> Tensor:
    """Sums over the knots of weights (count, knots) times values (knots, count, size): (count, size)."""
    return (weights.mT[..., None] * values).sum(0)


def root_of(x: Tensor) -> Root:
    """Root of the covariance of standardized particles (count, size)."""
    return Root(_root(x))


def root_along(x: Tensor, along: int) -> Root | RootAlong:
    """Root of the covariance of standardized particles (count, size) as it changes along one coordinate.

    Particles are sorted by that coordinate into parts, and moments taken of each; where they are too few for that,
    coordinates too many, or parts alike, of all together.
    """
    count, size = x.shape
    edges = [round(count * e) for e in EDGES]
    while edges and min(edges[0], count - edges[-1]) < EACH * size:
        edges = edges[1:-1]
    if len(edges) < 2 or not 2 <= size <= WIDEST:
        return root_of(x)
    rest = torch.tensor([i for i in range(size) if i != along], device=x.device)
    parts = x[x[:, along].argsort()].tensor_split(edges)
    knots = torch.stack([part[:, along].median() for part in parts])
    if not bool((knots.diff() > 1e-6).all()):
        return root_of(x)
    middles, roots = zip(*(_moments(part[:, rest]) for part in parts), strict=True)
    whole, shares = root_of(x[:, rest]).root, torch.tensor([len(part) / count for part in parts]).to(x)
    narrower = whole.diagonal().log() - shares @ torch.stack([root.diagonal().log() for root in roots])
    if not float(narrower.mean()) > WORTH:
        return root_of(x)
    scale = torch.ones(size, dtype=x.dtype, device=x.device)
    scale[along] = x[:, along].clamp(-CLIP, CLIP).std()
    return RootAlong(along, rest, scale, knots, torch.stack(middles), torch.stack(roots))


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Median (size,) of particles (count, size), and root of their covariance (size, size)."""
    quarters = torch.quantile(x, torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype, device=x.device), dim=0)
    spread = ((quarters[2] - quarters[0]) / 1.349).clamp_min(1e-6)
    return quarters[1], spread[:, None] * _root((x - quarters[1]) / spread)


def _root(x: Tensor) -> Tensor:
    """Root L of the covariance L L^T of standardized particles, shape (size, size), shrunk towards its diagonal."""
    count, size = x.shape
    x = x.clamp(-CLIP, CLIP)
    x = x - x.mean(0)
    covariance = x.mT @ x / count
    diagonal = covariance.diagonal().clamp_min(1e-6)
    shrink = size / (size + count)
    covariance = (1 - shrink) * covariance + shrink * torch.diag(diagonal)
    root: Tensor = torch.linalg.cholesky(covariance + torch.diag(1e-9 * diagonal))
    return root
