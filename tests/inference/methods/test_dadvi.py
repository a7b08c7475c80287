"""Deterministic variational inference: Normal posteriors, a Beta, linear response against closed forms."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from scipy.optimize import minimize

import zoo
from guides.curvature import hessian
from inference import DADVI, Fit, fit
from inference.methods.dadvi import lower_factor, maximum
from inference.variational.fixed_draws import FixedDraws
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, NonCentred, NormalMean, PoissonMixture, SumOfTwo, coin
from zoo import Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

X = [1.0, 2.5, -0.3, 4.0]


def dadvi(model, data, seed=0, **settings):
    return fit(model, data, method=DADVI(**{"compile": False, **settings}), seed=seed, progress=False)


def normal_of(found):
    """Mean and covariance of q."""
    part = getattr(found.approximation, "uncorrected", found.approximation).q.over_globals
    tril = part.unit[:, None] * (part.lower.tril(-1) + torch.diag(part.log_scale.exp()))
    return part.start.numpy(), (tril @ tril.T).numpy()


def test_a_normal_posterior_is_found_exactly():
    """Draws in pairs have no error in the mean of a Normal, and the linear response is its covariance."""
    found = dadvi(SumOfTwo(), X)
    exact = np.linalg.inv(np.eye(2) + len(X) * np.ones((2, 2)))
    mean, covariance = normal_of(found)
    np.testing.assert_allclose(covariance, exact, rtol=1e-9)
    np.testing.assert_allclose(mean, exact @ np.full(2, sum(X)), rtol=1e-8)
    assert found.diagnostics["draws_error"] == pytest.approx(0, abs=1e-6)
    assert found.objective.kind == "elbo"
    evidence = stats.multivariate_normal(np.zeros(4), np.eye(4) + 2).logpdf(X)
    assert found.objective.value == pytest.approx(evidence, abs=1e-8)
    assert found.converged
    assert np.isnan(found.khat)


def test_the_bound_is_that_of_the_best_normal():
    """Of a coin: max over m, s of a E[log p] + b E[log(1 - p)] + entropy, by quadrature."""
    found = dadvi(coin(a=2.0), FLIPS, draws=2000)
    a, b = 2 + sum(FLIPS), 1 + len(FLIPS) - sum(FLIPS)
    nodes, weights = special.roots_hermitenorm(60)

    def bound(at):
        u = at[0] + np.exp(at[1]) * nodes
        log_p = -a * np.logaddexp(0, -u) - b * np.logaddexp(0, u)
        return -(weights @ log_p / weights.sum() + at[1] + 0.5 * (1 + np.log(2 * np.pi)))

    best = minimize(bound, [0.0, 0.0], tol=1e-10)
    exact = -best.fun - special.betaln(2, 1)
    scale = np.exp(best.x[1])
    assert found.diagnostics["fixed_elbo"] == pytest.approx(exact, abs=0.01)
    assert abs(normal_of(found)[0][0] - best.x[0]) < 4 * found.diagnostics["draws_error"] * scale + 1e-6


@pytest.mark.slow
def test_the_error_of_fixed_draws_is_the_spread_over_seeds():
    ends, said = [], []
    for seed in range(20):
        found = dadvi(coin(a=2.0), FLIPS, seed=seed, draws=8, corrected=False)
        mean, covariance = normal_of(found)
        ends.append(mean[0] / covariance[0, 0] ** 0.5)
        said.append(found.diagnostics["draws_error"])
    # Pairs are scaled to mean square one, which takes part of the error away: what is said is no less than it.
    assert np.std(ends) < 1.5 * np.mean(said)
    assert np.mean(said) < 0.2


def test_second_derivatives_are_those_of_the_bound():
    density = Density(prepare(NonCentred(), SCHOOLS))
    centre = torch.linspace(-0.5, 0.5, density.size, dtype=torch.float64)
    fixed = FixedDraws(density, 6, False, centre)
    factor = torch.eye(density.size, dtype=torch.float64) + 0.1

    class Surface:
        like = density.like

        def log_prob(self, eta):
            m, r = eta.chunk(2)
            u = centre + (m + r.exp() * fixed.noise) @ factor.mT
            return torch.vmap(density.log_prob)(u).mean() + r.sum()

    eta = torch.linspace(-0.3, 0.2, 2 * density.size, dtype=torch.float64)
    torch.testing.assert_close(fixed.hessian(centre, factor, eta), hessian(Surface(), eta))


@pytest.mark.slow
def test_the_schools_have_the_sds_of_long_chains():
    """Against posteriordb's reference for tau and mu of the non-centred schools; a twentieth of SVI's gradients."""
    found = dadvi(NonCentred(), SCHOOLS)
    draws = found.posterior["posterior"]
    assert found.verdict.startswith("trust")
    for name, mean, sd in (("mu", 4.4105, 3.3093), ("tau", 3.6021, 3.1985)):
        assert float(draws[name].mean()) == pytest.approx(mean, abs=0.15 * sd)
        assert float(draws[name].std()) == pytest.approx(sd, rel=0.1)
    assert found.steps < 1500


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes():
    one, other = (dadvi(coin(a=2.0), FLIPS) for _ in range(2))
    assert one.sample(50).to_array().values.tobytes() == other.sample(50).to_array().values.tobytes()
    assert one.objective == other.objective


@pytest.mark.slow
def test_a_posterior_without_a_mode_is_no_obstacle_and_not_trusted():
    """The density of the centred schools rises without bound as tau falls; the ELBO does not."""
    found = fit(EightSchools(), SCHOOLS, method=DADVI(collapse=False), seed=0, progress=False)
    assert found.converged
    assert not found.verdict.startswith("trust")


@pytest.mark.slow
def test_the_effects_of_schools_are_integrated_out():
    """What is left has a mode; the evidence is -31.3113 by quadrature."""
    found = dadvi(EightSchools(), SCHOOLS)
    assert found.verdict.startswith("trust")
    said = re.search(r"log p\(x\) = (\S+) \+- (\S+) by", found.verdict)
    assert said is not None
    value, error = map(float, said.groups())
    assert abs(value + 31.3113) < 4 * error


@zoo.model(x=Real("row"))
def branching(x):
    """A model with a branch on a value, which no compiler can follow."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    scale = 1.0 if a.item() > -100 else 2.0
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a, scale), obs=x)


