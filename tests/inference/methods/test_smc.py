"""SMC: exact evidences, masses of modes, errors that are what they say, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.integrate import quad

import zoo
from inference import NUTS, SMC, Fit, fit
from inference.compiled.compile import has_compiler
from inference.coordinate.swept_path import SweptPath
from inference.diagnostics.agreement import mean_error
from inference.diagnostics.one_labelling import ParticleLabels
from inference.sampling.particles import next_temperature, systematic
from inference.sampling.tempered import Tempered, prior_draws
from inference.sampling.whitening import whitening
from tests.cases.models import FLIPS, SCHOOLS, ZOO_CASES, EightSchools, NonCentred, PoissonMixture, coin
from zoo import Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

QUICK = SMC(compile=False)


def found_by(model, data, method=QUICK, seed=0, **options):
    return fit(model, data, method=method, seed=seed, progress=False, **options)


def z_of(found, exact):
    return (found.objective.value - exact) / found.objective.error


@zoo.model(x=Real("row"))
def two_sided(x):
    """The sign of a is nearly lost: x is a with probability 0.2 and -a with 0.8."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        side = pyro.sample("side", dist.Categorical(torch.tensor([0.2, 0.8])))
        pyro.sample("x", dist.Normal(torch.stack([a, -a])[side], 0.5), obs=x)


@zoo.model(x=Real("row"))
def clusters(x):
    """Each row has a mean of its own, and may be off by 4."""
    centre = pyro.sample("centre", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(x)):
        side = pyro.sample("side", dist.Bernoulli(0.3))
        mean = pyro.sample("mean", dist.Normal(centre, 1.0))
        pyro.sample("x", dist.Normal(mean + 4.0 * side, 0.5), obs=x)


# -- evidence ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("model", [EightSchools(), NonCentred()], ids=lambda m: type(m).__name__)
def test_eight_schools_have_the_evidence_and_the_posterior_of_quadrature(reference, model):
    exact = reference("small_exact.json")["eight_schools_posteriordb"]
    found = found_by(model, SCHOOLS)
    assert found.converged
    assert found.objective.kind == "log_evidence"
    assert found.objective.error < 0.04
    assert abs(z_of(found, exact["log_evidence"])) < 3
    for name in ("mu", "tau"):
        draws = found.posterior["posterior"][name].to_numpy()
        assert abs(draws.mean() - exact[f"{name}_mean"]) < 5 * mean_error(draws)
        assert draws.std() == pytest.approx(exact[f"{name}_sd"], rel=0.1)


@pytest.mark.parametrize("seeds", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_errors_are_what_they_say(seeds):
    """z-scores against log B(6, 6) over seeds have the unit spread of errors that are neither small nor large."""
    exact = math.log(math.gamma(6) ** 2 / math.gamma(12))
    z = np.array([z_of(found_by(coin, FLIPS, seed=seed), exact) for seed in range(seeds)])
    assert stats.chi2(seeds).ppf(0.001) < (z**2).sum() < stats.chi2(seeds).ppf(0.999)


@pytest.mark.slow
def test_modes_far_apart_have_their_masses():
    """At a = 6 and a = -6, with 0.2 and 0.8 of the mass; a chain stays in one of them."""
    found = found_by(two_sided, [6.0])
    values = found.approximation.values["a"].reshape(-1, 128)  # by population
    share = (values > 0).double().mean(1)
    assert abs(float(share.mean()) - 0.2) < 4 * float(share.std()) / math.sqrt(len(share))
    assert float(share.std()) / math.sqrt(len(share)) < 0.02

    def density(a):
        return stats.norm(0, 10).pdf(a) * (0.2 * stats.norm(6.0, 0.5).pdf(a) + 0.8 * stats.norm(-6.0, 0.5).pdf(a))

    exact = math.log(quad(density, -12, 12, points=[-6, 6])[0])
    assert abs(z_of(found, exact)) < 3
    states = found.approximation.states["side"][:, 0]
    assert torch.equal(states == 0, found.approximation.values["a"] > 0)  # drawn from p(side | a, x)
    assert found.converged


@pytest.mark.slow
def test_enumerated_states_beside_latents_of_rows_have_the_evidence_of_quadrature():
    rows = [0.3, 4.1, -0.8]

    def given(centre):
        spread = math.sqrt(1.25)
        return stats.norm(0, 3).pdf(centre) * math.prod(
            0.7 * stats.norm(centre, spread).pdf(x) + 0.3 * stats.norm(centre + 4, spread).pdf(x) for x in rows
        )

    exact = math.log(quad(given, -20, 20)[0])
    assert abs(z_of(found_by(clusters, rows), exact)) < 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["BetaBernoulli", "GammaPoisson", "DirichletMultinomial", "NormalNormal"])
