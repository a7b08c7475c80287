"""Normal distributions: the likelihood of numbers, and the prior of a mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Entries, Moments
from inference.conjugate.location_scale import NormalLike


class Normal(NormalLike, ConjugatePrior):
    """x ~ Normal(m, 1/t): T = (x, x^2), eta = (t m, -t / 2), A = (t m^2 - log t) / 2, h = (2 pi)^(-1/2).

    x and m are taken about the data's mean. Given t, a mean m ~ Normal(m0, 1/t0) has a posterior with precision
    t0 + sum w t and mean (t0 m0 + sum w t x) / precision; given m, a precision t ~ Gamma(a, b) has the posterior
    Gamma(a + sum w / 2, b + sum w (x - m)^2 / 2), a variance v ~ InverseGamma(a, b) InverseGamma of the same; t, t0 and
    m by their moments where they are unknown too (Gelman et al. 2013, sections 2.5 and 2.6; Murphy 2007, section 3).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Normal,)
    dims: ClassVar[tuple[int, ...]] = (0, 0)
    conjugate: ClassVar[Mapping[str, str]] = {"loc": "Normal", **NormalLike.conjugate}
    parameters: ClassVar[tuple[str, ...]] = ("loc", "scale")
    powers: ClassVar[tuple[int, ...]] = (1, 2)
    centered: ClassVar[bool] = True

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[x] and E[x^2]."""
        square = value["mean"].square()
        return value["mean"], square + value["var"] if "var" in value else square

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[t m] and -E[t] / 2; E[log t - t m^2] / 2. `quad` is E[t (m - E m)^2] of dependent m and t."""
        loc, precision = argument("loc"), argument("precision")
        m, t = loc["mean"] if center is None else loc["mean"] - center, precision["mean"]
        spread = loc["quad"] if "quad" in loc else (t * loc["var"] if "var" in loc else 0.0)
        return (t * m, -0.5 * t), 0.5 * (precision["log"] - t * m.square() - spread)

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log(2 pi) / 2."""
        return -0.5 * math.log(2 * math.pi)

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (m, m^2) of the mean: sum w t x and -sum w t / 2; to its scale as any Normal."""
        if argument != "loc":
            return super().message(argument, entries)
        t = entries.argument("precision")["mean"]
        return t * (entries.sums[0] + entries.offset * entries.count), -0.5 * t * entries.count

    def deviations(self, entries: Entries) -> Tensor:
        """sum w E[(x - m)^2] = sum w x^2 - 2 m sum w x + m^2 sum w, about the center that x is about."""
        loc, center = entries.argument("loc"), entries.current.center(entries.site)
        m = loc["mean"] if center is None else loc["mean"] - center
        first, second = entries.sums
        square = second - 2 * m * first + m.square() * entries.count
        return square + loc["var"] * entries.count if "var" in loc else square

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Precision -2 eta_2, mean eta_1 / precision."""
        precision = -2 * natural[1]
        loc = natural[0] / precision
        return dist.Normal(loc if center is None else center + loc, precision.rsqrt())

    def moments(self, fn: Any) -> Moments:
        """Mean and variance."""
        loc, scale = torch.broadcast_tensors(fn.loc, fn.scale)
        return {"mean": loc, "var": scale.square()}

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """-eta_1 / (2 eta_2)."""
        return -0.5 * natural[0] / natural[1]
