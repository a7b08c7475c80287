"""Beta-Bernoulli: an unknown probability behind zeros and ones."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pydantic import PositiveFloat
from torch import Tensor

from zoo.declare.fields import Binary
from zoo.declare.model import Model


class BetaBernoulli(Model):
    """An unknown probability behind zeros and ones.

    Generative story::

        p        ~ Beta(a, b)
        x_i | p  ~ Bernoulli(p)              i = 1 .. n

    ===========  ===========  ==========================
    symbol       site         shape
    ===========  ===========  ==========================
    p            ``p``        ()
    x_i          ``x``        (row)
    ===========  ===========  ==========================

    Methods: ``exact`` (the posterior is Beta(a + sum x, b + n - sum x)); also ``cavi``, ``svi``, ``map``, ``dadvi``,
    ``laplace``, ``pathfinder``, ``nuts`` and ``smc``.

    Limits: the zeros and ones are exchangeable; for groups with probabilities of their own declare a plate of groups.

    Parameters
    ----------
    a, b
        Positive; prior pseudo-counts of ones and of zeros.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> result = fit(zoo.BetaBernoulli(), zoo.datasets.load("coin"), method="exact", columns={"x": ["flips"]}, seed=0)
    >>> round(result.objective.value, 4)  # log evidence of these tosses
    -7.9273
    """

    x = Binary("row")
    a: PositiveFloat = 1.0
    b: PositiveFloat = 1.0

    def forward(self, x: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(self.a, self.b))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)
