"""Latents of rows whose prior is a mixture that was summed out, under every method, against quadrature."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm

import zoo
from inference import MAP, NUTS, SMC, SVI, Laplace, fit
from zoo import Real

SHARES, LOCS, SCALES = np.array([0.3, 0.7]), np.array([-2.0, 1.5]), np.array([0.5, 1.0])
RNG = np.random.default_rng(0)
KIND = RNG.choice(2, 15, p=SHARES)
X = 0.4 + RNG.normal(LOCS[KIND], SCALES[KIND]) + RNG.normal(size=15)
GRID = np.linspace(-3.0, 4.0, 1401)


@zoo.model(x=Real("row"))
def shifted(x):
    """Levels of two kinds, seen with noise and a shift that all share."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    shares, parts = dist.Categorical(torch.tensor(SHARES)), dist.Normal(torch.tensor(LOCS), torch.tensor(SCALES))
    with pyro.plate("row", len(x)):
        level = pyro.sample("level", dist.MixtureSameFamily(shares, parts))
        pyro.sample("x", dist.Normal(level + shift, 1.0), obs=x)


def truth():
    """Log evidence, mean and variance of the shift, and of each level, by quadrature over the shift."""
    away = X - GRID[:, None]
    logs = np.log(SHARES) + norm.logpdf(away[..., None], LOCS, np.sqrt(SCALES**2 + 1))  # (grid, rows, kinds)
    rows = logsumexp(logs, -1)
    height = rows.sum(-1) + norm.logpdf(GRID)
    weight = np.exp(height - logsumexp(height))
    kinds = np.exp(logs - rows[..., None])
    gain = SCALES**2 / (SCALES**2 + 1)
    each = LOCS + gain * (away[..., None] - LOCS)
    first = weight @ (kinds * each).sum(-1)
    second = weight @ (kinds * (each**2 + gain)).sum(-1)
    mean = weight @ GRID
    evidence = logsumexp(height) + np.log(GRID[1] - GRID[0])
    return evidence, mean, weight @ (GRID - mean) ** 2, first, second - first**2


@pytest.mark.slow
@pytest.mark.parametrize("method", [NUTS(chains=2), SMC()], ids=["nuts", "smc"])
def test_levels_of_two_kinds(method):
    evidence, mean, variance, levels, spreads = truth()
    found = fit(shifted, X, method=method, seed=0)
    group, ess = found.posterior["posterior"], found.diagnostics["ess"]  # of the worst coordinate
    shift, level = group["shift"].to_numpy(), group["level"].to_numpy().reshape(-1, len(X))
    assert abs(shift.mean() - mean) < 4 * np.sqrt(variance / ess)
    assert (abs(level.mean(0) - levels) < 4 * np.sqrt(spreads / ess)).all()
    if "evidence" in found.diagnostics:
        assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]


@pytest.mark.slow
@pytest.mark.parametrize("method", [SVI(steps=300), Laplace()], ids=["svi", "laplace"])
def test_one_bump_for_two_is_not_to_be_trusted(method):
    found = fit(shifted, X, method=method, seed=0)
    assert found.verdict.startswith("do not trust")
    assert found.objective.value < truth()[0] + 4 * found.objective.error  # a bound


@pytest.mark.slow
def test_the_mode_of_levels_of_two_kinds():
    found = fit(shifted, X, method=MAP(), seed=0)
    point = found.posterior["point_estimate"]
    level, shift = torch.tensor(point["level"].to_numpy()), torch.tensor(point["shift"].to_numpy())

    def log_joint(level, shift):
        parts = dist.Normal(torch.tensor(LOCS), torch.tensor(SCALES)).log_prob(level[:, None])
        prior = (torch.tensor(SHARES).log() + parts).logsumexp(-1).sum() + dist.Normal(0.0, 1.0).log_prob(shift)
        return prior + dist.Normal(level + shift, 1.0).log_prob(torch.tensor(X)).sum()

    assert float(log_joint(level, shift)) == pytest.approx(found.objective.value, abs=1e-8)
    slopes = torch.func.grad(log_joint, argnums=(0, 1))(level, shift)
    assert max(float(s.abs().max()) for s in slopes) < 0.05  # curvatures are one and more: within 0.05 of the mode
