"""The model of Dawid and Skene: what annotators say, and what is the case."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.replay.multinomial import Multinomial

SMOOTHING = 0.1  # labels of each kind that an annotator is started with


class DawidSkene(Model):
    """Labels by several annotators, each with error rates of their own (Dawid and Skene 1979).

    Generative story::

        weights            ~ Dirichlet(concentration, ..., concentration)       only with `concentration`
        confusion_kj       ~ Dirichlet(concentration, ..., concentration)       only with `concentration`
        z_i                ~ Categorical(weights)                               i = 1 .. items
        counts_ij | z_i=k  ~ Multinomial(labels that j gave i, confusion_kj)    j = 1 .. annotators

    confusion_kjl is how often annotator j gives the label l to an item that is k.

    ===========  ==============  ===========================
    symbol       site            shape
    ===========  ==============  ===========================
    weights      ``weights``     (level)
    confusion    ``confusion``   (level, annotator, level_2)
    z_i          ``z``           (item), enumerated
    counts_ij    ``counts``      (item, annotator, level)
    ===========  ==============  ===========================

    Data are a long table with the columns `item`, `annotator` and `level`, a row for each label that was given, in any
    order; or an array of counts of the shape (item, annotator, level). Annotators may label some items only, and some
    repeatedly. `assign` weighs what an item is.

    Weights and confusion are parameters without prior, fitted by maximum likelihood, unless their prior is asked for.

    Methods: ``em`` (closed form); also ``svi`` and ``map``; with `concentration` also ``cavi``, ``dadvi``, ``laplace``,
    ``pathfinder``, ``nuts`` and ``smc``.

    Limits: annotators err independently given what an item is, and no item is harder than another. The likelihood
    has several maxima, and classes may change places: climbs start from the majority of an item's labels, where they
    keep their meaning while most labels are right.

    Parameters
    ----------
    concentration
        Dirichlet concentration of weights and of each row of confusion; None for no prior.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import fit
    >>> said = np.array([[[2, 1], [1, 0]], [[0, 3], [0, 1]], [[1, 0], [0, 2]], [[0, 1], [1, 1]]])
    >>> result = fit(zoo.DawidSkene(concentration=1.5), {"counts": said}, method="em", seed=0)
    >>> result.assign().round(1)
    z    0    1
    0  0.8  0.2
    1  0.1  0.9
    2  0.6  0.4
    3  0.4  0.6
    """

    counts = Count("item", "annotator", "level")
    concentration: PositiveFloat | None = None

    dims = {"weights": ("level",), "confusion": ("level", "annotator", "level_2")}

    def check(self, counts: Tensor) -> None:
        # Refuse one kind of label, and items or annotators without any
        if counts.shape[2] < 2:
            raise DataError("field 'counts': expected at least 2 kinds of labels along 'level', found 1")
        for dim, given in (("item", counts.sum((1, 2))), ("annotator", counts.sum((0, 2)))):
            if bool((given == 0).any()):
                name = self.coords[dim][int((given == 0).nonzero()[0])]
                raise DataError(f"field 'counts': {dim} {name!r} has no labels; leave it out")

    def initial(self, counts: Tensor) -> dict[str, Tensor]:
        # Start from the shares of each item's labels, as what it is (Dawid and Skene 1979, section 3)
        votes = counts.sum(1)
        member = votes / votes.sum(-1, keepdim=True)  # (item, level)
        confusion = torch.einsum("ik,ijl->kjl", member, counts) + SMOOTHING
        size = member.sum(0) + SMOOTHING
        return {"weights": size / size.sum(), "confusion": confusion / confusion.sum(-1, keepdim=True)}

    def forward(self, counts: Tensor) -> None:
        annotators, k = counts.shape[1:]
        shares, shape = torch.full((k,), 1 / k), torch.full((k, annotators, k), 1 / k)
        if self.concentration is None:
            weights = pyro.param("weights", shares, constraint=constraints.simplex)
            confusion = pyro.param("confusion", shape, constraint=constraints.simplex)
        else:
            weights = pyro.sample("weights", dist.Dirichlet(torch.full_like(shares, self.concentration)))
            prior = dist.Dirichlet(torch.full_like(shape, self.concentration))
            confusion = pyro.sample("confusion", prior.to_event(2))
        with pyro.plate("item", len(counts)):
            z = pyro.sample("z", dist.Categorical(weights))
            labels = dist.Independent(Multinomial(counts.sum(-1), confusion[z]), 1)
            pyro.sample("counts", labels, obs=counts)
