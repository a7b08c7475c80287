"""Pathfinder: Normal posteriors, a Beta, two modes, and the covariances along a climb."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import NUTS, Fit, Pathfinder, fit
from inference.sampling.paths import HISTORY, Normal, along, climb
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, NormalMean, PoissonMixture, RandomEffects, coin
from tests.cases.posteriordb import low_dim_gauss_mix
from zoo import Real
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

X = [1.0, 2.5, -0.3, 4.0]


def found_by_paths(model, data, **settings):
    return fit(model, data, method=Pathfinder(**{"compile": False, **settings}), seed=0, progress=False)


@pytest.fixture
def quadratic():
    """A Normal density in five dimensions: its precision and mean, and the log density with its gradient."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((5, 5))
    precision, mean = root @ root.T + np.eye(5), rng.standard_normal(5)

    def target(u):
        gap = u - mean
        return -0.5 * gap @ precision @ gap, -precision @ gap

    return precision, mean, target


def test_a_climb_ends_at_the_mode(quadratic):
    _, mean, target = quadratic
    path = climb(target, np.ones(5), np.full(5, 0.5), 200)
    np.testing.assert_allclose(path.end, mean, atol=1e-6)
    assert path.value == pytest.approx(0, abs=1e-10)
    np.testing.assert_allclose(path.gradients[-1], 0.5 * target(path.end)[1], atol=1e-12)


def test_covariances_along_a_climb_fit_its_last_step(quadratic):
    """An inverse Hessian takes the last change of the gradient to the last step, and in the end is the covariance."""
    precision, _, target = quadratic
    unit = np.linspace(0.5, 2, 5)
    path = climb(target, np.ones(5), unit, 200)
    normals = along(path)
    assert len(normals) == len(path.v) - 1
    for at, normal in enumerate(normals, 1):
        covariance = (normal.tril @ normal.tril.T).numpy()
        step = unit * (path.v[at] - path.v[at - 1])
        change = (path.gradients[at - 1] - path.gradients[at]) / unit
        np.testing.assert_allclose(covariance @ change, step, rtol=1e-5, atol=1e-9)
        shift = covariance @ (path.gradients[at] / unit)
        np.testing.assert_allclose(normal.mean, path.start + unit * path.v[at] + shift, atol=1e-8)
    assert len(path.v) > HISTORY
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), rtol=0.2, atol=0.02)


def test_the_density_of_a_normal():
    tril = torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).tril(-1) + torch.eye(3)
    normal = Normal(torch.arange(3.0, dtype=torch.float64), tril)
    reseed(0)
    u = normal.draw(50_000)
    expected = stats.multivariate_normal(normal.mean, (tril @ tril.T).numpy()).logpdf(u[:5].numpy())
    np.testing.assert_allclose(normal.log_prob(u[:5]), expected)
    torch.testing.assert_close(u.mean(0), normal.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(u.T), tril @ tril.T, atol=0.1, rtol=0.02)


def test_a_normal_posterior_is_found_exactly():
    found = found_by_paths(NormalMean(), X)
    evidence = stats.multivariate_normal(np.zeros(4), 100 + 4 * np.eye(4)).logpdf(X)
    assert found.objective.kind == "elbo"
    assert found.objective.value == pytest.approx(evidence, abs=1e-6)
    assert found.diagnostics["evidence"] == pytest.approx(evidence, abs=1e-6)
    precision = 1 / 100 + len(X) / 4
    draws = found.posterior["posterior"]["mu"].to_numpy()
    assert draws.shape == (1, 1000)
    assert abs(draws.mean() - sum(X) / 4 / precision) < 4 / np.sqrt(1000 * precision)
    assert draws.std() == pytest.approx(precision**-0.5, rel=4 / np.sqrt(2000))
    assert found.converged
    assert found.warnings == []


@pytest.mark.slow
def test_a_coin_has_its_beta_posterior():
    found = found_by_paths(coin(a=2.0), FLIPS, draws=4000)
    exact = stats.beta(2 + sum(FLIPS), 1 + len(FLIPS) - sum(FLIPS))
    draws = found.posterior["posterior"]["heads"].to_numpy()
    assert abs(draws.mean() - exact.mean()) < 5 * exact.std() / np.sqrt(4000)
    assert draws.std() == pytest.approx(exact.std(), rel=0.06)
    evidence = fit(coin(a=2.0), FLIPS, method="exact").objective.value
    assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]
    assert found.objective.value < evidence
    assert found.diagnostics["khat"] < 0.7 or np.isnan(found.diagnostics["khat"])


@pytest.mark.slow
def test_locals_and_states_come_along():
    effects = found_by_paths(RandomEffects(), X)
    assert effects.posterior["posterior"]["effect"].shape == (1, 1000, 4)
    x = np.concatenate([np.random.default_rng(0).normal(-2, 1, 25), np.random.default_rng(1).normal(2, 1, 15)])
    found = found_by_paths(low_dim_gauss_mix(), x)
    share = found.posterior["posterior"]["z"].mean(["chain", "draw"]).to_numpy()
    np.testing.assert_allclose(share, found.assign()[1], atol=0.07)


class Either(zoo.Model):
    """Only the square of `a` is seen, so that either sign is as good."""

    x = Real("row")

    def initial(self, x):
        return {"a": torch.zeros(())}

    def forward(self, x):
        a = pyro.sample("a", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(a.square(), 1.0), obs=x)


def test_paths_to_both_modes_share_the_draws():
    found = found_by_paths(Either(), [4.1, 3.9], paths=8)
    a = found.posterior["posterior"]["a"].to_numpy()
    assert 0.4 < (a > 0).mean() < 0.6
    grid = np.linspace(-6, 6, 20_001)
    height = stats.norm(0, 3).pdf(grid) * stats.norm(4.1, 1).pdf(grid**2) * stats.norm(3.9, 1).pdf(grid**2)
    evidence = np.log(np.trapezoid(height, grid))
    assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]


@pytest.mark.slow
def test_a_funnel_is_reported():
    found = found_by_paths(EightSchools(), SCHOOLS, collapse=False)
    assert not found.converged
    assert found.reason in found.warnings
    assert found.khat == found.diagnostics["khat"] > 0.7
    assert found.verdict.startswith("do not trust")


@pytest.mark.slow
def test_it_is_saved_and_read(tmp_path):
    found = found_by_paths(coin(), FLIPS)
    found.save(tmp_path / "fit")
    back = Fit.load(tmp_path / "fit", coin)
    assert repr(back) == repr(found)
    assert back.posterior["posterior"].to_dataset().identical(found.posterior["posterior"].to_dataset())


def test_what_has_no_density_is_refused():
    assert "no prior" in Pathfinder().why_not(prepare(PoissonMixture(), [0, 3, 1, 9]))
    assert "1002 coordinates" in Pathfinder().why_not(prepare(RandomEffects(), np.zeros(1001)))


@pytest.mark.slow
def test_chains_start_at_its_draws():
    method = NUTS(chains=2, warmup=60, draws=100, compile=False, start="pathfinder")
    found = fit(coin(a=2.0), FLIPS, method=method, seed=0, progress=False)
    exact = stats.beta(2 + sum(FLIPS), 1 + len(FLIPS) - sum(FLIPS))
    assert found.posterior["posterior"]["heads"].mean() == pytest.approx(exact.mean(), abs=exact.std() / 2)