def test_closed_forms(name):
    from tests.cases.models import ZOO_CASES

    for model, data in ZOO_CASES[name]:
        exact = found_by(model, data, "exact").objective.value
        assert abs(z_of(found_by(model, data), exact)) < 3.5


@pytest.mark.slow
def test_weights_are_rows_that_come_again():
    weights = [2.0] * 4 + [1.0] * 6
    exact = found_by(coin, FLIPS[:4] + FLIPS, "exact").objective.value
    assert abs(z_of(found_by(coin, FLIPS, weights=weights), exact)) < 3


@pytest.mark.slow
def test_units_do_not_matter():
    """Data in millionths and millions, with priors in the same units: the same posterior in these units."""

    @zoo.model(x=Real("row"))
    def plain(x, *, unit: float = 1.0):
        mean = pyro.sample("mean", dist.Normal(torch.tensor(0.0), 10 * unit))
        scale = pyro.sample("scale", dist.LogNormal(math.log(unit), 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mean, scale), obs=x)

    x = np.array([3.1, 2.2, 4.0, 2.7, 3.3, 1.9])
    values = {unit: found_by(plain(unit=unit), x * unit) for unit in (1.0, 1e-6, 1e6)}
    for unit, found in values.items():
        away = found.objective.value + len(x) * math.log(unit) - values[1.0].objective.value
        assert abs(away) < 3 * math.hypot(found.objective.error, values[1.0].objective.error)
        assert found.converged


