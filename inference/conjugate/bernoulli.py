"""Bernoulli and Binomial likelihoods; Beta prior of their probability."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ExponentialFamily, Moments, unexpanded


class Bernoulli(ExponentialFamily):
    """x ~ Bernoulli(p) or Binomial(n, p): T = (x, n - x), eta = (log p, log(1 - p)), h = n! / (x! (n - x)!).

    A probability p ~ Beta(a, b) has the posterior Beta(a + sum w x, b + sum w (n - x)) (Gelman et al. 2013, section
    2.4). Both counts are kept, so that p = 0 and p = 1 need no exception.
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Bernoulli, dist.Binomial)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    conjugate: ClassVar[dict[str, str]] = {"probs": "Beta"}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Successes and failures of each entry."""
        x = value["mean"]
        return x, (unexpanded(fn.total_count, x) if hasattr(fn, "total_count") else 1.0) - x

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[log p] and E[log(1 - p)]; 0."""
        p = argument("probs")
        return (p["log"], p["log1m"]), torch.zeros_like(p["log"])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log n! - log x! - log (n - x)!."""
        if not hasattr(fn, "total_count"):
            return 0.0
        x, n = value["mean"], unexpanded(fn.total_count, value["mean"])
        return torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
