"""Whole numbers from 0 to a largest one, as a logistic distribution that is cut into bins says."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from zoo.replay.bernoulli import log_sigmoid

TINY = 1e-7  # width of a bin in scales, below which its mass is that of the density at its middle


class DiscretizedLogistic(TorchDistribution):
    """P(x) = F((x + 1/2 - loc) / scale) - F((x - 1/2 - loc) / scale), F the logistic function; the ends take the rest.

    Of grey levels x = 0, ..., high (Kingma et al. 2016, "Improving variational inference with inverse autoregressive
    flow", appendix C.1; Salimans et al. 2017, equation 2).

    Parameters
    ----------
    loc, scale
        In grey levels, of broadcastable shapes.
    high
        The largest level.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {"loc": constraints.real, "scale": constraints.positive}

    def __init__(self, loc: Tensor, scale: Tensor, high: int, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        self.high = high
        super().__init__(self.loc.shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Any:
        """Levels from 0 to the largest."""
        return constraints.integer_interval(0, self.high)

    @property
    def mean(self) -> Tensor:
        """E[x] = sum over levels k >= 1 of P(x >= k)."""
        level = torch.arange(1, self.high + 1, dtype=self.loc.dtype, device=self.loc.device) - 0.5
        return torch.sigmoid((self.loc.unsqueeze(-1) - level) / self.scale.unsqueeze(-1)).sum(-1)

    def expand(self, batch_shape: Any, _instance: Any = None) -> DiscretizedLogistic:
        """Return the distribution with this batch shape."""
        return DiscretizedLogistic(self.loc.expand(batch_shape), self.scale.expand(batch_shape), self.high, False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log mass of a level: log F(b) + log F(-a) + log(1 - exp(-(b - a))) between two ends a < b of a bin."""
        below = (value - 0.5 - self.loc) / self.scale
        above = (value + 0.5 - self.loc) / self.scale
        width = (1 / self.scale).clamp_min(TINY)
        inside = log_sigmoid(above) + log_sigmoid(-below) + torch.log(-torch.expm1(-width))
        first = torch.where(value <= 0, log_sigmoid(above), inside)
        return torch.where(value >= self.high, torch.where(value <= 0, 0.0, log_sigmoid(-below)), first)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Refuse: levels have no gradient."""
        raise NotImplementedError("grey levels cannot be drawn with a gradient")

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draw from the logistic distribution and round."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            u = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device).clamp(1e-7, 1 - 1e-7)
            drawn: Tensor = (self.loc + self.scale * torch.logit(u)).round().clamp(0, self.high)
            return drawn
