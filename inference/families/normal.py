"""Normal with unknown mean and variance; Normal-Gamma prior."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from inference.families.family import EMPTY, Block, Expected, sum_to
from inference.families.location_scale import FLOOR, LocationScaleBlock, LocationScaleFamily, cell_shape
from zoo.declare.evaluate import Values
from zoo.declare.sites import Site


class NormalFamily(LocationScaleFamily):
    """x ~ Normal(m, v), independent entries: statistics sum w, sum w x, sum w x^2.

    Maximum m = sum w x / sum w, v = sum w (x - m)^2 / sum w, pooled over what m and v are shared by. With
    t = 1/v ~ Gamma(a, b) and m ~ Normal(m0, 1 / (kappa t)) the mode of the Normal-Gamma posterior
    (Murphy 2007, section 3).
    """

    likelihoods: ClassVar[dict[str, str]] = {"Normal": "loc"}
    scales: ClassVar[dict[str, str]] = {"variance": "", "scale": "", "precision": "Gamma"}
    joint = "precision"

    def block(self, site: Site, names: tuple[str, str], argument: str, kappa: float) -> Block:
        """Make the block for one site."""
        return NormalBlock(site, names, argument, kappa)


class NormalBlock(LocationScaleBlock):
    """Update of means and variances of independent Normal entries."""

    def smallest(self, value: Tensor, spread: Tensor) -> Tensor:
        """Smallest variance over columns."""
        feed = self.site.args[self.argument]
        shape = cell_shape(tuple(value.shape), feed, spread.ndim + 1)
        variance = {"variance": value, "scale": value.square(), "precision": value.reciprocal()}[self.argument]
        relative = variance.reshape(shape) / spread
        return relative.reshape(relative.shape[0], -1).amin(-1)

    def update(self, expected: Expected, weight: Tensor, x: Tensor, center: Tensor, spread: Tensor) -> Values:
        """Update from weights (k, n) and centred entries (n, events)."""
        k, events = weight.shape[0], center.shape
        flat = x.reshape(len(x), -1)
        s0 = weight.sum(1).reshape(k, *[1] * len(events))
        s1 = (weight @ flat).reshape(k, *events)
        s2 = (weight @ flat.square()).reshape(k, *events)
        loc, mean, prior_mean = self.location(expected, s0, s1, center)
        squares = (s2 - 2 * mean * s1 + mean.square() * s0).clamp_min(0.0)
        current, feed = expected.values[self.names[1]], self.site.args[self.argument]
        shape = cell_shape(tuple(current.shape), feed, s1.ndim)
        count = sum_to(s0.expand_as(s1), shape)
        floor = FLOOR * sum_to(spread.expand_as(s1), shape) / (s1.numel() / max(1, count.numel()))
        prior = self.prior(expected)
        if prior is None:
            variance = torch.maximum(sum_to(squares, shape) / count.clamp_min(EMPTY), floor)
            new = {"variance": variance, "scale": variance.sqrt(), "precision": variance.reciprocal()}[self.argument]
            new = torch.where(count > EMPTY, new, current.reshape(shape))
        else:
            rate = prior.rate.reshape(shape) + 0.5 * sum_to(squares, shape)
            power = prior.concentration.reshape(shape) - 1 + 0.5 * count
            if self.kappa:
                rate = rate + 0.5 * self.kappa * sum_to((mean - prior_mean).square(), shape)
                power = power + 0.5 * (s1.numel() / max(1, count.numel()))
            new = torch.where(power > 0, power / rate, current.reshape(shape))
        return {self.names[0]: loc, self.names[1]: new.reshape(current.shape)}
