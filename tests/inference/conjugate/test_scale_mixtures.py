"""Laplace distributions: updates by Normals that bound them, against true densities and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from sklearn.linear_model import Lasso
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, Exact, fit
from inference.conjugate import closed_form
from inference.conjugate.local_spread import local_spread
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.stepwise import RunningAverages
from zoo import MethodError, Real
from zoo.constant_columns import FLOOR
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

AT = torch.float64
X = np.array([0.2, -0.5, 1.5, 0.9, 2.2, -1.3, 0.4, 9.0])  # one far off
COLUMNS = np.random.default_rng(0).normal(size=(30, 2))
Y = COLUMNS @ np.array([1.5, 0.0]) + 0.3 * np.random.default_rng(1).normal(size=30)


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        reseed(0)
        yield


def prepared(model, data, **settings):
    with torch.random.fork_rng():
        reseed(0)
        return prepare(model, data, dtype=AT, **settings)


@zoo.model(x=Real("row"))
def errors(x, *, known: str = ""):
    """Laplace errors about a mean with a Normal prior, their scale inverse Gamma."""
    m = torch.tensor(0.5) if known == "m" else pyro.sample("m", dist.Normal(0.0, 2.0))
    b = torch.tensor(0.8) if known == "b" else pyro.sample("b", dist.InverseGamma(3.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Laplace(m, b), obs=x)


@zoo.model(x=Real("row"))
def sparse_mean(x):
    """A mean with a Laplace prior."""
    m = pyro.sample("m", dist.Laplace(0.1, 0.7))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m, 1.3), obs=x)


@zoo.model(x=Real("row", "feature"), y=Real("row"))
def lasso(x, y):
    """Coefficients with Laplace priors (Park and Casella 2008)."""
    beta = pyro.sample("beta", dist.Laplace(torch.zeros(2), 0.05).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Normal(x @ beta, 0.3), obs=y)


@zoo.model(x=Real("row"))
def two_medians(x):
    """A mixture of Laplace distributions without priors."""
    w = pyro.param("w", torch.tensor([0.4, 0.6]), constraint=constraints.simplex)
    m = pyro.param("m", torch.tensor([-1.0, 2.0]))
    b = pyro.param("b", torch.tensor([1.0, 0.5]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Laplace(m[z], b[z]), obs=x)


def climb(program, steps=60, update="condition", start=None):
    """Objectives and the last state of coordinate ascent."""
    ascent = Coordinates(program)
    state, values = State(program.initial() if start is None else start, {}), []
    for _ in range(steps):
        value, expected = ascent.expect(state)
        values.append(float(value))
        state = ascent.condition(expected) if update == "condition" else State(ascent.maximize(expected), {})
    return np.array(values), state, expected


def log_integral(log_joint, *bounds, points=1201):
    """log of the integral of a density over a box, by the trapezoidal rule; `log_joint` takes grids."""
    axes = [np.linspace(a, b, points) for a, b in bounds]
    logs = log_joint(*np.meshgrid(*axes, indexing="ij"))
    mass = np.exp(logs - logs.max())
    for axis in reversed(axes):
        mass = scipy.integrate.trapezoid(mass, axis)
    return logs.max() + math.log(mass)


def log_laplace(x, m, b):
    return -np.abs(x - m) / b - np.log(2 * b)


def test_they_are_recognized_and_say_what_they_are_not():
    for model, data in ((errors(), X), (sparse_mean(), X), (lasso(), {"x": COLUMNS, "y": Y}), (two_medians(), X)):
        program = prepared(model, data)
        assert closed_form(program).rest == []
        assert "x" not in closed_form(program).collapsible or model is not errors
    assert "'m' has no conjugate posterior" in Exact().why_not(prepared(errors(known="b"), X))
    assert "'m' has no conjugate posterior" in Exact().why_not(prepared(sparse_mean(), X))
    assert "'beta' has no conjugate posterior" in Exact().why_not(prepared(lasso(), {"x": COLUMNS, "y": Y}))
    why = RunningAverages.why_not(prepared(two_medians(), X))
    assert "do not depend on unknowns, and those of 'x' ~ Laplace do" in why


@pytest.mark.parametrize("known", ["", "m", "b"])
def test_a_weight_is_a_number_of_repetitions(known):
    times = [2, 1, 3, 1, 1, 2, 1, 4]
    weighted, repeated = prepared(errors(known=known), X, weights=times), prepared(errors(known=known), X.repeat(times))
    start = {n: torch.tensor(v, dtype=AT) for n, v in (("m", 0.3), ("b", 1.2)) if n != known}
    one, other = (climb(program, 5, start=start) for program in (weighted, repeated))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-12)
    for name, q in other[1].posteriors.items():
        for key, tensor in q.tensors().items():
            torch.testing.assert_close(one[1].posteriors[name].tensors()[key], tensor, rtol=1e-12, atol=0)


def test_weights_need_not_be_whole_numbers():
    weights = np.array([0.5, 1.5, 0.25, 1.0, 3.5, 2.0, 0.75, 1.25])
    q = fit(errors(known="m"), X, method=Exact(), weights=weights, seed=0).approximation.distributions["b"]
    a, b = 3.0 + weights.sum(), 2.0 + weights @ np.abs(X - 0.5)
    assert (float(q.concentration), float(q.rate)) == pytest.approx((a, b), rel=1e-12)


@pytest.mark.parametrize("unit", [1.0, 100.0])
def test_a_scale_that_collapses_meets_a_floor_in_the_units_of_the_data(unit):
    """The scale is a distance: its floor is the root of a variance's, at most sqrt(FLOOR) standard deviations."""
    x = unit * np.concatenate([X, [30.0] * 6])
    program = prepared(two_medians(), x)
    start = {"w": [0.5, 0.5], "m": [0.0, 30.0 * unit], "b": [unit, unit]}
    start = {n: torch.tensor(v, dtype=AT) for n, v in start.items()}
    _, state, _ = climb(program, 20, "maximize", start)
    near = float(local_spread(torch.tensor(x)[:, None], torch.tensor(x).var(correction=0)[None], FLOOR))
    assert 0.01 * x.var() < near <= x.var()
    assert float(state.values["b"][1]) == pytest.approx(math.sqrt(FLOOR * near), rel=1e-9)
    assert float(state.values["b"][0]) > 0.1 * unit


