"""Mixture of linear experts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.initial import predictor_scales, ridge
from zoo.mixture_of_regressions import MixtureOfRegressions


class MixtureOfExperts(MixtureOfRegressions):
    """Mixture of linear experts: where a row is says which line it follows (Jacobs et al. 1991).

    Generative story::

        gate_kj            ~ Normal(0, gate_scale)
        levels_k           ~ Normal(0, gate_scale)
        z_i                ~ Categorical(softmax_k(levels_k + (x_i - m) / u . gate_k))              i = 1 .. n
        y_i | z_i = k      ~ Normal(intercepts_k + (x_i - m) . coefficients_k, scales_k)

    with m the means of the columns of x, and u_j the unit of column j: two standard deviations, or the distance of its
    values where it has two. Without intercept lines go through the origin.

    ============  ================  ==================================
    symbol        site              shape
    ============  ================  ==================================
    gate          ``gate``          (component, feature)
    levels        ``levels``        (component)
    coefficients  ``coefficients``  (component, feature)
    intercepts    ``intercepts``    (component), only with `intercept`
    scales        ``scales``        (component)
    z_i           ``z``             (row), enumerated
    x_i           given             (row, feature)
    y_i           ``y``             (row)
    ============  ================  ==================================

    `assign` weighs experts by x and y; `predict` needs x only.

    Methods: ``em`` (lines in closed form, the gate by gradient); also ``svi`` and ``map``.

    Limits: the likelihood has several maxima, use `EM(restarts=...)`, and none if a line runs through as many rows as
    it has unknowns. The prior on the gate keeps it finite where experts share no region; the data determine differences
    between experts' gates, not their sums.

    Parameters
    ----------
    components
        Number of experts, at least 1.
    intercept
        Whether lines have a level of their own.
    gate_scale
        Prior standard deviation of the gate's coefficients and levels.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import EM, fit
    >>> x = np.linspace(-2, 2, 80)
    >>> y = np.where(x < 0, -x, 2 * x) + 0.1 * np.sin(50 * x)
    >>> result = fit(zoo.MixtureOfExperts(components=2), {"x": x[:, None], "y": y}, method="em", seed=0)
    >>> result.posterior["point_estimate"]["coefficients"].round(1).values
    array([[-1.],
           [ 2.]])
    """

    components: PositiveInt = 2
    intercept: bool = True
    gate_scale: PositiveFloat = 5.0

    dims = {
        "gate": ("component", "feature"),
        "levels": ("component",),
        "coefficients": ("component", "feature"),
        "intercepts": ("component",),
        "scales": ("component",),
    }

    def setup(self, x: Tensor, y: Tensor) -> None:
        # Take the centres and units of the columns
        super().setup(x, y)
        middle, unit = predictor_scales(x, self.row_weights)
        self.middle, self.unit = Buffer(middle), Buffer(unit)

    def initial(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start from lines that rows are clustered by, and one step of Newton's method towards these clusters
        start = super().initial(x, y)
        weights = start.pop("weights")
        loc = (x - self.center) @ start["coefficients"].mT + start.get("intercepts", 0.0)
        density = torch.distributions.Normal(loc, start["scales"]).log_prob(y[:, None]) + weights.log()
        z = torch.cat([(x - self.middle) / self.unit, torch.ones_like(x[:, :1])], 1)
        member, share = density.softmax(1), 1 / self.components  # (rows, components)
        pull = ridge(z, (member - share) / (share * (1 - 0.5 * share)), torch.full_like(y, share), 1.0)
        return {**start, "gate": pull[:-1].mT, "levels": pull[-1]}

    def forward(self, x: Tensor, y: Tensor) -> None:
        k, d = self.components, x.shape[1]
        gate = pyro.sample("gate", dist.Normal(torch.zeros(k, d), self.gate_scale).to_event(2))
        levels = pyro.sample("levels", dist.Normal(torch.zeros(k), self.gate_scale).to_event(1))
        coefficients = pyro.param("coefficients", torch.zeros(k, d))
        intercepts = pyro.param("intercepts", torch.zeros(k)) if self.intercept else None
        scales = pyro.param("scales", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=levels + ((x - self.middle) / self.unit) @ gate.mT))
            loc = ((x - self.center) * coefficients[z]).sum(-1)
            loc = loc if intercepts is None else loc + intercepts[z]
            pyro.sample("y", dist.Normal(loc, scales[z]), obs=y)
