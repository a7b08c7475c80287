"""Vectors of yes and no as latents: belief nets, binary factors, chosen predictors, against sums over all vectors."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import bernoulli, norm
from torch.distributions import constraints

import zoo
from inference import EM, MAP, NUTS, SVI, Exact, Laplace, fit
from zoo import Binary, Real

SHARES = np.array([0.2, 0.5, 0.7])
LOADINGS = np.array([[1.5, -1.0, 0.5, 0.0], [0.0, 1.0, 1.0, -1.0], [-0.5, 0.5, -1.5, 2.0]])
VECTORS = np.array(list(itertools.product((0.0, 1.0), repeat=3)))
RNG = np.random.default_rng(0)
CODES = (RNG.random((60, 3)) < SHARES).astype(float)
ROWS = CODES @ LOADINGS + RNG.normal(size=(60, 4))
BITS = (RNG.random((60, 4)) < 1 / (1 + np.exp(1 - 2 * CODES @ LOADINGS))).astype(float)


class BeliefNet(zoo.Model):
    """Sigmoid belief net with one hidden layer (Neal 1992)."""

    x = Binary("row", "feature")
    units: int = 3

    def forward(self, x):
        shares = pyro.param("shares", torch.full((self.units,), 0.5), constraint=constraints.unit_interval)
        weights = pyro.param("weights", 0.1 * torch.randn(self.units, x.shape[1]))
        level = pyro.param("level", torch.zeros(x.shape[1]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(shares).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=level + z @ weights).to_event(1), obs=x)


@zoo.model(x=Real("row", "feature"))
def factors(x):
    """Binary factors of known loadings, each row times a gain."""
    gain = pyro.sample("gain", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(SHARES)).to_event(1))
        pyro.sample("x", dist.Normal(gain * (z @ torch.tensor(LOADINGS)), 1.0).to_event(1), obs=x)


@zoo.model(x=Real("row", "feature"))
def known(x):
    """The same with gain 1."""
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(SHARES)).to_event(1))
        pyro.sample("x", dist.Normal(z @ torch.tensor(LOADINGS), 1.0).to_event(1), obs=x)


@zoo.model(x=Real("row", "feature"), codes=Real("row", "unit"), seen=Binary("row"))
def partly(x, codes, seen):
    """The same, the codes of some rows known."""
    with pyro.plate("row", len(x)):
        prior = dist.Bernoulli(torch.tensor(SHARES)).to_event(1)
        z = pyro.sample("z", prior, obs=codes, obs_mask=seen.bool())
        pyro.sample("x", dist.Normal(z @ torch.tensor(LOADINGS), 1.0).to_event(1), obs=x)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def choice(x, y):
    """Which predictors matter: a vector that all rows share."""
    chosen = pyro.sample("chosen", dist.Bernoulli(torch.tensor(SHARES)).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal((chosen * x[:, :3]).sum(-1), 2.0), obs=y)


def joint(gain=1.0, rows=ROWS):
    """log p(x_i, z) for all vectors z, shape (rows, vectors)."""
    prior = bernoulli.logpmf(VECTORS, SHARES).sum(-1)
    return prior + norm.logpdf(rows[:, None], gain * (VECTORS @ LOADINGS)).sum(-1)


def units(log_joint):
    """p(z_ij = 1 given x_i), shape (rows, units)."""
    return np.exp(log_joint - logsumexp(log_joint, -1, keepdims=True)) @ VECTORS


def of_units(found, new=None):
    """Probabilities of 1 of each entry of z, (rows, units)."""
    return found.assign(new, site="z").xs(1, axis=1, level="state").to_numpy()


def test_vectors_of_rows_are_summed_out():
    found = fit(known, ROWS, method=Exact(), seed=0)
    assert found.objective.value == pytest.approx(logsumexp(joint(), -1).sum(), rel=1e-12)
    np.testing.assert_allclose(of_units(found), units(joint()), atol=1e-12)
    new = ROWS[:5] + 0.3
    np.testing.assert_allclose(found.log_prob(new), logsumexp(joint(rows=new), -1), rtol=1e-12)
    np.testing.assert_allclose(of_units(found, new), units(joint(rows=new)), atol=1e-12)
    assert (found.most_probable().to_numpy() == VECTORS[joint().argmax(1)]).all()
    drawn = np.stack([found.posterior[f"posterior/z_{j}"].to_numpy()[0] for j in range(3)], -1)
    exact = np.exp(joint() - logsumexp(joint(), -1, keepdims=True)).T
    shares = (drawn[:, :, None] == VECTORS).all(-1).mean(0).T  # of joint draws that are each vector
    assert (np.abs(shares - exact) < 5 * np.sqrt(exact * (1 - exact) / len(drawn)) + 1e-3).all()


def test_vectors_of_some_rows_are_observed():
    found = fit(partly, {"x": ROWS, "codes": CODES, "seen": np.arange(60) < 20}, method=Exact(), seed=0)
    log_joint, at = joint(), CODES @ [4, 2, 1]
    seen = log_joint[np.arange(20), at[:20].astype(int)]
    assert found.objective.value == pytest.approx(seen.sum() + logsumexp(log_joint[20:], -1).sum(), rel=1e-12)


def test_one_vector_for_all_rows():
    y = ROWS[:, :3] @ [0.0, 1.0, 1.0] + RNG.normal(size=60)
    found = fit(choice, {"x": ROWS, "y": y}, method=Exact(), seed=0)
    log_joint = bernoulli.logpmf(VECTORS, SHARES).sum(-1)
    log_joint = log_joint + norm.logpdf(y[:, None], ROWS[:, :3] @ VECTORS.T, 2.0).sum(0)
    assert found.objective.value == pytest.approx(logsumexp(log_joint), rel=1e-12)
    table = found.assign(site="chosen").xs(1, axis=1, level="state")
    np.testing.assert_allclose(table.to_numpy(), units(log_joint[None]), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", [EM(max_steps=3, acceleration=None), MAP(steps=20)], ids=["em", "map"])
def test_belief_nets_have_their_likelihood(method):
    found = fit(BeliefNet(), BITS, method=method, seed=0)
    p = {n: v.numpy() for n, v in found.points.items()}
    odds = p["level"] + VECTORS @ p["weights"]
    log_joint = (BITS[:, None] * odds - np.logaddexp(0, odds)).sum(-1) + bernoulli.logpmf(VECTORS, p["shares"]).sum(-1)
    np.testing.assert_allclose(found.log_prob(), logsumexp(log_joint, -1), rtol=1e-9)
    assert found.objective.value == pytest.approx(logsumexp(log_joint, -1).sum(), rel=1e-9)
    np.testing.assert_allclose(of_units(found), units(log_joint), atol=1e-9)


GRID = np.linspace(0.3, 1.4, 400)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [EM(), MAP(), SVI(steps=500), Laplace(), NUTS(chains=2)], ids=["em", "map", "svi", "laplace", "nuts"]
)
def test_gains_of_binary_factors(method):
    found = fit(factors, ROWS, method=method, seed=0)
    logs = np.array([logsumexp(joint(g), -1).sum() for g in GRID]) + norm.logpdf(GRID)
    if found.is_point:
        assert found.objective.value == pytest.approx(logs.max(), abs=1e-3)  # the grid is a 28th of the sd wide
        gain = float(found.posterior["point_estimate/gain"])
        np.testing.assert_allclose(of_units(found), units(joint(gain)), atol=1e-6)
        return
    density = np.exp(logs - logsumexp(logs))
    mean = density @ GRID
    sd = np.sqrt(density @ (GRID - mean) ** 2)
    draws = found.posterior["posterior/gain"].to_numpy()
    ess = float(found.summary()["ess_bulk"].iloc[0]) if type(method) is NUTS else draws.size
    assert abs(draws.mean() - mean) < 4 * sd / np.sqrt(ess)
    expected = np.tensordot(density, [units(joint(g)) for g in GRID], 1)
    slope = np.abs(units(joint(mean + sd)) - units(joint(mean - sd))) / 2  # of a probability, for one sd of the gain
    assert (np.abs(of_units(found) - expected) < 4 * slope / np.sqrt(ess) + 1e-3).all()
    if found.objective.kind == "elbo":
        evidence = logsumexp(logs) + np.log(GRID[1] - GRID[0])
        judged = found.diagnostics
        assert abs(judged["evidence"] - evidence) < 4 * judged["evidence_error"] + 1e-3


def test_vectors_of_many_entries_are_refused():
    with pytest.raises(zoo.MethodError, match=r"'z' .*more than 1024 are not summed over; take fewer entries"):
        fit(BeliefNet(units=11), BITS, method="em", seed=0)
