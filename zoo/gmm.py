"""Gaussian mixture with weights, means and covariances as parameters."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_rows
from zoo.constant_columns import above, floors, note
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import cluster_moments, column_moments, kmeans

DIMS: dict[str, tuple[str, ...]] = {
    "full": ("component", "feature", "feature_2"),
    "tied": ("feature", "feature_2"),
    "diag": ("component", "feature"),
    "spherical": ("component",),
}


class GMM(Model):
    """Gaussian mixture with parameters without prior, fitted by maximum likelihood.

    Generative story::

        z_i              ~ Categorical(weights)                      i = 1 .. n
        x_i | z_i = k    ~ Normal(means_k, covariances_k)

    ===========  ================  =====================================================================
    symbol       site              shape
    ===========  ================  =====================================================================
    weights      ``weights``       (component)
    means        ``means``         (component, feature)
    covariances  ``covariances``   full (component, feature, feature), tied (feature, feature),
                                   diag (component, feature), spherical (component)
    z_i          ``z``             (row), enumerated
    x_i          ``x``             (row, feature)
    ===========  ================  =====================================================================

    Methods: ``em`` (closed form); also ``svi`` and ``map`` (gradient ascent of the same likelihood).

    Limits: the likelihood has several maxima, and none if a component closes in on one row; use `EM(restarts=...)`
    and see the warnings, or `BayesianGMM`, whose priors rule collapse out.

    Parameters
    ----------
    components
        Number of components, at least 1.
    covariance
        "full": a matrix per component; "tied": one matrix for all; "diag": variances per component and feature;
        "spherical": one variance per component.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> result = fit(zoo.GMM(components=2), geyser, method="em", seed=0)
    >>> print(f"{result.objective.kind} {result.objective.value:.2f}")
    log_likelihood -1130.26
    >>> result.assign(geyser.head(2)).round(2)
    z    0    1
    0  1.0  0.0
    1  0.0  1.0
    """

    x = Real("row", "feature")
    components: PositiveInt = 2
    covariance: Literal["full", "diag", "tied", "spherical"] = "full"

    def check(self, x: Tensor) -> None:
        # Refuse fewer rows than components, and rows that are all the same
        check_rows(x, self.components, self.coords["feature"])

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of this kind of covariance; note the columns that do not vary
        _, variance = column_moments(x, None, self.missing.get("x"))
        self.remarks = note(self, variance, shared=self.covariance == "spherical")
        self.floor = Buffer(0 * variance if self.covariance == "spherical" else floors(variance))
        self.dims = {"weights": ("component",), "means": ("component", "feature"), "covariances": DIMS[self.covariance]}

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters
        k, missing = self.components, self.missing.get("x")
        weights, means, full = cluster_moments(x, kmeans(x, k, missing=missing), k, missing)
        variances = full.diagonal(dim1=-2, dim2=-1)
        covariances = {
            "full": full,
            "tied": (weights[:, None, None] * full).sum(0),
            "diag": variances,
            "spherical": variances.mean(-1),
        }
        return {"weights": weights, "means": means, "covariances": covariances[self.covariance]}

    def forward(self, x: Tensor) -> None:
        k, d, eye = self.components, x.shape[1], torch.eye(x.shape[1])
        matrix = self.covariance in ("full", "tied")
        start = {"full": eye.expand(k, d, d), "tied": eye, "diag": torch.ones(k, d), "spherical": torch.ones(k)}
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        means = pyro.param("means", torch.zeros(k, d))
        covariances = pyro.param(
            "covariances",
            start[self.covariance],
            constraint=above(self.floor, "covariances") if matrix else above(self.floor),
        )
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            if matrix:
                covariance = covariances if self.covariance == "tied" else covariances[z]
                pyro.sample("x", dist.MultivariateNormal(means[z], covariance), obs=x)
            else:
                scale = covariances[z].sqrt()
                scale = scale if self.covariance == "diag" else scale[..., None]
                pyro.sample("x", dist.Normal(means[z], scale).to_event(1), obs=x)
