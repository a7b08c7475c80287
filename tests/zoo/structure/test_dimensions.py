"""Discrete latents in a loop: each takes a dimension of a tensor, of which there are 64."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import EM, fit
from zoo.errors import ModelError
from zoo.program.prepare import prepare


def rows(n):
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(0, 1, n // 2), rng.normal(5, 1, n - n // 2)])


def shares_and_means():
    w = pyro.param("w", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    return w, pyro.param("mu", torch.tensor([0.0, 1.0]))


@zoo.model(x=zoo.Real("row"))
def loop(x):
    w, mu = shares_and_means()
    z = [pyro.sample(f"z{i}", dist.Categorical(w)) for i in range(len(x))]
    for i in range(len(x)):
        pyro.sample(f"x{i}", dist.Normal(mu[z[i]], 1.0), obs=x[i])


@zoo.model(x=zoo.Real("row"))
def plate(x):
    w, mu = shares_and_means()
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


@zoo.model(x=zoo.Real("row"))
def chain(x):
    mu = pyro.param("mu", torch.tensor([0.0, 5.0]))
    z = 0
    for i in pyro.markov(range(len(x))):
        z = pyro.sample(f"z{i}", dist.Categorical(torch.tensor([[0.9, 0.1], [0.2, 0.8]])[z]))
        pyro.sample(f"x{i}", dist.Normal(mu[z], 1.0), obs=x[i])


def test_a_loop_over_rows_is_the_plate():
    """The same log likelihood at each of the same steps."""
    method = EM(max_steps=3, start={"w": [0.4, 0.6], "mu": [0.0, 2.0]})
    found = [fit(model(), rows(10), method=method, seed=0).trace["value"].to_numpy() for model in (loop, plate)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("n", [64, 70])
def test_more_sites_than_dimensions_are_refused_and_it_is_said_why(n):
    with pytest.raises(ModelError, match=rf"{n} discrete latents .* 64 dimensions .* pyro.plate, .* pyro.markov"):
        prepare(loop(), rows(n))


@pytest.mark.slow
def test_a_chain_takes_two_dimensions_however_long():
    """Its log likelihood at the starting values is that of the forward recursion."""
    x = rows(80)
    found = fit(chain(), x, method=EM(max_steps=1), seed=0).trace["value"].iloc[0]
    density = torch.distributions.Normal(torch.tensor([0.0, 5.0]).double(), 1.0).log_prob(torch.tensor(x)[:, None])
    moves = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).double().log()
    now = moves[0] + density[0]
    for row in density[1:]:
        now = torch.logsumexp(now[:, None] + moves, 0) + row
    assert found == pytest.approx(float(now.logsumexp(0)), abs=1e-6)
