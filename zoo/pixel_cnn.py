"""Autoregressive density of images by masked convolutions."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from zoo.declare.fields import Count
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.networks import MaskedConvolutions


class PixelCNN(Model):
    """PixelCNN: each pixel is drawn given those above and to the left of it (van den Oord et al. 2016).

    Generative story::

        x_ij | x_i1, ..., x_i,j-1     ~ Categorical(logits = f_j(x_i1, ..., x_i,j-1))     pixels j line by line

    where f is a network of masked convolutions with residual blocks, and a Bernoulli stands in place of the
    categorical distribution where there are two levels.

    ===========  ===========  ===========================================
    symbol       site         shape
    ===========  ===========  ===========================================
    x_i          ``x``        (row, height, width), one channel in front of them or none
    f            ``network``  network weights, maximum likelihood
    ===========  ===========  ===========================================

    Methods: ``svi`` and ``map``, which are the same here: gradient ascent of the likelihood. `log_prob` is exact;
    `generate` draws pixel after pixel.

    Limits: one channel; masked convolutions have a blind spot to the right of the lines above (van den Oord et al.
    2016b); no latents, so nothing to encode.

    Parameters
    ----------
    levels
        How many a pixel has, at least 2: its values are 0, 1, ..., levels - 1.
    channels, blocks
        Of the network: channels between its layers, an even number; how many residual blocks.

    Examples
    --------
    >>> import zoo
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").to_numpy().reshape(-1, 8, 8)[:100] >= 8).astype(int)
    >>> result = fit(zoo.PixelCNN(channels=8, blocks=1), digits, method=SVI(steps=60, batch_size=50), seed=0)
    >>> result.generate(2, seed=0)["x"].shape
    (2, 8, 8)
    """

    x = Count("row", "feature", ...)
    levels: PositiveInt = 2
    channels: PositiveInt = 64
    blocks: NonNegativeInt = 5

    def check(self, x: Tensor) -> None:
        # Refuse what is no image of one channel, and values that are no level
        if x.ndim == 2 or (x.ndim == 4 and x.shape[1] > 1):
            raise DataError(
                f"field 'x': expected images of one channel, (rows, height, width), found shape {tuple(x.shape)}; give "
                "flat rows their height and width by .reshape(-1, height, width), or use MADE"
            )
        if bool((x >= max(2, self.levels)).any()):
            raise DataError(f"field 'x': found {float(x.max()):g}, and levels={self.levels}; raise levels, or binarise")

    def setup(self, x: Tensor) -> None:
        # Make the network
        self.network = MaskedConvolutions(1, self.levels if self.levels > 2 else 1, self.channels, self.blocks)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            seen = x.reshape(len(x), 1, *x.shape[-2:]) / max(1, self.levels - 1)
            logits = self.network(seen).movedim(-3, -1).reshape(*x.shape, -1)  # (row, *image, levels)
            each = dist.Categorical(logits=logits) if self.levels > 2 else dist.Bernoulli(logits=logits[..., 0])
            pyro.sample("x", each.to_event(x.ndim - 1), obs=x)
