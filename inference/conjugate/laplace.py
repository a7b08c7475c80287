"""Laplace distributions as scale mixtures of Normals: a likelihood with a robust location, and a sparse prior."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, Entries, Moments
from inference.conjugate.location_scale import NEAR, LocationScale, Scale


class Laplace(LocationScale):
    """x ~ Laplace(m, b): Normal(m, v), v ~ Exponential(1 / (2 b^2)) (Andrews and Mallows 1974; Park and Casella 2008).

    With t = E[1/v given x] = 1 / (b d), d = |x - m|, log p(x) >= -log(2 b) - (t (x - m)^2 + d / b) / 2, equal where it
    is taken: to m a Normal of precision t. Under posteriors d^2 = E[(x - m)^2], t = E[1/b] / d, and the bound is
    -E[log 2 b] - d E[1/b]. Given m, b ~ InverseGamma(a, s) becomes InverseGamma(a + sum w, s + sum w d).
    """

    distributions, dims, degree = (dist.Laplace,), (0, 0), 1
    conjugate: ClassVar = {"loc": "Normal", "scale": "InverseGamma"}
    scales: ClassVar = {"scale": Scale(-1, torch.clone, torch.clone)}
    prior, by_bound, summable = "Normal", ("loc",), False  # each entry's square has a precision of its own

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[x] and var[x]."""
        return value["mean"], value.get("var", torch.zeros_like(value["mean"]))

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """-E[log 2 b] - d E[1/b]."""
        b = argument("scale")
        return -b["log"] - math.log(2) - b["inverse"] * _distance(argument, value)

    def as_prior(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None) -> tuple[Tensor, ...]:
        """Of a Normal: t m and -t / 2, at what the value is now."""
        m, inverse = argument("loc")["mean"] - (0.0 if center is None else center), argument("scale")["inverse"]
        t = inverse / _distance(argument, value).clamp_min(NEAR / inverse)
        return t * m, -0.5 * t

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (m, m^2): sum w t x and -sum w t / 2; to (log b, 1 / b): -sum w and -sum w d."""
        deviations, count, inverse = self.deviations(entries), entries.count, entries.argument("scale")["inverse"]
        if argument == "scale":
            return -count, -deviations
        t = torch.where(count > 0, inverse * count / deviations.clamp_min(NEAR * count / inverse), 0.0)
        return t * (entries.sums[0] + entries.offset * count), -0.5 * t * count

    def deviations(self, entries: Entries) -> Tensor:
        """Weights times d."""
        mean, variance = (total / torch.where(entries.count > 0, entries.count, 1.0) for total in entries.sums)
        return entries.count * _distance(entries.argument, {"mean": mean, "var": variance})


def _distance(argument: Arguments, value: Moments) -> Tensor:
    """Root of E[(x - m)^2]."""
    m = argument("loc")
    return ((value["mean"] - m["mean"]).square() + value.get("var", 0.0) + m.get("var", 0.0)).sqrt()
