"""Beta distributions: the prior of a probability."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Moments


class Beta(ConjugatePrior):
    """p ~ Beta(a, b): T = (log p, log(1 - p)), eta = (a - 1, b - 1), A = log B(a, b) (Bishop 2006, equation 2.13)."""

    distributions: ClassVar[tuple[Any, ...]] = (dist.Beta,)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    parameters: ClassVar[tuple[str, ...]] = ("concentration1", "concentration0")

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[log p] and E[log(1 - p)]."""
        return value["log"], value["log1m"]

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """a - 1 and b - 1; -log B(a, b)."""
        a, b = (argument(name)["mean"] for name in self.parameters)
        return (a - 1, b - 1), torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Beta(eta_1 + 1, eta_2 + 1)."""
        return dist.Beta(natural[0] + 1, natural[1] + 1)

    def moments(self, fn: Any) -> Moments:
        """E[p], E[log p] and E[log(1 - p)] (Bishop 2006, equation B.7)."""
        a, b = fn.concentration1, fn.concentration0
        both = torch.digamma(a + b)
        return {"mean": a / (a + b), "log": torch.digamma(a) - both, "log1m": torch.digamma(b) - both}

    def at(self, value: Tensor) -> Moments:
        """p, log p and log(1 - p)."""
        return {"mean": value, "log": value.log(), "log1m": (-value).log1p()}

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """eta_1 / (eta_1 + eta_2): successes per try.

        Where both are negative that is the minimum, between two poles: the mode is at the stronger one.
        """
        a, b = torch.broadcast_tensors(*natural)
        edge = torch.finfo(a.dtype).eps if interior else 0.0
        inside = a.clamp_min(edge) / (a.clamp_min(edge) + b.clamp_min(edge)) if interior else a / (a + b)
        return torch.where((a < 0) & (b < 0), torch.where(a < b, edge, 1 - edge), inside)
