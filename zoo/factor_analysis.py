"""Factor analysis."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_factors, check_varies
from zoo.constant_columns import above, floors, note, units
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import column_moments, expected_factors, principal_axes


class FactorAnalysis(Model):
    """Factor analysis: a few coordinates per row explain how columns go together, up to noise of each column.

    Generative story (Rubin and Thayer 1982)::

        z_i            ~ Normal(0, I)                                   i = 1 .. n, z_i in R^factors
        x_i | z_i      ~ Normal(means + loadings z_i, diag(variances))

    ===========  =============  ===================
    symbol       site           shape
    ===========  =============  ===================
    means        ``means``      (feature)
    loadings     ``loadings``   (feature, factor)
    variances    ``variances``  (feature)
    z_i          ``z``          (row, factor)
    x_i          ``x``          (row, feature)
    ===========  =============  ===================

    Methods: ``em`` (closed form, over the exact posterior of z_i); also ``cavi``, which takes the same steps as nothing
    but z_i has a prior, ``svi``, and ``map``, under which loadings grow without end as z_i shrink.

    Limits: loadings and z_i are identified only up to a rotation of the factors, and with many factors for few columns,
    (d - q)^2 < d + q, not even that. The likelihood may rise without end as the variance of one column goes to 0 (a
    Heywood case), which a fit reports as a variance at its floor.

    Parameters
    ----------
    factors
        Number of coordinates per row, at least 1 and fewer than columns.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> iris = zoo.datasets.load("iris").iloc[:, :4]
    >>> result = fit(zoo.FactorAnalysis(factors=1), iris, method="em", seed=0)
    >>> round(result.objective.value, 1)
    -422.4
    """

    x = Real("row", "feature")
    factors: PositiveInt = 1

    dims = {
        "means": ("feature",),
        "loadings": ("feature", "factor"),
        "variances": ("feature",),
        "z": ("factor",),
    }

    def check(self, x: Tensor) -> None:
        # Refuse rows that are all the same, and data in which so many factors leave no noise
        check_varies(x, self.coords["feature"])
        check_factors(x, self.factors)

    def setup(self, x: Tensor) -> None:
        # Note the columns that do not vary
        _, variance = column_moments(x, None, self.missing.get("x"))
        self.remarks, self.floor = note(self, variance), Buffer(floors(variance))

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from the principal axes of the standardized columns
        _, variance = column_moments(x, None, self.missing.get("x"))
        scale = units(variance).sqrt()
        means, loadings, variances = principal_axes(x / scale, self.factors)
        variances = variances.maximum(self.floor / scale.square())
        z = expected_factors(x / scale, means, loadings, variances)
        start = {"means": means * scale, "loadings": loadings * scale[:, None], "variances": variances * scale.square()}
        return {**start, "z": z}

    def forward(self, x: Tensor) -> None:
        d, q = x.shape[1], self.factors
        means = pyro.param("means", torch.zeros(d))
        loadings = pyro.param("loadings", torch.eye(d, q))
        variances = pyro.param("variances", torch.ones(d), constraint=above(self.floor))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(q), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(means + z @ loadings.mT, variances.sqrt()).to_event(1), obs=x)
