"""Factors of a mean-field guide, one for a site, in unconstrained coordinates u.

A family on a constrained space is carried to u by its Jacobian: log q(u) = log q(z(u)) + log|dz/du|. Where both have a
closed form they are written as one, which loses fewer digits than their sum: with z = e^u, say, the density of a Gamma
is (a - 1) u - e^u and the Jacobian u.

Letters for shapes: (...) is the batch of a site, rows among it for a local one; D the length of a vector, or the rows
of a matrix; u is (..., D), (..., D - 1) for a simplex of D entries and (..., D (D + 1) / 2) for a matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from guides.pathwise import log_beta_pair, log_gamma, wishart_factor
from guides.variational import LOG_2PI
from zoo.replay.bernoulli import log_sigmoid
from zoo.replay.bijections import CholeskyVector

Parameters = dict[str, Tensor]
LARGEST = 1e8  # of what a factor counts as observations at the start


class SiteFactor(nn.Module):
    """q_s(u): the density, carried to unconstrained space, of a family with its parameters in natural units.

    Methods take the parameters and buffers as an argument, so that they can be live, held fixed, or those of some rows.

    Parameters
    ----------
    start, unit
        Starting point and size of a natural step, in the shape of u.
    """

    reparameterized = True  # whether draws have a gradient
    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.register_buffer("unit", unit.clone())
        self.loc = nn.Parameter(torch.zeros_like(start))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the noise behind one draw."""
        return tuple(self.loc.shape)

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Return the draw u that this noise stands for."""
        raise NotImplementedError(type(self).__name__)

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of u, one number for each event."""
        raise NotImplementedError(type(self).__name__)

    def _count(self, size: Tensor, like: Tensor) -> nn.Parameter:
        """Register how many observations q counts for at the start; a parameter multiplies that by its exponential."""
        self.register_buffer("count", size.clamp(1 / LARGEST, LARGEST))
        return nn.Parameter(torch.zeros_like(like))


def _middle(p: Parameters) -> Tensor:
    return p["start"] + p["unit"] * p["loc"]


class NormalFactor(SiteFactor):
    """u ~ Normal(start + unit * loc, (unit * exp(log_scale))^2), every coordinate on its own."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Scale and shift the noise."""
        return _middle(p) + p["unit"] * p["log_scale"].exp() * noise

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each coordinate."""
        log_scale = p["unit"].log() + p["log_scale"]
        return -0.5 * (LOG_2PI + ((u - _middle(p)) * (-log_scale).exp()).square()) - log_scale


class VectorFactor(SiteFactor):
    """u ~ Normal(start + unit * loc, (unit L)(unit L)^T) for each vector on the right."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))
        self.lower = nn.Parameter(start.new_zeros(*start.shape, start.shape[-1]))

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Scale, mix and shift the noise."""
        return _middle(p) + p["unit"] * (self._tril(p) @ noise[..., None])[..., 0]

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each vector, (...)."""
        gap = ((u - _middle(p)) / p["unit"])[..., None]
        back = torch.linalg.solve_triangular(self._tril(p), gap, upper=False)[..., 0]
        each: Tensor = 0.5 * (LOG_2PI + back.square()) + p["unit"].log() + p["log_scale"]
        return -each.sum(-1)

    @staticmethod
    def _tril(p: Parameters) -> Tensor:
        return p["lower"].tril(-1) + torch.diag_embed(p["log_scale"].exp())


class GammaFactor(SiteFactor):
    """exp(u) ~ Gamma(a, b) with mean exp(start + unit * loc), or exp(-u) if it is the inverse of a Gamma."""

    def __init__(self, start: Tensor, unit: Tensor, *, inverse: bool = False) -> None:
        super().__init__(start, unit)
        self.sign = -1.0 if inverse else 1.0
        self.log_shape = self._count(unit.square().reciprocal(), unit)  # Var[u] is about 1/a

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Log of a Gamma variable by its quantile; with log a taken off, its mean is that of exp(middle)."""
        a = self._shape(p)
        u: Tensor = _middle(p) + self.sign * (log_gamma(a, noise) - a.log())
        return u

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each coordinate."""
        a = self._shape(p)
        y = self.sign * (u - _middle(p)) + a.log()  # log of a draw of Gamma(a, 1), so that b is gone
        return a * y - y.exp() - torch.lgamma(a)  # the Jacobian of e^y has made a - 1 an a

    @staticmethod
    def _shape(p: Parameters) -> Tensor:
        return p["count"] * p["log_shape"].exp()


