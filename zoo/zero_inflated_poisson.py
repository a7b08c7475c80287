"""Zero-inflated Poisson counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import observed

STEPS = 50  # of a fixed point that nearly always needs fewer


class ZeroInflatedPoisson(Model):
    """Poisson counts with more zeros than their rate explains (Lambert 1992).

    Generative story::

        gate               ~ Beta(concentration, concentration)            only with `concentration`
        rate               ~ Gamma(shape, shape / mean positive count)     only with `shape`
        z_i                ~ Bernoulli(gate)                               i = 1 .. n
        counts_i | z_i     ~ Poisson(rate) if z_i = 0, else 0

    ===========  ================  ====================
    symbol       site              shape
    ===========  ================  ====================
    gate         ``gate``          ()
    rate         ``rate``          ()
    z_i          ``z``             (row), enumerated
    counts_i     ``counts``        (row)
    ===========  ================  ====================

    `assign` gives the probability that a zero is one of those that come whatever the rate. Gate and rate are
    parameters without prior, fitted by maximum likelihood, unless their prior is asked for.

    Methods: ``em``; also ``svi`` and ``map``; with both priors ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and
    ``smc``.

    Limits: one gate and one rate for all rows. Where there are no more zeros than the rate explains, the maximum is at
    gate 0, the edge of its support. Positive counts that vary more than a Poisson's need a `PoissonMixture`.

    Parameters
    ----------
    concentration
        Concentration of the Beta prior on the gate; None for no prior.
    shape
        Shape of the Gamma prior on the rate, whose mean is the mean positive count; None for no prior.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> result = fit(zoo.ZeroInflatedPoisson(), [0, 0, 0, 0, 3, 2, 0, 4, 1, 0, 0, 2, 3, 0], method="em", seed=0)
    >>> result.summary().round(2)
          value    se
    gate   0.52  0.15
    rate   2.23  0.67
    """

    counts = Count("row")
    concentration: PositiveFloat | None = None
    shape: PositiveFloat | None = None

    def check(self, counts: Tensor) -> None:
        # Refuse counts that are all zero, which gate and rate explain equally well
        if not bool(counts.any()):
            raise DataError(
                f"field 'counts': all {len(counts)} counts are 0, which a gate of 1 and a rate of 0 explain equally "
                "well; use GammaPoisson, whose prior keeps the rate above 0"
            )

    def setup(self, counts: Tensor) -> None:
        # Scale the prior on the rate to the data
        self.mean = Buffer(self._positive(counts, self.row_weights)[0])

    def _positive(self, counts: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the mean of the positive counts, and their share."""
        seen = observed(counts, self.missing.get("counts"))
        weights = seen if weights is None else seen * weights.to(counts)
        positive = weights * (counts > 0)
        return (weights @ counts) / positive.sum().clamp_min(1e-12), positive.sum() / weights.sum()

    def initial(self, counts: Tensor) -> dict[str, Tensor]:
        # Start where the mean and the share of the positive counts are right: rate = mean (1 - exp(-rate))
        mean, share = self._positive(counts, None)
        mean = mean.clamp_min(1.0 + 1e-3)  # where all positive counts are 1, the rate would be 0
        rate = mean
        for _ in range(STEPS):
            rate = mean * -torch.expm1(-rate)
        return {"gate": (1 + share / torch.expm1(-rate)).clamp(0.01, 0.99), "rate": rate}

    def forward(self, counts: Tensor) -> None:
        if self.concentration is None:
            gate = pyro.param("gate", torch.tensor(0.5), constraint=constraints.unit_interval)
        else:
            gate = pyro.sample("gate", dist.Beta(self.concentration, self.concentration))
        if self.shape is None:
            rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        else:
            rate = pyro.sample("rate", dist.Gamma(self.shape, self.shape / self.mean))
        rates = torch.stack([rate, torch.zeros_like(rate)], -1)
        with pyro.plate("row", len(counts)):
            z = pyro.sample("z", dist.Bernoulli(gate))
            pyro.sample("counts", dist.Poisson(rates[..., z.long()]), obs=counts)
