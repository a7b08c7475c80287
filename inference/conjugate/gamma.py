"""Gamma distributions: the prior of a rate or a precision, and the likelihood of waiting times of a known shape."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Entries, Moments
from zoo.replay.poisson import log_rate


class Gamma(ConjugatePrior):
    """r ~ Gamma(a, b): T = (log r, r), eta = (a - 1, -b), A = log Gamma(a) - a log b (Bishop 2006, equation 2.146).

    Its rate has a Gamma prior itself: b ~ Gamma(s, t) has the posterior Gamma(s + sum w a, t + sum w r).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Gamma,)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    conjugate: ClassVar[dict[str, str]] = {"rate": "Gamma"}
    parameters: ClassVar[tuple[str, ...]] = ("concentration", "rate")
    powers: ClassVar[tuple[int, ...]] = (0, 1)

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[log r] and E[r]."""
        return value["log"], value["mean"]

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """a - 1 and -E[b]; a E[log b] - log Gamma(a)."""
        a, b = argument("concentration")["mean"], argument("rate")
        return (a - 1, -b["mean"]), a * b["log"] - torch.lgamma(a)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To the rate: sum w a and -sum w r."""
        return entries.count * entries.argument("concentration")["mean"], -entries.sums[1]

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Gamma(eta_1 + 1, -eta_2)."""
        return dist.Gamma(natural[0] + 1, -natural[1])

    def moments(self, fn: Any) -> Moments:
        """E[r] and E[log r] (Bishop 2006, equation B.30)."""
        a, b = torch.broadcast_tensors(fn.concentration, fn.rate)
        return {"mean": a / b, "log": torch.digamma(a) - b.log()}

    def at(self, value: Tensor) -> Moments:
        """r and log r."""
        return {"mean": value, "log": log_rate(value)}  # where a gate is closed, a rate is zero

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """-eta_1 / eta_2: events per exposure, kept above zero."""
        return (natural[0] / -natural[1]).clamp_min(torch.finfo(natural[0].dtype).tiny)
