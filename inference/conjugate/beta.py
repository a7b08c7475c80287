"""Bernoulli and Binomial probabilities; Beta prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.family import EMPTY, Argument, Known, Likelihood, Use, beside
from inference.conjugate.posteriors import Moments
from inference.conjugate.single import SingleFamily
from zoo.program.program import Program


class BinomialLikelihood(Likelihood):
    """x ~ Bernoulli(p) or Binomial(n, p): log p(x) = x log p + (n - x) log(1 - p) + log C(n, x).

    (Bishop 2006, equations 2.2 and 2.9.)
    """

    distributions: ClassVar[tuple[str, ...]] = ("Bernoulli", "Binomial")
    inner: ClassVar[tuple[int, ...]] = (0, 0)

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Successes and failures of each entry."""
        x = value["mean"]
        return x, (beside(fn.total_count, x) if hasattr(fn, "total_count") else 1.0) - x

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log p and log(1 - p)."""
        p = argument("probs", "probability")
        return (p["log"], p["log1m"]), torch.zeros_like(p["log"])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log C(n, x)."""
        if not hasattr(fn, "total_count"):
            return 0.0
        x, n = value["mean"], beside(fn.total_count, value["mean"])
        return torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)

    def predictive(self, fn: Any, known: Known) -> Any:
        """Bernoulli(a / (a + b)), or BetaBinomial(a, b, n) (Gelman et al. 2013, section 2.4)."""
        p = known("probs")
        if "value" in p:
            return fn
        a, b = p["concentration1"], p["concentration0"]
        if type(fn).__name__ == "Binomial":
            return dist.BetaBinomial(a, b, total_count=fn.total_count)
        return dist.Bernoulli(a / (a + b))


class BetaFamily(SingleFamily):
    """x ~ Bernoulli(p) or Binomial(n, p): statistics sum w x and sum w (n - x).

    Maximum sum w x / sum w n; with p ~ Beta(a, b) the posterior is Beta(a + sum w x, b + sum w (n - x))
    (Gelman et al. 2013, section 2.4).
    """

    arguments: ClassVar[dict[str, str]] = {"Bernoulli": "probs", "Binomial": "probs"}
    prior = "Beta"

    def totals(self, expected: EStep, use: Use, name: str) -> tuple[Tensor, ...]:
        """Successes and failures."""
        shape = tuple(expected.values[name].shape)
        _, parts = expected.statistics(use.site, name)
        return tuple(expected.reduce(use.parent, t, shape) for t in parts)

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Share of successes."""
        successes, failures = statistics
        total = successes + failures
        return torch.where(total > EMPTY, successes / total.clamp_min(EMPTY), current)

    def update(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Beta(a + successes, b + failures)."""
        successes, failures = statistics
        return dist.Beta(prior.concentration1 + successes, prior.concentration0 + failures)

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / (a + b - 2), kept inside (0, 1)."""
        eps = torch.finfo(posterior.concentration1.dtype).eps
        a, b = (posterior.concentration1 - 1).clamp_min(eps), (posterior.concentration0 - 1).clamp_min(eps)
        mode: Tensor = a / (a + b)
        return mode
