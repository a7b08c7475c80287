"""Mixture of linear regressions."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_components, check_range, rank
from zoo.declare.fields import Real
from zoo.declare.regression import Regression
from zoo.errors import DataError
from zoo.initial import SEED_ROWS, column_moments, observed

TRIES, STEPS = 10, 10  # random starts of the clustering by lines, and its steps from each
RIDGE = 1e-6  # of the mean square of a standardized column: keeps a line through too few rows defined


class MixtureOfRegressions(Regression):
    """Mixture of linear regressions: each row follows one of a few lines (DeSarbo and Cron 1988).

    Generative story::

        z_i                ~ Categorical(weights)                                          i = 1 .. n
        y_i | z_i = k      ~ Normal(intercepts_k + (x_i - m) . coefficients_k, scales_k)

    with m the means of the columns of x, so intercepts are what y is expected to be there; without intercept m is 0.

    ============  ================  ==================================
    symbol        site              shape
    ============  ================  ==================================
    weights       ``weights``       (component)
    coefficients  ``coefficients``  (component, feature)
    intercepts    ``intercepts``    (component), only with `intercept`
    scales        ``scales``        (component)
    z_i           ``z``             (row), enumerated
    x_i           given             (row, feature)
    y_i           ``y``             (row)
    ============  ================  ==================================

    Methods: ``em`` (closed form: weighted least squares line by line); also ``svi`` and ``map``.

    Limits: the likelihood has several maxima, and none if a line runs through as many rows as it has unknowns; use
    `EM(restarts=...)` and see the warnings. Weights do not depend on x.

    Parameters
    ----------
    components
        Number of lines, at least 1.
    intercept
        Whether lines have a level of their own.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import EM, fit
    >>> x = np.linspace(-2, 2, 60)
    >>> y = np.where(np.arange(60) % 2, 2 * x, 1 - x) + 0.1 * np.sin(50 * x)
    >>> result = fit(zoo.MixtureOfRegressions(components=2), {"x": x[:, None], "y": y}, method=EM(restarts=5), seed=0)
    >>> sorted(result.posterior["point_estimate"]["coefficients"].values.ravel().round(1).tolist())
    [-1.0, 2.0]
    """

    x = Real("row", "feature")
    y = Real("row")
    components: PositiveInt = 2
    intercept: bool = True

    dims = {
        "weights": ("component",),
        "coefficients": ("component", "feature"),
        "intercepts": ("component",),
        "scales": ("component",),
    }

    def check(self, x: Tensor, y: Tensor) -> None:
        # Refuse too few rows, columns that depend on each other, and a response that does not vary
        check_range(x, self.coords["feature"])
        check_range(y[:, None], pd.Index(["y"]))
        check_components(torch.cat([x, y[:, None]], 1), self.components)
        if bool((y == y[0]).all()):
            raise DataError(
                f"field 'y': expected values that differ, found {float(y[0]):g} {len(y)} times; there is nothing to "
                "regress"
            )
        design, _, _ = self._design(x)
        determined = rank(design)
        if determined < design.shape[1]:
            constant = (x == x[0]).all(0)
            what = (
                f"column {self.coords['feature'][int(constant.nonzero()[0])]!r} is constant; drop it"
                if self.intercept and bool(constant.any()) and len(x) > 1
                else "drop columns that are sums of others, or give more rows"
            )
            raise DataError(
                f"field 'x': {len(x)} rows determine {determined} of the {design.shape[1]} unknowns of a line; {what}"
            )

    def setup(self, x: Tensor, y: Tensor) -> None:
        # Take the means of the columns, so that intercepts and slopes are told apart however far these are from 0
        center = column_moments(x, self.row_weights)[0]
        self.center = Buffer(center if self.intercept else torch.zeros_like(center))

    def initial(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start from the best of several clusterings by lines (Späth 1979), each from lines through a few rows
        pick = torch.randperm(len(x), device=x.device)
        pick = pick[observed(y, self.missing.get("y"))[pick] > 0][:SEED_ROWS]
        design, center, scale = self._design(x[pick])
        response = y[pick]
        level = response.mean() if self.intercept else torch.zeros_like(response[0])
        tries = (_lines(design, response - level, self.components) for _ in range(TRIES))
        _, lines, labels, squares = min(tries, key=lambda end: end[0])
        member = torch.nn.functional.one_hot(labels, self.components).to(y)
        size = member.sum(0)
        # One row with the average residual for each line, so that none starts without noise.
        variances = (squares @ member + squares.mean() + 1e-6 * response.var(correction=0)) / (size + 1)
        coefficients = lines[:, : x.shape[1]] / scale
        start = {"weights": (size + 1) / (size + 1).sum(), "coefficients": coefficients, "scales": variances.sqrt()}
        if self.intercept:
            start["intercepts"] = level + lines[:, -1] + coefficients @ (self.center - center)
        return start

    def _design(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return standardized columns, with one of ones for the intercept, and what they were centred and scaled by."""
        center = x.mean(0) if self.intercept else torch.zeros_like(x[0])
        scale = (x - center).square().mean(0).sqrt()
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        ones = [torch.ones_like(x[:, :1])] if self.intercept else []
        return torch.cat([(x - center) / scale, *ones], 1), center, scale

    def forward(self, x: Tensor, y: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        coefficients = pyro.param("coefficients", torch.zeros(k, x.shape[1]))
        intercepts: Any = pyro.param("intercepts", torch.zeros(k)) if self.intercept else None
        scales = pyro.param("scales", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            loc = ((x - self.center) * coefficients[z]).sum(-1)
            loc = loc + intercepts[z] if self.intercept else loc
            pyro.sample("y", dist.Normal(loc, scales[z]), obs=y)


def _lines(design: Tensor, y: Tensor, components: int) -> tuple[float, Tensor, Tensor, Tensor]:
    """Cluster rows by the line they are nearest to; return the sum of squares, lines, labels and squared residuals."""
    rows, width = design.shape
    eye = RIDGE * torch.eye(width).to(design)
    few = torch.multinomial(torch.ones(components, rows).to(design), min(width + 1, rows))
    member = torch.zeros(components, rows).to(design).scatter_(1, few, 1.0)
    lines = torch.zeros(components, width).to(design)
    labels = squares = y
    for step in range(STEPS):
        weighted = member[:, :, None] * design
        solved = torch.linalg.solve(weighted.mT @ design + eye, (weighted.mT @ y)[..., None])[..., 0]
        lines = torch.where(member.sum(1, keepdim=True) > 0, solved, lines)  # a line without rows stays where it is
        squares, nearest = (y[:, None] - design @ lines.mT).square().min(1)
        if step and torch.equal(nearest, labels):
            break
        labels, member = nearest, torch.nn.functional.one_hot(nearest, components).to(design).mT
    return float(squares.sum()), lines, labels, squares
