"""Posteriors of a mean and a precision together: Normal-Gamma and Normal-Wishart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from inference.conjugate.posteriors import Moments, Posterior, bartlett, mix, total, wishart_kl, wishart_log_det
from zoo.replay.evaluate import Values


@dataclass
class NormalGamma(Posterior):
    """t ~ Gamma(a, b), m given t ~ Normal(loc, (kappa t)^-1): the conjugate prior of a Normal's mean and precision.

    `loc` and `kappa` have the shape of the mean's value, `a` and `b` that of the precision's, which is broadcast to it
    with `pad` dimensions appended; `events` dimensions on the right are one event of each (Murphy 2007, section 3).
    """

    names: tuple[str, str]
    loc: Tensor
    kappa: Tensor
    a: Tensor
    b: Tensor
    events: tuple[int, int]
    pad: int = 0

    kind: ClassVar[str] = "normal_gamma"

    def _gamma(self) -> Any:
        return dist.Gamma(self.a, self.b).to_event(self.events[1])

    def _normal(self, precision: Tensor) -> Any:
        return dist.Normal(self.loc, (self.kappa * precision).rsqrt())

    def mean(self) -> Values:
        """The location, and a / b."""
        return {self.names[1]: self.a / self.b, self.names[0]: self.loc}

    def sample(self, count: int) -> Values:
        """Precisions first, then means given them."""
        t = self._gamma().sample((count,))
        return {self.names[1]: t, self.names[0]: self._normal(self._lift(t)).sample()}

    def _lift(self, t: Tensor) -> Tensor:
        """Lay precisions, or draws of them, out beside the means."""
        draws = t.ndim - self.a.ndim
        shared = self.loc.ndim - self.a.ndim - self.pad
        return t[(*[slice(None)] * draws, *[None] * shared, ..., *[None] * self.pad)]

    def log_prob(self, values: Values) -> Values:
        """log Normal(m; loc, (kappa t)^-1) and log Gamma(t; a, b)."""
        t = values[self.names[1]]
        normal = self._normal(self._lift(t)).to_event(self.events[0])
        return {self.names[1]: self._gamma().log_prob(t), self.names[0]: normal.log_prob(values[self.names[0]])}

    def entropy(self) -> Values:
        """H[t], and E[H[m given t]] = (log 2 pi e - log kappa - E[log t]) / 2."""
        gamma = dist.Gamma(self.a, self.b)
        log = self._lift(torch.digamma(self.a) - self.b.log())
        normal = 0.5 * (math.log(2 * math.pi * math.e) - self.kappa.log() - log).expand(self.loc.shape)
        return {
            self.names[1]: total(gamma.entropy(), self.events[1]),
            self.names[0]: total(normal, self.events[0]),
        }

    def kl(self, other: NormalGamma) -> Values:
        """KL of the Gammas; (log(kappa / kappa') + kappa' / kappa - 1 + kappa' E[t] (m - m')^2) / 2 of the Normals."""
        ratio = other.kappa / self.kappa
        gap = other.kappa * self._lift(self.a / self.b) * (self.loc - other.loc).square()
        gamma = kl_divergence(dist.Gamma(self.a, self.b), dist.Gamma(other.a, other.b))
        return {
            self.names[1]: total(gamma, self.events[1]),
            self.names[0]: total(0.5 * (ratio - 1 - ratio.log() + gap), self.events[0]),
        }

    def moments(self, name: str) -> Moments:
        """E[t], E[log t]; the mean, and E[t (m - E m)^2] = 1 / kappa as `quad`."""
        if name == self.names[1]:
            return {"mean": self.a / self.b, "log": torch.digamma(self.a) - self.b.log()}
        rate = self._lift(self.b / (self.a - 1).clamp_min(1e-8))
        return {
            "mean": self.loc,
            "quad": self.kappa.reciprocal().expand(self.loc.shape),
            "var": (rate / self.kappa).expand(self.loc.shape),
        }

    def arguments(self, name: str) -> dict[str, Tensor]:
        """Shape and rate of the precision; location and kappa of the mean."""
        if name == self.names[1]:
            return {"concentration": self.a, "rate": self.b}
        return {"loc": self.loc, "kappa": self.kappa}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Gamma of the precision; Normal of the mean given the precision's value."""
        if name == self.names[1]:
            return self._gamma()
        return self._normal(self._lift(values[self.names[1]])).to_event(self.events[0])

    def blend(self, other: NormalGamma, rate: float) -> NormalGamma:
        """Mix kappa, kappa m, a, and b + kappa m^2 / 2 about a common center."""
        kappa = mix(self.kappa, other.kappa, rate)
        loc = mix(self.kappa * self.loc, other.kappa * other.loc, rate) / kappa
        b = mix(self.b + self._gap(self, loc), other.b + self._gap(other, loc), rate)
        return NormalGamma(self.names, loc, kappa, mix(self.a, other.a, rate), b, self.events, self.pad)

    def _gap(self, one: NormalGamma, loc: Tensor) -> Tensor:
        """Return kappa (m - m')^2 / 2 in the shape of the precision."""
        gap = 0.5 * one.kappa * (one.loc - loc).square()
        return gap.sum_to_size((*self.b.shape, *[1] * self.pad)).reshape(self.b.shape)

    def tensors(self) -> dict[str, Tensor]:
        """loc, kappa, a, b."""
        return {"loc": self.loc, "kappa": self.kappa, "a": self.a, "b": self.b}

    def describe(self) -> dict[str, Any]:
        """Event dimensions."""
        return {"events": list(self.events), "pad": self.pad}


