"""Objectives that make q cover the posterior, against quadrature over a posterior with two modes."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from guides import Encoder, FullRank, MeanField
from inference import SVI, fit
from inference.starts.natural import several_starts
from inference.variational.bound import Bound
from inference.variational.renyi import shares
from inference.variational.wide import widened
from zoo.program.prepare import prepare
from zoo.program.rows import Batch
from zoo.replay.random import reseed

ROWS = [0.8, 1.2, 0.9]
GRID = torch.linspace(-8, 8, 20_001, dtype=torch.float64)
STEP = float(GRID[1] - GRID[0])
ONE = torch.ones((), dtype=torch.float64)


@zoo.model(x=zoo.Real("row"))
def squared(x):
    """A posterior of z with one mode on either side of zero."""
    z = pyro.sample("z", dist.Normal(0.2, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(z**2, 0.5), obs=x)


def exact():
    """log p(x), the posterior's density on the grid, and its mean and standard deviation."""
    rows = torch.tensor(ROWS, dtype=torch.float64)
    joint = dist.Normal(0.2, ONE).log_prob(GRID) + dist.Normal(GRID**2, 0.5 * ONE).log_prob(rows[:, None]).sum(0)
    evidence = float(torch.logsumexp(joint, 0)) + math.log(STEP)
    density = (joint - evidence).exp()
    mean = float((density * GRID).sum() * STEP)
    return evidence, density, mean, float((density * (GRID - mean) ** 2).sum() * STEP) ** 0.5


def reached(mean, sd, alpha):
    """log p(x) - D_{1 - alpha}(p || q) for a Normal q, by quadrature."""
    evidence, p, _, _ = exact()
    log_q = dist.Normal(mean, sd).log_prob(GRID)
    if alpha == 0:
        return evidence - (torch.special.xlogy(p, p) - p * log_q).sum() * STEP
    order = 1 - alpha
    return evidence - torch.log(((order * p.log() + (1 - order) * log_q).exp()).sum() * STEP) / (order - 1)


@pytest.mark.parametrize("alpha", [0.0, -0.5, -1.0])
def test_values_and_gradients_are_those_of_the_divergence_from_the_posterior(alpha):
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(squared, ROWS, dtype=torch.float64, device="cpu")
        start = widened(program, several_starts(program, 1)[0])
        bound = Bound(program, MeanField(), [start], alpha=alpha, covering=True)
        bound.start.coordinates += 0.4  # away from the moments of the posterior, where it starts
        groups, draws = 100, 4000
        noise = bound.noise(len(ROWS), groups, draws)
    at = bound.start

    def moments(c):
        """Mean and standard deviation of q, from where it sends noise of 0 and of 1."""
        named, fixed = bound.named(c, at.weights[0]), at.fixed.map(lambda v: v[0])
        ends = [
            bound._ask(named, fixed, "draw", program.data, None, (e * torch.ones(1).double(), noise[1][0, 0])).globals
            for e in (0.0, 1.0)
        ]
        return ends[0][0], (ends[1] - ends[0])[0]

    c = at.coordinates[0].clone().requires_grad_()
    height = reached(*moments(c), alpha)
    (expected,) = torch.autograd.grad(height, c)
    value = float(height.detach())
    many = at.fixed.map(lambda v: v.expand(groups, *v.shape[1:]))
    found, slopes, _ = bound.gradient(
        at.coordinates.expand(groups, -1), at.weights.expand(groups, -1), many, noise, ONE, Batch({})
    )
    bias = 20 / draws  # of ratios of means
    assert abs(float(found.mean() - value)) < 4 * float(found.std()) / math.sqrt(groups) + bias
    for j in range(len(c)):
        error = float(slopes[:, j].std()) / math.sqrt(groups)
        assert abs(float(slopes[:, j].mean() - expected[j])) < 4 * error + bias
        assert error < 0.1 * float(expected.norm())  # it would see another gradient


