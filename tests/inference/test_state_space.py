"""Fits of state space models: against statsmodels, published estimates and quadrature."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import digamma

import zoo
from inference import CAVI, EM, NUTS, Fit, Laplace, Pathfinder, fit
from tests.cases.state_space import NILE, local_level, seasonal, smoother, tracking
from zoo.errors import MethodError

ONE = np.eye(1)


@zoo.model(x=zoo.Real("year"))
def known(x):
    """A level whose variances are known."""
    with pyro.plate("year", len(x)):
        h = pyro.sample(
            "h", zoo.LinearGaussianChain(torch.zeros(1), 1e7 * torch.eye(1), torch.eye(1), 1469.1 * torch.eye(1))
        )
        pyro.deterministic("level", h[..., 0] / 100)
        pyro.sample("x", dist.Normal(h[..., 0], 15099.0**0.5), obs=x)


@zoo.model(x=zoo.Real("year"))
def wandering(x):
    """A level with priors of both standard deviations."""
    level = pyro.sample("level", dist.HalfNormal(100.0))
    noise = pyro.sample("noise", dist.HalfNormal(200.0))
    one = torch.eye(1)
    with pyro.plate("year", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(1), 1e7 * one, one, level**2 * one))
        pyro.sample("x", dist.Normal(h[..., 0], noise), obs=x)


def nile(level, noise, x=NILE):
    return smoother(np.asarray(x)[:, None], (np.zeros(1), 1e7 * ONE), ONE, level * ONE, ONE, noise * ONE)


def test_em_finds_the_published_variances_of_the_nile():
    """Durbin and Koopman (2012), section 2.10: 15099 and 1469.1."""
    found = fit(local_level(), NILE, method="em", seed=0)
    assert found.converged
    level, noise = (float(found.points[n]) for n in ("level", "noise"))
    assert noise == pytest.approx(15099, rel=2e-4)
    assert level == pytest.approx(1469.1, rel=1e-3)
    assert found.objective.kind == "log_likelihood"
    assert found.objective.value == pytest.approx(nile(level, noise).llf, abs=1e-9)
    assert (np.diff(found.trace.value) >= 0).all()
    np.testing.assert_allclose(found.log_prob(), nile(level, noise).llf_obs, atol=1e-9)


def test_exact_has_the_evidence_and_the_states():
    found, expected = fit(known(), NILE, method="exact", seed=0), nile(1469.1, 15099.0)
    assert found.objective.kind == "log_evidence"
    assert found.objective.value == pytest.approx(expected.llf, abs=1e-9)
    draws = found.posterior["posterior"]
    h, sd = draws["h"].values[0, :, :, 0], expected.smoothed_state_cov[0, 0] ** 0.5
    assert draws["h"].dims[:3] == ("chain", "draw", "year")
    assert (np.abs(h.mean(0) - expected.smoothed_state[0]) < 5 * sd / len(h) ** 0.5).all()
    np.testing.assert_allclose(draws["level"].values[0], h / 100)


@pytest.mark.slow
def test_missing_rows_are_forecast(tmp_path):
    x = np.array([*NILE, *[np.nan] * 5])
    x[20:30] = np.nan
    found, expected = fit(known(), x, method="exact", seed=0), nile(1469.1, 15099.0, x)
    table = found.impute(mean=True).to_numpy()[:, 0]
    gone = np.isnan(x)
    np.testing.assert_allclose(table[gone], expected.smoothed_state[0, gone], rtol=1e-9)
    assert found.impute(draws=3, seed=1)[2].shape == (105, 1)
    drawn = found.predict(draws=2000, seed=2).posterior_predictive["x"].values[0]
    sd = (expected.smoothed_state_cov[0, 0] + 15099.0) ** 0.5
    assert (np.abs(drawn.mean(0) - expected.smoothed_state[0]) < 5 * sd / 2000**0.5).all()
    np.testing.assert_allclose(drawn.std(0) / sd, 1, atol=5 * (2 * 2000) ** -0.5)
    found.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit")
    np.testing.assert_array_equal(again.posterior["posterior"]["h"], found.posterior["posterior"]["h"])


def test_assign_has_the_smoothed_states_of_fitted_and_of_new_rows():
    found, new = fit(known(), NILE, method="exact", seed=0), np.array([*NILE[-9:], np.nan])
    for table, x in ((found.assign(), NILE), (found.assign(new), new)):
        expected = nile(1469.1, 15099.0, x)
        np.testing.assert_allclose(table["h[0]", "mean"], expected.smoothed_state[0], rtol=1e-10)
        np.testing.assert_allclose(table["h[0]", "sd"], expected.smoothed_state_cov[0, 0] ** 0.5, rtol=1e-10)


@pytest.mark.slow
def test_new_fixes_are_a_sequence_whose_times_tie_them():
    rng = np.random.default_rng(0)
    data = {"position": rng.normal(size=(20, 2)).cumsum(0), "time": np.sort(rng.uniform(0, 20, 20))}
    found = fit(tracking(), data, method="em", seed=0)
    first = {n: v[:6] for n, v in data.items()}
    np.testing.assert_allclose(found.log_prob(first), found.log_prob()[:6], rtol=1e-9)
    ahead = {"position": np.r_[data["position"], [[np.nan] * 2]], "time": np.r_[data["time"], 21.0]}
    states = found.assign()
    move = states[[("h[0]", "mean"), ("h[1]", "mean")]].to_numpy()[-1]
    speed = states[[("h[2]", "mean"), ("h[3]", "mean")]].to_numpy()[-1]
    forecast = found.impute(ahead, mean=True).to_numpy()[-1, :2]
    np.testing.assert_allclose(forecast, move + speed * (21.0 - data["time"][-1]), rtol=1e-6)


def test_a_model_with_nothing_to_estimate_has_an_exact_posterior():
    with pytest.raises(MethodError, match="no parameter to estimate beside the states 'h'; exact has their posterior"):
        fit(known(), NILE, method="em")


def quadrature():
    """Means and standard deviations of both scales by a grid over the filter's likelihood."""
    level, noise = np.linspace(0.5, 140, 60), np.linspace(70, 190, 50)
    log_p = np.array([[nile(a**2, b**2).llf - a**2 / 2e4 - b**2 / 8e4 for b in noise] for a in level])
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = np.array([p.sum(1) @ level, p.sum(0) @ noise])
    return mean, np.sqrt(np.array([p.sum(1) @ level**2, p.sum(0) @ noise**2]) - mean**2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [NUTS(chains=2, warmup=300, draws=500), Laplace(), Pathfinder()],
    ids=lambda m: type(m).__name__,
)
def test_every_method_climbs_the_density_without_the_states(method):
    found = fit(wandering(), NILE, method=method, seed=0)
    mean, sd = quadrature()
    draws = found.posterior["posterior"]
    values = np.stack([draws[n].values.ravel() for n in ("level", "noise")])
    np.testing.assert_allclose((values.mean(1) - mean) / sd, 0, atol=0.2)
    np.testing.assert_allclose(values.std(1) / sd, 1, atol=0.15)
    h = draws["h"].values.reshape(-1, 100)  # each path belongs to its draw of the scales
    steps = np.square(np.diff(h, axis=1)).mean(1) ** 0.5
    assert np.corrcoef(steps, values[0])[0, 1] > 0.7


