"""Gaussian mixture with conjugate priors."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn import Buffer

from zoo.checks import check_rows
from zoo.constant_columns import floors, note, refuse, rows_of_prior
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.initial import cluster_moments, column_moments, kmeans


class BayesianGMM(Model):
    """Gaussian mixture with conjugate priors on weights, means and precisions.

    Generative story (full; for diag the Wishart is a Gamma per feature)::

        weights              ~ Dirichlet(concentration, ..., concentration)
        precisions_k         ~ Wishart(df, V)                                     k = 1 .. components
        means_k              ~ Normal(center, (shrinkage * precisions_k)^-1)
        z_i                  ~ Categorical(weights)                               i = 1 .. n
        x_i | z_i = k        ~ Normal(means_k, precisions_k^-1)

    ===========  ================  =================================================================
    symbol       site              shape
    ===========  ================  =================================================================
    weights      ``weights``       (component)
    means        ``means``         (component, feature)
    precisions   ``precisions``    full (component, feature, feature), diag (component, feature)
    z_i          ``z``             (row), enumerated
    x_i          ``x``             (row, feature)
    ===========  ================  =================================================================

    The default prior scales with the data, so data in any units work: `center` is the mean of each column, and the
    prior mean of a component's covariance is diag(column variances) / components^(2/d) (Fraley and Raftery 2007,
    section 3), with df = d + 2 (diag: shape 3/2), the fewest degrees of freedom for which that mean exists.

    Methods: ``em`` (the posterior's mode over weights, means and precisions, closed form); ``cavi`` (closed form);
    ``svi`` with any guide; also ``map``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``, with z summed
    out.

    Limits: components are exchangeable; compare fits by label-invariant quantities.

    Parameters
    ----------
    components
        Number of components, at least 1.
    covariance
        "full" (Normal-Wishart) or "diag" (Normal-Gamma).
    concentration
        Dirichlet concentration of each weight.
    shrinkage
        Rows that the prior on a mean counts for.
    df
        Degrees of freedom, above d - 1 (diag: above 0); None for d + 2 (diag: 3).

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> result = fit(zoo.BayesianGMM(components=2), zoo.datasets.load("faithful"), method="cavi", seed=0)
    >>> result.posterior["posterior"]["weights"].mean(["chain", "draw"]).round(1).values
    array([0.6, 0.4])
    """

    x = Real("row", "feature")
    components: PositiveInt = 2
    covariance: Literal["full", "diag"] = "full"
    concentration: PositiveFloat = 1.0
    shrinkage: PositiveFloat = 0.01
    df: PositiveFloat | None = None

    def check(self, x: Tensor) -> None:
        # Refuse fewer rows than components, too few degrees of freedom, and constant columns of full covariances
        check_rows(x, self.components, self.coords["feature"])
        if self.covariance == "full":
            _, variance = column_moments(x, self.row_weights, self.missing.get("x"))
            why = "a Wishart prior learns its variance in each component, by how many rows that has"
            refuse(self, variance, why, "use covariance='diag' or GMM, or drop it")
        if self.covariance == "full" and self.df is not None and self.df <= x.shape[1] - 1:
            raise ModelError(f"BayesianGMM: df={self.df} must be above features - 1 = {x.shape[1] - 1}")

    def setup(self, x: Tensor) -> None:
        # Scale the priors to the data
        self.dims = {
            "weights": ("component",),
            "means": ("feature",),
            "precisions": ("feature", "feature_2") if self.covariance == "full" else ("feature",),
        }
        center, variance = column_moments(x, self.row_weights, self.missing.get("x"))
        spread = variance / self._kinds() ** (2 / max(1, int((variance > 0).sum())))
        self.remarks = note(self, variance)
        self.center, self.spread = Buffer(center), Buffer(spread + floors(variance))
        self.rows = Buffer(rows_of_prior(variance, self.shrinkage))
        self.shape = Buffer(0.5 * rows_of_prior(variance, 3.0 if self.df is None else self.df))

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters
        k, missing = self.components, self.missing.get("x")
        weights, means, covariances = cluster_moments(x, kmeans(x, k, missing=missing), k, missing)
        if self.covariance == "full":
            precisions = torch.cholesky_inverse(torch.linalg.cholesky(covariances))
        else:
            precisions = covariances.diagonal(dim1=-2, dim2=-1).reciprocal()
        return {"weights": weights, "means": means, "precisions": precisions}

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = self._weights()
        with pyro.plate("component", k):
            if self.covariance == "full":
                df = d + 2.0 if self.df is None else self.df
                # V is the inverse scale matrix over the count it stands for, so that E[covariance] is `spread`.
                inverse = max(df - d - 1, 1.0) * self.spread
                precisions = pyro.sample("precisions", dist.Wishart(torch.tensor(df), torch.diag(1 / inverse)))
                means = pyro.sample(
                    "means", dist.MultivariateNormal(self.center, precision_matrix=self.shrinkage * precisions)
                )
            else:
                rate = (self.shape - 1).clamp_min(0.5) * self.spread
                precisions = pyro.sample("precisions", dist.Gamma(self.shape, rate).to_event(1))
                means = pyro.sample("means", dist.Normal(self.center, (self.rows * precisions).rsqrt()).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            if self.covariance == "full":
                pyro.sample("x", dist.MultivariateNormal(means[z], precision_matrix=precisions[z]), obs=x)
            else:
                pyro.sample("x", dist.Normal(means[z], precisions[z].rsqrt()).to_event(1), obs=x)

    def _kinds(self) -> int:
        """How many components the prior on covariances expects."""
        return self.components

    def _weights(self) -> Tensor:
        """Draw the weights of the components."""
        weights: Tensor = pyro.sample("weights", dist.Dirichlet(torch.full((self.components,), self.concentration)))
        return weights
