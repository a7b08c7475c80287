"""Densities whose entries are drawn each given those before it: they sum to one, and rows are drawn from them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

import zoo
from inference import SVI, fit
from zoo import Binary, Real
from zoo.networks import MaskedConv2d
from zoo.program.prepare import prepare

ENTRIES = list(product([0, 1], repeat=4))
WEIGHTS = {  # rows as often as these say, so that entries depend on each other
    row: 1 + 8 * (row[0] == row[1]) + 5 * (row[2] == row[0]) * row[3] + 3 * row[2] for row in ENTRIES
}


def images() -> np.ndarray:
    rows = [row for row in ENTRIES for _ in range(WEIGHTS[row])]
    return np.array(rows).reshape(-1, 2, 2)


class Backwards(zoo.Model):
    """Each entry given those after it: an order that is not that of the entries."""

    x = Binary("row", "time")

    def setup(self, x: Tensor) -> None:
        self.network = nn.GRU(1, 4, batch_first=True)
        self.last = nn.Linear(4, 1)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            later = torch.cat([torch.zeros_like(x[:, :1]), x.flip(1)[:, :-1]], 1)
            logits = self.last(self.network(later[..., None])[0])[..., 0].flip(1)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


MODELS = {
    "MADE": (zoo.MADE(hidden=(16,)), images()),
    "PixelCNN": (zoo.PixelCNN(channels=8, blocks=1), images()),
    "gru": (zoo.RecurrentDensity(hidden=8), images()),
    "lstm": (zoo.RecurrentDensity(hidden=8, cell="lstm"), images().reshape(-1, 4)),
    "CausalTransformer": (zoo.CausalTransformer(width=8, heads=2, layers=1), images()),
    "Backwards": (Backwards(), images().reshape(-1, 4)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_densities_sum_to_one_and_rows_are_drawn_from_them(name):
    model, x = MODELS[name]
    found = fit(model, x, method=SVI(steps=400), seed=0)
    every = np.array(ENTRIES).reshape(-1, *x.shape[1:])
    density = np.exp(found.log_prob(every).to_numpy())
    assert density.sum() == pytest.approx(1, abs=1e-5)
    best = np.array([WEIGHTS[row] for row in ENTRIES]) / sum(WEIGHTS.values())
    on = best @ np.array(ENTRIES)
    apart = np.where(np.array(ENTRIES) == 1, on, 1 - on).prod(1)  # what entries are that know nothing of each other
    assert (best * np.log(best / density)).sum() < 0.5 * (best * np.log(best / apart)).sum()
    drawn = found.generate(4000, seed=1)
    drawn = np.asarray(drawn["x"] if isinstance(drawn, dict) else drawn).reshape(-1, 4).astype(int)
    counts = np.bincount(drawn @ [8, 4, 2, 1], minlength=16)
    distance = ((counts - 4000 * density) ** 2 / (4000 * density)).sum()
    assert distance < chi2.ppf(1 - 1e-6, 15)


@pytest.mark.slow
def test_fitted_rows_are_replicated_entry_after_entry():
    model, x = MODELS["MADE"]
    found = fit(model, x, method=SVI(steps=200), seed=0)
    drawn = found.predict(draws=20, seed=2)["posterior_predictive"]["x"].to_numpy()
    every = np.array(ENTRIES).reshape(-1, 2, 2)
    density = np.exp(found.log_prob(every).to_numpy())
    counts = np.bincount(drawn.reshape(-1, 4).astype(int) @ [8, 4, 2, 1], minlength=16)
    total = counts.sum()
    assert ((counts - total * density) ** 2 / (total * density)).sum() < chi2.ppf(1 - 1e-6, 15)


class Linear(zoo.Model):
    """x_t ~ Normal(0.8 x_t-1 + 1, 0.5): drawn as a path of that process."""

    x = Real("row", "time")

    def forward(self, x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.8))
        with pyro.plate("row", len(x)):
            before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
            pyro.sample("x", dist.Normal(slope * before + 1.0, 0.5).to_event(1), obs=x)


class Whole(zoo.Model):
    """Every entry sees its row's mean, itself included: no density."""

    x = Real("row", "time")

    def forward(self, x: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.8))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(slope * x.mean(1, keepdim=True), torch.ones(x.shape)).to_event(1), obs=x)


def test_continuous_entries_follow_the_process_that_they_are_declared_as():
    rng = np.random.default_rng(0)
    x = np.zeros((300, 6))
    for t in range(6):
        x[:, t] = (0.8 * x[:, t - 1] if t else 0.0) + 1 + 0.5 * rng.standard_normal(300)
    found = fit(Linear(), x, method="map", seed=0)
    drawn = found.generate(5000, seed=3).to_numpy()
    slope = float(found.posterior["point_estimate"]["slope"])
    before = np.concatenate([np.zeros((5000, 1)), drawn[:, :-1]], 1)
    noise = (drawn - slope * before - 1) / 0.5
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert np.abs(np.corrcoef(noise.T) - np.eye(6)).max() < 5 / np.sqrt(5000)


class Leaking(zoo.Model):
    """A first convolution whose mask lets each pixel see itself."""

    x = Binary("row", "channel", "height", "width")

    def __init__(self, centre: bool) -> None:
        super().__init__()
        self.centre = centre

    def setup(self, x: Tensor) -> None:
        self.first, self.last = MaskedConv2d(1, 8, 3, centre=self.centre), nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            logits = self.last(self.first(x).relu())
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(3), obs=x)


class Weighted(zoo.Model):
    """Each entry sees those that a matrix of zeros and ones says, [reader, read]."""

    x = Binary("row", "pixel")

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.mask = mask

    def setup(self, x: Tensor) -> None:
        self.layer = nn.Linear(len(self.mask), len(self.mask))

    def forward(self, x: Tensor) -> None:
        weight = self.layer.weight * self.mask.to(self.layer.weight)
        with pyro.plate("row", len(x)):
            logits = nn.functional.linear(x, weight, self.layer.bias)
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


BITS = (np.random.default_rng(0).random((40, 64)) < 0.4).astype(float)
LEAKS = {
    "mean": (Whole(), BITS[:, :3], r"its entry x\[time 0\] depends on its own value"),
    "convolution": (Leaking(True), BITS.reshape(-1, 1, 8, 8), r"x\[channel 0, height 0, width 0\] depends on its own"),
    "layer": (Weighted(torch.ones(64, 64)), BITS, r"x\[pixel 0\] depends on its own value"),
    "others": (Weighted(1 - torch.eye(64)), BITS, r"x\[pixel 0\] and x\[pixel 1\] depend on each other's values, so"),
    "ring": (Weighted(torch.eye(9).roll(1, 0)), BITS[:, :9], r"each other's values, by way of others"),
}


@pytest.mark.parametrize("name", LEAKS)
def test_entries_that_read_themselves_are_no_density(name):
    model, x, words = LEAKS[name]
    with pytest.raises(zoo.ModelError, match=rf"site 'x' is no density.*{words}.*centre=False"):
        fit(model, x, method="map", seed=0)


def test_masked_entries_have_an_order():
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(64, 64).tril(-1)[order][:, order]
    assert prepare(Weighted(mask), BITS).structure.in_turn == ("x",)
    assert prepare(Leaking(False), BITS.reshape(-1, 1, 8, 8)).structure.in_turn == ("x",)
    assert "✗ structure   site 'x' is no density" in str(zoo.check(Leaking(True), BITS.reshape(-1, 1, 8, 8)))