@pytest.mark.slow
def test_seasonal_variances_are_those_of_statsmodels():
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    rng = np.random.default_rng(4)
    x = rng.normal(size=120).cumsum() * 0.5 + np.tile([2.0, -1, 0.5, -1.5], 30) + rng.normal(size=120) * 0.7
    found = fit(seasonal(), x, method=EM(), seed=0)
    theirs = UnobservedComponents(x, "local level", seasonal=4, stochastic_seasonal=True)
    theirs.ssm.initialize_known(np.zeros(4), 10 * np.eye(4))
    theirs.loglikelihood_burn = 0
    best = theirs.fit(disp=0, method="nm", maxiter=4000)
    assert found.objective.value >= best.llf - 1e-5
    assert found.objective.value == pytest.approx(best.llf, abs=1e-3)


@zoo.model(x=zoo.Real("year"))
def conjugate(x):
    """Two levels with a variance each, of which one is seen twice, with a precision of the noise."""
    with pyro.plate("part", 2):
        level = pyro.sample("level", dist.InverseGamma(3.0, 2.0))
    noise = pyro.sample("noise", dist.Gamma(3.0, 2.0))
    with pyro.plate("year", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(2), torch.eye(2), torch.eye(2), torch.diag(level)))
        pyro.sample("x", dist.Normal(h[..., 0] + h[..., 1], (2 * noise) ** -0.5), obs=x)


