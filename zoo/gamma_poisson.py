"""Gamma-Poisson: an unknown rate behind counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pydantic import PositiveFloat
from torch import Tensor
from torch.nn import Buffer

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.initial import column_moments


class GammaPoisson(Model):
    """An unknown rate behind counts.

    Generative story::

        rate              ~ Gamma(a, b)
        counts_i | rate   ~ Poisson(rate)              i = 1 .. n

    ===========  ===========  ==========================
    symbol       site         shape
    ===========  ===========  ==========================
    rate         ``rate``     ()
    counts_i     ``counts``   (row)
    ===========  ===========  ==========================

    Methods: ``exact`` (the posterior is Gamma(a + sum counts, b + n)); also ``cavi``, ``svi``, ``map``, ``dadvi``,
    ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.

    Limits: one rate for all rows, and variance equal to the mean; for counts that vary more than that use
    `PoissonMixture`. Every row stands for the same exposure.

    Parameters
    ----------
    a
        Positive; prior count of events.
    b
        Positive; prior exposure, in rows. None for a / mean count, so that the prior's mean is the data's; where all
        counts are 0, for a * n, the mean of one event in all rows.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> finds = zoo.datasets.load("discoveries")
    >>> result = fit(zoo.GammaPoisson(a=2.0, b=1.0), finds, method="exact", columns={"counts": "discoveries"}, seed=0)
    >>> result.summary()["mean"].round(1)  # (2 + 310) / (1 + 100)
    rate    3.1
    Name: mean, dtype: float64
    """

    counts = Count("row")
    a: PositiveFloat = 1.0
    b: PositiveFloat | None = None

    def setup(self, counts: Tensor) -> None:
        # Scale the prior to the data, unless it is given
        rows = len(counts) if self.row_weights is None else float(self.row_weights.sum())
        mean, _ = column_moments(counts[:, None], self.row_weights, self.missing.get("counts"))
        mean = mean[0].clamp_min(1 / rows)
        self.exposure = Buffer(self.a / mean if self.b is None else mean.new_tensor(self.b))

    def forward(self, counts: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(self.a, self.exposure))
        with pyro.plate("row", len(counts)):
            pyro.sample("counts", dist.Poisson(rate), obs=counts)
