"""Inverse Gamma distributions: the prior of a variance, and a likelihood of a known shape."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Entries, Moments


class InverseGamma(ConjugatePrior):
    """v ~ InverseGamma(a, b): T = (log v, 1 / v), eta = (-a - 1, -b), A = log Gamma(a) - a log b.

    Its b has a Gamma prior: b ~ Gamma(s, t) has the posterior Gamma(s + sum w a, t + sum w / v)
    (Gelman et al. 2013, appendix A).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.InverseGamma,)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    conjugate: ClassVar[dict[str, str]] = {"rate": "Gamma"}
    parameters: ClassVar[tuple[str, ...]] = ("concentration", "rate")
    powers: ClassVar[tuple[int, ...]] = (0, -1)

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[log v] and E[1 / v]."""
        return value["log"], value["inverse"]

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """-a - 1 and -E[b]; a E[log b] - log Gamma(a)."""
        a, b = argument("concentration")["mean"], argument("rate")
        return (-a - 1, -b["mean"]), a * b["log"] - torch.lgamma(a)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To b: sum w a and -sum w / v."""
        return entries.count * entries.argument("concentration")["mean"], -entries.sums[1]

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """InverseGamma(-eta_1 - 1, -eta_2)."""
        return dist.InverseGamma(*torch.broadcast_tensors(-natural[0] - 1, -natural[1]))

    def moments(self, fn: Any) -> Moments:
        """E[v], infinite if a <= 1, E[log v] and E[1 / v]."""
        a, b = fn.concentration, fn.rate
        mean = torch.where(a > 1, b / (a - 1), torch.inf)
        return {"mean": mean, "log": b.log() - torch.digamma(a), "inverse": a / b}

    def at(self, value: Tensor) -> Moments:
        """v, log v and 1 / v."""
        return {"mean": value, "log": value.log(), "inverse": value.reciprocal()}

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """eta_2 / eta_1: b / (a + 1)."""
        return natural[1] / natural[0]
