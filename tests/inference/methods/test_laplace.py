"""Laplace's method: exact for Normal posteriors, and the formulas of a Beta posterior on its logit."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from guides.curvature import factor, hessian, polish, triangular_of_inverse
from inference import Fit, Laplace, fit
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    EightSchools,
    NonCentred,
    NormalMean,
    PoissonMixture,
    RandomEffects,
    SumOfTwo,
    coin,
)
from zoo import Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

X = [1.0, 2.5, -0.3, 4.0]


def laplace(model, data, **settings):
    method = Laplace(**{"compile": False, **{k: v for k, v in settings.items() if k != "weights"}})
    return fit(model, data, method=method, seed=0, progress=False, weights=settings.get("weights"))


def over_globals(found):
    """q itself, whether or not its draws have been corrected."""
    return getattr(found.approximation, "uncorrected", found.approximation).q.over_globals


def covariance(found):
    """Of q, from its own parameters."""
    part = over_globals(found)
    tril = part.unit[:, None] * (part.lower.tril(-1) + torch.diag(part.log_scale.exp()))
    return tril @ tril.T


def test_a_normal_posterior_is_found_exactly():
    found = laplace(NormalMean(), X)
    precision = 1 / 100 + len(X) / 4
    assert found.objective.kind == "elbo"
    evidence = stats.multivariate_normal(np.zeros(4), 100 + 4 * np.eye(4)).logpdf(X)
    assert found.objective.value == pytest.approx(evidence, abs=1e-9)
    assert found.diagnostics["laplace_evidence"] == pytest.approx(evidence, abs=1e-9)
    assert float(covariance(found)) == pytest.approx(1 / precision)
    assert float(over_globals(found).start) == pytest.approx(sum(X) / 4 / precision)
    assert f"{evidence:.4f}" in found.reason
    assert found.converged
    assert found.warnings == []
    assert np.isnan(found.khat)


def test_dependence_is_part_of_it():
    found = laplace(SumOfTwo(), X)
    exact = np.linalg.inv(np.eye(2) + len(X) * np.ones((2, 2)))
    np.testing.assert_allclose(covariance(found), exact, rtol=1e-9)
    assert found.diagnostics["laplace_evidence"] == pytest.approx(fit(SumOfTwo(), X, method="exact").objective.value)


@pytest.mark.slow
def test_local_latents_are_covered_too():
    found = laplace(RandomEffects(), X)
    evidence = stats.multivariate_normal(np.zeros(4), 100 + 2 * np.eye(4)).logpdf(X)
    assert found.diagnostics["laplace_evidence"] == pytest.approx(evidence)
    assert found.objective.value == pytest.approx(evidence)
    draws = found.posterior["posterior"]
    assert draws["effect"].dims == ("chain", "draw", "row")
    variance = 1 / (1 / 100 + 4 / 2)
    assert float(draws["mu"].std()) == pytest.approx(np.sqrt(variance), rel=0.05)


@pytest.mark.parametrize("weights", [None, [1, 0, 3] * 3 + [2]])
def test_a_coin_has_the_formulas_of_the_logit(weights):
    found = laplace(coin(a=2.0), FLIPS, weights=weights)
    counted = np.repeat(FLIPS, weights if weights is not None else 1)
    a, b = 2 + counted.sum(), 1 + len(counted) - counted.sum()
    part = over_globals(found)
    assert float(part.start) == pytest.approx(np.log(a / b))
    assert float(covariance(found)) == pytest.approx((a + b) / (a * b))
    # log p(x) = log Beta(a, b) - log Beta(2, 1), and Stirling's formula for the first is Laplace's.
    stirling = a * np.log(a) + b * np.log(b) - (a + b) * np.log(a + b) + 0.5 * np.log(2 * np.pi * (a + b) / (a * b))
    assert found.diagnostics["laplace_evidence"] == pytest.approx(stirling + np.log(2))
    exact = fit(coin(a=2.0), FLIPS, method="exact", weights=weights).objective.value
    assert found.objective.value < exact
    assert abs(found.diagnostics["evidence"] - exact) < 4 * found.diagnostics["evidence_error"]


def test_a_posterior_that_is_far_from_normal_is_told():
    found = laplace(NonCentred(), SCHOOLS, collapse=False)
    assert any("khat" in w for w in found.warnings)
    assert "do not trust" in found.verdict


class Ridge(zoo.Model):
    """Two peaks of different height, 12 apart; the start is below the lower one."""

    x = Real("row")

    def initial(self, x):
        return {"a": torch.tensor(-4.0)}

    def forward(self, x):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(a.square() / 10 - a / 20, 0.5), obs=x)


def test_restarts_find_the_highest_mode():
    once, often = laplace(Ridge(), [3.6]), laplace(Ridge(), [3.6], restarts=3)
    assert "of 3 climbs end there" in often.reason
    assert often.diagnostics["laplace_evidence"] >= once.diagnostics["laplace_evidence"] - 1e-9


@zoo.model(x=Real("row"))
def saddle(x):
    """Only the product of `a` and `b` is seen, and the climb begins where neither matters."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a * b, 1.0), obs=x)


class Slope:
    """log p(u) = log u: concave and without a maximum, so that each Newton step doubles u."""

    like = torch.empty(0, dtype=torch.float64)

    def log_prob(self, u):
        return u.log().sum()

    def name(self, coordinate):
        return "a"


def test_no_maximum_is_no_result_and_names_the_site():
    # Rounding decides where on its way to infinity the climb stops, and so which of the two is said.
    with pytest.raises(zoo.FitError, match=r"(still rises|no maximum) along 'tau'"):
        laplace(EightSchools(), SCHOOLS, collapse=False)
    with pytest.raises(zoo.FitError, match=r"still rises along 'a'"):
        polish(Slope(), torch.ones(1, dtype=torch.float64))
    density = Density(prepare(saddle(), [3.0, 4.0]))
    with pytest.raises(zoo.FitError, match=r"no maximum along '[ab]'.*a saddle"):
        factor(density, torch.zeros(2, dtype=torch.float64))


def test_what_has_no_density_is_refused():
    assert "no prior" in Laplace().why_not(prepare(PoissonMixture(), [0, 3, 1, 9]))
    assert "coordinates" in Laplace().why_not(prepare(RandomEffects(), np.zeros(1001)))


def test_it_is_saved_and_read(tmp_path):
    found = laplace(coin(), FLIPS)
    found.save(tmp_path / "fit")
    back = Fit.load(tmp_path / "fit", coin)
    assert repr(back) == repr(found)
    assert back.log_prob().equals(found.log_prob())


@zoo.model(x=Real("row"))
def branching(x):
    """A model with a branch on a value, which no compiler can follow."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    scale = 1.0 if a.item() > -100 else 2.0
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a, scale), obs=x)


def test_branches_on_values_are_differentiated_one_by_one():
    density = Density(prepare(branching(), X))
    assert float(hessian(density, torch.tensor([0.3], dtype=torch.float64))) == pytest.approx(-(1 / 4 + 4))


def test_the_factor_of_an_inverse():
    square = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    precision = square @ square.T + torch.eye(5)
    lower = triangular_of_inverse(torch.linalg.cholesky(precision))
    torch.testing.assert_close(lower @ lower.T, torch.linalg.inv(precision))
    assert torch.equal(lower, lower.tril())
