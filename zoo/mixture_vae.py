"""Variational autoencoder whose codes come in groups."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.pixels import Decoder, Likelihood, Noise, Pixels, check_pixels

SPREAD = 1.5  # of the components' first locations, in the prior's standard deviation: far enough to tell them apart
SCALE = 0.7  # their first standard deviation


class MixtureVAE(Model):
    """Mixture variational autoencoder: the prior of the codes is a Gaussian mixture (Jiang et al. 2017, "VaDE").

    Generative story::

        y_i               ~ Categorical(weights)                i = 1 .. n
        z_i | y_i = k     ~ Normal(locs_k, scales_k^2)          z_i in R^latent
        x_i | z_i         ~ likelihood(f(z_i))                  as in `VAE`

    Which component a code comes from is summed out exactly.

    ===========  ===========  =======================================================
    symbol       site         shape
    ===========  ===========  =======================================================
    weights      ``weights``  (component)
    locs         ``locs``     (component, latent)
    scales       ``scales``   (component, latent)
    y_i          ``y``        (row), enumerated
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    noise        ``noise``    (feature), (image ...) or (), "gaussian" only, in units
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  =======================================================

    Methods: ``svi`` with ``Encoder()``; also ``map``. `assign` has the component of each row.

    Limits: as of `VAE`; which components are found depends on the seed, use `SVI(restarts=...)`, and a component may be
    left without rows.

    Parameters
    ----------
    components
        Of the prior, at least 1.
    latent, hidden, likelihood, total_count, decoder, noise
        As of `VAE`.

    Examples
    --------
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
    >>> model = zoo.MixtureVAE(components=3, latent=2, hidden=(32,))
    >>> result = fit(model, digits, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> result.assign(digits.head(5)).shape
    (5, 3)
    """

    x = Real("row", "feature", ...)
    components: PositiveInt = 10
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
        each = ("component", "latent")
        self.dims = {"z": ("latent",), "weights": ("component",), "locs": each, "scales": each}
        self.dims |= {"noise": self.data_dims["x"][1:] if self.noise == "pixel" else ()}

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from components at random places
        return {"locs": SPREAD * torch.randn(self.components, self.latent)}

    def forward(self, x: Tensor) -> None:
        k, shape = self.components, (self.components, self.latent)
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        locs = pyro.param("locs", torch.zeros(shape))
        scales = pyro.param("scales", torch.full(shape, SCALE), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(weights))
            z = pyro.sample("z", dist.Normal(locs[y], scales[y]).to_event(1))
            out = self.pixels.laid_out(self.get_submodule("decoder")(z), z.ndim - 1)
            pyro.sample("x", self.pixels(out), obs=x)
