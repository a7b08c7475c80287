"""Logistic regression with weakly informative priors."""

from __future__ import annotations

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_predictors
from zoo.declare.fields import Binary, Real
from zoo.declare.regression import Regression
from zoo.initial import observed, predictor_scales, ridge


class LogisticRegression(Regression):
    """Logistic regression with weakly informative priors (Gelman et al. 2008).

    Generative story (with `df` None, Normal in place of Student)::

        intercept       ~ Student(df, 0, intercept_scale)
        coefficients_j  ~ Student(df, 0, scale / u_j)
        y_i             ~ Bernoulli(p_i),  log p_i / (1 - p_i) = intercept + (x_i - m) . coefficients    i = 1 .. n

    with m the means of the columns of x and u_j the unit of column j: two standard deviations, or the distance of its
    values where it has two. The intercept is the log odds at m.

    ============  ================  ===============
    symbol        site              shape
    ============  ================  ===============
    intercept     ``intercept``     ()
    coefficients  ``coefficients``  (feature)
    x_i           given             (row, feature)
    y_i           ``y``             (row)
    ============  ================  ===============

    The prior goes with the columns' units, so columns on any scale work. It says that a typical change of a column
    rarely moves a probability from 0.01 to 0.5, and keeps coefficients finite where a line separates yes from no.

    Methods: ``svi``, ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``. With `df` None the mode is
    that of a ridge penalty, and of maximum likelihood as `scale` and `intercept_scale` grow.

    Limits: effects are linear in the log odds and have no interactions; give products of columns as columns. Answers
    are 0 or 1 (False or True), one a row.

    Parameters
    ----------
    scale
        Scale of a coefficient per unit of its column.
    intercept_scale
        Scale of the intercept.
    df
        Degrees of freedom of the priors: 1 for Cauchy, larger for lighter tails; None for Normal.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> geyser["long"] = (geyser["eruptions"] > 3).astype(int)
    >>> model = zoo.LogisticRegression.from_formula("long ~ waiting", geyser)
    >>> result = fit(model, geyser, method="laplace", seed=0)
    >>> result.summary()["mean"].round(1)
    intercept                3.3
    coefficients[waiting]    0.7
    Name: mean, dtype: float64
    """

    x = Real("row", "feature")
    y = Binary("row")
    scale: PositiveFloat = 2.5
    intercept_scale: PositiveFloat = 10.0
    df: PositiveFloat | None = 1.0

    dims = {"coefficients": ("feature",)}

    def check(self, x: Tensor, y: Tensor) -> None:
        # Refuse columns without effect
        check_predictors(x, self.coords["feature"], intercept=True)

    def setup(self, x: Tensor, y: Tensor) -> None:
        # Take the centres and units of the columns
        center, unit = predictor_scales(x, self.row_weights)
        self.center, self.unit = Buffer(center), Buffer(unit)

    def initial(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start from one step of Newton's method at even odds, with the ridge of the prior
        z = torch.cat([(x - self.center) / self.unit, torch.ones_like(x[:, :1])], 1)
        seen = observed(y, self.missing.get("y"))
        found = ridge(z, 4 * (y - 0.5), 0.25 * seen, self.scale**-2)
        return {"coefficients": found[:-1] / self.unit, "intercept": found[-1]}

    def forward(self, x: Tensor, y: Tensor) -> None:
        intercept = pyro.sample("intercept", self._prior(x.new_tensor(self.intercept_scale)))
        coefficients = pyro.sample("coefficients", self._prior(self.scale / self.unit).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=intercept + (x - self.center) @ coefficients), obs=y)

    def _prior(self, scale: Tensor) -> Any:
        """Around 0 with this scale."""
        return dist.Normal(torch.zeros_like(scale), scale) if self.df is None else dist.StudentT(self.df, 0.0, scale)
