"""Dirichlet process mixture of Normals, by truncated stick-breaking."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import pad

from zoo.bayesian_gmm import BayesianGMM
from zoo.errors import ModelError

LEAST, MOST = 0.01, 0.99  # of a break at the start


class DirichletProcessMixture(BayesianGMM):
    """Mixture with as many components as the data ask for: a truncated Dirichlet process (Blei and Jordan 2006).

    Generative story (full; for diag the Wishart is a Gamma per feature)::

        sticks_k             ~ Beta(1, concentration)                             k = 1 .. components - 1
        weights_k            = sticks_k prod_{l<k} (1 - sticks_l)                 the last takes what is left
        precisions_k         ~ Wishart(df, V)                                     k = 1 .. components
        means_k              ~ Normal(center, (shrinkage * precisions_k)^-1)
        z_i                  ~ Categorical(weights)                               i = 1 .. n
        x_i | z_i = k        ~ Normal(means_k, precisions_k^-1)

    ===========  ================  =================================================================
    symbol       site              shape
    ===========  ================  =================================================================
    sticks       ``sticks``        (stick)
    weights      ``weights``       (component), deterministic
    means        ``means``         (component, feature)
    precisions   ``precisions``    (component, feature), "diag"; "full" has a matrix of features each
    z_i          ``z``             (row), enumerated
    x_i          ``x``             (row, feature)
    ===========  ================  =================================================================

    How many components rows are drawn from grows with `concentration` times the logarithm of their number; components
    that no row needs keep their prior and next to no weight. The prior on means and precisions goes with the data's
    units, as in `BayesianGMM`: the prior mean of a component's covariance is diag(column variances) / kinds^(2/d).

    Methods: ``cavi`` (closed form: Blei and Jordan 2006, section 3); ``em`` (the posterior's mode); ``svi`` with any
    guide; also ``map``, ``laplace``, ``pathfinder``, ``nuts``, ``smc`` and ``dadvi``, with z summed out.

    Limits: `cavi` has many local maxima, use `CAVI(restarts=...)`. It empties components one after the other and
    underestimates how uncertain their number is. Two components as large as each other may change places, but not
    freely: earlier ones are larger a priori.

    Parameters
    ----------
    components
        Truncation: the most components there can be.
    covariance
        "full" (Normal-Wishart) or "diag" (Normal-Gamma).
    concentration
        Concentration of the process: the larger, the more components.
    shrinkage
        Rows that the prior on a mean counts for.
    df
        Degrees of freedom, above d - 1 (diag: above 0); None for d + 2 (diag: 3).
    kinds
        Components that the prior on covariances expects.

    Examples
    --------
    >>> import zoo
    >>> from inference import CAVI, fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> result = fit(zoo.DirichletProcessMixture(components=5), geyser, method=CAVI(max_steps=200), seed=0)
    >>> int((result.assign().mean() > 0.05).sum())  # components that hold rows
    2
    """

    components: PositiveInt = 10
    covariance: Literal["full", "diag"] = "full"
    concentration: PositiveFloat = 1.0
    shrinkage: PositiveFloat = 0.01
    df: PositiveFloat | None = None
    kinds: PositiveInt = 4

    def check(self, x: Tensor) -> None:
        # Refuse a truncation at one component, and data that a mixture cannot be fitted to
        if self.components < 2:
            raise ModelError(
                "DirichletProcessMixture: components=1 breaks no stick; ask for 2 or more, or use BayesianGMM"
            )
        super().check(x)

    def setup(self, x: Tensor) -> None:
        # Scale the priors to the data
        super().setup(x)
        self.dims = {**self.dims, "sticks": ("stick",)}

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters, the largest first
        start = super().initial(x)
        order = start["weights"].argsort(descending=True)
        start = {name: value[order] for name, value in start.items()}
        weights = start.pop("weights")
        left = 1 - pad(weights.cumsum(0)[:-2], (1, 0))  # before each break
        return {**start, "sticks": (weights[:-1] / left).clamp(LEAST, MOST)}

    def _kinds(self) -> int:
        return self.kinds

    def _weights(self) -> Tensor:
        """Break the stick."""
        with pyro.plate("stick", self.components - 1):
            sticks = pyro.sample("sticks", dist.Beta(1.0, self.concentration))
        left = pad((1 - sticks).cumprod(-1), (1, 0), value=1.0)
        weights: Tensor = pyro.deterministic("weights", pad(sticks, (0, 1), value=1.0) * left, event_dim=1)
        return weights
