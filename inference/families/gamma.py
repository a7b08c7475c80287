"""Poisson and Exponential rates; Gamma prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.families.family import EMPTY
from inference.families.single import SingleFamily, wrapped
from zoo.declare.sites import base_distribution


class GammaFamily(SingleFamily):
    """x ~ Poisson(r) or Exponential(r): statistics events (x; 1) and exposure (1; x).

    Maximum events / exposure; with r ~ Gamma(a, b) the posterior is Gamma(a + events, b + exposure)
    (Gelman et al. 2013, section 2.6).
    """

    likelihoods: ClassVar[dict[str, str]] = {"Poisson": "rate", "Exponential": "rate"}
    prior = "Gamma"

    def statistics(self, fn: Any, value: Tensor) -> tuple[Tensor, ...]:
        """Events and exposure of each entry."""
        one = torch.ones_like(value)
        return (value, one) if type(fn).__name__ == "Poisson" else (one, value)

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Events per exposure, kept above zero."""
        events, exposure = statistics
        rate = events / exposure.clamp_min(EMPTY)
        return torch.where(exposure > EMPTY, rate.clamp_min(torch.finfo(rate.dtype).tiny), current)

    def posterior(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Gamma(a + events, b + exposure)."""
        base, (events, exposure) = base_distribution(prior), statistics
        return wrapped(dist.Gamma(base.concentration + events, base.rate + exposure), prior)

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / b, kept above zero."""
        base = base_distribution(posterior)
        mode: Tensor = (base.concentration - 1).clamp_min(torch.finfo(base.rate.dtype).eps) / base.rate
        return mode
