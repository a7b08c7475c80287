"""Zero-inflated counts: the maximum by other means, the posterior by quadrature."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

import zoo
from inference import EM, fit
from zoo.program.prepare import prepare

COUNTS = np.random.default_rng(0).poisson(3.0 * (np.random.default_rng(1).random(100) < 0.6))


def log_likelihood(gate, rate, counts):
    return np.log(gate * (counts == 0) + (1 - gate) * stats.poisson(rate).pmf(counts)).sum()


def test_em_climbs_to_the_maximum():
    """From far away; the maximum by a simplex search in SciPy."""
    start = EM(start={"gate": 0.9, "rate": 0.5})
    found = fit(zoo.ZeroInflatedPoisson(), COUNTS, method=start, seed=0, progress=False)

    def loss(v):
        return -log_likelihood(expit(v[0]), np.exp(v[1]), COUNTS)

    expected = minimize(loss, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    assert found.objective.value == pytest.approx(-expected.fun, abs=2e-6)
    assert float(found.points["gate"]) == pytest.approx(expit(expected.x[0]), abs=1e-3)
    assert float(found.points["rate"]) == pytest.approx(np.exp(expected.x[1]), abs=1e-3)
    gate, rate = float(found.points["gate"]), float(found.points["rate"])
    inflated = gate / (gate + (1 - gate) * np.exp(-rate))
    assigned = found.assign().to_numpy()[:, 1]
    np.testing.assert_allclose(assigned, np.where(COUNTS == 0, inflated, 0.0), atol=1e-9)


@pytest.mark.slow
def test_statsmodels_says_the_same():
    models = pytest.importorskip("statsmodels.api")
    expected = models.ZeroInflatedPoisson(COUNTS, np.ones((len(COUNTS), 1))).fit(disp=0, method="newton")
    found = fit(zoo.ZeroInflatedPoisson(), COUNTS, method="em", seed=0, progress=False)
    assert found.objective.value == pytest.approx(expected.llf, abs=1e-6)
    assert float(found.points["rate"]) == pytest.approx(np.exp(expected.params[1]), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["laplace", "pathfinder", "nuts", "smc", "svi"])
def test_the_posterior_is_that_of_quadrature(method):
    gate, rate = np.meshgrid(np.linspace(0, 1, 302)[1:-1], np.linspace(0.5, 6, 300), indexing="ij")
    zeros, rest = (COUNTS == 0).sum(), COUNTS[COUNTS > 0]
    log_p = zeros * np.log(gate + (1 - gate) * np.exp(-rate)) + len(rest) * np.log(1 - gate)
    log_p += rest.sum() * np.log(rate) - len(rest) * rate
    log_p += stats.beta(1.5, 1.5).logpdf(gate) + stats.gamma(2.0, scale=rest.mean() / 2).logpdf(rate)
    weight = np.exp(log_p - logsumexp(log_p))
    means = np.array([(weight * gate).sum(), (weight * rate).sum()])
    sds = np.sqrt([(weight * (gate - means[0]) ** 2).sum(), (weight * (rate - means[1]) ** 2).sum()])
    model = zoo.ZeroInflatedPoisson(concentration=1.5, shape=2.0)
    found = fit(model, COUNTS, method=method, seed=0, progress=False)
    assert found.verdict.startswith("trust")
    summary = found.summary().loc[["gate", "rate"]]
    np.testing.assert_array_less(np.abs(summary["mean"] - means), 0.1 * sds)
    np.testing.assert_allclose(summary["sd"], sds, rtol=0.1)


def test_counts_without_zeros_have_no_gate():
    found = fit(zoo.ZeroInflatedPoisson(), [1, 2, 3, 1], method="em", seed=0, progress=False)
    assert float(found.points["gate"]) == pytest.approx(0.0, abs=1e-9)
    assert float(found.points["rate"]) == pytest.approx(7 / 4, rel=1e-4)


def test_counts_that_are_all_zero_are_refused():
    with pytest.raises(zoo.DataError, match=r"all 3 counts are 0.*GammaPoisson"):
        prepare(zoo.ZeroInflatedPoisson(), [0, 0, 0])