def test_a_scale_given_its_location_is_exact():
    found = fit(errors(known="m"), X, method=Exact(), seed=0)
    a, b = 3.0 + len(X), 2.0 + np.abs(X - 0.5).sum()
    q = found.approximation.distributions["b"]
    assert (float(q.concentration), float(q.rate)) == pytest.approx((a, b))
    law = scipy.stats.invgamma(3.0, scale=2.0)
    evidence = log_integral(
        lambda s: law.logpdf(s) + sum(log_laplace(x, 0.5, s) for x in X), (1e-2, 60.0), points=200001
    )
    assert found.objective.value == pytest.approx(evidence, abs=1e-6)


@pytest.mark.slow
def test_em_raises_the_true_likelihood_to_a_maximum():
    program = prepared(two_medians(), np.concatenate([X, X[:5] - 4.0]))
    values, state, _ = climb(program, 400, "maximize")
    assert np.diff(values).min() >= -1e-9
    x = program.data.values["x"].numpy()

    def log_likelihood(w, m, b):
        return np.logaddexp.reduce(np.log(w)[:, None] + log_laplace(x, m[:, None], b[:, None])).sum()

    w, m, b = (state.values[n].numpy() for n in ("w", "m", "b"))
    best = log_likelihood(w, m, b)
    assert values[-1] == pytest.approx(best, abs=1e-6)
    generator = np.random.default_rng(0)
    for _ in range(200):
        step = 0.02 * generator.normal(size=(3, 2))
        other = w * np.exp(step[0])
        assert log_likelihood(other / other.sum(), m + step[1], b * np.exp(step[2])) <= best + 1e-4
    assert fit(two_medians(), x, method=EM(), seed=0).converged


