"""Mixture of Poisson distributions."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_components
from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import column_moments, kmeans, observed


class PoissonMixture(Model):
    """Mixture of Poisson distributions: counts that come at one of a few rates.

    Generative story::

        weights              ~ Dirichlet(concentration, ..., concentration)       only with `concentration`
        rates_k              ~ Gamma(shape, shape / mean count)                   only with `shape`
        z_i                  ~ Categorical(weights)                               i = 1 .. n
        counts_i | z_i = k   ~ Poisson(rates_k)

    ===========  ================  ====================
    symbol       site              shape
    ===========  ================  ====================
    weights      ``weights``       (component)
    rates        ``rates``         (component)
    z_i          ``z``             (row), enumerated
    counts_i     ``counts``        (row)
    ===========  ================  ====================

    Weights and rates are parameters without prior, fitted by maximum likelihood, unless their prior is asked for.

    Methods: ``em`` (closed form); also ``svi`` and ``map``; with both priors ``cavi``, ``dadvi``, ``laplace``,
    ``pathfinder``, ``nuts`` and ``smc``.

    Limits: components are exchangeable; a component that holds nothing but zeros has its maximum at rate 0, the edge of
    the support, which `shape` above 1 rules out. Rows are exchangeable too: the order of counts in time is not used.

    Parameters
    ----------
    components
        Number of components, at least 1.
    concentration
        Dirichlet concentration of each weight; None for no prior.
    shape
        Shape of the Gamma prior on each rate, whose mean is the mean count; None for no prior.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> finds = zoo.datasets.load("discoveries")
    >>> result = fit(zoo.PoissonMixture(components=2), finds, method="em", columns={"counts": "discoveries"}, seed=0)
    >>> round(result.objective.value, 2)
    -210.22
    """

    counts = Count("row")
    components: PositiveInt = 2
    concentration: PositiveFloat | None = None
    shape: PositiveFloat | None = None

    dims = {"weights": ("component",), "rates": ("component",)}

    def check(self, counts: Tensor) -> None:
        # Refuse fewer rows than components, and counts that are all zero
        check_components(counts[:, None], self.components)
        if not bool(counts.any()):
            raise DataError(
                f"field 'counts': all {len(counts)} counts are 0, so every rate would be estimated as 0, which is "
                "outside its support; use GammaPoisson, whose prior keeps the rate above 0"
            )

    def setup(self, counts: Tensor) -> None:
        # Scale the prior on rates to the data
        mean, _ = column_moments(counts[:, None], self.row_weights, self.missing.get("counts"))
        self.mean = Buffer(mean[0])

    def initial(self, counts: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters of the square roots, which spread alike at any rate (Bartlett 1936)
        missing = self.missing.get("counts")
        seen = observed(counts, missing)
        labels = kmeans(counts.sqrt()[:, None], self.components, missing=missing)
        member = torch.nn.functional.one_hot(labels, self.components) * seen[:, None]
        size = member.sum(0)
        rates = (counts @ member + seen @ counts / seen.sum()) / (size + 1)
        return {"weights": (size + 1) / (size + 1).sum(), "rates": rates}

    def forward(self, counts: Tensor) -> None:
        k = self.components
        if self.concentration is None:
            weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        else:
            weights = pyro.sample("weights", dist.Dirichlet(torch.full((k,), self.concentration)))
        if self.shape is None:
            rates = pyro.param("rates", torch.ones(k), constraint=constraints.positive)
        else:
            with pyro.plate("component", k):
                rates = pyro.sample("rates", dist.Gamma(self.shape, self.shape / self.mean))
        with pyro.plate("row", len(counts)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("counts", dist.Poisson(rates[z]), obs=counts)