@pytest.mark.slow
def test_exchangeable_components_come_in_all_orders():
    """Two clusters apart: each component is the upper one in half of the draws, of each population."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-4, 1, 12), rng.normal(4, 1, 12)])[:, None]
    found = found_by(zoo.BayesianGMM(components=2, covariance="diag"), x, SMC(particles=32, compile=False))
    means, states = found.approximation.values["means"][..., 0], found.approximation.states["z"]
    upper = (means[:, 0] > means[:, 1]).double().mean()
    assert abs(float(upper) - 0.5) < 4 * 0.5 / math.sqrt(len(means))
    swapped = (means.gather(1, states) > 0) != torch.as_tensor(x[:, 0] > 0)
    assert found.converged == found.verdict.startswith("trust after fit.relabelled(): log p(x) = ")
    assert swapped.double().mean() < 1e-3  # rows between the clusters are in the other one in few draws


# -- what it says and refuses -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_is_a_fit_like_others(tmp_path):
    found = found_by(coin, FLIPS)
    assert found.verdict.startswith("trust")
    assert {"evidence", "evidence_error", "temperatures", "acceptance", "ancestors", "rhat", "ess"} <= set(
        found.diagnostics
    )
    groups = found.posterior
    assert groups["posterior"]["heads"].shape == (4, 1024)
    assert np.unique(groups["sample_stats"]["population"]).tolist() == list(range(32))
    assert found.trace["value"].iloc[-1] == pytest.approx(found.objective.value, abs=1e-9)
    again = found_by(coin, FLIPS)
    assert torch.equal(again.approximation.values["heads"], found.approximation.values["heads"])
    found.save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").objective == found.objective


@pytest.mark.slow
def test_a_vector_without_a_density_leaves_the_others_alone(monkeypatch):
    """All are evaluated at once, though at some of them a precision matrix has no Cholesky factor."""
    program = prepare(*ZOO_CASES["BayesianGMM"][0], device="cpu", dtype=torch.float64)
    target = Tempered(program, 40, 40, False, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = prior_draws(target.density, 40, 40)
    u[::4] *= 30
    temperature = torch.tensor(0.3).double()
    alone = target._one_by_one(u, temperature)
    calls = []
    monkeypatch.setattr(target, "_one_by_one", lambda *args: calls.append(args))
    together = target._evaluate(u, temperature)
    there = alone[1].isfinite()
    assert 0 < int((~there).sum()) <= 10
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one[there], other[there])
    assert together[1][~there].isnan().all()
    assert calls == []


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("weights", [None, [2.0, 1.0, 0.0, 3.0] * 3])
def test_sweeps_over_the_rows_have_the_densities_and_gradients_of_the_program(covariance, weights):
    x = np.random.default_rng(0).normal(size=(12, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]])
    program = prepare(zoo.BayesianGMM(3, covariance=covariance), x, device="cpu", weights=weights)
    swept, plain = SweptPath.of(program, 40), Tempered(program, 40, 40, False, 1)
    assert swept is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = prior_draws(plain.density, 40, 40)
    for temperature in (0.0, 0.3, 1.0):
        for one, other in zip(swept(u, temperature), plain(u, temperature), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    assert swept.accurate(u, plain(u, 1.0)[1])
    assert not swept.accurate(u, plain(u, 1.0)[1] + 1e-3 * u.new_tensor([0.0] * 39 + [1e6]))


@pytest.mark.parametrize("model", [coin, EightSchools()])
def test_what_is_no_mixture_with_priors_is_not_swept(model):
    data = FLIPS if model is coin else SCHOOLS
    assert SweptPath.of(prepare(model, data, device="cpu"), 10) is None


def test_relabelled_particles_lie_in_one_region_and_have_the_likelihood_that_they_had():
    program = prepare(zoo.BayesianGMM(3), np.random.default_rng(0).normal(size=(12, 2)), device="cpu")
    target = Tempered(program, 60, 60, False, 1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        u = prior_draws(target.density, 60, 60)
        labels = ParticleLabels.of(target.density, u)
        there = labels.gathered(u, target(u, 1.0)[1])
        scattered = labels.scattered(there)
    assert labels.own(there).all()
    assert 0.02 < labels.own(scattered).double().mean() < 0.4  # one of 3! regions
    gains = [joint - prior for prior, joint, _ in (target(v, 1.0) for v in (u, there, scattered))]
    torch.testing.assert_close(gains[1], gains[0])
    torch.testing.assert_close(gains[2], gains[0])
    assert ParticleLabels.of(Density(prepare(coin, FLIPS)), torch.zeros(3, 1).double()) is None


@pytest.mark.slow
def test_populations_that_disagree_are_reported():
    found = found_by(two_sided, [60.0], SMC(populations=4, particles=20, moves=1, compile=False))
    assert not found.converged
    assert found.verdict.startswith("do not trust")
    assert found.reason in found.warnings


@pytest.mark.parametrize(
    ("model", "data", "options", "reason"),
    [
        (PoissonMixture(), [1, 2], {}, "has no prior"),
        (EightSchools(), SCHOOLS, {"weights": [2.0] * 8}, "repeat the rows"),
    ],
)
def test_what_it_cannot_do_it_refuses(model, data, options, reason):
    with pytest.raises(zoo.MethodError, match=reason):
        found_by(model, data, **options)


def test_an_improper_prior_is_refused():
    @zoo.model(x=Real("row"))
    def flat(x):
        mean = pyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    with pytest.raises(zoo.MethodError, match="'mean' cannot be drawn"):
        found_by(flat, [1.0, 2.0])


def test_data_that_the_prior_makes_impossible_are_an_error():
    @zoo.model(x=Real("row"))
    def narrow(x):
        low = pyro.sample("low", dist.Normal(0.0, 0.1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Uniform(low, low + 1.0, validate_args=False), obs=x)

    with pytest.raises((zoo.FitError, zoo.ModelError, zoo.DataError)):
        found_by(narrow, [40.0])


# -- its parts --------------------------------------------------------------------------------------------------


def test_the_path_leads_from_prior_to_posterior():
    program = prepare(clusters, [0.3, 4.1])
    density = Density(program)
    u = prior_draws(density, 5, 5)
    target = Tempered(program, 5, 5, False, 1)
    prior, joint, gradient = target(u, 1.0)
    expected = density.gradient(u)
    torch.testing.assert_close(joint, expected[0])
    torch.testing.assert_close(gradient, expected[1])
    for i in range(5):
        centre, means = float(u[i, 0]), u[i, 1:].numpy()
        by_hand = stats.norm(0, 3).logpdf(centre) + stats.norm(centre, 1).logpdf(means).sum()
        assert float(prior[i]) == pytest.approx(by_hand)


def test_the_temperature_leaves_the_share_of_particles():
    gain = torch.randn(500, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 1e6
    step = next_temperature(gain, 0.0, 0.5)
    weights = (step * gain).softmax(0)
    assert 1 / float(weights.square().sum()) == pytest.approx(250, rel=1e-6)
    assert next_temperature(gain * 1e-9, 0.3, 0.5) == 1.0


def test_systematic_resampling_takes_the_expected_number_to_the_next_whole_one():
    logs = torch.randn(3, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    at = systematic(logs).reshape(3, 50)
    for row in range(3):
        counts = torch.bincount(at[row] - 50 * row, minlength=50)
        assert (counts - 50 * logs[row].softmax(0)).abs().max() < 1


def test_particles_are_whitened_whatever_the_units_and_outliers():
    z = torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    u = torch.stack([1e6 * z[:, 0], 1e-3 * (0.8 * z[:, 0] + 0.6 * z[:, 1])], 1)
    u[0] = 1e12
    white = whitening(u)
    np.testing.assert_allclose(torch.cov(white.inverse(u)[1:].mT), torch.eye(2), atol=0.05)


def funnel(seed):
    """Three effects and their log scale, about a centre: (4000, 5)."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(4000, 5, dtype=torch.float64, generator=generator)
    log_scale, centre = 2 * z[:, 3:4], 0.1 * z[:, 4:]
    return torch.cat([centre + log_scale.exp() * z[:, :3], log_scale, centre], 1)