class BetaFactor(SiteFactor):
    """sigmoid(u) ~ Beta(n m, n (1 - m)), m = sigmoid(start + unit * loc)."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        spread = start.sigmoid() * (-start).sigmoid()
        self.log_count = self._count(1 / (unit.square() * spread), unit)  # Var[u] is about 1 / (n m (1 - m))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Two numbers for each coordinate."""
        return (*self.loc.shape, 2)

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Log ratio of two Gamma variables."""
        return log_beta_pair(*self._shapes(p), noise)

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each coordinate; the Jacobian z (1 - z) has made a - 1 an a and b - 1 a b."""
        a, b = self._shapes(p)
        log_beta = torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)
        return a * log_sigmoid(u) + b * log_sigmoid(-u) - log_beta

    @staticmethod
    def _shapes(p: Parameters) -> tuple[Tensor, Tensor]:
        n, m = p["count"] * p["log_count"].exp(), _middle(p)
        return n * m.sigmoid(), n * (-m).sigmoid()


class DirichletFactor(SiteFactor):
    """z ~ Dirichlet(n m), m the simplex point of start + unit * loc; u are the logits of the broken stick."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        m = _log_simplex(start)[0].exp()
        spread = (m * (1 - m)).mean(-1)
        self.log_count = self._count(unit.square().reciprocal().mean(-1) / spread, spread)

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """One number for each entry of z."""
        return (*self.loc.shape[:-1], self.loc.shape[-1] + 1)

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Normalize Gamma variables, and break the stick at the result."""
        log_g = log_gamma(self._concentration(p), noise)  # (..., D)
        rest = log_g.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:]  # log of the sum of all that come later, (..., D - 1)
        # The k-th break takes the share g_k / (g_k + rest_k) of what is left, whose logit needs no normalization.
        return log_g[..., :-1] - rest + _offset(rest)

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each simplex point."""
        alpha = self._concentration(p)
        log_z, log_rest = _log_simplex(u)
        log_beta = torch.lgamma(alpha).sum(-1) - torch.lgamma(alpha.sum(-1))
        return ((alpha - 1) * log_z).sum(-1) - log_beta + (log_z[..., :-1] + log_rest).sum(-1)

    @staticmethod
    def _concentration(p: Parameters) -> Tensor:
        return (p["count"] * p["log_count"].exp())[..., None] * _log_simplex(_middle(p))[0].exp()


def _offset(u: Tensor) -> Tensor:
    return torch.arange(u.shape[-1], 0, -1).to(u).log()


def _log_simplex(u: Tensor) -> tuple[Tensor, Tensor]:
    """Logs of the simplex point z of u, and of the share of the rest of the stick that each break leaves."""
    x = u - _offset(u)  # torch's offset, at which u = 0 is the middle of the simplex
    left = log_sigmoid(-x)
    before = torch.nn.functional.pad(left.cumsum(-1), (1, 0))
    return torch.cat([log_sigmoid(x) + before[..., :-1], before[..., -1:]], -1), left


class WishartFactor(SiteFactor):
    """S ~ Wishart(n, M / n), M = E[S] the matrix of start + unit * loc; u is the Cholesky factor of S as a vector."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.map = CholeskyVector()
        self.size = self.map.forward_shape(start.shape)[-1]
        diagonal = [i * (i + 3) // 2 for i in range(self.size)]
        count = 0.5 / unit[..., diagonal].square().mean(-1)  # the variance of u_ii is about 1 / (2 n)
        self.log_count = self._count(count, count)

    def draw(self, p: Parameters, noise: Tensor) -> Tensor:
        """Bartlett's decomposition."""
        df, tril = self._scale(p)
        u: Tensor = self.map.inv(wishart_factor(df, tril, noise))
        return u

    def log_prob(self, p: Parameters, u: Tensor) -> Tensor:
        """Log density of each matrix."""
        d, (df, tril), factor = self.size, self._scale(p), self.map(u)  # S = factor factor^T, (..., D, D)
        half = 0.5 * (df[..., None] - torch.arange(d).to(df))
        log_gamma_d = 0.25 * d * (d - 1) * math.log(math.pi) + torch.lgamma(half).sum(-1)
        # log|S| and log|V| from the factors' diagonals, and tr(V^-1 S) = |tril^-1 factor|^2: no inverse is formed.
        log_s, log_v = (2 * t.diagonal(dim1=-2, dim2=-1).log().sum(-1) for t in (factor, tril))
        trace = torch.linalg.solve_triangular(tril, factor, upper=False).square().sum((-2, -1))
        density: Tensor = 0.5 * ((df - d - 1) * log_s - trace - df * (d * math.log(2) + log_v)) - log_gamma_d
        diagonal = factor.diagonal(dim1=-2, dim2=-1).log()
        power = torch.arange(d + 1, 1, -1).to(u)  # of S = L L^T with L_ii = exp(u_ii)
        log_det: Tensor = d * math.log(2) + (power * diagonal).sum(-1)
        return density + log_det

    def _scale(self, p: Parameters) -> tuple[Tensor, Tensor]:
        """Degrees of freedom n, and the Cholesky factor of M / n."""
        df = self.size - 1 + p["count"] * p["log_count"].exp()
        tril: Tensor = self.map(_middle(p))
        return df, tril / df.sqrt()[..., None, None]
