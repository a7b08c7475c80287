"""Exponential families of independent entries, told by gradients of a log density at two points.

Given everything else, the log density of such a latent as a function of its value is <eta, T(c)> + const. Its gradient
is then linear in eta, so two values give eta, and eta gives the integral, its draws and its log density.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.distributions import Beta, Dirichlet, Gamma


class Form(ABC):
    """One family. Values are (entries,), or (entries, d) where an entry is a vector; so are its natural parameters.

    Attributes
    ----------
    families
        Distributions whose densities, as functions of the value, are of it.
    events
        How many dimensions an entry has: 1 for vectors.
    count
        How many tensors of natural parameters there are.
    """

    families: tuple[str, ...]
    events = 0
    count = 2

    @abstractmethod
    def points(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Two values of every entry, near its `centre`."""

    @abstractmethod
    def natural(self, at: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Return the parameters (a, b, or only a vector of them) that have these gradients at the two values."""

    @abstractmethod
    def gradient(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Gradient of the log density at a value."""

    @abstractmethod
    def log_prob(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Log density of each entry, (entries,)."""

    @abstractmethod
    def draw(self, natural: tuple[Tensor, ...]) -> Tensor:
        """Draw each entry."""

    @abstractmethod
    def mean(self, natural: tuple[Tensor, ...]) -> Tensor:
        """Mean of each entry, roughly, wherever the parameters are legal; for where to evaluate."""

    def start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Values to begin with, when nothing is known."""
        return torch.full(shape, 0.5, dtype=like.dtype, device=like.device)

    def spread(self, noise: Tensor) -> Tensor:
        """Map uniform numbers in (0, 1) to values all over the support."""
        return noise

    def tangent(self, gradient: Tensor, at: Tensor) -> Tensor:
        """The part of a gradient that counts: along the support."""
        return gradient


class GammaForm(Form):
    """log p = (a - 1) log c - b c + const, c > 0."""

    families: tuple[str, ...] = ("Gamma", "Exponential", "Chi2")

    def points(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """The centre and its double."""
        return centre, 2.0 * centre

    def natural(self, at: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Solve c g = (a - 1) - b c at two points."""
        first, second = (c * g for c, g in zip(at, gradients, strict=True))
        b = (first - second) / (at[1] - at[0])
        return first + b * at[0] + 1.0, b

    def gradient(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """(a - 1) / c - b."""
        a, b = natural
        return (a - 1.0) / at - b

    def log_prob(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Of a Gamma."""
        a, b = natural
        return a * b.log() - torch.lgamma(a) + (a - 1.0) * at.log() - b * at

    def draw(self, natural: tuple[Tensor, ...]) -> Tensor:
        """Gamma(a, b)."""
        a, b = natural
        return Gamma(a, b, validate_args=False).sample()

    def mean(self, natural: tuple[Tensor, ...]) -> Tensor:
        """a / b."""
        a, b = natural
        return (a.clamp_min(1e-3) / b.clamp_min(1e-300)).clamp(1e-150, 1e150)

    def spread(self, noise: Tensor) -> Tensor:
        """From e^-6 to e^6 or so."""
        return noise.logit().exp()


class InverseGammaForm(GammaForm):
    """log p = -(a + 1) log c - b / c + const, c > 0."""

    families = ("InverseGamma",)

    def natural(self, at: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Solve c g = -(a + 1) + b / c at two points."""
        first, second = (c * g for c, g in zip(at, gradients, strict=True))
        b = (first - second) / (1.0 / at[0] - 1.0 / at[1])
        return b / at[0] - first - 1.0, b

    def gradient(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """-(a + 1) / c + b / c^2."""
        a, b = natural
        return (b / at - (a + 1.0)) / at

    def log_prob(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Of an inverse Gamma."""
        a, b = natural
        return a * b.log() - torch.lgamma(a) - (a + 1.0) * at.log() - b / at

    def draw(self, natural: tuple[Tensor, ...]) -> Tensor:
        """1 / Gamma(a, b)."""
        return 1.0 / super().draw(natural)

    def mean(self, natural: tuple[Tensor, ...]) -> Tensor:
        """The mode, b / (a + 1)."""
        a, b = natural
        return (b.clamp_min(1e-300) / (a + 1.0).clamp_min(1e-3)).clamp(1e-150, 1e150)


class BetaForm(Form):
    """log p = (a - 1) log c + (b - 1) log(1 - c) + const, 0 < c < 1."""

    families = ("Beta", "Uniform")

    def points(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Odds of the centre, and four times these."""
        return centre, 4.0 * centre / (1.0 + 3.0 * centre)

    def natural(self, at: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Solve c (1 - c) g = (a - 1) (1 - c) - (b - 1) c at two points."""
        first, second = (c * (1.0 - c) * g for c, g in zip(at, gradients, strict=True))
        both = (first - second) / (at[1] - at[0])  # (a - 1) + (b - 1)
        a = first + both * at[0]
        return a + 1.0, both - a + 1.0

    def gradient(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """(a - 1) / c - (b - 1) / (1 - c)."""
        a, b = natural
        return (a - 1.0) / at - (b - 1.0) / (1.0 - at)

    def log_prob(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Of a Beta."""
        a, b = natural
        constant = torch.lgamma(a + b) - torch.lgamma(a) - torch.lgamma(b)
        return constant + (a - 1.0) * at.log() + (b - 1.0) * torch.log1p(-at)

    def draw(self, natural: tuple[Tensor, ...]) -> Tensor:
        """Beta(a, b)."""
        tiny = torch.finfo(natural[0].dtype).eps
        a, b = natural
        return Beta(a, b, validate_args=False).sample().clamp(tiny, 1.0 - tiny)

    def mean(self, natural: tuple[Tensor, ...]) -> Tensor:
        """a / (a + b), off the edges."""
        a, b = (x.clamp_min(0.1) for x in natural)
        return (a / (a + b)).clamp(1e-6, 1.0 - 1e-6)

    def spread(self, noise: Tensor) -> Tensor:
        """Values near both ends, too."""
        return 0.001 + 0.998 * noise


class DirichletForm(Form):
    """log p = sum_k (a_k - 1) log c_k + const, c on the simplex, with two entries or more."""

    families = ("Dirichlet",)
    events = 1
    count = 1

    def points(self, centre: Tensor) -> tuple[Tensor, Tensor]:
        """The centre, and one with other proportions."""
        ramp = torch.linspace(1.0, 3.0, centre.shape[-1], dtype=centre.dtype, device=centre.device)
        moved = centre * ramp
        return centre, moved / moved.sum(-1, keepdim=True)

    def natural(self, at: tuple[Tensor, Tensor], gradients: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Solve c_k (g_k - <c, g>) = (a_k - 1) - c_k S, S = sum_j (a_j - 1), at two points."""
        first, second = (self.tangent(g, c) for c, g in zip(at, gradients, strict=True))
        step = at[1] - at[0]
        total = ((first - second) * step).sum(-1, keepdim=True) / step.square().sum(-1, keepdim=True)
        return (first + at[0] * total + 1.0,)

    def gradient(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """(a_k - 1) / c_k."""
        gradient: Tensor = (natural[0] - 1.0) / at
        return gradient

    def log_prob(self, natural: tuple[Tensor, ...], at: Tensor) -> Tensor:
        """Of a Dirichlet."""
        (a,) = natural
        return torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1) + ((a - 1.0) * at.log()).sum(-1)

    def draw(self, natural: tuple[Tensor, ...]) -> Tensor:
        """Dirichlet(a)."""
        drawn = Dirichlet(natural[0], validate_args=False).sample().clamp_min(torch.finfo(natural[0].dtype).tiny)
        return drawn / drawn.sum(-1, keepdim=True)

    def mean(self, natural: tuple[Tensor, ...]) -> Tensor:
        """a / sum a, off the edges."""
        a = natural[0].clamp_min(0.1)
        mean: Tensor = a / a.sum(-1, keepdim=True)
        return mean

    def start(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """All alike."""
        return torch.full(shape, 1.0 / shape[-1], dtype=like.dtype, device=like.device)

    def spread(self, noise: Tensor) -> Tensor:
        """Proportions of anything between."""
        some = 0.01 + noise
        return some / some.sum(-1, keepdim=True)

    def tangent(self, gradient: Tensor, at: Tensor) -> Tensor:
        """c_k (g_k - <c, g>), whatever the density does off the simplex."""
        tangent: Tensor = at * (gradient - (at * gradient).sum(-1, keepdim=True))
        return tangent


FORMS: tuple[Form, ...] = (GammaForm(), InverseGammaForm(), BetaForm(), DirichletForm())
