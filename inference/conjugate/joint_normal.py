"""A mean and a scale that are conjugate together: Normal-Gamma, Normal-Inverse-Gamma and Normal-Wishart."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Moments
from inference.conjugate.posteriors import Posterior, Single, mix, total
from inference.conjugate.wishart import wishart
from zoo.replay.evaluate import Values


class JointNormal(Posterior):
    """A scale with its conjugate prior, and m given its precision t ~ Normal(loc, (kappa t)^-1).

    `names` are the mean and the scale. Natural parameters are kappa loc, -kappa / 2, and those of the scale, of which
    the second is taken about loc: -(b + kappa loc^2 / 2) of a Gamma.
    """

    names: tuple[str, str]
    loc: Tensor
    kappa: Tensor

    @cached_property
    def scale(self) -> Single:
        """Distribution of the scale."""
        return self.scale_law()

    @abstractmethod
    def scale_law(self) -> Single:
        """Make the distribution of the scale."""

    @abstractmethod
    def mean_cross(self, other: Self) -> Tensor:
        """E[log other] of the mean given the scale."""

    def cross(self, other: Self) -> Values:
        """E[log other] of the scale, and of the mean given it."""
        return {**self.scale.cross(other.scale), self.names[0]: self.mean_cross(other)}

    @abstractmethod
    def normal(self, scale: Tensor) -> Any:
        """Distribution of the mean given the scale, or draws of it."""

    @abstractmethod
    def made(self, loc: Tensor, kappa: Tensor, scale: Any) -> Self:
        """The same with other numbers, `scale` a distribution without wrappers."""

    @abstractmethod
    def squares(self, gap: Tensor) -> Tensor:
        """kappa gap gap^T, summed to the shape of the scale."""

    def mean(self) -> Values:
        """The location, and the mean of the scale."""
        return {**self.scale.mean(), self.names[0]: self.loc}

    def sample(self, count: int) -> Values:
        """Scales first, then means given them."""
        scale = self.scale.sample(count)
        return {**scale, self.names[0]: self.normal(scale[self.names[1]]).sample()}

    def log_prob(self, values: Values) -> Values:
        """Log density of the scale, and of the mean given it."""
        normal = self.normal(values[self.names[1]])
        return {**self.scale.log_prob(values), self.names[0]: normal.log_prob(values[self.names[0]])}

    def entropy(self) -> Values:
        """That of the scale, and of the mean given it."""
        return {**self.scale.entropy(), self.names[0]: -self.mean_cross(self)}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Distribution of the scale; of the mean given the scale's value."""
        return self.scale.distribution if name == self.names[1] else self.normal(values[self.names[1]])

    def blend(self, other: Self, rate: float) -> Self:
        """Mix kappa, kappa loc, and the scale's natural parameters about a common location."""
        weights = [one.kappa[(..., *[None] * (one.loc.ndim - one.kappa.ndim))] for one in (self, other)]
        loc = mix(weights[0] * self.loc, weights[1] * other.loc, rate) / mix(weights[0], weights[1], rate)
        family, natural = self.scale.family, []
        for one in (self, other):
            first, second = family.natural(one.scale.base, family.known(one.scale.base))[0]
            natural.append((first, second - 0.5 * one.squares(one.loc - loc)))
        scale = family.make(tuple(mix(a, b, rate) for a, b in zip(*natural, strict=True)))
        return self.made(loc, mix(self.kappa, other.kappa, rate), scale)

    def tensors(self) -> dict[str, Tensor]:
        """loc, kappa, and the arguments of the scale."""
        return {"loc": self.loc, "kappa": self.kappa}

    def describe(self) -> dict[str, Any]:
        """Nothing else."""
        return {}


