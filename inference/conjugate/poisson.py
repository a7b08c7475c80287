"""Poisson and Exponential likelihoods; Gamma prior of their rate."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, Entries, ExponentialFamily, Moments


class Poisson(ExponentialFamily):
    """x ~ Poisson(r): T = x, eta = log r, A = r, h = 1 / x!.

    A rate r ~ Gamma(a, b) has the posterior Gamma(a + sum w x, b + sum w) (Gelman et al. 2013, section 2.6).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Poisson,)
    conjugate: ClassVar[dict[str, str]] = {"rate": "Gamma"}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Events."""
        return (value["mean"],)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[log r]; -E[r]."""
        r = argument("rate")
        return (r["log"],), -r["mean"]

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log x!."""
        return -torch.lgamma(value["mean"] + 1)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """Events, and minus the exposure: sum w x and -sum w."""
        return entries.sums[0], -entries.count


class Exponential(ExponentialFamily):
    """x ~ Exponential(r): T = x, eta = -r, A = -log r.

    A rate r ~ Gamma(a, b) has the posterior Gamma(a + sum w, b + sum w x) (Gelman et al. 2013, section 2.6).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Exponential,)
    conjugate: ClassVar[dict[str, str]] = {"rate": "Gamma"}

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """Exposure."""
        return (value["mean"],)

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """-E[r]; E[log r]."""
        r = argument("rate")
        return (-r["mean"],), r["log"]

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """Events, and minus the exposure: sum w and -sum w x."""
        return entries.count, -entries.sums[0]
