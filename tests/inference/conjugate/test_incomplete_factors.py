"""Factor models of which cells are missing: E-steps, updates and fits against dense Gaussians of what is observed."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import zoo
from inference import EM, Fit, fit
from inference.conjugate.factor_posteriors import PatternNormal
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.factor_sums import FactorSums
from tests.cases.spread import spread
from tests.inference.conjugate.test_factors import MODELS, dense, random_values, table
from zoo import Real
from zoo.program.prepare import prepare


def holes(x, share=0.3, seed=0):
    """Take cells out, and all of one row."""
    x, rng = x.copy(), np.random.default_rng(seed)
    x[rng.random(x.shape) < share] = np.nan
    x[3] = np.nan
    return x


def observed_log_density(x, mean, covariance):
    """log Normal of the observed cells of each row."""
    found = np.zeros(len(x))
    for i, row in enumerate(x):
        o = ~np.isnan(row)
        if o.any():
            found[i] = stats.multivariate_normal(mean[o], covariance[np.ix_(o, o)]).logpdf(row[o])
    return found


def of(name, values, d=4):
    """Mean and covariance of a row, the factors integrated out."""
    m, w, noise, mean, cov = dense(name, {n: np.asarray(v) for n, v in values.items()}, d)
    return m + w @ mean, w @ cov @ w.T + np.diag(noise)


@spread("name", list(MODELS), part=2, of=4)
def test_the_e_step_conditions_on_what_is_observed(name):
    """L is the log density of the observed cells, by rows and by sums over patterns; z given them is Gaussian."""
    x, weights = holes(table()), np.random.default_rng(0).integers(0, 4, 30)
    program = prepare(MODELS[name], x, weights=weights)
    values = random_values(program, 1)
    ascent = Coordinates(program, averaged=True)
    value, expected = ascent.expect(State(values, {}))
    exact = weights @ observed_log_density(x, *of(name, values))
    assert float(value) == pytest.approx(exact, rel=1e-10)
    short = FactorSums.of(ascent.plan, program)
    inside, found = short.expect(values, expected.posteriors)
    assert float(inside) == pytest.approx(exact, rel=1e-10)
    assert float(short.expect(values, {}, averaged=True)[0]) == pytest.approx(exact, rel=1e-10)
    wanted, got = ascent.maximize(expected), ascent.maximize(found)
    for site in program.parameters:
        assert torch.allclose(got[site.name], wanted[site.name], rtol=1e-7, atol=1e-9), site.name
    q = expected.posteriors["z"]
    assert isinstance(q, PatternNormal)
    m, w, noise, mean, cov = dense(name, {n: v.numpy() for n, v in values.items()}, 4)
    for i in (0, 1, 3):
        o = ~np.isnan(x[i])
        gain = np.linalg.solve(w[o] @ cov @ w[o].T + np.diag(noise[o]), w[o] @ cov).T
        assert np.allclose(q.loc[i], mean + gain @ (x[i] - m - w @ mean)[o], rtol=1e-9, atol=1e-12)
        assert np.allclose(q.cov[i], cov - gain @ w[o] @ cov, rtol=1e-9, atol=1e-12)


@spread("name", list(MODELS), part=1, of=8)
def test_steps_never_fall(name):
    """Plain ones, and those with expanded parameters."""
    program = prepare(MODELS[name], holes(table()))
    ascent, values = Coordinates(program, averaged=True), random_values(program, 0)
    short = FactorSums.of(ascent.plan, program)
    before = -np.inf
    for _ in range(4):
        value, expected = ascent.expect(State(values, {}))
        _, found = short.expect(values, {}, averaged=True)
        plain = ascent.expect(State(ascent.maximize(expected), {}))[0]
        assert min(float(value) - before, float(plain - value)) > -1e-9
        before, values = float(value), ascent.maximize(found)


@pytest.fixture(scope="module")
def fitted():
    return fit(zoo.PPCA(2), holes(table(40)), method="em", seed=0)


def test_a_fit_is_at_the_maximum(fitted):
    """The gradient of the brute-force log likelihood is zero there, and questions have exact answers."""
    x = holes(table(40))
    at = {n: torch.tensor(v.numpy(), requires_grad=True) for n, v in fitted.points.items()}
    covariance = at["loadings"] @ at["loadings"].mT + at["variance"] * torch.eye(4, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for row in torch.tensor(x):
        o = ~row.isnan()
        if bool(o.any()):
            total = total + dist.MultivariateNormal(at["means"][o], covariance[o][:, o]).log_prob(row[o])
    assert fitted.objective.value == pytest.approx(float(total.detach()), rel=1e-12)
    assert (np.diff(fitted.trace["value"]) > -1e-9).all()
    total.backward()
    assert all(float(t.grad.abs().max()) < 0.02 for t in at.values())  # within 1e-6 of the limit: its root, in units
    exact = observed_log_density(x, *of("PPCA", fitted.points))
    np.testing.assert_allclose(fitted.log_prob(), exact, atol=1e-10)
    np.testing.assert_allclose(fitted.log_prob(x[:7]), exact[:7], atol=1e-10)


@pytest.mark.slow
def test_missing_cells_are_imputed_and_the_fit_comes_back_from_its_files(fitted, tmp_path):
    x = holes(table(40))
    mean, covariance = of("PPCA", fitted.points)
    draws = np.stack([t.to_numpy() for t in fitted.impute(draws=400)])
    for i in np.isnan(x).any(1).nonzero()[0][:5]:
        o = ~np.isnan(x[i])
        gain = np.linalg.solve(covariance[np.ix_(o, o)], covariance[np.ix_(o, ~o)]).T
        wanted = mean[~o] + gain @ (x[i] - mean)[o]
        spread = np.sqrt(np.diag(covariance[np.ix_(~o, ~o)] - gain @ covariance[np.ix_(o, ~o)]))
        assert (np.abs(draws[:, i, ~o].mean(0) - wanted) < 5 * spread / 20).all()
        assert (np.abs(draws[:, i, ~o].std(0) / spread - 1) < 5 / np.sqrt(800)).all()
    again = Fit.load(fitted.save(tmp_path / "fit"))
    assert again.log_prob().equals(fitted.log_prob())
    assert again.summary().equals(fitted.summary())


@zoo.model(left=Real("row", "first"), right=Real("row", "second"), y=Real("row"))
def two_tables(left, right, y):
    """Two matrices that the same factor feeds, with noise of their own, and a number beside them."""
    w, v = pyro.param("w", torch.ones(left.shape[1])), pyro.param("v", torch.ones(right.shape[1]))
    a, s = (pyro.param(n, torch.tensor(1.0), constraint=constraints.positive) for n in "as")
    b = pyro.param("b", torch.tensor(0.0))
    with pyro.plate("row", len(left)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("left", dist.Normal(z * w, a).to_event(1), obs=left)
        pyro.sample("right", dist.Normal(z * v, 0.5).to_event(1), obs=right)
        pyro.sample("y", dist.Normal(b, s), obs=y)


@pytest.mark.slow
def test_gaps_in_one_of_two_tables():
    x = table(25, 5, factors=1)
    data = {"left": holes(x[:, :3]), "right": x[:, 3:], "y": x[:, 0]}
    found = fit(two_tables(), data, method=EM(max_steps=30), seed=0)
    p = {n: v.numpy() for n, v in found.points.items()}
    w = np.concatenate([p["w"], p["v"]])
    covariance = np.outer(w, w) + np.diag([*[p["a"] ** 2] * 3, *[0.25] * 2])
    exact = observed_log_density(np.concatenate([data["left"], data["right"]], 1), np.zeros(5), covariance)
    exact = exact + stats.norm(p["b"], p["s"]).logpdf(data["y"])
    assert found.objective.value == pytest.approx(exact.sum(), rel=1e-10)
    assert (np.diff(found.trace["value"]) > -1e-9).all()


@zoo.model(x=Real("row", "feature"))
def sparse_loadings(x):
    """Loadings with a prior, so that they have a posterior in CAVI."""
    d = x.shape[1]
    with pyro.plate("feature", d):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * w, 0.5).to_event(1), obs=x)


@pytest.mark.slow
def test_the_bound_of_uncertain_loadings():
    """ELBO of q(w) q(z) where cells are missing, against draws of q."""
    x = holes(table(12, 3, factors=1) - np.linspace(-2.0, 3.0, 3))
    found = fit(sparse_loadings(), x, method="cavi", seed=0)
    q = {p.names[0]: p for p in found.approximation.posteriors}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        w, z = q["w"].sample(20_000)["w"], q["z"].sample(20_000)["z"]
    seen = torch.tensor(~np.isnan(x))
    density = dist.Normal(z * w[:, None], 0.5).log_prob(torch.tensor(x).nan_to_num(0.0)).where(seen, 0.0).sum((-1, -2))
    prior = dist.Normal(0.0, 1.0)
    joint = density + prior.log_prob(w).sum(-1) + prior.log_prob(z).sum((-1, -2))
    entropy = q["w"].log_prob({"w": w})["w"].sum(-1) + q["z"].log_prob({"z": z})["z"].sum(-1)
    bound = (joint - entropy).numpy()
    assert found.objective.value == pytest.approx(bound.mean(), abs=5 * bound.std() / 20_000**0.5)
    assert (np.diff(found.trace["value"]) > -1e-9).all()


@pytest.mark.slow
@pytest.mark.parametrize("noise", ["own", "shared"])
def test_mixtures_of_factor_analysers(noise):
    """Responsibilities and densities of what is observed; the log likelihood never falls."""
    rng = np.random.default_rng(0)
    z = rng.integers(0, 2, 60)
    w = 1.5 * rng.normal(size=(2, 4))
    full = w[z] * rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, 4)) + np.where(z == 1, 3.0, -3.0)[:, None]
    x = holes(full)
    model = zoo.MixtureOfFactorAnalyzers(components=2, factors=1, noise=noise)
    found = fit(model, x, method=EM(max_steps=40, tolerance=1e-3), seed=0)
    p = {n: v.numpy() for n, v in found.points.items()}

    def joint(rows):
        variances = np.broadcast_to(p["variances"], (2, 4))
        covariances = [a @ a.T + np.diag(v) for a, v in zip(p["loadings"], variances, strict=True)]
        each = [observed_log_density(rows, m, s) for m, s in zip(p["means"], covariances, strict=True)]
        return np.log(p["weights"]) + np.stack(each, 1)

    exact = np.logaddexp(*joint(x).T)
    assert found.objective.value == pytest.approx(exact.sum(), rel=1e-10)
    assert (np.diff(found.trace["value"]) > -1e-9).all()
    np.testing.assert_allclose(found.assign(), np.exp(joint(x) - exact[:, None]), atol=1e-9)
    np.testing.assert_allclose(found.log_prob(full[:8]), np.logaddexp(*joint(full[:8]).T), atol=1e-9)
    np.testing.assert_allclose(found.log_prob(x[:8]), exact[:8], atol=1e-9)
    assert not found.impute().isna().any(axis=None)
