"""Wishart distributions: the prior of a precision matrix."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from inference.conjugate.exponential_family import Arguments, ConjugatePrior, Moments


def wishart(df: Tensor, scale_tril: Tensor) -> Any:
    """Wishart(df, V), df (...) and the Cholesky factor of V (..., d, d); also with d - 1 < df < d, for its moments."""
    with warnings.catch_warnings():  # torch warns of singular draws of such a one, also where nobody draws
        warnings.simplefilter("ignore", UserWarning)
        return dist.Wishart(df, scale_tril=scale_tril)


class Wishart(ConjugatePrior):
    """P ~ Wishart(df, V), d x d: T = (log |P|, P), eta = ((df - d - 1) / 2, -V^-1 / 2).

    A = (df log |V| + df d log 2) / 2 + log G(df / 2), G the multivariate gamma function (Bishop 2006, equation B.78).
    """

    distributions: ClassVar[tuple[Any, ...]] = (dist.Wishart,)
    dims: ClassVar[tuple[int, ...]] = (0, 2)
    event_dim: ClassVar[int] = 2
    parameters: ClassVar[tuple[str, ...]] = ("df", "scale_tril")
    powers: ClassVar[tuple[int, ...]] = (0, 1)

    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[log |P|] and E[P]."""
        return value["logdet"], value["mean"]

    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """(df - d - 1) / 2 and -V^-1 / 2; -A."""
        df, tril = fn.df, fn.scale_tril
        d = tril.shape[-1]
        size = 0.5 * df * (log_det(tril) + d * math.log(2.0)) + torch.mvlgamma(0.5 * df, d)
        return (0.5 * (df - d - 1), -0.5 * torch.cholesky_inverse(tril)), -size

    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """df = 2 eta_1 + d + 1, V = (-2 eta_2)^-1."""
        tril = torch.linalg.cholesky(inverse(-2 * natural[1]))
        df = 2 * natural[0] + tril.shape[-1] + 1
        return wishart(df.expand(tril.shape[:-2]), tril)

    def moments(self, fn: Any) -> Moments:
        """E[P] = df V; E[log |P|] = sum_i psi((df + 1 - i) / 2) + d log 2 + log |V| (Bishop 2006, eqs. B.80, B.81)."""
        df, tril = fn.df, fn.scale_tril
        d = tril.shape[-1]
        steps = torch.arange(d, dtype=tril.dtype, device=tril.device)
        slope = torch.digamma(0.5 * (df[..., None] - steps)).sum(-1)
        return {
            "mean": df[..., None, None] * (tril @ tril.mT),
            "logdet": slope + d * math.log(2.0) + log_det(tril),
        }

    def at(self, value: Tensor) -> Moments:
        """P and log |P|."""
        return {"mean": value, "logdet": log_det(torch.linalg.cholesky(value))}

    def entropy(self, fn: Any) -> Tensor:
        """A - <E[T], eta>: the last product is -d df / 2, which no product of V and its inverse gives as well."""
        entropy: Tensor = fn.entropy()
        return entropy

    def sample(self, fn: Any, count: int) -> Tensor:
        """Draw L A A^T L^T with V = L L^T and a random lower triangle A (Bartlett 1933)."""
        df, tril = fn.df, fn.scale_tril
        d = tril.shape[-1]
        steps = torch.arange(d, dtype=tril.dtype, device=tril.device)
        chi = torch._standard_gamma((0.5 * (df[..., None] - steps)).expand(count, *df.shape, d)) * 2
        noise = torch.randn(count, *df.shape, d, d, dtype=tril.dtype, device=tril.device).tril(-1)
        root = tril @ (noise + torch.diag_embed(chi.sqrt()))
        draws: Tensor = root @ root.mT
        return draws

    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """(df - d - 1) V: eta_1 (-eta_2)^-1, where that is positive."""
        power = natural[0][..., None, None]
        mode: Tensor = torch.where(power > 0, power * inverse(-natural[1]), torch.nan)
        return mode


def log_det(tril: Tensor) -> Tensor:
    """log |L L^T|."""
    return 2 * tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def inverse(matrix: Tensor) -> Tensor:
    """Inverse of positive-definite matrices through their Cholesky factors."""
    inverted: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(0.5 * (matrix + matrix.mT)))
    return inverted
