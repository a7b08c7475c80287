"""Categorical and multinomial probabilities; Dirichlet prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.family import EMPTY, Argument, Known, Likelihood, Use
from inference.conjugate.posteriors import Moments
from inference.conjugate.single import SingleFamily
from zoo.program.program import Program


class CategoricalLikelihood(Likelihood):
    """x ~ Categorical(p): log p(x) = sum_j [x = j] log p_j (Bishop 2006, equation 2.26)."""

    distributions: ClassVar[tuple[str, ...]] = ("Categorical",)
    inner: ClassVar[tuple[int, ...]] = (1,)

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Category of each entry as an indicator vector."""
        return (torch.nn.functional.one_hot(value["mean"].long(), fn.logits.shape[-1]).to(fn.logits.dtype),)

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log p."""
        p = argument("probs", "simplex")["log"]
        return (p,), torch.zeros_like(p[..., 0])

    def predictive(self, fn: Any, known: Known) -> Any:
        """Categorical(a / sum a) (Gelman et al. 2013, section 3.4)."""
        p = known("probs")
        return fn if "value" in p else dist.Categorical(p["concentration"])


class MultinomialLikelihood(Likelihood):
    """x ~ Multinomial(n, p) or OneHotCategorical(p): log p(x) = sum_j x_j log p_j + log n! - sum_j log x_j!.

    (Bishop 2006, equation 2.34.)
    """

    distributions: ClassVar[tuple[str, ...]] = ("Multinomial", "OneHotCategorical")
    inner: ClassVar[tuple[int, ...]] = (1,)
    joint: ClassVar[int] = 1

    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """Count of each category."""
        return (value["mean"],)

    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """log p."""
        p = argument("probs", "simplex")["log"]
        return (p,), torch.zeros_like(p[..., 0])

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log n! - sum_j log x_j!."""
        x = value["mean"]
        return torch.lgamma(x.sum(-1) + 1) - torch.lgamma(x + 1).sum(-1)

    def predictive(self, fn: Any, known: Known) -> Any:
        """DirichletMultinomial(a, n), or OneHotCategorical(a / sum a) (Gelman et al. 2013, section 3.4)."""
        p = known("probs")
        if "value" in p:
            return fn
        if type(fn).__name__ == "OneHotCategorical":
            return dist.OneHotCategorical(p["concentration"])
        return dist.DirichletMultinomial(p["concentration"], total_count=fn.total_count)


class DirichletFamily(SingleFamily):
    """x ~ Categorical(p), OneHotCategorical(p) or Multinomial(n, p): statistic the count of each category.

    Maximum count / total; with p ~ Dirichlet(a) the posterior is Dirichlet(a + counts)
    (Gelman et al. 2013, section 3.4).
    """

    arguments: ClassVar[dict[str, str]] = {
        "Categorical": "probs",
        "OneHotCategorical": "probs",
        "Multinomial": "probs",
    }
    prior = "Dirichlet"
    vector = True

    def totals(self, expected: EStep, use: Use, name: str) -> tuple[Tensor, ...]:
        """Count of each category."""
        _, (counts,) = expected.statistics(use.site, name)
        return (expected.reduce(use.parent, counts, tuple(expected.values[name].shape)),)

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Share of each category."""
        (counts,) = statistics
        total = counts.sum(-1, keepdim=True)
        return torch.where(total > EMPTY, counts / total.clamp_min(EMPTY), current)

    def update(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Dirichlet(a + counts)."""
        return dist.Dirichlet(prior.concentration + statistics[0])

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / sum (a - 1), kept inside the simplex."""
        concentration = posterior.concentration
        above = (concentration - 1).clamp_min(torch.finfo(concentration.dtype).eps)
        mode: Tensor = above / above.sum(-1, keepdim=True)
        return mode
