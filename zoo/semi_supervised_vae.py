"""Variational autoencoder of rows of which some have labels."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.fields import Category, Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.pixels import Decoder, Likelihood, Noise, Pixels, check_pixels


class SemiSupervisedVAE(Model):
    """Semi-supervised variational autoencoder: labels are known of some rows and summed out of the others.

    Generative story (Kingma et al. 2014, model M2)::

        y_i               ~ Categorical(shares)             i = 1 .. n, observed in some rows
        z_i               ~ Normal(0, I)                    z_i in R^latent
        x_i | z_i, y_i    ~ likelihood(f(z_i, y_i))         as in `VAE`

    A label that is missing (NaN, None; -1 for codes) is enumerated. With `ClassifyingEncoder` as guide q(y_i | x_i) is
    a classifier and q(z_i | x_i, y_i) is told the label, as in Kingma et al.: few labels are then enough. With
    `Encoder` no network guesses labels: they have their exact posterior given the code, p(y_i | x_i, z_i).

    ===========  ===========  =========================================================
    symbol       site         shape
    ===========  ===========  =========================================================
    shares       ``shares``   (category)
    y_i          ``label``    (row), enumerated where it is missing, else ``label_observed``
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    noise        ``noise``    (feature), (image ...) or (), "gaussian" only, in units
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  =========================================================

    Methods: ``svi`` with ``ClassifyingEncoder()`` or ``Encoder()``; also ``map``. `assign` has the labels of rows
    without one.

    Limits: as of `VAE`; every row is decoded once for each label. With few labels and `Encoder` several labels may be
    learned as one, and the other way around.

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
    >>> half = np.where(digits.iloc[:, :32].sum(axis=1) > digits.iloc[:, 32:].sum(axis=1), "upper", "lower").astype(
    ...     object
    ... )
    >>> half[20:] = None  # most rows have no label
    >>> model = zoo.SemiSupervisedVAE(latent=2, hidden=(32,))
    >>> result = fit(model, {"x": digits, "label": half}, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> list(result.assign({"x": digits[50:52], "label": [None, None]}).columns)
    ['lower', 'upper']
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
        # Refuse values outside the likelihood's support, and data without any label
        check_pixels(self, x)
        if "label" in self.missing and bool(self.missing["label"].all()):
            raise DataError("field 'label': no row has a label; give some, or use VAE, or MixtureVAE for groups")

    def setup(self, x: Tensor, label: Tensor) -> None:
        # Make the decoder for rows of this shape, its bias at their mean
        known = label if "label" not in self.missing else label[~self.missing["label"]]
        self.pixels, self.labels = Pixels(self, x), int(known.max()) + 1
        self.decoder = self.pixels.decoder(self.decoder, self.latent + self.labels, self.hidden)
        self.dims = {
            "z": ("latent",),
            "shares": ("category",),
            "noise": self.data_dims["x"][1:] if self.noise == "pixel" else (),
        }

    def forward(self, x: Tensor, label: Tensor) -> None:
        even = torch.full((self.labels,), 1 / self.labels)
        shares = pyro.param("shares", even, constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            y = pyro.sample("label", dist.Categorical(shares), obs=label)
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            told = torch.nn.functional.one_hot(y.long(), self.labels).to(z)  # (labels, rows, labels) where summed out
            shape = torch.broadcast_shapes(z.shape[:-1], told.shape[:-1])
            code = torch.cat([z.expand(*shape, -1), told.expand(*shape, -1)], -1)
            out = self.pixels.laid_out(self.get_submodule("decoder")(code), len(shape))
            pyro.sample("x", self.pixels(out), obs=x)
