"""The posterior of coefficients, Normal in groups; with the precision of the noise: Normal-Gamma."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from inference.conjugate.exponential_family import Moments
from inference.conjugate.posteriors import Posterior, Single, mix
from zoo.replay.evaluate import Values


def spread(density: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Lay a density (...) out over the plates of its site, an equal part in each cell."""
    cells = density[(..., *[None] * len(batch))] / math.prod(batch)
    return cells.expand((*density.shape, *batch))


class Entangled(dist.TorchDistribution):
    """Normal coefficients of one site, dependent across its plates: each cell has an equal part of the log density.

    Parameters
    ----------
    normal
        Distribution of the coefficients as a vector, or of each row's where they are independent between rows.
    shape, event_dim
        Of the site's value.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real
    has_rsample = True

    def __init__(self, normal: Any, shape: tuple[int, ...], event_dim: int) -> None:
        self.normal, self.whole, cut = normal, tuple(shape), len(shape) - event_dim
        super().__init__(torch.Size(shape[:cut]), torch.Size(shape[cut:]), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draw all cells together."""
        draw: Tensor = self.normal.rsample(sample_shape)
        return draw.reshape((*sample_shape, *self.whole))

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, in the batch shape."""
        lead, rows = value.shape[: value.ndim - len(self.whole)], tuple(self.normal.batch_shape)
        density: Tensor = self.normal.log_prob(value.reshape(*lead, *rows, -1))
        return spread(density, tuple(self.batch_shape)[len(rows) :])


@dataclass
class Coefficients(Posterior):
    """beta_g ~ Normal(loc_g, C_g), independent between groups g; C_g = L_g L_g^T, over t ~ Gamma(a, b) if joint.

    A density of all coefficients is laid out over the plates of the first site, and 0 over those of the others
    (Bishop 2006, section 3.3 and exercise 3.12).

    Attributes
    ----------
    names
        The sites; before them, where it is joint, the precision.
    shapes, events
        Shapes of the sites, and how many of their dimensions are one event.
    where
        Where each entry of each site stands, one site after the other, among the places (G * p,). Places where none
        stands have mean 0, deviation 1 and no covariance, and do not count.
    loc, tril
        Means and Cholesky factors L, of shape (G, p) and (G, p, p).
    a, b
        Shape and rate of the precision, if that is joint.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    events: tuple[int, ...]
    where: Tensor
    loc: Tensor
    tril: Tensor
    a: Tensor | None = None
    b: Tensor | None = None

    kind: ClassVar[str] = "grouped_normal"

    @property
    def precision(self) -> Single | None:
        """Distribution of the noise's precision, if that is joint."""
        return None if self.a is None or self.b is None else Single(self.names[0], dist.Gamma(self.a, self.b))

    @property
    def sites(self) -> tuple[str, ...]:
        """The coefficients."""
        return self.names if self.a is None else self.names[1:]

    @property
    def size(self) -> int:
        """How many coefficients there are."""
        return len(self.where)

    def unit(self) -> Moments:
        """E[t], E[log t] and E[1/t] of the precision; 1 where it is no part of it."""
        if self.a is None or self.b is None:
            one = self.loc.new_ones(())
            return {"mean": one, "log": one.log(), "inverse": one}
        inverse = self.b / (self.a - 1).clamp_min(1e-8)
        return {"mean": self.a / self.b, "log": torch.digamma(self.a) - self.b.log(), "inverse": inverse}

    @cached_property
    def cov(self) -> Tensor:
        """C, (G, p, p), 0 where no coefficient stands."""
        cov, there = self.tril @ self.tril.mT, self.loc.new_zeros(self.loc.numel())
        there[self.where] = 1.0
        there = there.reshape(self.loc.shape)
        return cov * there[:, :, None] * there[:, None, :]

    def split(self, places: Tensor) -> Values:
        """Entries of each site from numbers in places (..., G, p)."""
        parts = places.flatten(-2)[..., self.where].split([math.prod(s) for s in self.shapes], -1)
        return {n: v.reshape((*v.shape[:-1], *s)) for n, v, s in zip(self.sites, parts, self.shapes, strict=True)}

    def join(self, values: Mapping[str, Tensor]) -> Tensor:
        """Numbers in places (..., G, p) from entries of each site; 0 where none stands."""
        pairs = zip(self.sites, self.shapes, strict=True)
        flat = torch.cat(
            [values[n].flatten(values[n].ndim - len(s)) if s else values[n][..., None] for n, s in pairs], -1
        )
        places = flat.new_zeros(*flat.shape[:-1], self.loc.numel()).index_copy(-1, self.where, flat)
        return places.reshape(*flat.shape[:-1], *self.loc.shape)

    def _laid_out(self, density: Tensor) -> Values:
        found = {}
        for i, (name, shape, event) in enumerate(zip(self.sites, self.shapes, self.events, strict=True)):
            found[name] = spread(density if i == 0 else torch.zeros_like(density), shape[: len(shape) - event])
        return found

    def _volume(self) -> Tensor:
        """(P log 2 pi + log |C|) / 2."""
        log_det = self.tril.diagonal(dim1=-2, dim2=-1).log().sum()
        return 0.5 * self.size * math.log(2 * math.pi) + log_det

    def mean(self) -> Values:
        """The location; a / b."""
        found = self.split(self.loc)
        return found if self.precision is None else {**self.precision.mean(), **found}

    def sample(self, count: int) -> Values:
        """The precision first, then the coefficients of each group together, given it."""
        noise = torch.randn(count, *self.loc.shape, 1, dtype=self.loc.dtype, device=self.loc.device)
        away = (self.tril @ noise)[..., 0]
        if self.precision is None:
            return self.split(self.loc + away)
        t = self.precision.sample(count)
        return {**t, **self.split(self.loc + away * t[self.names[0]][..., None, None].rsqrt())}

    def log_prob(self, values: Values) -> Values:
        """log Normal(beta; loc, C / t) and log Gamma(t; a, b)."""
        gap = self.join(values) - self.loc
        white = torch.linalg.solve_triangular(self.tril.expand(*gap.shape, -1), gap[..., None], upper=False)
        square = white.square().sum((-1, -2, -3))
        if self.precision is None:
            return self._laid_out(-0.5 * square - self._volume())
        t = values[self.names[0]]
        density = 0.5 * self.size * t.log() - 0.5 * square * t - self._volume()
        return {**self.precision.log_prob(values), **self._laid_out(density)}

    def cross(self, other: Self) -> Values:
        """(P E[log t] - tr(C'^-1 C) - E[t] d^T C'^-1 d) / 2 - volume', d the means' difference; that of the Gammas."""
        trace = torch.linalg.solve_triangular(other.tril, self.tril, upper=False).square().sum()
        trace = trace - (self.loc.numel() - self.size)
        gap = torch.linalg.solve_triangular(other.tril, (self.loc - other.loc)[..., None], upper=False)
        t = self.unit()
        density = 0.5 * (self.size * t["log"] - trace - t["mean"] * gap.square().sum()) - other._volume()
        found = self._laid_out(density)
        if self.precision is None or other.precision is None:
            return found
        return {**self.precision.cross(other.precision), **found}

    def moments(self, name: str) -> Moments:
        """Mean and variance of the entries of one site; E[t] and E[log t]."""
        if self.precision is not None and name == self.names[0]:
            return self.precision.moments(name)
        variance = self.cov.diagonal(dim1=-2, dim2=-1) * self.unit()["inverse"]
        return {"mean": self.split(self.loc)[name], "var": self.split(variance)[name]}

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Gamma of the precision; Normal of one site's coefficients given those of the sites before it."""
        cov = torch.block_diag(*self.cov)[self.where][:, self.where]
        if self.precision is not None:
            if name == self.names[0]:
                return self.precision.distribution
            cov = cov / values[self.names[0]]
        at, loc = self.sites.index(name), self.loc.flatten()[self.where]
        sizes = [math.prod(s) for s in self.shapes]
        start, stop = sum(sizes[:at]), sum(sizes[: at + 1])
        mean, own = loc[start:stop], cov[start:stop, start:stop]
        if start:
            known = torch.cat([values[n].flatten() for n in self.sites[:at]])
            across = torch.linalg.solve(cov[:start, :start], cov[:start, start:stop]).mT
            mean = mean + across @ (known - loc[:start])
            own = own - across @ cov[:start, start:stop]
        return Entangled(dist.MultivariateNormal(mean, own), self.shapes[at], self.events[at])

    def blend(self, other: Self, rate: float) -> Self:
        """Mix precisions, precision-weighted means, a, and b + m^T C^-1 m / 2 about a common center."""
        own, theirs = torch.cholesky_inverse(self.tril), torch.cholesky_inverse(other.tril)
        root = torch.linalg.cholesky(mix(own, theirs, rate))
        right = mix(own @ self.loc[..., None], theirs @ other.loc[..., None], rate)
        made = copy.copy(self)
        made.__dict__.pop("cov", None)
        made.loc = torch.cholesky_solve(right, root)[..., 0]
        made.tril = torch.linalg.cholesky(torch.cholesky_inverse(root))
        if self.a is not None and self.b is not None and other.a is not None and other.b is not None:
            pairs = ((self.loc - made.loc, own), (other.loc - made.loc, theirs))
            gaps = [0.5 * (gap * (precision @ gap[..., None])[..., 0]).sum() for gap, precision in pairs]
            made.a, made.b = mix(self.a, other.a, rate), mix(self.b + gaps[0], other.b + gaps[1], rate)
        return made

    def tensors(self) -> dict[str, Tensor]:
        """where, loc, tril."""
        return {"where": self.where, "loc": self.loc, "tril": self.tril}

    def describe(self) -> dict[str, Any]:
        """Shapes of the sites, and their event dimensions."""
        return {"shapes": [list(s) for s in self.shapes], "events": list(self.events)}


