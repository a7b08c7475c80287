"""Variational autoencoder: a network decodes a few Gaussian coordinates per row."""

from __future__ import annotations

from typing import Any, Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.distributions import constraints
from torch.nn import Buffer

from zoo.checks import check_varies
from zoo.declare.fields import Real
from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.initial import column_moments
from zoo.networks import MLP

NOISE_FLOOR = 1e-3  # of a column's standard deviation: keeps the Gaussian likelihood bounded


class VAE(Model):
    """Variational autoencoder: a network decodes a few Gaussian coordinates per row (Kingma and Welling 2014).

    Generative story::

        z_i              ~ Normal(0, I)                               i = 1 .. n, z_i in R^latent
        x_i | z_i        ~ Bernoulli(logits = f(z_i))                 likelihood="bernoulli"
                           Binomial(total_count, logits = f(z_i))     likelihood="binomial"
                           Normal(f(z_i), noise)                      likelihood="gaussian"

    where f is an MLP with tanh units; for "gaussian" its output is in units of each column's standard deviation.

    ===========  ===========  ===============================
    symbol       site         shape
    ===========  ===========  ===============================
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature)
    noise        ``noise``    (feature), "gaussian" only, in column standard deviations
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  ===============================

    Methods: ``svi`` with `Encoder()`; also ``map``, an autoencoder whose z_i are points. `log_prob` integrates z_i out
    by importance sampling from the encoder.

    Limits: the decoder is a point estimate, so there is no posterior over it and no PSIS-LOO; z_i is identified only
    up to rotation.

    Parameters
    ----------
    latent
        Number of coordinates per row.
    hidden
        Widths of the decoder's hidden layers.
    likelihood
        "bernoulli" for zeros and ones, "binomial" for counts up to `total_count`, "gaussian" for real numbers.
    total_count
        Number of trials for "binomial"; None for the largest value in the data.
    """

    x = Real("row", "feature")
    latent: PositiveInt = 8
    hidden: tuple[PositiveInt, ...] = (128,)
    likelihood: Literal["bernoulli", "gaussian", "binomial"] = "bernoulli"
    total_count: PositiveInt | None = None

    dims = {"z": ("latent",), "noise": ("feature",)}

    def check(self, x: Tensor) -> None:
        """Refuse values outside the likelihood's support."""
        if self.likelihood == "bernoulli" and bool(((x != 0) & (x != 1)).any()):
            wrong = float(x[(x != 0) & (x != 1)][0])
            raise DataError(
                f"field 'x': likelihood='bernoulli' expects 0 or 1, found {wrong:g}; binarise the data or "
                "use 'binomial' or 'gaussian'"
            )
        if self.likelihood == "binomial" and bool(((x < 0) | (x != x.round())).any()):
            raise DataError(
                "field 'x': likelihood='binomial' expects counts 0, 1, ..., found "
                f"{float(x[(x < 0) | (x != x.round())][0]):g}; use 'gaussian'"
            )
        if self.likelihood == "binomial" and self.total_count is not None and bool((x > self.total_count).any()):
            raise DataError(
                f"field 'x': found {float(x.max()):g}, above total_count={self.total_count}; raise total_count"
            )
        if self.likelihood == "gaussian":
            check_varies(x, self.coords["feature"])

    def setup(self, x: Tensor) -> None:
        """Make the decoder for this many columns, its bias at the columns' means."""
        d = x.shape[1]
        self.decoder = MLP(self.latent, self.hidden, d)
        self.trials = float(self.total_count or x.max().clamp_min(1.0))
        center, variance = column_moments(x, self.row_weights, self.missing.get("x"))
        self.center = Buffer(center)
        self.spread = Buffer(variance.sqrt().clamp_min(torch.finfo(torch.float32).tiny))
        if self.likelihood != "gaussian":
            rows = len(x) if self.row_weights is None else float(self.row_weights.sum())
            mean = (rows * center + 0.5) / (rows + 1.0) / (1.0 if self.likelihood == "bernoulli" else self.trials)
            self.decoder.start_at(torch.logit(mean.clamp(1e-4, 1 - 1e-4)))

    def forward(self, x: Tensor) -> None:
        """Tell the generative story."""
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            out = self.decoder(z)
            pyro.sample("x", self._likelihood(out), obs=x)

    def _likelihood(self, out: Tensor) -> Any:
        if self.likelihood == "bernoulli":
            return dist.Bernoulli(logits=out).to_event(1)
        if self.likelihood == "binomial":
            return dist.Binomial(torch.tensor(self.trials), logits=out).to_event(1)
        noise = pyro.param("noise", torch.full(out.shape[-1:], 0.5), constraint=constraints.greater_than(NOISE_FLOOR))
        return dist.Normal(self.center + self.spread * out, self.spread * noise).to_event(1)