@pytest.mark.slow
def test_branches_on_values_are_run_one_by_one():
    found = dadvi(branching(), X, draws=4)
    np.testing.assert_allclose(normal_of(found)[1], 1 / (1 / 4 + 4), rtol=1e-6)
    assert any("one after the other" in w for w in found.warnings)


def test_no_maximum_is_no_result_and_names_the_site():
    class Slope:
        """log p(u) = u: no draws are enough."""

        like = torch.empty(0, dtype=torch.float64)
        size = 1

        def name(self, coordinate):
            return "a"

        def log_prob(self, u):
            return u.sum()

        def gradient(self, u):
            return u.sum(-1), torch.ones_like(u)

        program = prepare(coin(), FLIPS)

    fixed = FixedDraws(Slope(), 4, False, torch.zeros(1, dtype=torch.float64))
    with pytest.raises(zoo.FitError, match=r"no maximum.*along 'a'"):
        maximum(fixed, torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64), 20)


def test_what_has_no_density_is_refused_and_settings_are_checked():
    assert "no prior" in DADVI().why_not(prepare(PoissonMixture(), [0, 3, 1, 9]))
    with pytest.raises(zoo.MethodError, match="even"):
        DADVI(draws=7)


@pytest.mark.slow
def test_it_is_saved_and_read(tmp_path):
    found = dadvi(NormalMean(), X)
    found.save(tmp_path / "fit")
    back = Fit.load(tmp_path / "fit", NormalMean)
    assert repr(back) == repr(found)
    assert back.log_prob().equals(found.log_prob())


def test_the_factor_of_a_product():
    half = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    lower = lower_factor(half)
    torch.testing.assert_close(lower @ lower.mT, half @ half.mT)
    assert torch.equal(lower, lower.tril())
    assert bool((lower.diagonal() > 0).all())
