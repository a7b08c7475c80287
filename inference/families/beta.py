"""Bernoulli and Binomial probabilities; Beta prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.families.family import EMPTY
from inference.families.single import SingleFamily, wrapped
from zoo.declare.sites import base_distribution


class BetaFamily(SingleFamily):
    """x ~ Bernoulli(p) or Binomial(n, p): statistics sum w x and sum w (n - x).

    Maximum sum w x / sum w n; with p ~ Beta(a, b) the posterior is Beta(a + sum w x, b + sum w (n - x))
    (Gelman et al. 2013, section 2.4).
    """

    likelihoods: ClassVar[dict[str, str]] = {"Bernoulli": "probs", "Binomial": "probs"}
    prior = "Beta"

    def statistics(self, fn: Any, value: Tensor) -> tuple[Tensor, ...]:
        """Successes and failures of each entry."""
        count = fn.total_count if hasattr(fn, "total_count") else torch.ones_like(value)
        return value, count - value

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Share of successes."""
        successes, failures = statistics
        total = successes + failures
        return torch.where(total > EMPTY, successes / total.clamp_min(EMPTY), current)

    def posterior(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Beta(a + successes, b + failures)."""
        base, (successes, failures) = base_distribution(prior), statistics
        return wrapped(dist.Beta(base.concentration1 + successes, base.concentration0 + failures), prior)

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / (a + b - 2), kept inside (0, 1)."""
        base = base_distribution(posterior)
        eps = torch.finfo(base.concentration1.dtype).eps
        a, b = (base.concentration1 - 1).clamp_min(eps), (base.concentration0 - 1).clamp_min(eps)
        mode: Tensor = a / (a + b)
        return mode
