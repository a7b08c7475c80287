"""Mean of a Normal with known variance; Normal prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.families.family import EMPTY
from inference.families.single import SingleFamily, wrapped
from zoo.declare.sites import base_distribution


class NormalMeanFamily(SingleFamily):
    """x ~ Normal(m, s^2), s known: statistics sum w x / s^2 and sum w / s^2.

    With m ~ Normal(m0, s0^2) the posterior is Normal with precision 1 / s0^2 + sum w / s^2 and mean
    (m0 / s0^2 + sum w x / s^2) / precision (Gelman et al. 2013, equation 2.12).
    """

    likelihoods: ClassVar[dict[str, str]] = {"Normal": "loc"}
    prior = "Normal"
    rank = 2

    def statistics(self, fn: Any, value: Tensor) -> tuple[Tensor, ...]:
        """Precision-weighted value and precision of each entry."""
        precision = fn.scale.square().reciprocal()
        return value * precision, precision.expand(torch.broadcast_shapes(value.shape, precision.shape))

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Precision-weighted mean."""
        total, precision = statistics
        return torch.where(precision > EMPTY, total / precision.clamp_min(EMPTY), current)

    def posterior(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Normal with added precisions."""
        base, (total, precision) = base_distribution(prior), statistics
        before = base.scale.square().reciprocal()
        after = before + precision
        return wrapped(dist.Normal((base.loc * before + total) / after, after.rsqrt()), prior)

    def mode(self, posterior: Any) -> Tensor:
        """Mean."""
        loc: Tensor = base_distribution(posterior).loc
        return loc
