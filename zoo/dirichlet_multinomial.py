"""Dirichlet-multinomial: unknown shares of categories behind rows of counts."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.replay.multinomial import Multinomial


class DirichletMultinomial(Model):
    """Unknown shares of categories behind rows of counts.

    Generative story::

        probs              ~ Dirichlet(concentration, ..., concentration)
        counts_i | probs   ~ Multinomial(total_i, probs)              i = 1 .. n

    ===========  ===========  ==========================
    symbol       site         shape
    ===========  ===========  ==========================
    probs        ``probs``    (category)
    counts_i     ``counts``   (row, category)
    ===========  ===========  ==========================

    The totals are the sums of the rows, taken as known; rows may have different ones.

    Methods: ``exact`` (the posterior is Dirichlet(concentration + sum_i counts_i)); also ``cavi``, ``svi``, ``map``,
    ``dadvi``, ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.

    Limits: all rows share one vector of shares. Rows that differ more than chance allows need shares of their own; the
    evidence tells.

    Parameters
    ----------
    concentration
        Positive; prior count of each category.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> votes = [[12, 5, 3], [9, 8, 3]]
    >>> result = fit(zoo.DirichletMultinomial(), votes, method="exact", seed=0)
    >>> result.summary()["mean"].round(1)
    probs[0]    0.5
    probs[1]    0.3
    probs[2]    0.2
    Name: mean, dtype: float64
    """

    counts = Count("row", "category")
    concentration: PositiveFloat = 1.0

    dims = {"probs": ("category",)}

    def check(self, counts: Tensor) -> None:
        # Refuse a single category, whose share is 1
        if counts.shape[1] < 2:
            raise DataError(
                "field 'counts': expected a column of counts for each of at least 2 categories, found 1 column, whose "
                "share is always 1; for plain counts use GammaPoisson"
            )

    def forward(self, counts: Tensor) -> None:
        probs = pyro.sample("probs", dist.Dirichlet(torch.full((counts.shape[1],), self.concentration)))
        with pyro.plate("row", len(counts)):
            pyro.sample("counts", Multinomial(counts.sum(-1), probs), obs=counts)
