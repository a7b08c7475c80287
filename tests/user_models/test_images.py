"""Deep models of images and sequences, declared as users of torch declare them."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import zoo
from guides import Encoder
from inference import SVI, fit
from zoo import Category, Real

RNG = np.random.default_rng(0)
KINDS = np.arange(120) % 3
# A bar in one of three columns of a 6 x 6 image, now and then a pixel that is not: most of a row follows from its kind.
IMAGES = (RNG.random((120, 6, 6)) < np.where(np.arange(6) // 2 == KINDS[:, None, None], 0.9, 0.05)).astype(float)
WORDS = np.array([[(i + t * (1 + i % 2)) % 4 for t in range(7)] for i in range(120)])  # steps of one, or of two


class ConvVAE(zoo.Model):
    """A convolutional autoencoder."""

    x = Real("row", "height", "width")
    latent: int = 2

    def setup(self, x: Tensor) -> None:
        self.decode = nn.Sequential(
            nn.Linear(self.latent, 72), nn.ReLU(), nn.Unflatten(-1, (8, 3, 3)), nn.ConvTranspose2d(8, 1, 2, stride=2)
        )

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(self.latent), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decode(z).squeeze(-3)).to_event(2), obs=x)


class Look(nn.Module):
    """The encoder of it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x[:, None]).relu()
        return found


class Labelled(zoo.Model):
    """A conditional one: the label is data."""

    x = Real("row", "height", "width")
    label = Category("row")

    def setup(self, x: Tensor, label: Tensor) -> None:
        self.decode = nn.Sequential(nn.Linear(2 + 3, 16), nn.Tanh(), nn.Linear(16, 36))

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            code = torch.cat([z, nn.functional.one_hot(label, 3).to(z)], -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decode(code).unflatten(-1, (6, 6))).to_event(2), obs=x)


class PartlyLabelled(zoo.Model):
    """A semi-supervised one: what is missing of the labels is summed out."""

    x = Real("row", "height", "width")
    label = Category("row")

    def setup(self, x: Tensor, label: Tensor) -> None:
        self.decode = nn.Sequential(nn.Linear(1 + 3, 16), nn.Tanh(), nn.Linear(16, 36))

    def forward(self, x: Tensor, label: Tensor) -> None:
        with pyro.plate("row", len(x)):
            y = pyro.sample("label", dist.Categorical(torch.ones(3) / 3), obs=label)
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            told = nn.functional.one_hot(y.long(), 3).to(z)  # (3, 1, 3) where the label is summed out
            shape = torch.broadcast_shapes(z.shape[:-1], told.shape[:-1])
            code = torch.cat([z.expand(*shape, 1), told.expand(*shape, 3)], -1)
            pyro.sample("x", dist.Bernoulli(logits=self.decode(code).unflatten(-1, (6, 6))).to_event(2), obs=x)


class Masked(nn.Conv2d):
    """A convolution that sees what is above and to the left."""

    def __init__(self, first: bool, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)
        mask = torch.ones(3, 3)
        mask[1, 1 if first else 2 :] = 0
        mask[2] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight * self.get_buffer("mask"), self.bias, padding=1)


class Pixels(zoo.Model):
    """A PixelCNN."""

    x = Real("row", "height", "width")

    def setup(self, x: Tensor) -> None:
        self.net = nn.Sequential(Masked(True, 1, 8), nn.ReLU(), Masked(False, 8, 8), nn.ReLU(), nn.Conv2d(8, 1, 1))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=self.net(x[:, None])[:, 0]).to_event(2), obs=x)


class Transformer(zoo.Model):
    """A causal Transformer over symbols, by torch's own layers."""

    x = Category("row", "time")

    def setup(self, x: Tensor) -> None:
        self.embed, self.place = nn.Embedding(5, 16), nn.Parameter(0.1 * torch.randn(x.shape[1], 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, norm_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> None:
        n, times = x.shape
        with pyro.plate("row", n):
            before = torch.cat([torch.full((n, 1), 4), x[:, :-1]], 1)
            later = torch.ones(times, times, dtype=torch.bool).triu(1)
            h = self.layer(self.embed(before) + self.place, src_mask=later)
            pyro.sample("x", dist.Categorical(logits=self.last(h)).to_event(1), obs=x)


MISSING = np.where(np.arange(120) % 5 == 0, KINDS, -1)
CASES = {
    "ConvVAE": (ConvVAE(), {"x": IMAGES}, Encoder(network=Look), 600),
    "Labelled": (Labelled(), {"x": IMAGES, "label": KINDS}, Encoder(), 400),
    "PartlyLabelled": (PartlyLabelled(), {"x": IMAGES, "label": MISSING}, Encoder(), 400),
    "Pixels": (Pixels(), {"x": IMAGES}, None, 400),
    "Transformer": (Transformer(), {"x": WORDS}, None, 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_what_users_declare_is_fitted_scored_and_drawn_from(name):
    model, data, guide, steps = CASES[name]
    assert "svi         yes" in str(zoo.explain(model, data))
    method = SVI(steps=steps) if guide is None else SVI(guide=guide, steps=steps)
    found = fit(model, data, method=method, seed=0)
    density = found.log_prob(data)
    share = data["x"].mean(0) if name != "Transformer" else None
    apart = -np.log(4) * 7 if share is None else (share * np.log(share) + (1 - share) * np.log(1 - share)).sum()
    assert density.mean() > apart + 3  # nats of a row, beyond what entries say that know nothing of each other
    drawn = found.generate(400, seed=1)
    x = np.asarray(drawn["x"] if isinstance(drawn, dict) else drawn)
    assert x.shape == (400, *data["x"].shape[1:])
    for level in np.unique(data["x"]):  # each entry is as often at each level as in the data, of which there are few
        seen, then = (x == level).mean(0), (data["x"] == level).mean(0)
        assert np.abs(seen - then).max() < 0.1 + 5 * np.sqrt(0.25 / 400 + 0.25 / 120)


@pytest.mark.slow
def test_missing_labels_are_found_by_the_rows_that_have_one():
    model, data, guide, _ = CASES["PartlyLabelled"]
    found = fit(model, data, method=SVI(guide=guide, steps=1000), seed=0)
    assert (found.assign().to_numpy().argmax(1) == KINDS).mean() > 0.9
