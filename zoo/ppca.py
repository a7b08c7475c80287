"""Probabilistic principal component analysis."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.checks import check_factors, check_range
from zoo.constant_columns import note
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import column_moments, expected_factors, principal_axes


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
    but z_i has a prior, ``svi``, and ``map``, under which loadings grow without end as z_i shrink.

    Limits: loadings and z_i are identified only up to a rotation of the factors; noise is alike in all columns, so
    bring columns to comparable units, or use `FactorAnalysis`, which gives each column its own.

    Parameters
    ----------
    factors
        Number of coordinates per row, at least 1 and fewer than columns.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> iris = zoo.datasets.load("iris").iloc[:, :4]
    >>> result = fit(zoo.PPCA(factors=2), iris, method="em", seed=0)
    >>> round(result.objective.value, 2)
    -404.96
    """

    x = Real("row", "feature")
    factors: PositiveInt = 1

    dims = {"means": ("feature",), "loadings": ("feature", "factor"), "z": ("factor",)}

    def check(self, x: Tensor) -> None:
        # Refuse data in which so many factors leave no noise
        check_range(x, self.coords["feature"])
        check_factors(x, self.factors)

    def setup(self, x: Tensor) -> None:
        # Note the columns that do not vary
        self.remarks = note(self, column_moments(x, None, self.missing.get("x"))[1], shared=True)

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start on the way to the principal axes
        means, loadings, left = principal_axes(x, self.factors)
        variance = left.mean()
        z = expected_factors(x, means, loadings, variance.expand(len(means)))
        return {"means": means, "loadings": loadings, "variance": variance, "z": z}

    def forward(self, x: Tensor) -> None:
        d, q = x.shape[1], self.factors
        means = pyro.param("means", torch.zeros(d))
        loadings = pyro.param("loadings", torch.eye(d, q))
        variance = pyro.param("variance", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(q), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(means + z @ loadings.mT, variance.sqrt()).to_event(1), obs=x)
