"""Naive Bayes classification, with labels of all rows or of some."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer
from torch.nn.functional import one_hot

from zoo.checks import MOST_LEVELS, check_varies
from zoo.constant_columns import KNOWN, above, floors, note, rows_of_prior
from zoo.declare.fields import Category, Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import column_moments, observed
from zoo.replay.multinomial import Multinomial

SHRINKAGE = 0.01  # rows that the prior on a mean counts for, per row of smoothing
FEW = 1e-3  # of a column's variance: what one row less than nothing leaves of it at the start


class NaiveBayes(Model):
    """Naive Bayes: given its class, the columns of a row are independent; labels of all rows or of some.

    Generative story::

        weights            ~ Dirichlet(1, ..., 1)
        y_i                ~ Categorical(weights)                       i = 1 .. n
        x_ij | y_i = k     ~ Normal(means_kj, precisions_kj^-1/2)       features="normal"
        x_i | y_i = k      ~ Multinomial(total of x_i, probs_k)         features="counts"
        x_ij | y_i = k     ~ Categorical(probs_kj)                      features="categories"

        precisions_kj      ~ Gamma(1 + smoothing / 2, smoothing / 2 * v_j)           v_j the variance of column j
        means_kj           ~ Normal(mean of column j, (0.01 smoothing precisions_kj)^-1/2)
        probs_k, probs_kj  ~ Dirichlet(1 + smoothing, ..., 1 + smoothing)

    With `smoothing` None, weights, means, precisions and probs are parameters without prior.

    ===========  ===============  =========================================================================
    symbol       site             shape
    ===========  ===============  =========================================================================
    weights      ``weights``      (category)
    means        ``means``        (category, feature), "normal"
    precisions   ``precisions``   (category, feature), "normal"
    probs        ``probs``        (category, feature) for "counts", (category, feature, level) for "categories"
    y_i          ``y``            (row), enumerated where it is missing
    y_i          ``y_observed``   (row), where it is known and others are missing
    x_i          ``x``            (row, feature)
    ===========  ===============  =========================================================================

    Labels may be missing (None, NaN, -1): rows without one say what columns go together (semi-supervised learning:
    Nigam et al. 2000). New rows whose labels are missing are classified by `assign`. At the mode `smoothing` is what is
    added to each count: 1 is Laplace's rule, and scikit-learn's `alpha`.

    Methods: with all labels ``exact``, ``em`` and ``cavi``; with some missing ``em`` and ``cavi``; also ``svi``,
    ``map``, ``laplace``, ``pathfinder``, ``nuts``, ``smc`` and ``dadvi``. Without prior ``em``, ``svi`` and ``map``.

    Limits: columns that go together count twice, so that probabilities of classes are too near 0 and 1. Rows without
    labels may mislead where the classes are not the clusters.

    Parameters
    ----------
    features
        "normal" for real numbers, "counts" for counts of words or events, "categories" for codes 0, 1, 2, ...
    smoothing
        Rows with the column's variance, or counts of each kind, that the prior adds; None for no prior.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> geyser["kind"] = np.where(geyser["eruptions"] > 3, "long", "short")
    >>> columns = {"x": ["waiting"], "y": "kind"}
    >>> result = fit(zoo.NaiveBayes(), geyser, method="exact", columns=columns, seed=0)
    >>> result.assign(geyser.head(3).assign(kind=None)).round(2)
    y  long  short
    0   1.0    0.0
    1   0.0    1.0
    2   1.0    0.0
    """

    x = Real("row", "feature")
    y = Category("row")
    features: Literal["normal", "counts", "categories"] = "normal"
    smoothing: PositiveFloat | None = 1.0

    def check(self, x: Tensor, y: Tensor) -> None:
        # Refuse one class, and columns that the features cannot explain
        if bool((y == y[0]).all()):
            raise DataError(f"field 'y': expected at least 2 classes, found 1 in {len(y)} rows")
        if self.features == "normal":
            check_varies(x, self.coords["feature"])
            return
        wrong = (x < 0) | (x != x.round())
        if bool(wrong.any()):
            kinds = {"counts": "counts 0, 1, 2, ...", "categories": "category codes 0, 1, 2, ..."}
            raise DataError(
                f"field 'x': features={self.features!r} expects {kinds[self.features]}, found "
                f"{float(x[wrong][0]):g}; recode the data, or use features='normal'"
            )
        if self.features == "categories" and float(x.max()) >= MOST_LEVELS:
            name = self.coords["feature"][int((x == x.max()).any(0).nonzero()[0])]
            raise DataError(
                f"column {name!r}: features='categories' expects codes below {MOST_LEVELS}, found {float(x.max()):g}; "
                "recode it (pandas.factorize), or use features='counts'"
            )

    def setup(self, x: Tensor, y: Tensor) -> None:
        # Count classes and levels, which later rows may not show; take the moments of the columns
        self.classes, self.levels = int(y.max()) + 1, int(x.max()) + 1
        deep = ("level",) if self.features == "categories" else ()
        own = {"means": ("category", "feature"), "precisions": ("category", "feature")}
        self.dims = {"weights": ("category",), **(own if self.features == "normal" else {})}
        if self.features != "normal":
            self.dims["probs"] = ("category", "feature", *deep)
        center, variance = column_moments(x, self.row_weights, self.missing.get("x"))
        if self.features == "normal":
            self.remarks = note(self, variance)
        self.center, self.rows = Buffer(center), Buffer(rows_of_prior(variance, self.smoothing or 0.0))
        self.floor = Buffer(floors(column_moments(x, None, self.missing.get("x"))[1]))
        self.variance = Buffer(torch.where(variance > 0, variance, self.floor))

    def initial(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        # Start from the rows that have labels, one average row added to each class
        known, seen = observed(y.to(x), self.missing.get("y")), observed(x, self.missing.get("x"))
        member = one_hot(y, self.classes).to(x) * known[:, None]
        size = member.sum(0)
        start = {"weights": (size + 1) / (size + 1).sum()}
        if self.features == "normal":
            count = member.T @ seen + 1
            means = (member.T @ (seen * x) + self.center) / count
            squares = member.T @ (seen * (x - self.center).square()) + self.variance
            variances = squares / count - (means - self.center).square()
            variances = torch.where(self.rows < KNOWN, variances.maximum(FEW * self.variance), self.variance)
            return {**start, "means": means, "precisions": 1 / variances}
        cells = seen * x if self.features == "counts" else one_hot(x.long(), self.levels) * seen[..., None]
        totals = torch.einsum("nk,n...->k...", member, cells.to(x)) + (cells.sum(0) + 1) / (cells.sum() + 1)
        return {**start, "probs": totals / totals.sum(-1, keepdim=True)}

    def forward(self, x: Tensor, y: Tensor) -> None:
        k, d = self.classes, x.shape[1]
        weights = self._shares("weights", torch.ones(k), event_dim=1)
        if self.features == "normal":
            means, precisions = self._normal(k, d)
        else:
            shape = (k, d) if self.features == "counts" else (k, d, self.levels)
            probs = self._shares("probs", torch.full(shape, 1.0 + (self.smoothing or 0.0)), event_dim=len(shape))
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(weights), obs=y)
            if self.features == "normal":
                fn: Any = dist.Normal(means[y], precisions[y].rsqrt()).to_event(1)
            elif self.features == "counts":
                fn = Multinomial(x.sum(-1), probs[y])
            else:
                fn = dist.Categorical(probs[y]).to_event(1)
            pyro.sample("x", fn, obs=x)

    def _shares(self, name: str, concentration: Tensor, event_dim: int) -> Any:
        """Shares along the last dimension, with a Dirichlet prior or without."""
        if self.smoothing is None:
            return pyro.param(name, concentration / concentration.sum(-1, keepdim=True), constraint=constraints.simplex)
        return pyro.sample(name, dist.Dirichlet(concentration).to_event(event_dim - 1))

    def _normal(self, k: int, d: int) -> tuple[Any, Any]:
        """Means and precisions of the columns of each class."""
        if self.smoothing is None:
            means = pyro.param("means", torch.zeros(k, d))
            return means, pyro.param("precisions", torch.ones(k, d), constraint=above(self.floor, "precisions"))
        half = 0.5 * self.rows
        precisions = pyro.sample("precisions", dist.Gamma(1 + half, (half * self.variance).expand(k, d)).to_event(2))
        scale = (2 * half * SHRINKAGE * precisions).rsqrt()
        return pyro.sample("means", dist.Normal(self.center, scale).to_event(2)), precisions
