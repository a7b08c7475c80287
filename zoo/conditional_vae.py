"""Variational autoencoder of rows with labels."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo.declare.fields import Category, Real
from zoo.declare.model import Model
from zoo.pixels import Decoder, Likelihood, Noise, Pixels, check_pixels


class ConditionalVAE(Model):
    """Conditional variational autoencoder: rows are decoded from a code and a label (Sohn, Lee and Yan 2015).

    Generative story::

        z_i               ~ Normal(0, I)                    i = 1 .. n, z_i in R^latent
        x_i | z_i, y_i    ~ likelihood(f(z_i, y_i))         as in `VAE`

    where y_i is a label that is given, which enters the network as an indicator. With `Encoder()` the encoder sees it
    too, so that the code need not say what the label does: it says how a row of this label looks.

    ===========  ===========  =======================================================
    symbol       site         shape
    ===========  ===========  =======================================================
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    noise        ``noise``    (feature), (image ...) or (), "gaussian" only, in units
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  =======================================================

    Methods: ``svi`` with `Encoder()`, for images ``Encoder(network="conv")``; also ``map``.

    Limits: as of `VAE`; the label of every row has to be known, else use `SemiSupervisedVAE`.

    Parameters
    ----------
    latent, hidden, likelihood, total_count, decoder, noise
        As of `VAE`; a decoder of your own takes (..., latent + labels) numbers.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
    >>> half = np.where(digits.iloc[:, :32].sum(axis=1) > digits.iloc[:, 32:].sum(axis=1), "upper", "lower")
    >>> data = {"x": digits, "label": half}
    >>> result = fit(zoo.ConditionalVAE(latent=2, hidden=(32,)), data, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> result.generate(3, condition={"label": "upper"}, seed=0).shape
    (3, 65)
    """

    x = Real("row", "feature", ...)
    label = Category("row")
    latent: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (128,)
    likelihood: Likelihood = "bernoulli"
    total_count: PositiveInt | None = None
    decoder: Decoder = "mlp"
    noise: Noise | PositiveFloat = "pixel"

    def check(self, x: Tensor, label: Tensor) -> None:
        # Refuse values outside the likelihood's support
        check_pixels(self, x)

    def setup(self, x: Tensor, label: Tensor) -> None:
        # Make the decoder for rows of this shape, its bias at their mean
        self.pixels, self.labels = Pixels(self, x), int(label.max()) + 1
        self.decoder = self.pixels.decoder(self.decoder, self.latent + self.labels, self.hidden)
        self.dims = {"z": ("latent",), "noise": self.data_dims["x"][1:] if self.noise == "pixel" else ()}

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            told = torch.nn.functional.one_hot(label, self.labels).to(z)
            out = self.get_submodule("decoder")(torch.cat([z, told.expand(*z.shape[:-1], -1)], -1))
            pyro.sample("x", self.pixels(self.pixels.laid_out(out, z.ndim - 1)), obs=x)
