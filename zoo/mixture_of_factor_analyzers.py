"""Mixture of factor analysers."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_factors, check_rows
from zoo.constant_columns import above, floors, note
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.initial import cluster_moments, column_moments, expected_factors, kmeans


class MixtureOfFactorAnalyzers(Model):
    """Mixture of factor analysers: groups of rows, each along a few directions of its own, up to noise of each column.

    Generative story (Ghahramani and Hinton 1996; McLachlan and Peel 2000, chapter 8)::

        z_i               ~ Categorical(weights)                                    i = 1 .. n
        t_i               ~ Normal(0, I)                                            t_i in R^factors
        x_i | t_i, z_i=k  ~ Normal(means_k + loadings_k t_i, diag(variances_k))

    ===========  =============  ======================================================
    symbol       site           shape
    ===========  =============  ======================================================
    weights      ``weights``    (component)
    means        ``means``      (component, feature)
    loadings     ``loadings``   (component, feature, factor)
    variances    ``variances``  (feature), or with noise of their own (component, feature)
    z_i          ``z``          (row), enumerated
    t_i          ``t``          (row, factor)
    x_i          ``x``          (row, feature)
    ===========  =============  ======================================================

    With t_i integrated out this is a mixture of Normals with covariances loadings_k loadings_k^T + diag(variances_k),
    which have k d (q + 1) numbers where those of `GMM` have k d (d + 1) / 2.

    Methods: ``em`` (closed form, over the exact posterior of t_i in each component); also ``cavi``, which takes the
    same steps, ``svi``, and ``map``, under which loadings grow without end as t_i shrink.

    Limits: loadings and t_i are identified only up to a rotation of the factors in each component. The likelihood has
    several maxima (`EM(restarts=...)`), and may rise without end as a variance goes to 0, which noise of its own lets
    a component with few rows do; a fit reports a variance at its floor. One component is `FactorAnalysis`.

    Parameters
    ----------
    components
        Number of components, at least 1.
    factors
        Number of coordinates per row, at least 1 and fewer than columns.
    noise
        "shared": one variance per column; "own": one per component and column.

    Examples
    --------
    >>> import zoo
    >>> from inference import EM, fit
    >>> iris = zoo.datasets.load("iris").iloc[:, :4]
    >>> result = fit(zoo.MixtureOfFactorAnalyzers(components=2), iris, method=EM(max_steps=200), seed=0)
    >>> result.assign().mean().round(1)
    z
    0    0.7
    1    0.3
    dtype: float64
    """

    x = Real("row", "feature")
    components: PositiveInt = 2
    factors: PositiveInt = 1
    noise: Literal["shared", "own"] = "shared"

    def check(self, x: Tensor) -> None:
        # Refuse fewer rows than components, rows that are all the same, and factors that leave no noise
        check_rows(x, self.components, self.coords["feature"])
        check_factors(x, self.factors)

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of this kind of noise; note the columns that do not vary
        _, variance = column_moments(x, None, self.missing.get("x"))
        self.remarks, self.floor = note(self, variance), Buffer(floors(variance))
        self.dims = {
            "weights": ("component",),
            "means": ("component", "feature"),
            "loadings": ("component", "feature", "factor"),
            "variances": ("feature",) if self.noise == "shared" else ("component", "feature"),
            "t": ("factor",),
        }

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from k-means++ clusters, and the principal axes of each in units of the columns' spread within them.
        # Each axis takes half of the variance along it, which leaves noise: a start on the way to the maximum.
        k, missing = self.components, self.missing.get("x")
        labels = kmeans(x, k, missing=missing)
        weights, means, full = cluster_moments(x, labels, k, missing)
        within = full.diagonal(dim1=-2, dim2=-1)  # (k, d)
        scale = (weights @ within).sqrt()
        full = torch.where(self.floor > 0, 0.0, full)  # no axis is along a column that does not vary
        values, axes = torch.linalg.eigh(full / (scale[:, None] * scale))
        loadings = axes[..., -self.factors :] * (values[..., None, -self.factors :] / 2).sqrt() * scale[:, None]
        own = within - loadings.square().sum(-1)
        variances = weights @ own if self.noise == "shared" else own
        every = [expected_factors(x, m, w, v) for m, w, v in zip(means, loadings, variances.expand(k, -1), strict=True)]
        t = torch.stack(every)[labels, torch.arange(len(x), device=x.device)]
        return {"weights": weights, "means": means, "loadings": loadings, "variances": variances, "t": t}

    def forward(self, x: Tensor) -> None:
        k, d, q = self.components, x.shape[1], self.factors
        own = self.noise == "own"
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        means = pyro.param("means", torch.zeros(k, d))
        loadings = pyro.param("loadings", torch.eye(d, q).expand(k, d, q))
        start = torch.ones(k, d) if own else torch.ones(d)
        variances = pyro.param("variances", start, constraint=above(self.floor))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            t = pyro.sample("t", dist.Normal(torch.zeros(q), 1.0).to_event(1))
            loc = means[z] + (loadings[z] @ t[..., None])[..., 0]
            scale = (variances[z] if own else variances).sqrt()
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)