@pytest.mark.parametrize("known", ["", "b"])
def test_the_bound_of_errors_rises_and_stays_below_the_evidence(known):
    program = prepared(errors(known=known), X)
    values, _, expected = climb(program)
    assert np.diff(values[1:]).min() >= -1e-9

    def log_joint(m, s=0.8):
        prior = 0.0 if known else scipy.stats.invgamma(3.0, scale=2.0).logpdf(s)
        return scipy.stats.norm(0, 2).logpdf(m) + prior + sum(log_laplace(x, m, s) for x in X)

    evidence = log_integral(log_joint, *([(-8.0, 8.0)] if known else [(-8.0, 8.0), (0.05, 20.0)]))
    assert evidence - 1.0 < values[-1] < evidence
    below_its_expectation(expected, program.sites["x"], dist.Laplace, X)


def test_the_bound_of_a_sparse_mean_stays_below_the_evidence():
    program = prepared(sparse_mean(), X)
    values, _, expected = climb(program)
    assert np.diff(values[1:]).min() >= -1e-9

    def log_joint(m):
        return log_laplace(m, 0.1, 0.7) + sum(scipy.stats.norm(m, 1.3).logpdf(x) for x in X)

    evidence = log_integral(log_joint, (-8.0, 8.0))
    assert evidence - 0.5 < values[-1] < evidence
    draws = expected.posteriors["m"].sample(20000)["m"]
    density = dist.Laplace(torch.tensor(0.1, dtype=AT), 0.7).log_prob(draws)
    assert float(expected.log_density(program.sites["m"])) < float(density.mean() + 5 * density.std() / 20000**0.5)


def below_its_expectation(expected, site, law, x):
    """E[log p] of each entry is no less than the bound that stands for it."""
    draws = {n: q.sample(20000)[n] for n, q in expected.posteriors.items()}
    b = draws["b"][:, None] if "b" in draws else torch.tensor(0.8, dtype=AT)
    density = law(draws["m"][:, None], b).log_prob(torch.tensor(x))
    error = density.std(0) / 20000**0.5
    assert bool((expected.log_density(site) <= density.mean(0) + 5 * error).all())


def test_at_points_the_bound_is_the_density():
    program = prepared(errors(), X)
    values = {"m": torch.tensor(0.3, dtype=AT), "b": torch.tensor(1.2, dtype=AT)}
    _, expected = Coordinates(program).expect(State(values, {}))
    for site in program.sites.values():
        torch.testing.assert_close(expected.log_density(site), program.log_probs(values)[site.name])


@pytest.mark.slow
def test_the_mode_of_coefficients_is_the_lasso():
    program = prepared(lasso(), {"x": COLUMNS, "y": Y})
    values, state, _ = climb(program, 300, "maximize")
    assert np.diff(values).min() >= -1e-9
    # |y - X beta|^2 / (2 n) + alpha |beta|_1, with alpha = sd^2 / (n b)
    theirs = Lasso(alpha=0.3**2 / (30 * 0.05), fit_intercept=False, tol=1e-12).fit(COLUMNS, Y).coef_
    np.testing.assert_allclose(state.values["beta"].numpy(), theirs, atol=1e-5)


@pytest.mark.slow
def test_the_bound_of_coefficients_rises_and_stays_below_the_evidence():
    program = prepared(lasso(), {"x": COLUMNS, "y": Y})
    values, _, _ = climb(program)
    assert np.diff(values[1:]).min() >= -1e-9

    def log_joint(a, b):
        likelihood = sum(scipy.stats.norm(a * c[0] + b * c[1], 0.3).logpdf(y) for c, y in zip(COLUMNS, Y, strict=True))
        return log_laplace(a, 0.0, 0.05) + log_laplace(b, 0.0, 0.05) + likelihood

    middle = np.linalg.lstsq(COLUMNS, Y, rcond=None)[0]
    evidence = log_integral(log_joint, *((c - 0.6, c + 0.6) for c in middle), points=401)
    assert evidence - 0.7 < values[-1] < evidence
    found = fit(lasso(), {"x": COLUMNS, "y": Y}, method=CAVI(), seed=0)
    assert found.objective.value == pytest.approx(values[-1], abs=1e-3)


def test_local_latents_with_a_bound_are_no_exact_e_step():
    @zoo.model(x=Real("row"))
    def noisy(x):
        s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Laplace(u, s), obs=x)

    with pytest.raises(MethodError, match="'u' has no conjugate posterior"):
        fit(noisy(), X, method=EM(), seed=0)
