"""Variational autoencoder: a network decodes a few Gaussian coordinates per row."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor

from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.pixels import Decoder, Likelihood, Noise, Pixels, check_pixels


class VAE(Model):
    """Variational autoencoder: a network decodes a few Gaussian coordinates per row (Kingma and Welling 2014).

    Generative story::

        z_i              ~ Normal(0, I)                               i = 1 .. n, z_i in R^latent
        x_i | z_i        ~ Bernoulli(logits = f(z_i))                 likelihood="bernoulli"
                           Binomial(total_count, logits = f(z_i))     likelihood="binomial"
                           Normal(f(z_i), noise)                      likelihood="gaussian"
                           Categorical(logits = f(z_i))               likelihood="categorical"
                           DiscretizedLogistic(f(z_i))                likelihood="logistic"

    independently for every column or pixel, where f is a network. For "gaussian" and "logistic" its output is in units
    of each column's standard deviation, of images in that of all pixels.

    ===========  ===========  =======================================================
    symbol       site         shape
    ===========  ===========  =======================================================
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    noise        ``noise``    (feature), (image ...) or (), "gaussian" only, in units
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  =======================================================

    Methods: ``svi`` with `Encoder()`, for images ``Encoder(network="conv")``; also ``map``, an autoencoder whose z_i
    are points. `log_prob` integrates z_i out by importance sampling from the encoder.

    Limits: the decoder is a point estimate, so there is no posterior over it and no PSIS-LOO; z_i is identified only
    up to rotation. A column or pixel that never varies is kept; under "gaussian" its noise falls to the floor, 1e-3 of
    the unit (of images 1e-2), and adds a constant to the density of every row.

    Parameters
    ----------
    latent
        Number of coordinates per row.
    hidden
        Widths of the hidden layers of ``decoder="mlp"``, with tanh units.
    likelihood
        "bernoulli" for zeros and ones, "gaussian" for real numbers; for whole numbers up to `total_count`, such as grey
        levels, "binomial", "categorical" (a probability for each level) or "logistic" (a bin of a logistic
        distribution with a location and scale for each pixel).
    total_count
        The largest whole number there can be; None for the largest in the data.
    decoder
        "mlp"; for images "conv", transposed convolutions, or "resnet", residual blocks between them; or a network of
        your own from (..., latent) to a row's numbers: a module, which is copied with the weights it has, or its class
        or a function that makes it, which a saved fit finds again by where it can be imported from.
    noise
        Of "gaussian": "pixel", a standard deviation for each column or pixel; "shared", one for all, in units; or a
        number that it is fixed to, in units.

    Examples
    --------
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
    >>> result = fit(zoo.VAE(latent=2, hidden=(32,)), digits, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> result.encode(digits.head(5))["z"].shape
    (5, 2)
    """

    x = Real("row", "feature", ...)
    latent: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (128,)
    likelihood: Likelihood = "bernoulli"
    total_count: PositiveInt | None = None
    decoder: Decoder = "mlp"
    noise: Noise | PositiveFloat = "pixel"

    def check(self, x: Tensor) -> None:
        # Refuse values outside the likelihood's support
        check_pixels(self, x)

    def setup(self, x: Tensor) -> None:
        # Make the decoder for rows of this shape, its bias at their mean
        self.pixels = Pixels(self, x)
        self.decoder = self.pixels.decoder(self.decoder, self.latent, self.hidden)
        self.dims = {"z": ("latent",), "noise": self.data_dims["x"][1:] if self.noise == "pixel" else ()}

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            out = self.pixels.laid_out(self.get_submodule("decoder")(z), z.ndim - 1)
            pyro.sample("x", self.pixels(out), obs=x)
