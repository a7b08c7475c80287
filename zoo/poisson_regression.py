"""Poisson regression with weakly informative priors."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_predictors
from zoo.declare.fields import Count, Positive, Real
from zoo.declare.regression import Regression
from zoo.errors import DataError
from zoo.initial import observed, predictor_scales, ridge


class PoissonRegression(Regression):
    """Poisson regression with exposures: log rates are linear in predictors (McCullagh and Nelder 1989).

    Generative story::

        intercept       ~ Normal(log r, intercept_scale)
        coefficients_j  ~ Normal(0, scale / u_j)
        y_i             ~ Poisson(exposure_i exp(intercept + (x_i - m) . coefficients))       i = 1 .. n

    with r the mean rate, sum y / sum exposure, m the means of the columns of x, and u_j the unit of column j: two
    standard deviations, or the distance of its values where it has two. The intercept is the log rate at m.

    ============  ================  ===============
    symbol        site              shape
    ============  ================  ===============
    intercept     ``intercept``     ()
    coefficients  ``coefficients``  (feature)
    x_i           given             (row, feature)
    exposure_i    given             (row)
    y_i           ``y``             (row)
    ============  ================  ===============

    `exposure` is how long, or how many, each row was watched; 1 where the data have no such column. An offset is its
    logarithm. The prior goes with the units of the columns and of the exposure.

    Methods: ``svi``, ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.

    Limits: effects multiply rates; the variance of a row is its mean. For counts with more zeros than that see
    `ZeroInflatedPoisson`, for a few rates `PoissonMixture`.

    Parameters
    ----------
    scale
        Standard deviation of a coefficient per unit of its column.
    intercept_scale
        Standard deviation of the intercept.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> finds = zoo.datasets.load("discoveries").reset_index()
    >>> finds["century"] = (finds["year"] - 1900) / 100
    >>> model = zoo.PoissonRegression.from_formula("discoveries ~ century", finds)
    >>> result = fit(model, finds, method="laplace", seed=0)
    >>> result.summary()["mean"].round(1)
    intercept                1.1
    coefficients[century]   -0.5
    Name: mean, dtype: float64
    """

    x = Real("row", "feature")
    y = Count("row")
    exposure = Positive("row", default=1.0)
    scale: PositiveFloat = 2.5
    intercept_scale: PositiveFloat = 5.0

    dims = {"coefficients": ("feature",)}

    def check(self, x: Tensor, y: Tensor, exposure: Tensor) -> None:
        # Refuse columns without effect, and exposures in units that no rate per unit can be written in
        check_predictors(x, self.coords["feature"], intercept=True)
        if not 1e-100 < float(exposure.min()) <= float(exposure.max()) < 1e100:
            raise DataError(
                f"field 'exposure': expected numbers between 1e-100 and 1e100, found {float(exposure.min()):g} to "
                f"{float(exposure.max()):g}; give it in other units"
            )

    def setup(self, x: Tensor, y: Tensor, exposure: Tensor) -> None:
        # Take the centres and units of the columns, and the mean rate (of one event at least)
        center, unit = predictor_scales(x, self.row_weights)
        seen = observed(y, self.missing.get("y"))
        weights = seen if self.row_weights is None else seen * self.row_weights
        rate = (weights @ y).clamp_min(1.0) / (weights @ exposure)
        self.center, self.unit, self.level = Buffer(center), Buffer(unit), Buffer(rate.log())

    def initial(self, x: Tensor, y: Tensor, exposure: Tensor) -> dict[str, Tensor]:
        # Start from least squares of the log rates, half an event added to each row, with the ridge of the prior
        z = torch.cat([(x - self.center) / self.unit, torch.ones_like(x[:, :1])], 1)
        more = y + 0.5 * observed(y, self.missing.get("y"))
        logs = (more.clamp_min(0.5) / exposure).log() - self.level
        found = ridge(z, logs, more, self.scale**-2)
        return {"coefficients": found[:-1] / self.unit, "intercept": self.level + found[-1]}

    def forward(self, x: Tensor, y: Tensor, exposure: Tensor) -> None:
        intercept = pyro.sample("intercept", dist.Normal(self.level, self.intercept_scale))
        coefficients = pyro.sample(
            "coefficients", dist.Normal(torch.zeros_like(self.unit), self.scale / self.unit).to_event(1)
        )
        with pyro.plate("row", len(x)):
            loc = intercept + (x - self.center) @ coefficients
            pyro.sample("y", dist.Poisson(exposure * loc.exp()), obs=y)
