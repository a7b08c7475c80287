"""Draws without a gradient: discrete ones as step functions of standard Normal noise, z = F^-1(Phi(eps)).

`noise_behind` and `drawn` also know those that have one, so that a guide can be told with any distribution.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pyro.distributions import GammaPoisson
from torch import Tensor
from torch import distributions as td

from guides.pathwise import log_gamma, log_ndtr, noise_shape, push
from zoo.replay.sites import base_distribution

NEAR = 8  # the quantile of a Poisson is within so many counts of the expansion it is looked for around


def noise_behind(fn: Any) -> tuple[tuple[int, ...], bool]:
    """Shape of the noise behind one draw of a distribution, and whether the draw is without a gradient."""
    if (shape := noise_shape(fn)) is not None:
        return shape, False
    shape = step_shape(fn)
    return (0,) if shape is None else shape, True


def drawn(fn: Any, noise: Tensor) -> Tensor:
    """Return the draw that noise of shape `noise_behind(fn)` stands for; families not known here are sampled."""
    if noise_shape(fn) is not None:
        return push(fn, noise)
    value: Tensor = step(fn, noise) if step_shape(fn) is not None else fn.sample().detach()
    return value


def step_shape(fn: Any) -> tuple[int, ...] | None:
    """Shape of the noise behind one draw of a discrete distribution; None for a family that is not known here."""
    base, shape = base_distribution(fn), tuple(fn.batch_shape)
    if isinstance(base, td.NegativeBinomial | GammaPoisson):
        return (*shape, 2)
    return shape if isinstance(base, td.Poisson | td.Geometric | td.Bernoulli | td.Categorical) else None


def step(fn: Any, noise: Tensor) -> Tensor:
    """Return the draw that noise of shape `step_shape(fn)` stands for; it has no gradient."""
    base = base_distribution(fn)
    with torch.no_grad():
        if isinstance(base, td.Poisson):
            value = poisson_quantile(base.rate, noise)
        elif isinstance(base, td.NegativeBinomial):
            log_rate = log_gamma(base.total_count, noise[..., 0]) + base.logits
            value = poisson_quantile(log_rate.exp(), noise[..., 1])
        elif isinstance(base, GammaPoisson):
            log_rate = log_gamma(base.concentration, noise[..., 0]) - base.rate.log()
            value = poisson_quantile(log_rate.exp(), noise[..., 1])
        elif isinstance(base, td.Geometric):  # log P(z > k) = (k + 1) log(1 - p)
            value = (log_ndtr(-noise) / torch.log1p(-base.probs)).floor()
        elif isinstance(base, td.Bernoulli):
            value = (torch.special.ndtr(noise) < base.probs).to(noise)
        else:
            below = base.probs.cumsum(-1)[..., :-1] < torch.special.ndtr(noise)[..., None]
            value = below.sum(-1).to(noise)
        return value.expand(fn.batch_shape)


def poisson_quantile(rate: Tensor, noise: Tensor) -> Tensor:
    """Return the least k with P(z <= k) >= Phi(eps), z ~ Poisson(rate): by bisection around an expansion.

    P(z <= k) is the upper regularized incomplete gamma function Q(k + 1, rate); whichever tail is the smaller is
    compared. The expansion is that of Cornish and Fisher (1938) to the order of the skewness.
    """
    rate = rate.expand(noise.shape)
    guess = (rate + rate.sqrt() * noise + (noise.square() - 1) / 6).round()
    low, high = (guess - NEAR - 1).clamp_min(-1.0), (guess + NEAR).clamp_min(NEAR)  # low is too small, high is not
    tail = torch.special.ndtr(-noise.abs())
    for _ in range(math.ceil(math.log2(2 * NEAR + 1)) + 1):
        middle = ((low + high) / 2).floor()
        at = (middle + 1).clamp_min(torch.finfo(noise.dtype).tiny)
        reached = torch.where(
            noise < 0, torch.special.gammaincc(at, rate) >= tail, torch.special.gammainc(at, rate) <= tail
        )
        reached = reached & (middle >= 0)
        low, high = torch.where(reached, low, middle), torch.where(reached, middle, high)
    return high