def test_the_model_climbs_the_importance_weighted_bound():
    """theta's shares are those of IWAE, phi's c - c^2 of each row (Tucker et al. 2019); impossible draws count none."""
    rows = torch.randn(1, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows[0, 2, 1] = -math.inf
    rest, weights = torch.zeros(1, 5, dtype=torch.float64), torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64)
    _, (_, c), _ = shares(rest, rows, weights, alpha=0.0, by_row=True)
    value, (_, theta), phi = shares(rest, rows, weights, alpha=0.0, by_row=True, covering=True)
    torch.testing.assert_close(theta, c)
    assert phi is not None
    torch.testing.assert_close(phi[1], weights * (c / weights - (c / weights).square()))
    for alpha in (-1e-6, -1.0):
        other, (_, theta), _ = shares(rest, rows, weights, alpha=alpha, by_row=True, covering=True)
        torch.testing.assert_close(theta, c)
        assert bool((other < value + 1e-4).all())  # D grows with its order, and is the KL at 1
    near, _, _ = shares(rest, rows, weights, alpha=-1e-6, by_row=True, covering=True)
    torch.testing.assert_close(near, value, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_q_has_the_mean_and_standard_deviation_of_the_posterior():
    evidence, _, mean, sd = exact()
    ends = []
    for seed in range(5):
        method = SVI(objective="inclusive", particles=200, corrected=False, steps=600, compile=False)
        found = fit(squared, ROWS, method=method, seed=seed)
        z = found.posterior["posterior"]["z"].to_numpy()
        ends.append((z.mean(), z.std()))
        assert found.objective.kind == "iwae"
        assert evidence - 0.1 < found.objective.value < evidence + 4 * found.objective.error
        assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]
    errors = np.std(ends, axis=0, ddof=1) / math.sqrt(len(ends))
    assert np.all(np.abs(np.mean(ends, axis=0) - (mean, sd)) < 4 * errors)
    assert np.all(errors < 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"objective": "inclusive"}, {"objective": "renyi", "alpha": -1.0}], ids=str)
def test_an_encoder_that_covers_its_rows_leaves_the_model_at_its_maximum(settings):
    """w^2 + 1 is the mean square of the rows at the maximum; posteriors are in the family, so all bounds end there."""

    @zoo.model(x=zoo.Real("row"))
    def scaled(x):
        w = pyro.param("w", torch.tensor(0.8))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    x = np.random.default_rng(0).normal(0, 2.5, 100)
    square = np.square(x).mean()
    method = SVI(guide=Encoder(hidden=(16,)), steps=600, compile=False, **settings)
    found = fit(scaled, x, method=method, seed=0)

    def log_likelihood(variance):
        return -50 * (math.log(2 * math.pi * variance) + square / variance)

    highest, here = log_likelihood(square), log_likelihood(float(found.points["w"]) ** 2 + 1)
    assert here > highest - 0.02  # within a fifth of a standard error of w
    assert abs(found.diagnostics["evidence"] - here) < 4 * found.diagnostics["evidence_error"] + 0.02
    assert here - 1 < found.objective.value < here + 4 * found.objective.error


@pytest.mark.slow
def test_a_posterior_that_is_in_the_family_is_found_as_by_the_elbo():
    @zoo.model(x=zoo.Real("row"), y=zoo.Real("row"))
    def line(x, y):
        a = pyro.sample("a", dist.Normal(0.0, 2.0))
        b = pyro.sample("b", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(a + b * x, 0.7), obs=y)

    x = np.linspace(1, 3, 12)
    y = 1 + 0.5 * x + 0.7 * np.random.default_rng(1).normal(size=12)
    design = np.column_stack([np.ones(12), x])
    covariance = np.linalg.inv(design.T @ design / 0.49 + np.eye(2) / 4)
    mean = covariance @ design.T @ y / 0.49
    found = fit(line, {"x": x, "y": y}, method=SVI(guide=FullRank(), objective="inclusive", compile=False), seed=0)
    assert found.verdict.startswith("trust")
    for k, name in enumerate("ab"):
        draws = found.posterior["posterior"][name].to_numpy().ravel()
        assert abs(draws.mean() - mean[k]) < 4 * covariance[k, k] ** 0.5 / math.sqrt(len(draws))
        assert draws.std() == pytest.approx(covariance[k, k] ** 0.5, rel=4 / math.sqrt(2 * len(draws)))
