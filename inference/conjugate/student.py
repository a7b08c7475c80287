"""Student t distributions as scale mixtures of Normals: likelihoods with a robust location and scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, Entries, Moments
from inference.conjugate.location_scale import LocationScale, NormalLike, Scale
from inference.conjugate.multivariate_normal import MultivariateNormal


def _log_density(df: Tensor, distance: Tensor, log_precision: Tensor, size: int) -> Tensor:
    """Of a vector of `size` entries at a squared distance, in units of the scale."""
    constant = torch.lgamma(0.5 * (df + size)) - torch.lgamma(0.5 * df) - 0.5 * size * (df * math.pi).log()
    return constant + 0.5 * log_precision - 0.5 * (df + size) * torch.log1p(distance / df)


class Student(NormalLike):
    """x ~ Student(df, m, s): Normal(m, s^2 / u), u ~ Gamma(df / 2, df / 2) (Lange, Little and Taylor 1989).

    With t = E[u given x] = (df + 1) / (df + d^2 / s^2), d = |x - m|, log p(x) >= a constant - log s - t d^2 / (2 s^2),
    equal where t is taken: to m and s a Normal whose rows weigh t. Under posteriors d^2 / s^2 is its expectation, and
    the bound is Jensen's.
    """

    distributions, dims = (dist.StudentT,), (0, 0)
    conjugate: ClassVar[Mapping[str, str]] = {**NormalLike.conjugate, "loc": "Normal"}
    by_bound, given = ("loc", *NormalLike.scales), ("df",)
    prior, summable = "Normal", False  # each row has a weight of its own

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[x] and var[x]."""
        return value["mean"], value.get("var", torch.zeros_like(value["mean"]))

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """log p at the expected squared distance."""
        precision = argument("precision")
        return _log_density(argument("df")["mean"], _square(argument, value) * precision["mean"], precision["log"], 1)

    def as_prior(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None) -> tuple[Tensor, ...]:
        """Of a Normal: t m / s^2 and -t / (2 s^2), at what the value is now."""
        precision = _weight(argument, value) * argument("precision")["mean"]
        m = argument("loc")["mean"] - (0.0 if center is None else center)
        return precision * m, -0.5 * precision

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (m, m^2): sum w t x / s^2 and -sum w t / (2 s^2); of a scale as a Normal's, rows weighing t."""
        if argument != "loc":
            return super().message(argument, entries)
        precision = _weight(entries.argument, _values(entries)) * entries.argument("precision")["mean"]
        return precision * (entries.sums[0] + entries.offset * entries.count), -0.5 * entries.count * precision

    def deviations(self, entries: Entries) -> Tensor:
        """w t d^2."""
        value = _values(entries)
        return entries.count * _weight(entries.argument, value) * _square(entries.argument, value)


def _values(entries: Entries) -> Moments:
    """The value of each entry, which has a statistic of its own."""
    mean, variance = (total / torch.where(entries.count > 0, entries.count, 1.0) for total in entries.sums)
    return {"mean": mean, "var": variance}


def _square(argument: Arguments, value: Moments) -> Tensor:
    """E[(x - m)^2]."""
    m = argument("loc")
    return (value["mean"] - m["mean"]).square() + value.get("var", 0.0) + m.get("var", 0.0)


def _weight(argument: Arguments, value: Moments) -> Tensor:
    """t = (df + 1) / (df + d^2 / s^2)."""
    df = argument("df")["mean"]
    return (df + 1) / (df + _square(argument, value) * argument("precision")["mean"])


class MultivariateStudent(LocationScale):
    """x ~ Student(df, m, S): Normal(m, S / u), u ~ Gamma(df / 2, df / 2) (Peel and McLachlan 2000).

    With t = E[u given x] = (df + p) / (df + d^2), d^2 = (x - m)^T S^-1 (x - m) of p entries,
    log p(x) >= a constant - (log |S| + t d^2) / 2, equal where t is taken.
    """

    distributions, dims, event_dim = (dist.MultivariateStudentT,), (1,), 1
    conjugate: ClassVar[Mapping[str, str]] = MultivariateNormal.conjugate
    alternatives: ClassVar[Mapping[str, Mapping[str, Callable[[Moments], Moments]]]] = MultivariateNormal.alternatives
    scales: ClassVar[Mapping[str, Scale]] = MultivariateNormal.scales
    by_bound, given = ("loc", *MultivariateNormal.scales), ("df",)
    prior, summable = "MultivariateNormal", False
    bounded, at_floor = MultivariateNormal.bounded, MultivariateNormal.at_floor

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[x]."""
        return (value["mean"],)

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """log p at the expected squared distance."""
        size, logdet = value["mean"].shape[-1], argument("precision_matrix")["logdet"]
        return _log_density(argument("df")["mean"], _distance(argument, value["mean"]), logdet, size)

    def as_prior(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None) -> tuple[Tensor, ...]:
        """Of a Normal: t P m and -t P / 2, at what the value is now."""
        m = argument("loc")["mean"] - (0.0 if center is None else center)
        precision = _weights(argument, value["mean"])[..., None, None] * argument("precision_matrix")["mean"]
        return (precision @ m[..., None])[..., 0], -0.5 * precision

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (m, m m^T): sum w t P x and -sum w t P / 2; to (log |P|, P): half the count, minus half the scatter."""
        if argument != "loc":
            return 0.5 * entries.count, -0.5 * self.deviations(entries)
        x, count = _vectors(entries)
        p, weight = entries.argument("precision_matrix")["mean"], count * _weights(entries.argument, x)
        first = (p @ (weight[..., None] * (x + entries.offset))[..., None])[..., 0]
        if not _varies(weight, entries.argument("loc")["mean"], 1) and not _varies(weight, p, 2):
            weight = weight.sum(-1, keepdim=True)  # all rows of one mean and one matrix: no (rows, p, p) array
        return first, -0.5 * weight[..., None, None] * p

    def deviations(self, entries: Entries) -> Tensor:
        """sum w t (x - m)(x - m)^T."""
        x, count = _vectors(entries)
        p, m = (entries.argument(name)["mean"] for name in ("precision_matrix", "loc"))
        weight, away = count * _weights(entries.argument, x), x - m
        if _varies(weight, p, 2):
            return weight[..., None, None] * away[..., :, None] * away[..., None, :]
        return ((weight[..., None] * away).mT @ away)[..., None, :, :]


def _vectors(entries: Entries) -> tuple[Tensor, Tensor]:
    """The value of each entry (its mean where it weighs nothing), and its weight."""
    count = entries.count
    alive = (count > 0)[..., None]
    x = torch.where(alive, entries.sums[0] / torch.where(alive, count[..., None], 1.0), entries.argument("loc")["mean"])
    return x, count


def _varies(weight: Tensor, argument: Tensor, dims: int) -> bool:
    """Whether an argument, with so many dimensions of its own, varies along the last plate, or there is none."""
    return weight.ndim == 0 or (argument.ndim > dims and argument.shape[-1 - dims] > 1)


def _distance(argument: Arguments, x: Tensor) -> Tensor:
    """E[(x - m)^T P (x - m)]."""
    m, p = argument("loc"), argument("precision_matrix")["mean"]
    away = x - m["mean"]
    square = ((p @ away[..., None])[..., 0] * away).sum(-1)
    return square + (p * m["cov"]).sum((-1, -2)) if "cov" in m else square


def _weights(argument: Arguments, x: Tensor) -> Tensor:
    """t = (df + p) / (df + d^2)."""
    df = argument("df")["mean"]
    return (df + x.shape[-1]) / (df + _distance(argument, x))
