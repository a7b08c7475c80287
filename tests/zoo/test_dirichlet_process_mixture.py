"""Dirichlet process mixtures: the bound by other means, and the components of the galaxies."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaln, digamma, gammaln, logsumexp

import zoo
from inference import CAVI, fit


def updates(x, member, concentration, kinds, shrinkage=0.01, shape=1.5):
    """Blei and Jordan's updates for a Normal-Gamma in one column: the bound at these memberships, and the next ones."""
    center, rate = x.mean(), 0.5 * x.var() / kinds**2
    size = member.sum(0)
    mean = member.T @ x / np.maximum(size, 1e-300)
    scatter = (member * (x[:, None] - mean) ** 2).sum(0)
    k, a = shrinkage + size, shape + size / 2
    b = rate + scatter / 2 + shrinkage * size * (mean - center) ** 2 / (2 * k)
    m = (shrinkage * center + size * mean) / k
    later = size[::-1].cumsum()[::-1][1:]
    first, second = 1 + size[:-1], concentration + later
    bound = (gammaln(a) - gammaln(shape) + shape * np.log(rate) - a * np.log(b) + 0.5 * np.log(shrinkage / k)).sum()
    bound += -0.5 * len(x) * np.log(2 * np.pi) + (betaln(first, second) - betaln(1, concentration)).sum()
    bound -= (member * np.log(np.maximum(member, 1e-300))).sum()
    left = np.r_[0.0, (digamma(second) - digamma(first + second)).cumsum()]
    log_weights = np.r_[digamma(first) - digamma(first + second), 0.0] + left
    density = 0.5 * (digamma(a) - np.log(b)) - 0.5 * (a / b * (x[:, None] - m) ** 2 + 1 / k)
    logs = log_weights + density
    return bound, np.exp(logs - logsumexp(logs, axis=1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("concentration", [0.5, 2.0])
def test_galaxies_have_three_to_six_components(concentration):
    galaxies = zoo.datasets.load("galaxies")
    model = zoo.DirichletProcessMixture(8, covariance="diag", concentration=concentration)
    found = fit(model, galaxies, method=CAVI(restarts=3), seed=0, progress=False)
    assigned = found.assign().to_numpy()
    assert 3 <= (assigned.sum(0) > 1).sum() <= 6
    assert (found.trace["value"].diff().dropna() > -1e-8).all()
    member, x = np.eye(8)[assigned.argmax(1)], galaxies.to_numpy()[:, 0]
    for _ in range(3000):
        bound, member = updates(x, member, concentration, kinds=4)
    assert found.objective.value == pytest.approx(bound, abs=1e-3)
    weights = found.posterior["posterior"]["weights"].to_numpy().reshape(-1, 8)
    size = member.sum(0)
    first, second = 1 + size[:-1], concentration + size[::-1].cumsum()[::-1][1:]
    breaks = first / (first + second)
    expected = np.r_[breaks, 1.0] * np.r_[1.0, (1 - breaks).cumprod()]
    np.testing.assert_allclose(weights.mean(0), expected, atol=0.01)


@pytest.mark.slow
def test_svi_finds_the_same_evidence():
    """SVI sums the labels out, so that its bound is no lower, up to the family of its guide and noise."""
    rng = np.random.default_rng(0)
    x = np.r_[rng.normal(-10, 1, 60), rng.normal(10, 1, 30)][:, None]
    model = zoo.DirichletProcessMixture(3, covariance="diag")
    by_cavi = fit(model, x, method=CAVI(restarts=3), seed=0, progress=False)
    by_svi = fit(model, x, method="svi", seed=0, progress=False)
    assert by_svi.objective.value == pytest.approx(by_cavi.objective.value, abs=2.0)


def test_one_component_breaks_no_stick():
    with pytest.raises(zoo.ModelError, match="components=1 breaks no stick"):
        fit(zoo.DirichletProcessMixture(1), "galaxies", method="cavi", progress=False)
