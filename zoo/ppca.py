"""Probabilistic principal component analysis."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.data_checks import check_range, rank
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import SEED_ROWS


def check_factors(x: Tensor, factors: int) -> None:
    """Raise if so many factors leave no noise to estimate: too few columns, rows, or directions the rows vary in.

    Raises
    ------
    DataError
        Naming the numbers of factors, columns and directions.
    """
    if factors >= x.shape[1]:
        raise DataError(
            f"expected fewer factors than columns, found {factors} factors and {x.shape[1]} columns; ask for at most "
            f"{x.shape[1] - 1}"
        )
    centred = x - x.mean(0)
    scale = centred.abs().amax(0)
    directions = rank(centred / torch.where(scale > 0, scale, torch.ones_like(scale)))
    if directions <= factors:
        raise DataError(
            f"{factors} factor(s) explain the {len(x)} rows without error, because these vary in {directions} "
            f"direction(s) only; {'ask for fewer factors' if directions > 1 else 'use fewer columns'} or give more data"
        )


def principal_axes(x: Tensor, factors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns' means (d,), and loadings (d, factors) and what these leave of each variance (d,).

    The first principal axes of at most `SEED_ROWS` rows, each with half of the variance along it: a start on the way
    to the maximum, not the maximum itself.
    """
    sample = x[torch.randperm(len(x), device=x.device)[:SEED_ROWS]]
    means = sample.mean(0)
    centred = sample - means
    _, singular, axes = torch.svd_lowrank(centred, q=min(factors + 6, *centred.shape))
    loadings = axes[:, :factors] * singular[:factors] / (2 * len(sample)) ** 0.5
    return means, loadings, centred.square().mean(0) - loadings.square().sum(-1)


def expected_factors(x: Tensor, means: Tensor, loadings: Tensor, variances: Tensor) -> Tensor:
    """E[z | x] = (I + L' V^-1 L)^-1 L' V^-1 (x - m), shape (rows, factors), with V the diagonal matrix of variances."""
    scaled = loadings / variances[:, None]
    precision = torch.eye(loadings.shape[1]).to(x) + scaled.mT @ loadings
    factors: Tensor = torch.linalg.solve(precision, ((x - means) @ scaled).mT).mT
    return factors


class PPCA(Model):
    """Probabilistic principal component analysis: a few coordinates per row, and noise alike in all columns.

    Generative story (Tipping and Bishop 1999, section 3.1)::

        z_i            ~ Normal(0, I)                                   i = 1 .. n, z_i in R^factors
        x_i | z_i      ~ Normal(means + loadings z_i, variance * I)

    ===========  ============  ===================
    symbol       site          shape
    ===========  ============  ===================
    means        ``means``     (feature)
    loadings     ``loadings``  (feature, factor)
    variance     ``variance``  ()
    z_i          ``z``         (row, factor)
    x_i          ``x``         (row, feature)
    ===========  ============  ===================

    At the maximum the loadings span the first principal axes and the variance is the mean of the eigenvalues left out
    (Tipping and Bishop 1999, equations 7 and 8).

    Methods: ``em`` (closed form, over the exact posterior of z_i); also ``cavi``, which takes the same steps as nothing
    but z_i has a prior, and ``svi``.

    Limits: loadings and z_i are identified only up to a rotation of the factors; noise is alike in all columns, so
    bring columns to comparable units, or use `FactorAnalysis`, which gives each column its own.

    Parameters
    ----------
    factors
        Number of coordinates per row, at least 1 and fewer than columns.
    """

    x = Real("row", "feature")
    factors: PositiveInt = 1

    dims = {"means": ("feature",), "loadings": ("feature", "factor"), "z": ("factor",)}  # noqa: RUF012 - once per class

    def check(self, x: Tensor) -> None:
        """Refuse data in which so many factors leave no noise."""
        check_range(x, self.coords["feature"])
        check_factors(x, self.factors)

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        """Start on the way to the principal axes."""
        means, loadings, left = principal_axes(x, self.factors)
        variance = left.mean()
        z = expected_factors(x, means, loadings, variance.expand(len(means)))
        return {"means": means, "loadings": loadings, "variance": variance, "z": z}

    def forward(self, x: Tensor) -> None:
        """Tell the generative story."""
        d, q = x.shape[1], self.factors
        means = pyro.param("means", torch.zeros(d))
        loadings = pyro.param("loadings", torch.eye(d, q))
        variance = pyro.param("variance", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(q), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(means + z @ loadings.mT, variance.sqrt()).to_event(1), obs=x)
