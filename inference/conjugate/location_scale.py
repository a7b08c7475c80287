"""Likelihoods with a location and a scale: what their scales have in common, in any parameterization."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from inference.conjugate.exponential_family import Current, Entries, ExponentialFamily, Likelihood, Moments
from zoo.constant_columns import FLOOR

NEAR = 1e-10  # smallest distance from the location, in units of the scale: the weight of what is nearer has no bound


@dataclass(frozen=True)
class Scale:
    """One parameterization of a scale by its dispersion: the mean of squares, or what else its maximum is the mean of.

    Attributes
    ----------
    power
        Power of a constant factor of the argument in what multiplies deviations: c of a precision, 1 / c of a variance.
    dispersion, argument
        From the argument to the dispersion, and back.
    """

    power: int
    dispersion: Callable[[Tensor], Tensor]
    argument: Callable[[Tensor], Tensor]


class LocationScale(Likelihood):
    """x is about a location, and as far from it as a scale says.

    Attributes
    ----------
    scales
        Arguments that are the scale, each in its parameterization.
    degree
        Power of the distance that deviations are: 2 of Normals.
    """

    scales: ClassVar[Mapping[str, Scale]]
    degree: ClassVar[int] = 2

    @abstractmethod
    def deviations(self, entries: Entries) -> Tensor:
        """Weights times the expected distance from the location to that degree: its mean is the dispersion."""

    def count(self, entries: Entries) -> Tensor:
        """Weights of the deviations."""
        return entries.count

    def least(self, spread: Tensor) -> Tensor:
        """Smallest dispersion where data have this variance."""
        return (FLOOR * spread) ** (0.5 * self.degree)

    def bounded(self, dispersion: Tensor, spread: Tensor, axes: Tensor | None = None) -> Tensor:
        """Maximum of the likelihood over dispersions that are not below the least; `axes` are for matrices."""
        return torch.maximum(dispersion, self.least(spread))

    def at_floor(self, dispersion: Tensor, spread: Tensor, axes: Tensor | None = None) -> Tensor:
        """Whether each dispersion is next to the least; where there is no spread, none is."""
        return dispersion <= self.least(10 * spread)


PRECISIONS: Mapping[str, Callable[[Moments], Moments]] = {
    "variance": lambda v: {"mean": v["inverse"], "log": -v["log"]},
    "scale": lambda s: {"mean": s["mean"].square().reciprocal(), "log": -2 * s["mean"].log()},
}


class NormalLike(LocationScale):
    """x ~ Normal(m, 1/t) with deviations (x - m)^2, whatever the location m is made of."""

    conjugate: ClassVar[Mapping[str, str]] = {"precision": "Gamma", "variance": "InverseGamma"}
    alternatives: ClassVar[Mapping[str, Mapping[str, Callable[[Moments], Moments]]]] = {"precision": PRECISIONS}
    scales: ClassVar[Mapping[str, Scale]] = {
        "precision": Scale(1, torch.reciprocal, torch.reciprocal),
        "variance": Scale(-1, torch.clone, torch.clone),
        "scale": Scale(-2, torch.square, torch.sqrt),
    }

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """To (log t, t): half the count, and minus half the squares; to (log v, 1/v) of a variance: minus both."""
        half = 0.5 * self.scales[argument].power * self.count(entries)
        return half, -0.5 * self.deviations(entries)


class Predictor(NormalLike, ExponentialFamily):
    """A Normal likelihood of one site, whose location is a function of several unknowns (a linear predictor, say)."""

    composes: ClassVar[str] = "loc"

    def composed(self, current: Current) -> Moments:
        """Moments of the unknowns, as `natural` takes them for its argument "loc"."""
        return self.coefficients(current)

    @abstractmethod
    def location(self, current: Current) -> Moments:
        """Moments of each entry's location."""

    @abstractmethod
    def coefficients(self, current: Current) -> Moments:
        """Moments of the unknowns as `natural` takes them for its argument "loc"."""

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """-log(2 pi) / 2."""
        return -0.5 * math.log(2 * math.pi)
