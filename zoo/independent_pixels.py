"""Pixels that know nothing of each other: what every density of images has to beat."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import NonNegativeFloat
from torch import Tensor

from zoo.declare.fields import Binary
from zoo.declare.model import Model


class IndependentPixels(Model):
    """Independent pixels: each is on with a probability of its own, whatever the others are.

    Generative story::

        p_j       ~ Beta(1 + smoothing, 1 + smoothing)     for every pixel j
        x_ij      ~ Bernoulli(p_j)                         i = 1 .. n

    ===========  ==========  =====================================
    symbol       site        shape
    ===========  ==========  =====================================
    p            ``probs``   (feature), or the shape of an image
    x_i          ``x``       (row, feature), or (row, image ...)
    ===========  ==========  =====================================

    Methods: ``exact`` (a Beta for each pixel); ``map`` (its mode, (on + smoothing) / (n + 2 smoothing), from which
    densities of many rows are fast); also ``cavi``, ``svi``, ``dadvi``, ``laplace``, ``pathfinder``, ``nuts``, ``smc``.

    Limits: it has no image to show; it is there to be compared with.

    Parameters
    ----------
    smoothing
        Rows on, and rows off, that the prior counts for at the mode. Without any, a pixel that is never on has
        probability 0 at the mode, and a new row in which it is on an infinite surprise.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> digits = (zoo.datasets.load("digits").to_numpy().reshape(-1, 8, 8) >= 8).astype(int)
    >>> result = fit(zoo.IndependentPixels(), digits[:200], method="exact", seed=0)
    >>> result.log_prob(digits[200:203]).round(0)
    0   -23.0
    1   -29.0
    2   -26.0
    Name: log_prob, dtype: float64
    """

    x = Binary("row", "feature", ...)
    smoothing: NonNegativeFloat = 0.01

    def setup(self, x: Tensor) -> None:
        # Name the dimensions of the pixels
        self.dims = {"probs": self.data_dims["x"][1:]}

    def forward(self, x: Tensor) -> None:
        shape, prior = x.shape[1:], torch.tensor(1 + self.smoothing)
        probs = pyro.sample("probs", dist.Beta(prior, prior).expand(shape).to_event(len(shape)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(probs).to_event(len(shape)), obs=x)
