"""Draws of distributions as smooth functions of standard Normal noise.

z = T(eps; parameters), eps ~ Normal(0, I), for each family that guides are made of, so that noise is an input, the same
noise gives the same draw, and gradients flow to the parameters through the draw.
"""

from __future__ import annotations

import math
from typing import Any, cast

import pyro.distributions
import torch
from torch import Tensor
from torch import distributions as td

from zoo.replay.sites import base_distribution

STEPS = 8  # of Newton's method for a quantile: it converges from the left, quadratically at the end
SMALL = 1e-8  # relative to a + 1: below it the distribution function is z^a / Gamma(a + 1)


class LogGammaQuantile(torch.autograd.Function):
    """log z with F(z; a) = Phi(eps), F the distribution function of Gamma(a, 1).

    The gradient is that of implicit reparameterization, dz/da = -(dF/da) / p(z) (Figurnov, Mohamed and Mnih 2018,
    equation 5).
    """

    @staticmethod
    def forward(concentration: Tensor, noise: Tensor) -> Tensor:
        """Solve for log z; both arguments have the same shape.

        In log z and not in z, because for a small concentration nearly all of the mass is below the smallest number.
        """
        # log F is concave and increasing in y = log z, and so is log(1 - F) decreasing: Newton's method on whichever
        # tail is the smaller keeps all digits. Start from the tail's power law z^a / Gamma(a + 1), or from Wilson and
        # Hilferty's Normal approximation of z^(1/3), whichever is larger.
        a, low = concentration, noise < 0
        target = torch.special.log_ndtr(-noise.abs())
        power = (torch.special.log_ndtr(noise) + torch.lgamma(a + 1)) / a
        cube = 1 - 1 / (9 * a) + noise / (3 * a.sqrt())
        y = torch.where(cube > 0.3, a.log() + 3 * cube.clamp_min(0.3).log(), power)
        for _ in range(STEPS):
            z = y.exp()
            lower, upper = torch.special.gammainc(a, z), torch.special.gammaincc(a, z)
            log_density = a * y - z - torch.lgamma(a)  # of y
            # Far out in the lower tail gammainc loses digits before z^a / Gamma(a + 1) does.
            log_lower = torch.where(z < SMALL * (a + 1), a * y - torch.lgamma(a + 1), lower.log())
            step = torch.where(
                low,
                (target - log_lower) * (log_lower - log_density).exp(),
                (upper.log() - target) * (upper.log() - log_density).exp(),
            )
            # A step that is not a number comes from a tail that is 0 in this precision; there the start is as good as
            # it gets. A limit to the steps, because far from the solution the tails are nearly flat.
            y = y + torch.nan_to_num(step).clamp(-2.0, 2.0)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        """Keep what the gradient needs."""
        ctx.save_for_backward(inputs[0], output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient to the concentration; noise has none."""
        concentration, y = ctx.saved_tensors
        # Of log z: -(dF/da) / (z p(z)). In the lower tail F = z^a / Gamma(a + 1), from which d log z / da follows in
        # closed form, where torch's own series has no digits left.
        z, tail = y.exp(), (torch.digamma(concentration + 1) - y) / concentration
        exact = torch._standard_gamma_grad(concentration, z) / z
        return gradients[0] * torch.where(z < SMALL * (concentration + 1), tail, exact), None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, int | None], a: Tensor, noise: Tensor) -> tuple[Tensor, int]:
        """Evaluate many at once; torch has no batching rule for what is inside."""
        first, second = (
            t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in zip((a, noise), in_dims, strict=True)
        )
        first, second = torch.broadcast_tensors(first, second)
        return _log_gamma_quantile(first, second), 0


def _log_gamma_quantile(concentration: Tensor, noise: Tensor) -> Tensor:
    log_z: Tensor = cast(Any, LogGammaQuantile).apply(concentration, noise)  # torch leaves `apply` without types
    return log_z


def log_ndtr(x: Tensor) -> Tensor:
    """Log of the standard Normal distribution function; torch cannot vectorize its own.

    On the left log Phi(x) = log erfcx(-x / sqrt 2) - x^2 / 2 - log 2 keeps all digits where Phi(x) would be 0; on the
    right log Phi(x) = log(1 - (1 - Phi(x))). Each branch is evaluated on its own half only: the other's gradient would
    be infinite there, and 0 times infinity is not a number.
    """
    low = x.clamp_max(0.0)
    tail = torch.log(0.5 * torch.special.erfcx(-low * math.sqrt(0.5))) - 0.5 * low.square()
    return torch.where(x <= 0, tail, torch.log1p(-0.5 * torch.erfc(x.clamp_min(0.0) * math.sqrt(0.5))))


def log_gamma(concentration: Tensor, noise: Tensor) -> Tensor:
    """Log of a draw of Gamma(concentration, 1), in the shape of the noise."""
    return _log_gamma_quantile(concentration.expand(noise.shape), noise)


def log_beta_pair(one: Tensor, zero: Tensor, noise: Tensor) -> Tensor:
    """Logit of a draw of Beta(one, zero), from noise (..., 2)."""
    return log_gamma(one, noise[..., 0]) - log_gamma(zero, noise[..., 1])


def wishart_factor(df: Tensor, scale_tril: Tensor, noise: Tensor) -> Tensor:
    """Cholesky factor of a draw of Wishart(df, scale_tril scale_tril^T), from noise (..., D (D + 1) / 2).

    It is scale_tril A, A_ii^2 ~ Chi2(df - i + 1) and A_ij ~ Normal(0, 1) below the diagonal (Bartlett 1933).
    """
    size = scale_tril.shape[-1]
    half = 0.5 * (df[..., None] - torch.arange(size).to(df))  # shapes of the Gammas that Chi2 / 2 are, (..., D)
    diagonal = (0.5 * (log_gamma(half, noise[..., :size]) + math.log(2))).exp()
    # One gather puts the other numbers below the diagonal: assigning to entries could not be vectorized.
    row, column = torch.tril_indices(size, size, -1)
    where = torch.zeros(size, size, dtype=torch.long, device=noise.device)
    where[row, column] = torch.arange(size, size + len(row), device=noise.device)
    return scale_tril @ (noise[..., where].tril(-1) + torch.diag_embed(diagonal))


def noise_shape(fn: Any) -> tuple[int, ...] | None:
    """Shape of the noise behind one draw of a distribution; None if there is no map from noise to it."""
    base, shape = base_distribution(fn), (*fn.batch_shape, *fn.event_shape)
    if isinstance(base, pyro.distributions.Delta):
        return (0,)
    if isinstance(base, td.TransformedDistribution):
        return noise_shape(base.base_dist)
    if isinstance(base, td.Beta | td.StudentT):
        return (*shape, 2)
    if isinstance(base, td.LowRankMultivariateNormal):
        return (*shape[:-1], shape[-1] + base.cov_factor.shape[-1])
    if isinstance(base, td.Wishart):
        return (*shape[:-2], shape[-1] * (shape[-1] + 1) // 2)
    if isinstance(base, td.Normal | td.MultivariateNormal | td.Gamma | td.Dirichlet) or _has_quantiles(base):
        return shape
    return None


def _has_quantiles(base: Any) -> bool:
    own = next((c for c in type(base).__mro__ if "icdf" in vars(c)), td.Distribution)
    return bool(base.has_rsample) and own not in (td.Distribution, td.Independent)


def push(fn: Any, noise: Tensor) -> Tensor:
    """Return the draw of a distribution that noise of shape `noise_shape(fn)` stands for."""
    base = base_distribution(fn)
    if isinstance(base, pyro.distributions.Delta):
        value: Tensor = base.v
    elif isinstance(base, td.TransformedDistribution):
        value = push(base.base_dist, noise)
        for transform in base.transforms:
            value = transform(value)
    elif isinstance(base, td.Normal):
        value = base.loc + base.scale * noise
    elif isinstance(base, td.MultivariateNormal):
        value = base.loc + (base.scale_tril @ noise[..., None])[..., 0]
    elif isinstance(base, td.LowRankMultivariateNormal):
        common, own = noise.split([base.cov_factor.shape[-1], base.loc.shape[-1]], -1)
        value = base.loc + (base.cov_factor @ common[..., None])[..., 0] + base.cov_diag.sqrt() * own
    elif isinstance(base, td.Gamma):
        value = log_gamma(base.concentration, noise).exp().clamp_min(torch.finfo(noise.dtype).tiny) / base.rate
    elif isinstance(base, td.Beta):
        value = log_beta_pair(base.concentration1, base.concentration0, noise).sigmoid()
    elif isinstance(base, td.Dirichlet):
        value = torch.softmax(log_gamma(base.concentration, noise), -1)
    elif isinstance(base, td.StudentT):
        spread = 0.5 * (base.df.log() - math.log(2) - log_gamma(0.5 * base.df, noise[..., 1]))
        value = base.loc + base.scale * spread.exp() * noise[..., 0]
    elif isinstance(base, td.Wishart):
        factor = wishart_factor(base.df, base.scale_tril, noise)
        value = factor @ factor.mT
    else:
        edge = torch.finfo(noise.dtype).eps
        value = base.icdf(torch.special.ndtr(noise).clamp(edge, 1 - edge))
    return value.expand((*fn.batch_shape, *fn.event_shape))
