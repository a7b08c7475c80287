"""A variational autoencoder with a linear decoder: posterior, evidence and rate are known exactly."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import zoo
from guides import Custom
from inference import SVI, Fit, fit
from zoo import Real

ROWS, FEATURES, LATENT, NOISE = 60, 4, 2, 0.5
WIDER = 4 / 3


def weights() -> tuple[np.ndarray, np.ndarray]:
    """Loadings and location."""
    rng = np.random.default_rng(1)
    return rng.normal(size=(FEATURES, LATENT)), rng.normal(size=FEATURES)


def data(rows: int = ROWS, seed: int = 0) -> np.ndarray:
    """Rows of the model."""
    w, b = weights()
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, LATENT)) @ w.T + b + NOISE * rng.normal(size=(rows, FEATURES))


def posterior(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean (rows, latent) and covariance of z given x: N(M^-1 W'(x - b) / s^2, M^-1), M = I + W'W / s^2."""
    w, b = weights()
    covariance = np.linalg.inv(np.eye(LATENT) + w.T @ w / NOISE**2)
    return (x - b) @ w @ covariance / NOISE**2, covariance


def log_evidence(x: np.ndarray) -> np.ndarray:
    """log N(x; b, W W' + s^2 I) of each row."""
    w, b = weights()
    covariance = torch.tensor(w @ w.T + NOISE**2 * np.eye(FEATURES))
    return dist.MultivariateNormal(torch.tensor(b), covariance).log_prob(torch.tensor(x)).numpy()


class LinearVAE(zoo.Model):
    """PPCA with its loadings in a network."""

    x = Real("row", "feature")
    dims = {"z": ("latent",)}  # noqa: RUF012

    def setup(self, x: Tensor) -> None:
        w, b = weights()
        self.decoder = nn.Linear(LATENT, FEATURES)
        with torch.no_grad():
            self.decoder.weight.copy_(torch.tensor(w))
            self.decoder.bias.copy_(torch.tensor(b))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), NOISE).to_event(1), obs=x)


class Exact(nn.Module):
    """The exact posterior of `LinearVAE` as an encoder."""

    def __init__(self) -> None:
        super().__init__()
        w, _ = weights()
        mean, covariance = posterior(np.zeros((1, FEATURES)))
        self.mean = nn.Linear(FEATURES, LATENT)
        with torch.no_grad():
            self.mean.weight.copy_(torch.tensor((w @ covariance / NOISE**2).T))
            self.mean.bias.copy_(torch.tensor(mean[0]))
        self.root = nn.Buffer(torch.tensor(np.linalg.cholesky(covariance)).to(torch.get_default_dtype()))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.mean(x), scale_tril=self.root))


class Wide(Exact):
    """The same with standard deviations that are too large, by a third."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.MultivariateNormal(self.mean(x), scale_tril=WIDER * self.root))


class Silent(Exact):
    """The prior, whatever the row."""

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("z", dist.Normal(0.0 * self.mean(x), 1.0).to_event(1))


def kept(guide: type[nn.Module], x: np.ndarray) -> Fit:
    """A fit whose guide and model are what they are made as: its one step is too small to move a number."""
    method = SVI(guide=Custom(guide), steps=1, learning_rate=1e-12, compile=False)
    return fit(LinearVAE(), x, method=method, seed=0, dtype=torch.float64, progress=False)