def test_scales_that_other_coordinates_drive_are_divided_out():
    white = whitening(funnel(0))
    assert white.driven.tolist() == [0, 1, 2]
    assert white.driver.tolist() == [3, 3, 3]
    slopes = white.slope / white.spread[3]  # of log deviations with the log scale itself
    np.testing.assert_allclose(slopes, 1.0, atol=0.1)
    z = white.inverse(funnel(1))
    assert abs(float(torch.corrcoef(torch.stack([z[:, 0].abs().log(), z[:, 3]]))[0, 1])) < 0.1


def test_scales_that_grow_up_to_a_limit_and_correlations_that_fade_are_divided_out():
    """As of coefficients under a prior, with the scale of the noise: no one slope and no one covariance fit."""
    generator = torch.Generator().manual_seed(4)
    z = torch.randn(4096, 3, dtype=torch.float64, generator=generator)
    scale = (3 * z[:, 0]).exp() / (1 + (3 * z[:, 0]).exp())
    pair = 0.99 * (1 - scale)  # correlation
    second = pair * z[:, 1] + (1 - pair.square()).sqrt() * z[:, 2]
    u = torch.stack([3 * z[:, 0], scale * z[:, 1], scale * second], 1)
    white = whitening(u)
    found = white.inverse(u)
    order = u[:, 0].argsort()
    for part in found[order].split(512):
        spread = torch.linalg.eigvalsh(torch.cov(part[:, 1:].mT))
        assert 0.4 < float(spread[0]) <= float(spread[1]) < 1.3  # 0.004 to 2.4 with one root for all
    torch.testing.assert_close(white.forward(found)[0], u)


def test_whitening_is_a_bijection_with_the_derivatives_that_it_says():
    white = whitening(funnel(0))
    z = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    u, log_scale = white.forward(z)
    torch.testing.assert_close(white.inverse(u), z)
    (expected,) = torch.autograd.grad((u.sin().sum(1) + log_scale).sum(), z)
    torch.testing.assert_close(white.pull(z, u.cos()), expected)
    jacobians = [torch.autograd.functional.jacobian(lambda v: white.forward(v[None])[0][0], row) for row in z.detach()]
    volumes = torch.stack([torch.linalg.slogdet(j)[1] for j in jacobians])
    torch.testing.assert_close((volumes - log_scale).diff(), torch.zeros(2, dtype=torch.float64), atol=1e-9, rtol=0)


@pytest.mark.slow
def test_draws_agree_with_nuts_on_correlated_latents():
    chains = found_by(NonCentred(), SCHOOLS, NUTS(chains=4, warmup=150, draws=250, compile=has_compiler()))
    particles = found_by(NonCentred(), SCHOOLS)
    for name in ("mu", "tau", "standard"):
        ours, theirs = (f.posterior["posterior"][name].to_numpy() for f in (particles, chains))
        ours, theirs = ours.reshape(4, ours.shape[1], -1), theirs.reshape(4, theirs.shape[1], -1)
        for i in range(ours.shape[-1]):
            error = math.hypot(mean_error(ours[..., i]), mean_error(theirs[..., i]))
            assert abs(ours[..., i].mean() - theirs[..., i].mean()) < 4 * error
