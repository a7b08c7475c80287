"""The posterior of a linear predictor's coefficients: Normal, or Normal-Gamma with the precision of the noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints, kl_divergence

from inference.conjugate.posteriors import Moments, Posterior, mix
from zoo.replay.evaluate import Values


def split(beta: Tensor, shapes: tuple[tuple[int, ...], ...], indexed: bool) -> list[Tensor]:
    """Cut coefficients (..., P) into the values of their sites."""
    lead = 1 if indexed else 0
    sizes = [math.prod(s[lead:]) for s in shapes]
    return [
        part.reshape((*part.shape[: part.ndim - 1 - lead], *s))
        for part, s in zip(beta.split(sizes, -1), shapes, strict=True)
    ]


def spread(density: Tensor, batch: tuple[int, ...], indexed: bool) -> Tensor:
    """Lay a density (..., or ..., states) out over the plates of its site, an equal part in each cell."""
    if indexed and not batch:
        return density.sum(-1)
    own = batch[1:] if indexed else batch
    cells = density[(..., *[None] * len(own))] / math.prod(own)
    return cells.expand((*density.shape, *own))


class Entangled(dist.TorchDistribution):
    """Normal coefficients of one site, dependent across its plates: each cell has an equal part of the log density.

    Parameters
    ----------
    normal
        Distribution of the coefficients as a vector, one for each state if there are states.
    shape, event_dim
        Of the site's value.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, normal: Any, shape: tuple[int, ...], event_dim: int) -> None:
        self.normal, self.indexed = normal, len(normal.batch_shape) > 0
        cut = len(shape) - event_dim
        self.whole = shape
        super().__init__(torch.Size(shape[:cut]), torch.Size(shape[cut:]), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw all cells together."""
        draw: Tensor = self.normal.rsample(sample_shape)
        return draw.reshape((*sample_shape, *self.whole))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, in the batch shape."""
        lead = value.shape[: value.ndim - len(self.whole)]
        flat = value.reshape(*lead, *self.whole[: int(self.indexed)], -1)
        return spread(self.normal.log_prob(flat), tuple(self.batch_shape), self.indexed)


@dataclass
class LinearPosterior(Posterior):
    """beta ~ Normal(loc, C), all coefficients of a predictor together; C = L L^T, divided by t ~ Gamma(a, b) if joint.

    `loc` (..., P), `tril` the factor L (..., P, P), with a dimension of states on the left where there are states;
    `shapes` and `events` are the shapes of the sites and how many of their dimensions are one event
    (Bishop 2006, section 3.3 and exercise 3.12).
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    events: tuple[int, ...]
    loc: Tensor
    tril: Tensor
    a: Tensor | None = None
    b: Tensor | None = None

    kind: ClassVar[str] = "linear"

    @property
    def joint(self) -> bool:
        """Whether the noise precision is part of it."""
        return self.a is not None

    @property
    def indexed(self) -> bool:
        """Whether there are coefficients for each state."""
        return self.loc.ndim > 1

    @property
    def _sites(self) -> tuple[str, ...]:
        return self.names[1:] if self.joint else self.names

    def _gamma(self) -> Any:
        assert self.a is not None
        assert self.b is not None
        return dist.Gamma(self.a, self.b)

    def _precision_moments(self) -> Moments:
        """E[t] and E[log t]; 1 and 0 where the precision is no part of it."""
        if self.a is None or self.b is None:
            return {"mean": self.loc.new_ones(()), "log": self.loc.new_zeros(())}
        return {"mean": self.a / self.b, "log": torch.digamma(self.a) - self.b.log()}

    def _split(self, beta: Tensor) -> Values:
        return dict(zip(self._sites, split(beta, self.shapes, self.indexed), strict=True))

    def _join(self, values: Mapping[str, Tensor]) -> Tensor:
        parts = []
        for name, shape in zip(self._sites, self.shapes, strict=True):
            v = values[name]
            lead = v.ndim - len(shape)
            parts.append(v.reshape(*v.shape[: lead + int(self.indexed)], -1))
        return torch.cat(parts, -1)

    def laid_out(self, density: Tensor) -> Values:
        """Lay a density of all coefficients out under the first one's name, and 0 under the others'."""
        found = {}
        for i, (name, shape, event) in enumerate(zip(self._sites, self.shapes, self.events, strict=True)):
            batch = shape[: len(shape) - event]
            found[name] = spread(density if i == 0 else torch.zeros_like(density), batch, self.indexed)
        return found

    def precision(self) -> Tensor:
        """Inverse of C."""
        return torch.cholesky_inverse(self.tril)

    def log_det(self) -> Tensor:
        """log |C| / 2."""
        return self.tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def mean(self) -> Values:
        """The location; a / b."""
        found = self._split(self.loc)
        return {self.names[0]: self._precision_moments()["mean"], **found} if self.joint else found

    def sample(self, count: int) -> Values:
        """The precision first, then all coefficients given it."""
        noise = torch.randn(count, *self.loc.shape, 1, dtype=self.loc.dtype, device=self.loc.device)
        away = (self.tril @ noise)[..., 0]
        if not self.joint:
            return self._split(self.loc + away)
        t = self._gamma().sample((count,))
        return {self.names[0]: t, **self._split(self.loc + away * t[..., None].rsqrt())}

    def log_prob(self, values: Values) -> Values:
        """Log density of all coefficients, under the first one's name; that of the precision."""
        gap = self._join(values) - self.loc
        p = self.loc.shape[-1]
        white = torch.linalg.solve_triangular(self.tril.expand(*gap.shape, p), gap[..., None], upper=False)[..., 0]
        square = white.square().sum(-1)
        density = -0.5 * p * math.log(2 * math.pi) - self.log_det()
        if not self.joint:
            return self.laid_out(density - 0.5 * square)
        t = values[self.names[0]]
        density = density + 0.5 * p * t.log() - 0.5 * square * t
        return {self.names[0]: self._gamma().log_prob(t), **self.laid_out(density)}

    def entropy(self) -> Values:
        """(P log 2 pi e + log |C| - P E[log t]) / 2, under the first site's name; that of the precision."""
        p = self.loc.shape[-1]
        own = 0.5 * p * (math.log(2 * math.pi * math.e) - self._precision_moments()["log"]) + self.log_det()
        found = self.laid_out(own)
        return {self.names[0]: self._gamma().entropy(), **found} if self.joint else found

    def kl(self, other: LinearPosterior) -> Values:
        """KL of the Gammas; (tr(C'^-1 C) - P + E[t] d^T C'^-1 d + log |C'| - log |C|) / 2, d the means' difference."""
        trace = torch.linalg.solve_triangular(other.tril, self.tril, upper=False).square().sum((-1, -2))
        gap = torch.linalg.solve_triangular(other.tril, (self.loc - other.loc)[..., None], upper=False)
        square = self._precision_moments()["mean"] * gap.square().sum((-1, -2))
        own = 0.5 * (trace - self.loc.shape[-1] + square) + other.log_det() - self.log_det()
        found = self.laid_out(own)
        return {self.names[0]: kl_divergence(self._gamma(), other._gamma()), **found} if self.joint else found

    def moments(self, name: str) -> Moments:
        """E[t], E[log t]; of one coefficient site mean and var; `cov` (or `quad` = E[t] cov, joint) of them all."""
        if self.joint and name == self.names[0]:
            return self._precision_moments()
        cov = self.tril @ self.tril.mT
        unit = self.loc.new_ones(())
        if self.a is not None and self.b is not None:
            unit = self.b / (self.a - 1).clamp_min(1e-8)
        variance = self._split(cov.diagonal(dim1=-2, dim2=-1) * unit)
        found = {"mean": self._split(self.loc)[name], "var": variance[name]}
        return {**found, "quad": cov} if self.joint else {**found, "cov": cov}

    def arguments(self, name: str) -> dict[str, Tensor]:
        """Shape and rate of the precision; location and C of all coefficients."""
        if self.a is not None and self.b is not None and name == self.names[0]:
            return {"concentration": self.a, "rate": self.b}
        return {"loc": self.loc, "scale_tril": self.tril}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Gamma of the precision; Normal of one site's coefficients given those of the sites before it."""
        if self.joint and name == self.names[0]:
            return self._gamma()
        lead, at = int(self.indexed), self._sites.index(name)
        sizes = [math.prod(s[lead:]) for s in self.shapes]
        start, stop = sum(sizes[:at]), sum(sizes[: at + 1])
        cov = self.tril @ self.tril.mT
        if self.joint:
            cov = cov / values[self.names[0]]
        loc, own = self.loc[..., start:stop], cov[..., start:stop, start:stop]
        if start:
            known = torch.cat([values[n].reshape(*values[n].shape[:lead], -1) for n in self._sites[:at]], -1)
            across = torch.linalg.solve(cov[..., :start, :start], cov[..., :start, start:stop]).mT
            loc = loc + (across @ (known - self.loc[..., :start])[..., None])[..., 0]
            own = own - across @ cov[..., :start, start:stop]
        return Entangled(dist.MultivariateNormal(loc, own), self.shapes[at], self.events[at])

    def blend(self, other: LinearPosterior, rate: float) -> LinearPosterior:
        """Mix precisions, precision-weighted means, a, and b + m^T L m / 2 about a common center."""
        own, theirs = self.precision(), other.precision()
        root = torch.linalg.cholesky(mix(own, theirs, rate))
        right = mix(own @ self.loc[..., None], theirs @ other.loc[..., None], rate)
        loc = torch.cholesky_solve(right, root)[..., 0]
        tril = torch.linalg.cholesky(torch.cholesky_inverse(root))
        if self.a is None or self.b is None or other.a is None or other.b is None:
            return LinearPosterior(self.names, self.shapes, self.events, loc, tril)
        gaps = []
        for one, precision in ((self, own), (other, theirs)):
            gap = one.loc - loc
            gaps.append(0.5 * (gap * (precision @ gap[..., None])[..., 0]).sum(-1))
        b = mix(self.b + gaps[0], other.b + gaps[1], rate)
        return LinearPosterior(self.names, self.shapes, self.events, loc, tril, mix(self.a, other.a, rate), b)

    def tensors(self) -> dict[str, Tensor]:
        """loc, tril, and a, b where the precision is part of it."""
        found = {"loc": self.loc, "tril": self.tril}
        return found if self.a is None or self.b is None else {**found, "a": self.a, "b": self.b}

    def describe(self) -> dict[str, Any]:
        """Shapes of the sites, and their event dimensions."""
        return {"shapes": [list(s) for s in self.shapes], "events": list(self.events)}
