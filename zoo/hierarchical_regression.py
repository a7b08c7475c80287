"""Linear regression with intercepts and slopes of each group."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_predictors, check_range
from zoo.declare.fields import Category, Real
from zoo.declare.regression import Regression
from zoo.errors import DataError
from zoo.initial import column_moments, observed, predictor_scales, ridge

LEAST = 1e-3  # of the standard deviation of y: the least scale that climbs start from


class HierarchicalRegression(Regression):
    """Linear regression with intercepts and slopes of each group (Gelman and Hill 2007, chapter 13).

    Generative story::

        intercept          ~ Normal(mean of y, scale * s)
        coefficients_j     ~ Normal(0, scale * s / u_j)
        between            ~ HalfNormal(s)
        slope_scales_j     ~ HalfNormal(s / u_j)                                          only with `slopes`
        noise              ~ HalfNormal(s)
        intercepts_g       ~ Normal(intercept, between)                                   g = 1 .. groups
        slopes_gj          ~ Normal(coefficients_j, slope_scales_j)                       only with `slopes`
        y_i                ~ Normal(intercepts_g(i) + (x_i - m) . slopes_g(i), noise)     i = 1 .. n

    with s the standard deviation of y, m the means of the columns of x, and u_j the unit of column j: two standard
    deviations, or the distance of its values where it has two. Intercepts are what y is expected to be at m. Without
    `slopes` all groups have the slopes `coefficients`.

    ============  ================  ====================================
    symbol        site              shape
    ============  ================  ====================================
    intercept     ``intercept``     ()
    coefficients  ``coefficients``  (feature)
    between       ``between``       ()
    slope_scales  ``slope_scales``  (feature), only with `slopes`
    noise         ``noise``         ()
    intercepts    ``intercepts``    (group)
    slopes        ``slopes``        (group, feature), only with `slopes`
    x_i           given             (row, feature)
    g(i)          given             (row)
    y_i           ``y``             (row)
    ============  ================  ====================================

    Groups have any labels: words or numbers. The less a group's rows say, the more its intercept and slopes are drawn
    to those of all groups.

    Methods: ``nuts``, ``svi``, ``laplace``, ``pathfinder`` and ``smc``, with all intercepts and slopes integrated out
    exactly and drawn afterwards; also ``dadvi`` and ``map``, whose joint density has no mode: it rises without bound as
    a scale of groups goes to 0.

    Limits: intercepts and slopes of a group are independent in the prior, and groups are exchangeable. With two or
    three groups `between` is hardly more than its prior.

    Parameters
    ----------
    slopes
        Whether slopes differ from group to group.
    scale
        Prior standard deviation of the intercept, and of a coefficient per unit of its column, in those of y.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> gas = zoo.datasets.load("whiteside")
    >>> columns = {"x": ["temperature"], "group": "insulated", "y": "gas"}
    >>> result = fit(zoo.HierarchicalRegression(), gas, method="laplace", columns=columns, seed=0)
    >>> dict(result.predict(gas.head(3))["posterior_predictive"]["y"].sizes)
    {'chain': 1, 'draw': 200, 'row': 3}
    """

    x = Real("row", "feature")
    group = Category("row")
    y = Real("row")
    slopes: bool = True
    scale: PositiveFloat = 2.5

    dims = {"coefficients": ("feature",), "slope_scales": ("feature",), "slopes": ("feature",)}

    def check(self, x: Tensor, group: Tensor, y: Tensor) -> None:
        # Refuse columns without effect, a response that does not vary, and one group
        check_predictors(x, self.coords["feature"], intercept=True)
        check_range(y[:, None], pd.Index(["y"]))
        if bool((y == y[0]).all()):
            raise DataError(
                f"field 'y': expected values that differ, found {float(y[0]):g} {len(y)} times; there is nothing to "
                "regress"
            )
        if bool((group == group[0]).all()):
            raise DataError(
                f"field 'group': expected at least 2 groups, found 1 in {len(group)} rows; use BayesianRegression"
            )

    def setup(self, x: Tensor, group: Tensor, y: Tensor) -> None:
        # Take the centres and units of the columns; count the groups, which later rows may not show
        center, unit = predictor_scales(x, self.row_weights)
        level, variance = column_moments(y[:, None], self.row_weights, self.missing.get("y"))
        self.center, self.unit = Buffer(center), Buffer(unit)
        self.level, self.spread = Buffer(level[0]), Buffer(variance[0].sqrt())
        self.groups = int(group.max()) + 1

    def initial(self, x: Tensor, group: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start from one line for all groups, and levels of groups between it and their own means
        seen = observed(y, self.missing.get("y"))
        z = torch.cat([(x - self.center) / self.unit, torch.ones_like(x[:, :1])], 1)
        line = ridge(z, y - self.level, seen, self.scale**-2)
        residual = seen * (y - self.level - z @ line)
        size = torch.zeros(self.groups).to(y).index_add(0, group, seen)
        shift = torch.zeros(self.groups).to(y).index_add(0, group, residual) / (size + 1)
        left = seen * (residual - shift[group])
        coefficients, least = line[:-1] / self.unit, LEAST * self.spread
        start = {
            "intercept": self.level + line[-1],
            "coefficients": coefficients,
            "between": shift.square().mean().sqrt().maximum(least),
            "noise": (left.square().sum() / seen.sum()).sqrt().maximum(least),
            "intercepts": self.level + line[-1] + shift,
        }
        if self.slopes:
            start["slope_scales"] = start["between"] / self.unit
            start["slopes"] = coefficients.expand(self.groups, -1)
        return start

    def forward(self, x: Tensor, group: Tensor, y: Tensor) -> None:
        s = self.spread
        intercept = pyro.sample("intercept", dist.Normal(self.level, self.scale * s))
        prior = dist.Normal(torch.zeros_like(self.unit), self.scale * s / self.unit)
        coefficients = pyro.sample("coefficients", prior.to_event(1))
        between = pyro.sample("between", dist.HalfNormal(s))
        slope_scales = pyro.sample("slope_scales", dist.HalfNormal(s / self.unit).to_event(1)) if self.slopes else None
        noise = pyro.sample("noise", dist.HalfNormal(s))
        with pyro.plate("group", self.groups):
            intercepts = pyro.sample("intercepts", dist.Normal(intercept, between))
            if slope_scales is not None:
                slopes = pyro.sample("slopes", dist.Normal(coefficients, slope_scales).to_event(1))
        with pyro.plate("row", len(x)):
            effect = ((x - self.center) * slopes[group]).sum(-1) if self.slopes else (x - self.center) @ coefficients
            pyro.sample("y", dist.Normal(intercepts[group] + effect, noise), obs=y)
