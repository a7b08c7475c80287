"""Negative binomial likelihoods of a known number of failures; Beta prior of their probability."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ExponentialFamily, Moments, unexpanded


class NegativeBinomial(ExponentialFamily):
    """x successes before the r-th failure: T = (x, r), eta = (log p, log(1 - p)), h = Gamma(x + r) / (x! Gamma(r)).

    A probability p ~ Beta(a, b) has the posterior Beta(a + sum w x, b + sum w r) (Gelman et al. 2013, appendix A).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.NegativeBinomial,)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    conjugate: ClassVar[dict[str, str]] = {"probs": "Beta"}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Successes and failures of each entry."""
        x = value["mean"]
        return x, unexpanded(fn.total_count, x) * torch.ones_like(x)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[log p] and E[log(1 - p)]; 0."""
        p = argument("probs")
        return (p["log"], p["log1m"]), torch.zeros_like(p["log"])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log Gamma(x + r) - log x! - log Gamma(r)."""
        x, r = value["mean"], unexpanded(fn.total_count, value["mean"])
        return torch.lgamma(x + r) - torch.lgamma(x + 1) - torch.lgamma(r)
