"""A story is refused by every method if it is no density, or has names that cannot be kept."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import fit
from zoo.errors import ModelError

X = np.random.default_rng(0).normal(2.0, 1.0, 12)
METHODS = ("exact", "map", "svi", "nuts", "laplace", "cavi")


def told(before=lambda mu: mu, name="mu", plate=lambda x: pyro.plate("row", len(x))):
    """A Normal model with something done to its mean, or other names."""

    class Story(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            mu = before(pyro.sample(name, dist.Normal(0.0, 10.0)))
            with plate(x):
                pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return Story


def remembered(mu, seen=[]):  # noqa: B006  what is refused is a density that remembers
    seen.append(mu)
    return mu + len(seen)


@pytest.mark.parametrize(
    "noise",
    [
        lambda mu: mu + torch.randn(()),
        lambda mu: mu + np.random.default_rng().normal(),
        lambda mu: mu + dist.Normal(0.0, 1.0).sample(),
        lambda mu: torch.nn.functional.dropout(mu.expand(9), 0.5).sum(),
        remembered,
    ],
    ids=["torch", "numpy", "a draw", "dropout", "memory"],
)
def test_another_density_in_each_run(noise):
    for method in METHODS:
        with pytest.raises(ModelError, match="site 'x' has another log density in each run"):
            fit(told(noise), X, method=method, seed=0, progress=False)


@pytest.mark.parametrize("change", [lambda mu: mu.add_(1.0), lambda mu: mu.exp_(), lambda mu: mu.zero_()])
def test_a_latent_changed_in_place(change):
    for method in METHODS:
        with pytest.raises(ModelError, match="changes 'mu' in place"):
            fit(told(change), X, method=method, seed=0, progress=False)


@pytest.mark.parametrize("name", ["chain", "draw", "sample", "a/b", "", " ", "..", "/"])
def test_names_that_files_of_draws_cannot_hold(name):
    with pytest.raises(ModelError, match="call it something else"):
        fit(told(name=name), X, method="exact", seed=0, progress=False)


def test_rows_one_by_one():
    class Rows(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
            for i in pyro.plate("row", len(x)):
                pyro.sample(f"x_{i}", dist.Normal(mu, 1.0), obs=x[i])

    with pytest.raises(ModelError, match=r"gone through row by row; write `with pyro.plate\('row'"):
        fit(Rows, X, method="exact", seed=0, progress=False)


def test_a_loop_over_columns_is_fine():
    class Columns(zoo.Model):
        x = zoo.Real("row", "column")

        def forward(self, x):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
            rows = pyro.plate("row", len(x))
            for j in pyro.plate("column", x.shape[1]):
                with rows:
                    pyro.sample(f"x_{j}", dist.Normal(mu, 1.0), obs=x[:, j])

    both = fit(Columns, np.stack([X, X], 1), method="exact", seed=0, progress=False)
    alone = fit(told(), np.concatenate([X, X]), method="exact", seed=0, progress=False)
    assert both.objective.value == pytest.approx(alone.objective.value, rel=1e-12)


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, StopIteration, RecursionError])
def test_a_story_that_ends_the_process(error):
    def ends(mu):
        raise error("enough")

    with pytest.raises(ModelError, match=f"{error.__name__}: enough"):
        fit(told(ends), X, method="svi", seed=0, progress=False)


def test_what_is_no_distribution():
    class Words(zoo.Model):
        x = zoo.Real("row")

        def forward(self, x):
            with pyro.plate("row", len(x)):
                pyro.sample("x", "normal", obs=x)

    with pytest.raises(ModelError, match="site 'x' is given str 'normal', which is no distribution"):
        fit(Words, X, method="map", seed=0, progress=False)


def test_a_complex_density():
    with pytest.raises(ModelError, match=r"'x'.*complex"):
        fit(told(lambda mu: mu * 1j), X, method="map", seed=0, progress=False)
