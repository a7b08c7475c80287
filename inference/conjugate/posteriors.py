"""What coordinate updates find: a distribution over the unknowns of one block, its moments, entropy and draws."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import kl_divergence

from zoo.errors import DataError, MethodError
from zoo.replay.evaluate import Values
from zoo.replay.sites import base_distribution

Moments = dict[str, Tensor]
CONCENTRATIONS = {
    "Beta": ("concentration1", "concentration0"),
    "Dirichlet": ("concentration",),
    "Gamma": ("concentration", "rate"),
}
SINGLE = ("Beta", "Dirichlet", "Gamma", "Normal", "MultivariateNormal", "Wishart")


class Posterior(ABC):
    """q over the unknowns of one block.

    Attributes
    ----------
    names
        The unknowns, in the order in which they can be drawn.
    """

    names: tuple[str, ...]
    kind: ClassVar[str]

    @abstractmethod
    def mean(self) -> Values:
        """Mean of each unknown."""

    @abstractmethod
    def sample(self, count: int) -> Values:
        """Draw the unknowns together, stacked along a new dimension 0."""

    @abstractmethod
    def log_prob(self, values: Values) -> Values:
        """Log density by unknown, each given the ones before it, in the shape of its site's log density."""

    @abstractmethod
    def entropy(self) -> Values:
        """Entropy by unknown, each given the ones before it, in the shape of its site's log density."""

    @abstractmethod
    def kl(self, other: Any) -> Values:
        """KL(self || other) = E[log self - log other] by unknown, each given the ones before it, laid out as `entropy`.

        `other` is of the same class over the same unknowns, a prior say.
        """

    @abstractmethod
    def moments(self, name: str) -> Moments:
        """Expected sufficient statistics of one unknown."""

    def arguments(self, name: str) -> dict[str, Tensor]:
        """What the distribution of one unknown is made of, laid out as its value.

        Of one whose distribution is given another unknown's value: its location and `kappa`, what multiplies that
        value.

        Raises
        ------
        MethodError
            If it is none that likelihoods can be integrated over in closed form.
        """
        raise MethodError(f"nothing that {name!r} feeds has a predictive distribution in closed form")

    @abstractmethod
    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Distribution of one unknown given the ones before it, to serve as its prior."""

    @abstractmethod
    def blend(self, other: Any, rate: float) -> Posterior:
        """(1 - rate) times its natural parameters plus rate times another's: a natural-gradient step."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The numbers it is made of, by name."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What else `read` needs to make it again, as JSON."""


@dataclass
class Single(Posterior):
    """One unknown with a Beta, Dirichlet, Gamma, (multivariate) Normal or Wishart distribution."""

    name: str
    distribution: Any

    kind: ClassVar[str] = "single"

    def __post_init__(self) -> None:
        """Name what it is over."""
        self.names = (self.name,)

    def mean(self) -> Values:
        """Mean of the distribution."""
        return {self.name: self.distribution.mean}

    def sample(self, count: int) -> Values:
        """Independent draws."""
        base = base_distribution(self.distribution)
        if type(base).__name__ == "Wishart":
            return {self.name: bartlett(count, base.df, base.scale_tril)}
        return {self.name: self.distribution.sample((count,))}

    def log_prob(self, values: Values) -> Values:
        """Log density of the distribution."""
        return {self.name: self.distribution.log_prob(values[self.name])}

    def entropy(self) -> Values:
        """Differential entropy of the distribution (Bishop 2006, appendix B)."""
        base = base_distribution(self.distribution)
        return {self.name: total(base.entropy(), self.distribution.event_dim - base.event_dim)}

    def kl(self, other: Single) -> Values:
        """The divergence of the distributions (Penny 2001)."""
        q, p = base_distribution(self.distribution), base_distribution(other.distribution)
        matrix = type(q).__name__ == "Wishart"
        kl = wishart_kl(q.df, q.scale_tril, p.df, p.scale_tril) if matrix else kl_divergence(q, p)
        return {self.name: total(kl, self.distribution.event_dim - q.event_dim)}

    def moments(self, name: str) -> Moments:
        """Moments that likelihoods are linear in."""
        return moments_of(base_distribution(self.distribution))

    def arguments(self, name: str) -> dict[str, Tensor]:
        """Arguments of the distribution."""
        return self.tensors()

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """The distribution itself."""
        return self.distribution

    def blend(self, other: Single, rate: float) -> Single:
        """Mix concentrations and rates; precisions and precision-weighted means; degrees and inverse scales."""
        p, q = base_distribution(self.distribution), base_distribution(other.distribution)
        name = type(p).__name__
        made: Any
        if name == "Normal":
            a, b = p.scale.square().reciprocal(), q.scale.square().reciprocal()
            precision = mix(a, b, rate)
            made = dist.Normal(mix(a * p.loc, b * q.loc, rate) / precision, precision.rsqrt())
        elif name == "MultivariateNormal":
            a, b = torch.cholesky_inverse(p.scale_tril), torch.cholesky_inverse(q.scale_tril)
            root = torch.linalg.cholesky(mix(a, b, rate))
            right = mix((a @ p.loc[..., None]), (b @ q.loc[..., None]), rate)
            loc = torch.cholesky_solve(right, root)[..., 0]
            made = dist.MultivariateNormal(loc, scale_tril=torch.linalg.cholesky(torch.cholesky_inverse(root)))
        elif name == "Wishart":
            inverse = mix(torch.cholesky_inverse(p.scale_tril), torch.cholesky_inverse(q.scale_tril), rate)
            tril = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(inverse)))
            made = dist.Wishart(mix(p.df, q.df, rate), scale_tril=tril)
        else:
            made = type(p)(*(mix(getattr(p, a), getattr(q, a), rate) for a in CONCENTRATIONS[name]))
        extra = self.distribution.event_dim - made.event_dim
        return Single(self.name, made.to_event(extra) if extra else made)

    def tensors(self) -> dict[str, Tensor]:
        """Arguments of the distribution."""
        base = base_distribution(self.distribution)
        own = {"MultivariateNormal": ("loc", "scale_tril"), "Wishart": ("df", "scale_tril")}
        names = own.get(type(base).__name__, tuple(base.arg_constraints))
        return {a: getattr(base, a) for a in names}

    def describe(self) -> dict[str, Any]:
        """Name of the distribution and how many dimensions are one event."""
        base = base_distribution(self.distribution)
        return {"family": type(base).__name__, "event": self.distribution.event_dim - base.event_dim}


