"""Dirichlet-multinomial: unknown shares of categories behind rows of counts."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError


class Multinomial(TorchDistribution):
    """Counts of categories, each row with a total of its own, which `pyro.distributions.Multinomial` does not take.

    Parameters
    ----------
    total_count
        Total of each row, shape (*batch).
    probs
        Probability of each category, shape (*batch, categories) or broadcastable to it.
    """

    arg_constraints = {"probs": constraints.simplex}  # noqa: RUF012 - the interface of torch.distributions

    def __init__(self, total_count: Tensor, probs: Tensor, validate_args: bool | None = None) -> None:
        batch = torch.broadcast_shapes(total_count.shape, probs.shape[:-1])
        self.total_count, self.probs = total_count.expand(batch), probs.expand(*batch, -1)
        super().__init__(batch, probs.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> Any:
        """Counts that add up to no more than the total."""
        return constraints.multinomial(self.total_count)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Multinomial:
        """Return the distribution with this batch shape."""
        return Multinomial(self.total_count.expand(batch_shape), self.probs.expand(*batch_shape, -1), False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log n! - sum_j log x_j! + sum_j x_j log p_j, with n the sum of the row."""
        constant = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
        return constant + torch.xlogy(value, self.probs).sum(-1)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Refuse: counts have no gradient."""
        raise NotImplementedError("counts cannot be drawn with a gradient")

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw category after category: each is binomial given what the earlier ones left (Devroye 1986, XI.1.4)."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            left, share = self.total_count.expand(shape).clone(), torch.ones(shape).to(self.probs)
            drawn = []
            for p in self.probs.expand(*shape, -1).unbind(-1)[:-1]:
                drawn.append(torch.binomial(left, (p / share.clamp_min(torch.finfo(p.dtype).tiny)).clamp(0.0, 1.0)))
                left, share = left - drawn[-1], share - p
            return torch.stack([*drawn, left], -1)


class DirichletMultinomial(Model):
    """Unknown shares of categories behind rows of counts.

    Generative story::

        probs              ~ Dirichlet(concentration, ..., concentration)
        counts_i | probs   ~ Multinomial(total_i, probs)              i = 1 .. n

    ===========  ===========  ==========================
    symbol       site         shape
    ===========  ===========  ==========================
    probs        ``probs``    (category)
    counts_i     ``counts``   (row, category)
    ===========  ===========  ==========================

    The totals are the sums of the rows, taken as known; rows may have different ones.

    Methods: ``exact`` (the posterior is Dirichlet(concentration + sum_i counts_i)); also ``svi`` and ``map``.

    Limits: all rows share one vector of shares. Rows that differ more than chance allows need shares of their own; the
    evidence tells.

    Parameters
    ----------
    concentration
        Positive; prior count of each category.
    """

    counts = Count("row", "category")
    concentration: PositiveFloat = 1.0

    dims = {"probs": ("category",)}  # noqa: RUF012 - declared once per class by design

    def check(self, counts: Tensor) -> None:
        """Refuse a single category, whose share is 1."""
        if counts.shape[1] < 2:
            raise DataError(
                "field 'counts': expected a column of counts for each of at least 2 categories, found 1 column, whose "
                "share is always 1; for plain counts use GammaPoisson"
            )

    def forward(self, counts: Tensor) -> None:
        """Tell the generative story."""
        probs = pyro.sample("probs", dist.Dirichlet(torch.full((counts.shape[1],), self.concentration)))
        with pyro.plate("row", len(counts)):
            pyro.sample("counts", Multinomial(counts.sum(-1), probs), obs=counts)
