"""Masked autoencoder for distribution estimation."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pydantic import PositiveInt
from torch import Tensor

from zoo.declare.fields import Binary
from zoo.declare.model import Model
from zoo.initial import smoothed_logits
from zoo.networks import MaskedMLP


class MADE(Model):
    """MADE: each pixel is drawn given those before it, all by one masked network (Germain et al. 2015).

    Generative story::

        x_ij | x_i1, ..., x_i,j-1     ~ Bernoulli(logits = f_j(x_i1, ..., x_i,j-1))     i = 1 .. n, j = 1 .. pixels

    where f is a perceptron with ReLU units, and weights from inputs to outputs directly, all of them masked so that
    output j sees inputs before j only.

    ===========  ===========  =======================================
    symbol       site         shape
    ===========  ===========  =======================================
    x_i          ``x``        (row, feature), or (row, image ...)
    f            ``network``  network weights, maximum likelihood
    ===========  ===========  =======================================

    Methods: ``svi`` and ``map``, which are the same here: gradient ascent of the likelihood. `log_prob` is exact;
    `generate` draws pixel after pixel.

    Limits: one order of the pixels, line by line; no latents, so nothing to encode.

    Parameters
    ----------
    hidden
        Widths of the hidden layers.

    Examples
    --------
    >>> import zoo
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").to_numpy()[:300] >= 8).astype(int)
    >>> result = fit(zoo.MADE(hidden=(32,)), digits, method=SVI(steps=150), seed=0)
    >>> result.generate(2, seed=0).shape
    (2, 64)
    """

    x = Binary("row", "feature", ...)
    hidden: tuple[PositiveInt, ...] = (500,)

    def setup(self, x: Tensor) -> None:
        # Make the network for this many pixels, its bias at their means
        self.network = MaskedMLP(x[0].numel(), self.hidden)
        self.network.start_at(smoothed_logits(x, self.row_weights))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            logits = self.network(x.flatten(1)).reshape(x.shape)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(x.ndim - 1), obs=x)