def test_cavi_is_at_the_fixed_point_and_its_bound_is_the_definition():
    """E log p(x, h, level, noise) - E log q, from the moments of a dense Normal over all states."""
    rows = 8
    x = np.random.default_rng(0).normal(size=rows).cumsum()
    x[3] = np.nan
    found = fit(conjugate(), x, method=CAVI(tolerance=1e-10), seed=0)
    assert (np.diff(found.trace.value) >= -1e-10).all()
    q = found.approximation.distributions
    a, b = (
        getattr(q["level"].base_dist if hasattr(q["level"], "base_dist") else q["level"], n).numpy()
        for n in ("concentration", "rate")
    )
    c, r = float(q["noise"].concentration), float(q["noise"].rate)
    seen = ~np.isnan(x)
    # q(h) has the precision of the chain and of the cells at E[1 / level] and E[noise].
    difference = np.kron(np.eye(rows) - np.eye(rows, k=-1), np.eye(2))
    by_row = np.tile(a / b, rows)
    by_row[:2] = 1.0
    design = np.kron(np.eye(rows), np.ones((1, 2)))[seen]
    precision = difference.T @ np.diag(by_row) @ difference + 2 * (c / r) * design.T @ design
    cov = np.linalg.inv(precision)
    mean = cov @ (2 * (c / r) * design.T @ x[seen])
    moves = np.square(difference @ mean) + np.diag(difference @ cov @ difference.T)
    errors = np.square(x[seen] - design @ mean) + np.diag(design @ cov @ design.T)
    by_part = moves.reshape(rows, 2)[1:].sum(0)
    np.testing.assert_allclose(a, 3 + (rows - 1) / 2, rtol=1e-12)
    np.testing.assert_allclose(b, 2 + by_part / 2, rtol=1e-5)
    assert c == pytest.approx(3 + seen.sum() / 2)
    assert r == pytest.approx(2 + errors.sum(), rel=1e-5)
    log_2pi = np.log(2 * np.pi)
    e_log_level, e_log_noise = np.log(b) - digamma(a), digamma(c) - np.log(r)
    bound = -0.5 * (2 * log_2pi + moves[:2].sum())
    bound += -0.5 * ((rows - 1) * (2 * log_2pi + e_log_level.sum()) + (by_part * a / b).sum())
    bound += 0.5 * seen.sum() * (np.log(2) + e_log_noise - log_2pi) - (c / r) * errors.sum()
    bound += 0.5 * (2 * rows * (1 + log_2pi) + np.linalg.slogdet(cov)[1])
    for prior, own in (
        (stats.invgamma(3, scale=2), stats.invgamma(a, scale=b)),
        (stats.gamma(3, scale=0.5), stats.gamma(c, scale=1 / r)),
    ):
        grid = own.ppf(np.linspace(0.5e-5, 1 - 0.5e-5, 100000)[:, None] * np.ones_like(np.atleast_1d(own.mean())))
        bound += (prior.logpdf(grid) - own.logpdf(grid)).mean(0).sum()
    assert found.objective.value == pytest.approx(bound, abs=2e-3)


def test_explain_says_that_the_states_are_integrated_out():
    said = zoo.explain(conjugate(), NILE[:5] / 100)
    for method in ("laplace", "nuts", "smc", "svi"):
        line = next(line for line in said.splitlines() if line.startswith(method))
        assert "yes (with h integrated out, then drawn exactly" in line


def test_exact_refuses_what_the_states_depend_on():
    with pytest.raises(MethodError, match="'level' and the states 'h' are dependent given the data"):
        fit(conjugate(), NILE[:5] / 100, method="exact")


@zoo.model(x=zoo.Real("year"))
def shared(x):
    """A variance in two places that are not one: no closed form."""
    v = pyro.sample("v", dist.InverseGamma(3.0, 2.0))
    one = torch.eye(1)
    with pyro.plate("year", len(x)):
        h = pyro.sample("h", zoo.LinearGaussianChain(torch.zeros(1), one, (-v).exp() * one, v * one))
        pyro.sample("x", dist.Normal(h[..., 0], 1.0), obs=x)


def test_a_variance_that_is_something_else_too_has_no_closed_form():
    with pytest.raises(MethodError, match="no conjugate family is recognised for 'v'"):
        fit(shared(), NILE[:5] / 100, method="cavi")
