"""Normal-Normal: an unknown mean behind measurements, with known or unknown noise."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_range
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import column_moments, observed


class NormalNormal(Model):
    """An unknown mean behind measurements; their noise is known (`scale`) or has an unknown precision.

    Generative story (the precision of known noise is scale^-2)::

        precision   ~ Gamma(df / 2, df / 2 * prior_scale^2)           only without `scale`
        mean        ~ Normal(center, (shrinkage * precision)^-1/2)
        x_i         ~ Normal(mean, precision^-1/2)                    i = 1 .. n

    ===========  =============  ==============================
    symbol       site           shape
    ===========  =============  ==============================
    precision    ``precision``  (), only without `scale`
    mean         ``mean``       ()
    x_i          ``x``          (row)
    ===========  =============  ==============================

    Methods: ``exact``; also ``cavi``, ``svi``, ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.
    With known noise the posterior of the mean is Normal, with (shrinkage * center + sum x) / (shrinkage + n) in the
    middle; without, it is Normal-Gamma, and the mean alone is Student t with df + n degrees of freedom (Gelman et al.
    2013, sections 2.5 and 3.3).

    Limits: one mean for all rows and light-tailed noise, so one wild value moves the mean. The default prior takes its
    center and scale from the data; give both to compare evidences with those of other models.

    Parameters
    ----------
    scale
        Known standard deviation of the noise; None if unknown.
    center
        Prior mean of the mean; None for the data's mean.
    shrinkage
        Rows that the prior on the mean counts for: its standard deviation is that of the noise / sqrt(shrinkage).
    df
        Rows that the prior on the precision counts for.
    prior_scale
        Prior guess of the noise's standard deviation; None for the data's own.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> waits = zoo.datasets.load("faithful")[["waiting"]]
    >>> result = fit(zoo.NormalNormal(), waits, method="exact", columns={"x": "waiting"}, seed=0)
    >>> result.summary()["mean"].round(0)
    precision     0.0
    mean         71.0
    Name: mean, dtype: float64
    """

    x = Real("row")
    scale: PositiveFloat | None = None
    center: float | None = None
    shrinkage: PositiveFloat = 0.01
    df: PositiveFloat = 1.0
    prior_scale: PositiveFloat | None = None

    def check(self, x: Tensor) -> None:
        # Refuse values without variation where the noise has to be learned from them alone
        check_range(x[:, None], pd.Index(["x"]))
        if self.scale is None and self.prior_scale is None and bool((x == x[0]).all()):
            raise DataError(
                f"field 'x': expected values that differ, found {float(x[0]):g} {len(x)} times, so nothing tells the "
                "size of the noise; give scale=... if it is known, or prior_scale=... as a guess"
            )

    def setup(self, x: Tensor) -> None:
        # Scale the prior to the data, unless it is given
        moments = column_moments(x[:, None], self.row_weights, self.missing.get("x"))
        mean, variance = (moment[0] for moment in moments)
        self.location = Buffer(mean if self.center is None else mean.new_tensor(self.center))
        self.spread = Buffer(variance if self.prior_scale is None else mean.new_tensor(self.prior_scale**2))

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from the moments of the data, no more precise than the prior's guess allows
        mean, variance = (moment[0] for moment in column_moments(x[:, None], None, self.missing.get("x")))
        if self.scale is not None:
            return {"mean": mean}
        weight = self.df / (self.df + float(observed(x, self.missing.get("x")).sum()))
        return {"mean": mean, "precision": 1 / (weight * self.spread + (1 - weight) * variance)}

    def forward(self, x: Tensor) -> None:
        if self.scale is None:
            precision = pyro.sample("precision", dist.Gamma(0.5 * self.df, 0.5 * self.df * self.spread))
        else:
            precision = x.new_tensor(self.scale**-2)
        mean = pyro.sample("mean", dist.Normal(self.location, (self.shrinkage * precision).rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mean, precision.rsqrt()), obs=x)
