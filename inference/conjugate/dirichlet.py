"""Dirichlet distributions: the prior of the probabilities of categories."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Moments


class Dirichlet(ConjugatePrior):
    """p ~ Dirichlet(a): T = log p, eta = a - 1, A = sum_j log Gamma(a_j) - log Gamma(sum a) (Bishop 2006, eq. 2.38)."""

    distributions: ClassVar[tuple[Any, ...]] = (dist.Dirichlet,)
    dims: ClassVar[tuple[int, ...]] = (1,)
    event_dim: ClassVar[int] = 1
    parameters: ClassVar[tuple[str, ...]] = ("concentration",)

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[log p]."""
        return (value["log"],)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """a - 1; log Gamma(sum a) - sum_j log Gamma(a_j)."""
        a = argument("concentration")["mean"]
        return (a - 1,), torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1)

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Dirichlet(eta + 1)."""
        return dist.Dirichlet(natural[0] + 1)

    def moments(self, fn: Any) -> Moments:
        """E[p] and E[log p] (Bishop 2006, equation B.21)."""
        a = fn.concentration
        total = a.sum(-1, keepdim=True)
        return {"mean": a / total, "log": torch.digamma(a) - torch.digamma(total)}

    def at(self, value: Tensor) -> Moments:
        """p and log p."""
        return {"mean": value, "log": value.log()}

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """eta / sum eta: the share of each category, none of those where eta is negative.

        Where all are negative there is no maximum; with `interior` all of it is in the category that is least so.
        """
        (counts,) = natural
        if not interior:  # counts of data, say
            counts = counts.clamp_min(0.0)
            return counts / counts.sum(-1, keepdim=True)
        lost = (counts < 0).all(-1, keepdim=True)
        at = torch.arange(counts.shape[-1], device=counts.device)
        corner = (at == counts.argmax(-1, keepdim=True)).to(counts)
        counts = torch.where(lost, corner, counts).clamp_min(torch.finfo(counts.dtype).eps)
        return counts / counts.sum(-1, keepdim=True)
