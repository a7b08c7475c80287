"""The distribution of counts of categories in rows that differ in their totals."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints


def counts_density(value: Tensor, probs: Tensor) -> Tensor:
    """Multinomial log density of counts (*batch, categories), without steps that depend on values, as torch's has."""
    constant = (value.sum(-1) + 1).lgamma() - (value + 1).lgamma().sum(-1)
    return constant + torch.xlogy(value, probs).sum(-1)


class Multinomial(TorchDistribution):
    """Counts of categories, each row with a total of its own, which `pyro.distributions.Multinomial` does not take.

    Parameters
    ----------
    total_count
        Total of each row, shape (*batch).
    probs
        Probability of each category, shape (*batch, categories) or broadcastable to it.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"probs": constraints.simplex}

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
        return counts_density(value, self.probs)

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
