"""Deep models on images, declared and asked as a user would, on every device that there is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import zoo
from guides import Encoder
from inference import SVI, Fit, fit

NONE = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
DEVICES = [
    pytest.param("cpu", marks=pytest.mark.slow),
    pytest.param("cuda", marks=[pytest.mark.cuda, NONE]),
]

RNG = np.random.default_rng(0)
KINDS = RNG.integers(0, 3, 96)
SHAPES = RNG.random((3, 8, 8)) < 0.4
IMAGES = (RNG.random((96, 8, 8)) < np.where(SHAPES[KINDS], 0.9, 0.1)).astype(float)
SOME = np.where(RNG.random(96) < 0.3, KINDS, -1)


class Look(nn.Module):
    """A convolutional encoder of one's own, its convolutions in bfloat16."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.GroupNorm(2, 8), nn.SiLU())
        self.last = nn.Linear(8 * 16, 16)

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            features = self.layers(x[:, None])
        return self.last(features.float().flatten(1))


class Strokes(zoo.Model):
    """A convolutional VAE of one's own."""

    x = zoo.Binary("row", "height", "width")
    latent: int = 3

    def setup(self, x):
        self.mean = x.mean(0).clamp(0.05, 0.95).logit()
        self.decoder = nn.Sequential(
            *(nn.Linear(self.latent, 128), nn.SiLU(), nn.Unflatten(-1, (8, 4, 4))),
            *(nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1), nn.Flatten(-3, -2)),
        )

    def forward(self, x):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z) + self.mean).to_event(2), obs=x)


CONV = Encoder(network="conv")
CASES = {
    "own networks": (Strokes(), IMAGES, Encoder(network=Look)),
    "VAE": (zoo.VAE(latent=3, decoder="conv"), IMAGES, CONV),
    "ConditionalVAE": (zoo.ConditionalVAE(latent=2, hidden=(16,)), {"x": IMAGES, "label": KINDS}, Encoder()),
    "SemiSupervisedVAE": (zoo.SemiSupervisedVAE(latent=2, hidden=(16,)), {"x": IMAGES, "label": SOME}, Encoder()),
    "HierarchicalVAE": (zoo.HierarchicalVAE(latents=(3, 2), hidden=(16,)), IMAGES, Encoder()),
    "MixtureVAE": (zoo.MixtureVAE(components=3, latent=2, hidden=(16,)), IMAGES, Encoder()),
    "VampPriorVAE": (zoo.VampPriorVAE(components=3, latent=2, hidden=(16,)), IMAGES, Encoder()),
    "MADE": (zoo.MADE(hidden=(32,)), IMAGES, None),
    "PixelCNN": (zoo.PixelCNN(channels=8, blocks=1), IMAGES, None),
    "RecurrentDensity": (zoo.RecurrentDensity(hidden=8), IMAGES.reshape(96, 64), None),
    "CausalTransformer": (zoo.CausalTransformer(width=8, heads=2, layers=1), IMAGES.reshape(96, 64), None),
}


def rows(data, count):
    """The first rows of an array, or of each array in a dict."""
    return {n: v[:count] for n, v in data.items()} if isinstance(data, dict) else data[:count]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", CASES)
def test_a_deep_model_is_fitted_asked_and_saved(name, device, tmp_path):
    model, data, guide = CASES[name]
    own = {} if guide is None else {"guide": guide}
    found = fit(model, data, method=SVI(**own, steps=40, batch_size=32), seed=0, device=device, progress=False)
    assert found.program.device.type == device
    assert {v.device.type for v in found.points.values()} == {device}
    assert np.isfinite(found.trace["value"]).all()

    new, ways = rows(data, 5), found.generate(4)
    density = found.log_prob(new, samples=50)
    assert density.shape == (5,)
    assert np.isfinite(density).all()
    assert np.isin(ways if isinstance(ways, pd.DataFrame) else ways["x"], (0, 1)).all()
    if guide is not None:
        codes = found.encode(new)
        assert all(np.isfinite(codes[n]).all() for n in codes)
        assert np.isfinite(found.reconstruct(new)).all()
        assert len(found.anomaly(new)) == 5
    if "label" in found.program.enumerated:
        np.testing.assert_allclose(found.assign(new).sum(1), 1.0, atol=1e-5)

    found.save(tmp_path)
    again = Fit.load(tmp_path).log_prob(new, samples=50)
    spread = 1e-3 if guide is None else 1e-3 + 6 * np.hypot(density.attrs["mcse"], again.attrs["mcse"])
    assert (np.abs(np.asarray(again) - np.asarray(density)) < spread).all()