def moments_of(base: Any) -> Moments:
    """Expected sufficient statistics under a distribution.

    Beta: E[log p], E[log (1 - p)]. Dirichlet: E[log p_j]. Gamma: E[t], E[log t]. Normal: mean and variance.
    MultivariateNormal: mean and covariance. Wishart: E[P], E[log |P|] (Bishop 2006, equations B.7, B.21, B.30, B.80,
    B.81).
    """
    name = type(base).__name__
    if name == "Beta":
        a, b = base.concentration1, base.concentration0
        total = torch.digamma(a + b)
        return {"mean": a / (a + b), "log": torch.digamma(a) - total, "log1m": torch.digamma(b) - total}
    if name == "Dirichlet":
        a = base.concentration
        return {"mean": a / a.sum(-1, keepdim=True), "log": torch.digamma(a) - torch.digamma(a.sum(-1, keepdim=True))}
    if name == "Gamma":
        a, b = torch.broadcast_tensors(base.concentration, base.rate)
        return {"mean": a / b, "log": torch.digamma(a) - b.log()}
    if name == "Normal":
        loc, scale = torch.broadcast_tensors(base.loc, base.scale)
        return {"mean": loc, "var": scale.square()}
    if name == "MultivariateNormal":
        return {"mean": base.loc, "cov": base.covariance_matrix}
    tril, df = base.scale_tril, base.df
    return {"mean": df[..., None, None] * (tril @ tril.mT), "logdet": wishart_log_det(df, tril)}


def wishart_log_det(df: Tensor, tril: Tensor) -> Tensor:
    """E[log |P|] = sum_i digamma((df + 1 - i) / 2) + d log 2 + log |V|, V = L L^T (Bishop 2006, equation B.81)."""
    d = tril.shape[-1]
    steps = torch.arange(d, dtype=tril.dtype, device=tril.device)
    log_det = 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return torch.digamma(0.5 * (df[..., None] - steps)).sum(-1) + d * math.log(2.0) + log_det


def wishart_kl(df: Tensor, tril: Tensor, other_df: Tensor, other_tril: Tensor) -> Tensor:
    """KL(Wishart(df, V) || Wishart(nu, U)) (Penny 2001).

    nu (log |U| - log |V|) / 2 + df (tr(U^-1 V) - d) / 2 + log G(nu/2) - log G(df/2) + (df - nu) psi(df/2) / 2, where G
    is the multivariate gamma function and psi the derivative of its logarithm.
    """
    d = tril.shape[-1]
    steps = torch.arange(d, dtype=tril.dtype, device=tril.device)
    log_dets = [t.diagonal(dim1=-2, dim2=-1).log().sum(-1) for t in (tril, other_tril)]
    root = torch.linalg.solve_triangular(other_tril, tril, upper=False)
    trace = root.square().sum((-1, -2))
    slope = torch.digamma(0.5 * (df[..., None] - steps)).sum(-1)
    gammas = torch.mvlgamma(0.5 * other_df, d) - torch.mvlgamma(0.5 * df, d)
    found: Tensor = other_df * (log_dets[1] - log_dets[0]) + 0.5 * df * (trace - d) + gammas
    return found + 0.5 * (df - other_df) * slope


def bartlett(count: int, df: Tensor, tril: Tensor) -> Tensor:
    """Draw Wishart(df, L L^T) matrices as L A A^T L^T, A lower triangular (Bartlett 1933), shape (count, ..., d, d)."""
    d = tril.shape[-1]
    steps = torch.arange(d, dtype=tril.dtype, device=tril.device)
    chi = torch._standard_gamma((0.5 * (df[..., None] - steps)).expand(count, *df.shape, d)) * 2
    noise = torch.randn(count, *df.shape, d, d, dtype=tril.dtype, device=tril.device).tril(-1)
    root = tril @ (noise + torch.diag_embed(chi.sqrt()))
    return root @ root.mT


def mix(a: Tensor, b: Tensor, rate: float) -> Tensor:
    """(1 - rate) a + rate b."""
    return (1 - rate) * a + rate * b


def total(tensor: Tensor, events: int) -> Tensor:
    """Sum over event dimensions."""
    return tensor.sum(list(range(-events, 0))) if events else tensor


def read(kind: str, names: tuple[str, ...], described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Posterior:
    """Make a posterior again from what `describe` and `tensors` gave.

    Raises
    ------
    DataError
        If the kind or its distribution is unknown.
    """
    if kind == "single":
        if described["family"] not in SINGLE:
            raise DataError(f"unknown distribution {described['family']!r} in a saved fit")
        base = getattr(dist, described["family"])(**tensors)
        return Single(names[0], base.to_event(described["event"]) if described["event"] else base)
    kinds: dict[str, Any] = {cls.kind: cls for cls in Posterior.__subclasses__()}
    if kind not in kinds:
        raise DataError(f"unknown posterior {kind!r} in a saved fit")
    made: Posterior = kinds[kind](names, **tensors, **{n: _tuples(v) for n, v in described.items()})
    return made


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