@dataclass
class NormalGamma(JointNormal):
    """t ~ Gamma(a, b), m given t ~ Normal(loc, (kappa t)^-1) (Murphy 2007, section 3).

    `loc` and `kappa` have the shape of the mean's value, `a` and `b` that of the precision's, which is broadcast to it
    with `pad` dimensions appended; `events` dimensions on the right are one event of each.
    """

    names: tuple[str, str]
    loc: Tensor
    kappa: Tensor
    a: Tensor
    b: Tensor
    events: tuple[int, int]
    pad: int = 0

    kind: ClassVar[str] = "normal_gamma"

    def scale_law(self) -> Single:
        """Gamma(a, b)."""
        return Single(self.names[1], dist.Gamma(self.a, self.b).to_event(self.events[1]))

    def normal(self, scale: Tensor) -> Any:
        """Normal(loc, (kappa t)^-1)."""
        precision = self.kappa * self.precision(self.lift(scale))
        return dist.Normal(self.loc, precision.rsqrt()).to_event(self.events[0])

    def precision(self, scale: Tensor) -> Tensor:
        """t from the scale: itself."""
        return scale

    def precision_moments(self) -> Moments:
        """E[t] and E[log t]."""
        return {"mean": self.a / self.b, "log": torch.digamma(self.a) - self.b.log()}

    def made(self, loc: Tensor, kappa: Tensor, scale: Any) -> Self:
        """The same with other numbers."""
        return type(self)(self.names, loc, kappa, scale.concentration, scale.rate, self.events, self.pad)

    def lift(self, t: Tensor) -> Tensor:
        """Lay precisions, or draws of them, out beside the means."""
        draws = t.ndim - self.a.ndim
        shared = self.loc.ndim - self.a.ndim - self.pad
        return t[(*[slice(None)] * draws, *[None] * shared, ..., *[None] * self.pad)]

    def squares(self, gap: Tensor) -> Tensor:
        """kappa gap^2, summed to the shape of the scale."""
        square = self.kappa * gap.square()
        return square.sum_to_size((*self.b.shape, *[1] * self.pad)).reshape(self.b.shape)

    def mean_cross(self, other: Self) -> Tensor:
        """(log kappa' + E[log t] - log 2 pi - kappa' (E[t] (loc - loc')^2 + 1 / kappa)) / 2."""
        t = {n: self.lift(v) for n, v in self.precision_moments().items()}
        gap = t["mean"] * (self.loc - other.loc).square() + self.kappa.reciprocal()
        mean = 0.5 * (other.kappa.log() + t["log"] - math.log(2 * math.pi) - other.kappa * gap)
        return total(mean.expand(self.loc.shape), self.events[0])

    def moments(self, name: str) -> Moments:
        """Those of the scale; mean and variance, and E[t (m - E m)^2] = 1 / kappa as `quad`."""
        if name == self.names[1]:
            return self.scale.moments(name)
        inverse = self.lift(self.b / (self.a - 1).clamp_min(1e-8))
        variance, quad = inverse / self.kappa, self.kappa.reciprocal()
        return {"mean": self.loc, "quad": quad.expand(self.loc.shape), "var": variance.expand(self.loc.shape)}

    def tensors(self) -> dict[str, Tensor]:
        """loc, kappa, a, b."""
        return {**super().tensors(), "a": self.a, "b": self.b}

    def describe(self) -> dict[str, Any]:
        """Event dimensions."""
        return {"events": list(self.events), "pad": self.pad}


class NormalInverseGamma(NormalGamma):
    """v ~ InverseGamma(a, b), m given v ~ Normal(loc, v / kappa): a Normal-Gamma of 1 / v (Murphy 2007, section 6)."""

    kind: ClassVar[str] = "normal_inverse_gamma"

    def scale_law(self) -> Single:
        """InverseGamma(a, b)."""
        return Single(self.names[1], dist.InverseGamma(self.a, self.b).to_event(self.events[1]))

    def precision(self, scale: Tensor) -> Tensor:
        """1 / v."""
        return scale.reciprocal()


@dataclass
class NormalWishart(JointNormal):
    """P ~ Wishart(df, V), m given P ~ Normal(loc, (kappa P)^-1) (Murphy 2007, section 8).

    `loc` (..., d), `kappa` and `df` (...), `tril` the Cholesky factor of V (..., d, d).
    """

    names: tuple[str, str]
    loc: Tensor
    kappa: Tensor
    df: Tensor
    tril: Tensor

    kind: ClassVar[str] = "normal_wishart"

    def scale_law(self) -> Single:
        """Wishart(df, V)."""
        return Single(self.names[1], wishart(self.df, self.tril))

    def normal(self, scale: Tensor) -> Any:
        """Normal(loc, (kappa P)^-1)."""
        draws, shared = scale.ndim - self.tril.ndim, self.kappa.ndim - self.df.ndim
        precision = scale[(*[slice(None)] * draws, *[None] * shared)]
        return dist.MultivariateNormal(self.loc, precision_matrix=self.kappa[..., None, None] * precision)

    def made(self, loc: Tensor, kappa: Tensor, scale: Any) -> Self:
        """The same with other numbers."""
        return type(self)(self.names, loc, kappa, scale.df, scale.scale_tril)

    def squares(self, gap: Tensor) -> Tensor:
        """kappa gap gap^T, summed to the shape of the precision."""
        outer = self.kappa[..., None, None] * (gap[..., :, None] * gap[..., None, :])
        return outer.sum_to_size(self.tril.shape)

    def mean_cross(self, other: Self) -> Tensor:
        """(d log(kappa' / 2 pi) + E[log |P|] - kappa' (g^T E[P] g + d / kappa)) / 2, g = loc - loc'."""
        p, d, gap = self.scale.moments(self.names[1]), self.loc.shape[-1], self.loc - other.loc
        square = (gap * (p["mean"] @ gap[..., None])[..., 0]).sum(-1) + d / self.kappa
        constant = d * (other.kappa.log() - math.log(2 * math.pi))
        return 0.5 * (constant + p["logdet"] - other.kappa * square)

    def moments(self, name: str) -> Moments:
        """E[P], E[log |P|]; mean and covariance, and E[(m - E m)^T P (m - E m)] = d / kappa as `quad`."""
        if name == self.names[1]:
            return self.scale.moments(name)
        d = self.loc.shape[-1]
        excess = (self.df - d - 1).clamp_min(1e-8)
        inverse = torch.cholesky_inverse(self.tril) / excess[..., None, None]
        return {"mean": self.loc, "quad": d / self.kappa, "cov": inverse / self.kappa[..., None, None]}

    def tensors(self) -> dict[str, Tensor]:
        """loc, kappa, df, tril."""
        return {**super().tensors(), "df": self.df, "tril": self.tril}
