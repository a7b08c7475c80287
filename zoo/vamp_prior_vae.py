"""Variational autoencoder whose prior is a mixture over learned pseudo-inputs."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.mixture_vae import MixtureVAE
from zoo.networks import MLP

LOG_SCALE = 5.0  # largest log standard deviation of a component, either way
INSIDE = 0.05  # of the range of pixels that the first pseudo-inputs keep away from its ends


class VampPriorVAE(MixtureVAE):
    """Variational autoencoder whose prior is a mixture over learned pseudo-inputs (Tomczak and Welling 2018).

    Generative story::

        y_i               ~ Categorical(1 / K)                       i = 1 .. n, k = 1 .. K
        z_i | y_i = k     ~ Normal(m(u_k), s(u_k)^2)                 m and log s by a network of a pseudo-input
        x_i | z_i         ~ likelihood(f(z_i))                       as in `VAE`

    The pseudo-inputs u_k are rows that are learned; which of them a code comes from is summed out exactly.

    ===========  ===========  =======================================================
    symbol       site         shape
    ===========  ===========  =======================================================
    u_k          ``inputs``   (component, feature), or (component, image ...)
    y_i          ``y``        (row), enumerated
    z_i          ``z``        (row, latent)
    x_i          ``x``        (row, feature), or (row, image ...)
    noise        ``noise``    (feature), (image ...) or (), "gaussian" only, in units
    m, s         ``prior``    network weights, maximum likelihood
    f            ``decoder``  network weights, maximum likelihood
    ===========  ===========  =======================================================

    Methods: ``svi`` with ``Encoder()``; also ``map``. `assign` has the component of each row.

    Limits: as of `VAE`. The network of the prior is the model's own, as a model here knows nothing of guides: the paper
    ties it to the encoder, so that the prior is the average of q over the pseudo-inputs; here the mixture is as free,
    and pseudo-inputs, which begin as rows of the data, need not look like rows at the end.

    Parameters
    ----------
    components
        Number K of pseudo-inputs.
    hidden
        Widths of the hidden layers of the network of the prior, and of ``decoder="mlp"``.
    latent, likelihood, total_count, decoder, noise
        As of `VAE`.

    Examples
    --------
    >>> import zoo
    >>> from guides import Encoder
    >>> from inference import SVI, fit
    >>> digits = (zoo.datasets.load("digits").head(60) >= 8).astype(int)
    >>> model = zoo.VampPriorVAE(components=3, latent=2, hidden=(32,))
    >>> result = fit(model, digits, method=SVI(guide=Encoder(), steps=100), seed=0)
    >>> result.generate(2, seed=0).shape
    (2, 64)
    """

    def setup(self, x: Tensor) -> None:
        # Make the decoder, and the network of the prior
        super().setup(x)
        self.prior = MLP(self.pixels.center.numel(), self.hidden, 2 * self.latent)
        self.dims = {n: d for n, d in self.dims.items() if n in ("z", "noise")}
        self.dims["inputs"] = ("component", *self.data_dims["x"][1:])

    def initial(self, x: Tensor) -> dict[str, Tensor]:
        # Start from rows of the data; the mean where cells are missing
        rows = torch.randint(len(x), (self.components,)) if self.components > len(x) else torch.randperm(len(x))
        rows = rows[: self.components].to(x.device)
        missing = self.missing.get("x")
        some = x[rows] if missing is None else torch.where(missing[rows], self.pixels.center.to(x), x[rows])
        if self.likelihood == "gaussian":
            return {"inputs": some}
        return {"inputs": some.clamp(INSIDE * self.pixels.high, (1 - INSIDE) * self.pixels.high)}

    def forward(self, x: Tensor) -> None:
        pixels, k = self.pixels, self.components
        among = constraints.real if self.likelihood == "gaussian" else constraints.interval(0.0, float(pixels.high))
        inputs = pyro.param("inputs", pixels.center.expand(k, *pixels.shape).clone(), constraint=among)
        loc, log_scale = self.prior(((inputs - pixels.center) / pixels.unit).flatten(1)).chunk(2, -1)
        scale = (LOG_SCALE * torch.tanh(log_scale / LOG_SCALE)).exp()
        with pyro.plate("row", len(x)):
            y = pyro.sample("y", dist.Categorical(torch.full((k,), 1 / k)))
            z = pyro.sample("z", dist.Normal(loc[y], scale[y]).to_event(1))
            out = pixels.laid_out(self.get_submodule("decoder")(z), z.ndim - 1)
            pyro.sample("x", pixels(out), obs=x)
