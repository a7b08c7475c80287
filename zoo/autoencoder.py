"""Autoencoder: a variational one whose noise is next to nothing."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.pixels import Decoder, Pixels, check_pixels


class Autoencoder(Model):
    """Autoencoder: rows are squeezed through a few numbers and restored with the least squared error.

    Generative story::

        z_i          ~ Normal(0, I)                 i = 1 .. n, z_i in R^latent
        x_i | z_i    ~ Normal(f(z_i), noise^2)      noise fixed, in units of the columns

    With noise going to 0 the bound times -2 noise^2 is the squared error of the reconstruction, and q(z_i) a point:
    that is the autoencoder of Hinton and Salakhutdinov (2006), as k-means is the limit of a mixture. With affine
    networks (``hidden=()``) it finds the principal subspace, as `PPCA` does in the same limit (Tipping and Bishop 1999,
    section 3.3).

    ===========  ===========  ===============================
    symbol       site         shape
    ===========  ===========  ===============================
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  ===============================

    Methods: ``svi`` with `Encoder()`, whose network is the encoder; also ``map``.

    Limits: its densities say how well rows are restored, not how probable they are: the noise is no estimate. Use `VAE`
    to draw rows or to compare models.

    Parameters
    ----------
    latent
        Number of coordinates per row.
    hidden
        Widths of the hidden layers of ``decoder="mlp"``.
    decoder
        As of `VAE`.
    noise
        Standard deviation, in units of each column's, of images in that of all pixels.

    Examples
    --------
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
    >>> result = fit(zoo.Autoencoder(latent=4, hidden=(32,)), digits, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> result.encode(digits.head(5))["z"].shape
    (5, 4)
    """

    x = Real("row", "feature", ...)
    latent: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (128,)
    decoder: Decoder = "mlp"
    noise: PositiveFloat = 0.05

    dims = {"z": ("latent",)}
    likelihood, total_count = "gaussian", None

    def check(self, x: Tensor) -> None:
        # Refuse rows that are all the same
        check_pixels(self, x)

    def setup(self, x: Tensor) -> None:
        # Make the decoder for rows of this shape
        self.pixels = Pixels(self, x)
        self.decoder = self.pixels.decoder(self.decoder, self.latent, self.hidden)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            out = self.pixels.laid_out(self.get_submodule("decoder")(z), z.ndim - 1)
            pyro.sample("x", self.pixels(out), obs=x)
