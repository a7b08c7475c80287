"""Variational autoencoder with several layers of codes."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.networks import MLP
from zoo.pixels import Decoder, Likelihood, Noise, Pixels, check_pixels

LOG_SCALE = 5.0  # largest log standard deviation of a layer given the one above, either way


class HierarchicalVAE(Model):
    """Hierarchical variational autoencoder: codes of codes, decoded top-down (Rezende, Mohamed and Wierstra 2014).

    Generative story, for two layers::

        z2_i           ~ Normal(0, I)                          i = 1 .. n
        z1_i | z2_i    ~ Normal(m(z2_i), s(z2_i)^2)            m and log s by a network
        x_i | z1_i     ~ likelihood(f(z1_i))                   as in `VAE`

    ===========  =================  =======================================================
    symbol       site               shape
    ===========  =================  =======================================================
    z1_i, z2_i   ``z1``, ``z2``     (row, latent of that layer); a third is ``z3``, and so on
    x_i          ``x``              (row, feature), or (row, image ...)
    noise        ``noise``          (feature), (image ...) or (), "gaussian" only, in units
    m, s         ``above``          network weights, maximum likelihood
    f            ``decoder``        network weights, maximum likelihood
    ===========  =================  =======================================================

    Methods: ``svi`` with ``Encoder(family="flow")``, whose q of all layers is one vector given the row; also ``map``.

    Limits: as of `VAE`; upper layers are easily left unused (Sønderby et al. 2016), which `SVI(warm_up=...)` lessens.

    Parameters
    ----------
    latents
        Number of coordinates of each layer, from the one next to the data up; two or more layers.
    hidden
        Widths of the hidden layers of the networks between layers, and of ``decoder="mlp"``.
    likelihood, total_count, decoder, noise
        As of `VAE`.

    Examples
    --------
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(20) >= 8).astype(int)
    >>> model = zoo.HierarchicalVAE(latents=(4, 2), hidden=(32,))
    >>> result = fit(model, digits, method=SVI(guide=Encoder(family="flow"), steps=50), seed=0)
    >>> result.generate(2, seed=0).shape
    (2, 64)
    """

    x = Real("row", "feature", ...)
    latents: tuple[PositiveInt, ...] = (16, 8)
    hidden: tuple[PositiveInt, ...] = (128,)
    likelihood: Likelihood = "bernoulli"
    total_count: PositiveInt | None = None
    decoder: Decoder = "mlp"
    noise: Noise | PositiveFloat = "pixel"

    def check(self, x: Tensor) -> None:
        # Refuse a single layer, and values outside the likelihood's support
        if len(self.latents) < 2:
            raise ModelError(f"HierarchicalVAE: latents={self.latents} must be two layers or more; use VAE for one")
        check_pixels(self, x)

    def setup(self, x: Tensor) -> None:
        # Make the networks for rows of this shape, the decoder's bias at their mean
        self.pixels = Pixels(self, x)
        self.decoder = self.pixels.decoder(self.decoder, self.latents[0], self.hidden)
        pairs = zip(self.latents[1:], self.latents, strict=False)
        self.above = nn.ModuleList([MLP(upper, self.hidden, 2 * lower) for upper, lower in pairs])
        self.dims = {f"z{i}": (f"latent{i}",) for i in range(1, len(self.latents) + 1)}
        self.dims |= {"noise": self.data_dims["x"][1:] if self.noise == "pixel" else ()}

    def forward(self, x: Tensor) -> None:
        top = len(self.latents)
        with pyro.plate("row", len(x)):
            z = pyro.sample(f"z{top}", dist.Normal(torch.zeros(self.latents[-1]), 1.0).to_event(1))
            for layer in range(top - 1, 0, -1):
                loc, log_scale = self.above[layer - 1](z).chunk(2, -1)
                scale = (LOG_SCALE * torch.tanh(log_scale / LOG_SCALE)).exp()
                z = pyro.sample(f"z{layer}", dist.Normal(loc, scale).to_event(1))
            out = self.pixels.laid_out(self.get_submodule("decoder")(z), z.ndim - 1)
            pyro.sample("x", self.pixels(out), obs=x)