class LinearPosterior(Coefficients):
    """Coefficients of a linear predictor, all in one group, or one for each state: shapes (states, ...).

    `loc` is (P,) or (states, P), `tril` (P, P) or (states, P, P).
    """

    kind: ClassVar[str] = "linear"

    def __init__(
        self,
        names: tuple[str, ...],
        shapes: tuple[tuple[int, ...], ...],
        events: tuple[int, ...],
        loc: Tensor,
        tril: Tensor,
        a: Tensor | None = None,
        b: Tensor | None = None,
    ) -> None:
        self.indexed = loc.ndim > 1
        groups, size = (len(loc) if self.indexed else 1), loc.shape[-1]
        starts, at = torch.arange(groups, device=loc.device)[:, None] * size, 0
        where = []
        for shape in shapes:
            own = math.prod(shape) // groups
            where.append((starts + torch.arange(at, at := at + own, device=loc.device)).flatten())
        places = loc.reshape(groups, size), tril.reshape(groups, size, size)
        super().__init__(names, shapes, events, torch.cat(where), *places, a, b)

    def by_state(self, tensor: Tensor) -> Tensor:
        """Take the dimension of groups away where there are no states."""
        return tensor if self.indexed else tensor[0]

    def tensors(self) -> dict[str, Tensor]:
        """loc, tril, and a, b where the precision is part of it."""
        found = {"loc": self.by_state(self.loc), "tril": self.by_state(self.tril)}
        return found if self.a is None or self.b is None else {**found, "a": self.a, "b": self.b}
