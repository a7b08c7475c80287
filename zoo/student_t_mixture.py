"""Mixture of Student t distributions."""

from __future__ import annotations

import math
from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_rows
from zoo.constant_columns import above, floors, note, refuse
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import cluster_moments, column_moments, kmeans

START = 5.0  # degrees of freedom that estimates start from
NORMAL = 1000.0  # degrees of freedom that are as good as infinite


class StudentTMixture(Model):
    """Robust mixture: clusters of Student t distributions, whose tails take in outliers (Peel and McLachlan 2000).

    Generative story::

        z_i              ~ Categorical(weights)                       i = 1 .. n
        x_i | z_i = k    ~ Student(df_k, means_k, covariances_k)      "full": one weight u_i for all columns of a row
                           Student(df_k, means_kj, scales_kj)         "diag": columns independent, with weights u_ij

    that is Normal(means_k, covariances_k / u) with u ~ Gamma(df_k / 2, df_k / 2).

    ===========  ===============  ======================================
    symbol       site             shape
    ===========  ===============  ======================================
    weights      ``weights``      (component)
    means        ``means``        (component, feature)
    covariances  ``covariances``  (component, feature, feature_2), "full"
    scales       ``scales``       (component, feature), "diag"
    df           ``df``           (component), where it is estimated
    z_i          ``z``            (row), enumerated
    x_i          ``x``            (row, feature)
    ===========  ===============  ======================================

    Covariances are those of the Normals: the rows' own are df / (df - 2) times as large. A row far from all clusters
    hardly moves them.

    Methods: ``em`` (closed form: rows weigh E[u given x]; estimated degrees of freedom by gradient); also ``svi`` and
    ``map``.

    Limits: the likelihood has several maxima, use `EM(restarts=...)`, and none if a component closes in on one row.
    Degrees of freedom above 30 or so are as good as Normal, and the likelihood is flat there. With "full" covariances
    cells cannot be missing.

    Parameters
    ----------
    components
        Number of components, at least 1.
    covariance
        "full", or "diag" for columns with outliers of their own.
    df
        Degrees of freedom of all components, 1 or above for tails lighter than Cauchy's; None to estimate each.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> result = fit(zoo.StudentTMixture(components=2), zoo.datasets.load("faithful"), method="em", seed=0)
    >>> result.posterior["point_estimate"]["weights"].round(2).values
    array([0.65, 0.35])
    """

    x = Real("row", "feature")
    components: PositiveInt = 2
    covariance: Literal["full", "diag"] = "full"
    df: PositiveFloat | None = 4.0

    dims = {
        "weights": ("component",),
        "means": ("component", "feature"),
        "covariances": ("component", "feature", "feature_2"),
        "scales": ("component", "feature"),
        "df": ("component",),
    }

    def check(self, x: Tensor) -> None:
        # Refuse too few distinct rows, and columns that do not vary where they would tell of the tails of others
        check_rows(x, self.components, self.coords["feature"])
        _, variance = column_moments(x, None, self.missing.get("x"))
        if self.covariance == "full":
            refuse(
                self, variance, "the weight of a row is that of all its columns", "use covariance='diag', or drop it"
            )
        elif self.df is None:
            refuse(self, variance, "degrees of freedom are those of all columns", "give df, or drop it")

    def setup(self, x: Tensor) -> None:
        # Note the columns that do not vary
        _, variance = column_moments(x, None, self.missing.get("x"))
        df = self.df or START
        peak = math.lgamma((df + 1) / 2) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)
        self.remarks = note(self, variance, peak=peak)
        self.floor = Buffer(floors(variance).sqrt())

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters; outliers make their spread too large, which EM mends
        missing = self.missing.get("x")
        weights, means, covariances = cluster_moments(
            x, kmeans(x, self.components, missing=missing), self.components, missing
        )
        start = {"weights": weights, "means": means}
        if self.covariance == "full":
            start["covariances"] = covariances
        else:
            start["scales"] = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
        if self.df is None:
            start["df"] = torch.full_like(weights, START)
        return start

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        means = pyro.param("means", torch.zeros(k, d))
        df: Any = x.new_tensor(self.df) if self.df is not None else self._estimated()
        if self.covariance == "full":
            matrices = pyro.param("covariances", torch.eye(d).expand(k, d, d), constraint=constraints.positive_definite)
            roots = torch.linalg.cholesky(matrices)
        else:
            scales = pyro.param("scales", torch.ones(k, d), constraint=above(self.floor))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            tails = df if self.df is not None else df[z]
            if self.covariance == "full":
                pyro.sample("x", dist.MultivariateStudentT(tails, means[z], roots[z]), obs=x)
            else:
                pyro.sample("x", dist.StudentT(tails[..., None], means[z], scales[z]).to_event(1), obs=x)

    def _estimated(self) -> Any:
        """Degrees of freedom of each component, as parameters."""
        within = constraints.interval(0.1, NORMAL)
        return pyro.param("df", torch.full((self.components,), START), constraint=within)
