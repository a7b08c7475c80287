"""Linear regression with conjugate priors."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_predictors, check_range
from zoo.declare.fields import Real
from zoo.declare.regression import Regression
from zoo.errors import DataError
from zoo.initial import column_moments, observed

RIDGE = 1e-8  # rows that keep least squares defined where columns depend on each other
LEAST_NOISE = 1e-6  # of the variance of y: the least that the default prior guesses


class BayesianRegression(Regression):
    """Linear regression with conjugate priors on coefficients, intercept and noise.

    Generative story (the precision of known noise is scale^-2)::

        precision       ~ Gamma(df / 2, df / 2 * prior_scale^2)                 only without `scale`
        intercept       ~ Normal(mean of y, (shrinkage * precision)^-1/2)       only with `intercept`
        coefficients_j  ~ Normal(0, (shrinkage * v_j * precision)^-1/2)
        y_i             ~ Normal(intercept + (x_i - m) . coefficients, precision^-1/2)       i = 1 .. n

    with m and v the means and variances of the columns of x, so the intercept is what y is expected to be at m. Without
    intercept m is 0 and v holds mean squares.

    ============  ================  ==============================
    symbol        site              shape
    ============  ================  ==============================
    precision     ``precision``     (), only without `scale`
    intercept     ``intercept``     (), only with `intercept`
    coefficients  ``coefficients``  (feature)
    x_i           given             (row, feature)
    y_i           ``y``             (row)
    ============  ================  ==============================

    The default prior scales with the data, so columns in any units work, and is weak: shrinkage = 1e-4 lets a
    coefficient move y by a hundred times the noise per standard deviation of its column.

    Methods: ``exact`` (given the precision the posterior of coefficients and intercept is Normal, the precision's is
    Gamma, and without it coefficients are Student t: Bishop 2006, exercises 3.12 and 3.13); also ``cavi``, ``svi``,
    ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.

    Limits: straight lines and light-tailed noise. The default prior takes its scales from the data; to compare
    evidences with those of other models give all of them the same.

    Parameters
    ----------
    intercept
        Whether y has a level of its own.
    shrinkage
        Rows that the prior on coefficients and intercept counts for.
    scale
        Known standard deviation of the noise; None if unknown.
    df
        Rows that the prior on the precision counts for.
    prior_scale
        Prior guess of the noise's standard deviation; None for that of the least-squares residuals, or of y where
        there are no more rows than unknowns.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> model = zoo.BayesianRegression.from_formula("waiting ~ eruptions", geyser)
    >>> result = fit(model, geyser, method="exact", seed=0)
    >>> result.summary().loc["coefficients[eruptions]", ["mean", "sd"]].round(1)
    mean    10.7
    sd       0.3
    Name: coefficients[eruptions], dtype: float64
    """

    x = Real("row", "feature")
    y = Real("row")
    intercept: bool = True
    shrinkage: PositiveFloat = 1e-4
    scale: PositiveFloat | None = None
    df: PositiveFloat = 1.0
    prior_scale: PositiveFloat | None = None

    dims = {"coefficients": ("feature",)}

    def check(self, x: Tensor, y: Tensor) -> None:
        # Refuse columns without effect, and a response without variation where noise has to be learned from it
        check_predictors(x, self.coords["feature"], intercept=self.intercept)
        check_range(y[:, None], pd.Index(["y"]))
        if self.scale is None and self.prior_scale is None and bool((y == (y[0] if self.intercept else 0.0)).all()):
            raise DataError(
                f"field 'y': expected values that differ, found {float(y[0]):g} {len(y)} times, so nothing tells the "
                "size of the noise; give scale=... if it is known, or prior_scale=... as a guess"
            )

    def setup(self, x: Tensor, y: Tensor) -> None:
        # Scale the priors to the data, unless they are given
        center, variances = column_moments(x, self.row_weights)
        moments = column_moments(y[:, None], self.row_weights, self.missing.get("y"))
        level, spread = (moment[0] for moment in moments)
        if not self.intercept:
            variances, spread = variances + center.square(), spread + level.square()
            center, level = torch.zeros_like(center), torch.zeros_like(level)
        self.center, self.variances, self.level = Buffer(center), Buffer(variances), Buffer(level)
        if self.prior_scale is None:
            _, squares, rows = self._least_squares(x, y, self.row_weights, RIDGE)
            left = rows - x.shape[1] - self.intercept
            spread = torch.maximum(squares / left, LEAST_NOISE * spread) if left > 0 else spread
        else:
            spread = spread.new_tensor(self.prior_scale**2)
        self.spread = Buffer(spread)

    def initial(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start at the mean of the coefficients given the precision, which does not depend on it
        coefficients, squares, rows = self._least_squares(x, y, None, self.shrinkage)
        start = {"coefficients": coefficients}
        if self.intercept:
            start["intercept"] = self.level
        if self.scale is None:
            start["precision"] = (self.df + rows) / (self.df * self.spread + squares)
        return start

    def _least_squares(
        self, x: Tensor, y: Tensor, weights: Tensor | None, ridge: float
    ) -> tuple[Tensor, Tensor, float]:
        """Return coefficients that minimize squares + ridge * sum_j v_j coefficients_j^2, the squares, and the rows."""
        seen = observed(y, self.missing.get("y"))
        weights = seen if weights is None else seen * weights.to(y)
        scale = self.variances.sqrt()
        z, response = (x - self.center) / scale, y - self.level
        weighted = (z * weights[:, None]).mT
        gram = weighted @ z + ridge * torch.eye(len(scale)).to(z)
        solution = torch.cholesky_solve((weighted @ response)[:, None], torch.linalg.cholesky(gram))[:, 0]
        return solution / scale, weights @ (response - z @ solution).square(), float(weights.sum())

    def forward(self, x: Tensor, y: Tensor) -> None:
        if self.scale is None:
            precision = pyro.sample("precision", dist.Gamma(0.5 * self.df, 0.5 * self.df * self.spread))
        else:
            precision = y.new_tensor(self.scale**-2)
        prior = self.shrinkage * precision
        coefficients = pyro.sample("coefficients", dist.Normal(0.0, (prior * self.variances).rsqrt()).to_event(1))
        loc = (x - self.center) @ coefficients
        if self.intercept:
            loc = loc + pyro.sample("intercept", dist.Normal(self.level, prior.rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(loc, precision.rsqrt()), obs=y)
