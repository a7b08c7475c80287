"""K-means as a mixture model."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.checks import check_components, check_range
from zoo.constant_columns import note
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import cluster_moments, column_moments, kmeans


class KMeans(Model):
    """K-means as a mixture: round clusters of equal weight and one shared variance.

    Generative story::

        z_i              ~ Categorical(1 / clusters, ..., 1 / clusters)      i = 1 .. n
        x_i | z_i = k    ~ Normal(centers_k, variance * I)

    ===========  ================  ======================
    symbol       site              shape
    ===========  ================  ======================
    centers      ``centers``       (component, feature)
    variance     ``variance``      ()
    z_i          ``z``             (row), enumerated
    x_i          ``x``             (row, feature)
    ===========  ================  ======================

    Methods: ``em``, ``map``, ``svi``. `EM(hard=True)` is Lloyd's algorithm (Lloyd 1982): with equal weights and one
    variance the most probable cluster is the one with the nearest center, the M-step puts each center at the mean of
    its rows, and the variance is the inertia / (n * features), so the likelihood rises exactly when the inertia falls
    (Celeux and Govaert 1992). Plain `EM` gives the soft version.

    Limits: distances depend on the columns' units, so bring columns to comparable scales first; clusters are round and
    of one size; several local optima, use restarts.

    Parameters
    ----------
    clusters
        Number of clusters, at least 1.

    Examples
    --------
    >>> import zoo
    >>> from inference import EM, fit
    >>> result = fit(zoo.KMeans(clusters=2), zoo.datasets.load("faithful"), method=EM(hard=True), seed=0)
    >>> result.posterior["point_estimate"]["centers"].round(1).values
    array([[ 4.3, 80.3],
           [ 2.1, 54.8]])
    """

    x = Real("row", "feature")
    clusters: PositiveInt = 2

    dims = {"centers": ("component", "feature")}

    def check(self, x: Tensor) -> None:
        # Refuse fewer distinct rows than clusters, and rows that are all the same
        if bool((x == x[0]).all()):
            raise DataError(f"all rows ({len(x)}) are the same; there is no distance between rows to cluster by")
        check_range(x, self.coords["feature"])
        check_components(x, self.clusters)

    def setup(self, x: Tensor) -> None:
        # Note the columns that do not vary
        self.remarks = note(self, column_moments(x, None, self.missing.get("x"))[1], shared=True)

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters of the standardized columns
        k, missing = self.clusters, self.missing.get("x")
        weights, centers, covariances = cluster_moments(x, kmeans(x, k, missing=missing), k, missing)
        variance = (weights[:, None] * covariances.diagonal(dim1=-2, dim2=-1)).sum(0).mean()
        return {"centers": centers, "variance": variance}

    def forward(self, x: Tensor) -> None:
        k = self.clusters
        centers = pyro.param("centers", torch.zeros(k, x.shape[1]))
        variance = pyro.param("variance", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.full((k,), 1 / k)))
            pyro.sample("x", dist.Normal(centers[z], variance.sqrt()).to_event(1), obs=x)
