"""Categorical and multinomial probabilities; Dirichlet prior."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.families.family import EMPTY
from inference.families.single import SingleFamily, wrapped
from zoo.declare.sites import Site, base_distribution


class DirichletFamily(SingleFamily):
    """x ~ Categorical(p), OneHotCategorical(p) or Multinomial(n, p): statistic the count of each category.

    Maximum count / total; with p ~ Dirichlet(a) the posterior is Dirichlet(a + counts)
    (Gelman et al. 2013, section 3.4).
    """

    likelihoods: ClassVar[dict[str, str]] = {
        "Categorical": "probs",
        "OneHotCategorical": "probs",
        "Multinomial": "probs",
    }
    prior = "Dirichlet"
    vector = True

    def event_dim(self, site: Site) -> int:
        """Counts have a dimension of categories, which a category code has not."""
        return site.event_dim + (1 if site.family == "Categorical" else 0)

    def statistics(self, fn: Any, value: Tensor) -> tuple[Tensor, ...]:
        """Category of each entry as an indicator vector, or its counts."""
        if type(fn).__name__ == "Categorical":
            return (torch.nn.functional.one_hot(value.long(), fn.probs.shape[-1]).to(fn.probs.dtype),)
        return (value,)

    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Share of each category."""
        (counts,) = statistics
        total = counts.sum(-1, keepdim=True)
        return torch.where(total > EMPTY, counts / total.clamp_min(EMPTY), current)

    def posterior(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Dirichlet(a + counts)."""
        return wrapped(dist.Dirichlet(base_distribution(prior).concentration + statistics[0]), prior)

    def mode(self, posterior: Any) -> Tensor:
        """(a - 1) / sum (a - 1), kept inside the simplex."""
        concentration = base_distribution(posterior).concentration
        above = (concentration - 1).clamp_min(torch.finfo(concentration.dtype).eps)
        mode: Tensor = above / above.sum(-1, keepdim=True)
        return mode
