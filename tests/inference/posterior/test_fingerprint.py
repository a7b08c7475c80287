"""A saved fit knows the model that it was saved with."""

from __future__ import annotations

import json

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import zoo
from inference import SVI, Fit, fit
from inference.posterior import store
from inference.runtime.sums import seal
from zoo.errors import ModelError

ROWS = np.random.default_rng(0).normal(2.0, 1.0, 100)


def noisy(sd=1.0, name="mu", family=dist.Normal, more=False):
    class Noisy(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            mu = pyro.sample(name, dist.Normal(0.0, 10.0))
            if more:
                pyro.sample("extra", dist.Normal(mu, 1.0))
            with pyro.plate("row", len(x)):
                pyro.sample("x", family(mu, sd), obs=x)

    return Noisy


def saved(model, folder, method="exact", data=ROWS):
    found = fit(model(), data, method=method, seed=0)
    found.save(folder)
    return found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sd": 5.0}, "at the same values site 'x' had the log density -.* and has -"),
        ({"sd": 1.0001}, "site 'x' had the log density"),
        ({"name": "nu"}, "lacks 'mu'; it has in addition 'nu'"),
        ({"family": dist.Laplace}, "has with another role, family or shape 'x'"),
        ({"more": True}, "has in addition 'extra'"),
    ],
    ids=lambda v: "-".join(v) if isinstance(v, dict) else "",
)
def test_a_fit_is_not_put_through_another_likelihood(changes, message, tmp_path):
    saved(noisy(), tmp_path / "fit")
    with pytest.raises(ModelError, match=message):
        Fit.load(tmp_path / "fit", model=noisy(**changes))


def test_other_words_for_the_same_are_the_same(tmp_path):
    class Again(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            center = pyro.sample("mu", dist.Normal(torch.zeros(()), torch.full((), 10.0)))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(center, 2.0 - 1.0), obs=x)

    found = saved(noisy(), tmp_path / "fit")
    loaded = Fit.load(tmp_path / "fit", model=Again)
    np.testing.assert_allclose(loaded.log_prob([1.0, 3.0]), found.log_prob([1.0, 3.0]), rtol=1e-12)


def test_a_claim_of_many_components_is_refused_at_once(tmp_path, monkeypatch):
    """Settings and sums are easily written: nothing that grows with them is made before shapes are compared."""
    found = fit(zoo.GMM(components=2), ROWS[:, None], method="em", seed=0).save(tmp_path / "fit")
    described = json.loads((found / "fit.json").read_text())
    described["model"]["settings"]["components"] = 10**6
    (found / "fit.json").write_text(json.dumps(described))
    seal(found)
    monkeypatch.setattr(store, "Program", None)
    with pytest.raises(ModelError, match=r"'weights' was of shape \(2,\), and is of shape \(1000000,\)"):
        Fit.load(found)


def decoder(width=4, slope=nn.Tanh):
    class Decoded(zoo.Model):
        x = zoo.Real("row", "column")

        def setup(self, x):
            self.decoder = nn.Sequential(nn.Linear(1, width), slope(), nn.Linear(width, x.shape[1]))

        def forward(self, x):
            pyro.module("decoder", self.decoder)
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    return Decoded


@pytest.mark.slow
def test_networks_are_looked_at_with_their_fitted_weights(tmp_path):
    """Locals of more rows than are looked at, float32 by default or not; another slope is another likelihood."""
    rows = np.random.default_rng(1).normal(size=(100, 3))
    found = saved(decoder(), tmp_path / "fit", SVI(steps=20, compile=False), rows)
    loaded = Fit.load(tmp_path / "fit", model=decoder())
    assert loaded.objective == found.objective
    with pytest.raises(ModelError, match="site 'x' had the log density"):
        Fit.load(tmp_path / "fit", model=decoder(slope=nn.Sigmoid))


def test_a_fit_of_more_rows_later_is_read_too(tmp_path):
    """A fit that was updated has the structure that was traced on the rows before."""
    found = fit(noisy()(), ROWS, method="exact", seed=0)
    found.method.update(found, [1.0, 2.0]).save(tmp_path / "fit")
    loaded = Fit.load(tmp_path / "fit", model=noisy())
    assert len(loaded.log_prob()) == 2