@dataclass
class NormalWishart(Posterior):
    """P ~ Wishart(df, V), m given P ~ Normal(loc, (kappa P)^-1) (Murphy 2007, section 8).

    `loc` (..., d), `kappa` and `df` (...), `tril` the Cholesky factor of V (..., d, d).
    """

    names: tuple[str, str]
    loc: Tensor
    kappa: Tensor
    df: Tensor
    tril: Tensor

    kind: ClassVar[str] = "normal_wishart"

    def _wishart(self) -> Any:
        return dist.Wishart(self.df, scale_tril=self.tril)

    def _normal(self, precision: Tensor) -> Any:
        draws, shared = precision.ndim - self.tril.ndim, self.kappa.ndim - self.df.ndim
        precision = precision[(*[slice(None)] * draws, *[None] * shared)]
        return dist.MultivariateNormal(self.loc, precision_matrix=self.kappa[..., None, None] * precision)

    def mean(self) -> Values:
        """The location, and df V."""
        return {self.names[1]: self.df[..., None, None] * (self.tril @ self.tril.mT), self.names[0]: self.loc}

    def sample(self, count: int) -> Values:
        """Draw precisions by Bartlett's decomposition, then means given them."""
        precision = bartlett(count, self.df, self.tril)
        return {self.names[1]: precision, self.names[0]: self._normal(precision).sample()}

    def log_prob(self, values: Values) -> Values:
        """log Normal(m; loc, (kappa P)^-1) and log Wishart(P; df, V)."""
        precision = values[self.names[1]]
        return {
            self.names[1]: self._wishart().log_prob(precision),
            self.names[0]: self._normal(precision).log_prob(values[self.names[0]]),
        }

    def entropy(self) -> Values:
        """H[P], and E[H[m given P]] = (d log 2 pi e - d log kappa - E[log |P|]) / 2."""
        d = self.loc.shape[-1]
        log_det = wishart_log_det(self.df, self.tril)
        normal = 0.5 * (d * math.log(2 * math.pi * math.e) - d * self.kappa.log() - log_det)
        return {self.names[1]: self._wishart().entropy(), self.names[0]: normal}

    def kl(self, other: NormalWishart) -> Values:
        """KL of the Wisharts; (d (log(k / k') + k' / k - 1) + k' (m - m')^T E[P] (m - m')) / 2 of the Normals."""
        ratio, gap = other.kappa / self.kappa, (self.loc - other.loc)[..., None, :] @ self.tril
        square = other.kappa * self.df * gap.square().sum((-1, -2))
        normal = 0.5 * (self.loc.shape[-1] * (ratio - 1 - ratio.log()) + square)
        return {self.names[1]: wishart_kl(self.df, self.tril, other.df, other.tril), self.names[0]: normal}

    def moments(self, name: str) -> Moments:
        """E[P], E[log |P|]; the mean, and E[(m - E m)^T P (m - E m)] = d / kappa as `quad`."""
        if name == self.names[1]:
            return {"mean": self.mean()[name], "logdet": wishart_log_det(self.df, self.tril)}
        d = self.loc.shape[-1]
        excess = (self.df - d - 1).clamp_min(1e-8)
        inverse = torch.cholesky_inverse(self.tril) / excess[..., None, None]
        return {"mean": self.loc, "quad": d / self.kappa, "cov": inverse / self.kappa[..., None, None]}

    def arguments(self, name: str) -> dict[str, Tensor]:
        """Degrees of freedom and scale of the precision; location and kappa of the mean."""
        if name == self.names[1]:
            return {"df": self.df, "scale_tril": self.tril}
        return {"loc": self.loc, "kappa": self.kappa}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Wishart of the precision; Normal of the mean given the precision's value."""
        return self._wishart() if name == self.names[1] else self._normal(values[self.names[1]])

    def blend(self, other: NormalWishart, rate: float) -> NormalWishart:
        """Mix kappa, kappa m, df, and V^-1 + kappa m m^T about a common center."""
        kappa = mix(self.kappa, other.kappa, rate)
        loc = mix(self.kappa[..., None] * self.loc, other.kappa[..., None] * other.loc, rate) / kappa[..., None]
        inverses = []
        for one in (self, other):
            gap = one.loc - loc
            outer = one.kappa[..., None, None] * (gap[..., :, None] * gap[..., None, :])
            inverses.append(torch.cholesky_inverse(one.tril) + outer.sum_to_size(one.tril.shape))
        inverse = mix(inverses[0], inverses[1], rate)
        tril = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(inverse)))
        return NormalWishart(self.names, loc, kappa, mix(self.df, other.df, rate), tril)

    def tensors(self) -> dict[str, Tensor]:
        """loc, kappa, df, tril."""
        return {"loc": self.loc, "kappa": self.kappa, "df": self.df, "tril": self.tril}

    def describe(self) -> dict[str, Any]:
        """Nothing else."""
        return {}
