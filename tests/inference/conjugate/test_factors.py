"""Linear-Gaussian factor models of every make: exact E-steps, updates, posteriors and fits, against dense Gaussians."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.decomposition import FactorAnalysis as TheirFactorAnalysis
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, Exact, Fit, fit
from inference.approximations.rows import log_mean_exp
from inference.conjugate import closed_form
from inference.conjugate.coefficients import Coefficients
from inference.conjugate.factor_blocks import CoefficientBlock, FactorBlock
from inference.conjugate.factor_posteriors import LocalNormal
from inference.conjugate.posteriors import read
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.factor_sums import FactorSums
from tests.cases.models import LinearFactors
from zoo import Real
from zoo.program.prepare import prepare
from zoo.replay.evaluate import model_context
from zoo.replay.random import reseed
from zoo.structure.discover import made_up

POSITIVE = constraints.positive
LAPLACE = torch.distributions.Laplace


def table(rows=30, columns=4, factors=2, seed=0, noise=0.5):
    """Rows that a few factors explain."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, factors)) @ rng.normal(size=(factors, columns))
    return mixed + noise * rng.normal(size=(rows, columns)) + np.linspace(-2.0, 3.0, columns)


def standard(n, q):
    return dist.Normal(torch.zeros(q), 1.0).to_event(1)


def observe(x, loc, scale):
    pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


# -- models that are factor models, and their means, loadings, noise variances, prior means and prior covariances -----


@zoo.model(x=Real("row", "feature"))
def loadings_first(x, *, q: int = 2):
    d = x.shape[1]
    w = pyro.param("w", torch.eye(q, d))
    m = pyro.param("m", torch.zeros(d))
    s = pyro.param("s", torch.ones(d), constraint=POSITIVE)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), q))
        observe(x, z @ w + m, s)


@zoo.model(x=Real("row", "feature"))
def summed(x, *, q: int = 2):
    d = x.shape[1]
    w = pyro.param("w", torch.eye(d, q))
    s = pyro.param("s", torch.tensor(1.0), constraint=POSITIVE)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), q), torch.ones(len(x), q)).to_event(1))
        observe(x, (w * z[..., None, :]).sum(-1), s)


@zoo.model(x=Real("row", "feature"))
def matrix_prior(x):
    d, q = x.shape[1], 2
    w, m = pyro.param("w", torch.eye(d, q)), pyro.param("m", torch.zeros(d))
    t = pyro.param("t", torch.ones(d), constraint=POSITIVE)
    covariance = torch.tensor([[1.0, 0.3], [0.3, 0.5]])
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.MultivariateNormal(torch.tensor([0.5, -1.0]), covariance))
        observe(x, torch.nn.functional.linear(z, w, m), t.rsqrt())


@zoo.model(x=Real("row", "feature"))
def lower_triangular(x, *, q: int = 2):
    d = x.shape[1]
    w = pyro.param("w", torch.eye(d, q))
    m = pyro.param("m", torch.zeros(d))
    s = pyro.param("s", torch.ones(d), constraint=POSITIVE)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), q))
        observe(x, m + z @ w.tril().mT, s)


@zoo.model(x=Real("row", "feature"))
def one_for_all(x):
    """One factor, one loading and one intercept for all columns: a random effect of the row."""
    w, m = pyro.param("w", torch.tensor(0.5)), pyro.param("m", torch.tensor(0.0))
    s = pyro.param("s", torch.ones(x.shape[1]), constraint=POSITIVE)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(x, m - 2.0 * w * z[..., None] + torch.arange(x.shape[1]), s)


@zoo.model(x=Real("row", "feature"))
def scale_of_factors(x):
    d = x.shape[1]
    tau = pyro.param("tau", torch.ones(2), constraint=POSITIVE)
    center = pyro.param("center", torch.zeros(2))
    s = pyro.param("s", torch.ones(d), constraint=POSITIVE)
    known = torch.linspace(-1.0, 1.0, 2 * d).reshape(2, d).roll(1, 0) + torch.eye(2, d)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(center, tau).to_event(1))
        observe(x, z @ known, s)


def dense(name, v, d):
    """Mean, loadings, noise variances, prior mean and prior covariance."""
    q = {"one_for_all": 1}.get(name, 2)
    prior = np.zeros(q), np.eye(q)
    if name == "loadings_first":
        return v["m"], v["w"].T, v["s"] ** 2, *prior
    if name == "summed":
        return np.zeros(d), v["w"], np.full(d, v["s"] ** 2), *prior
    if name == "matrix_prior":
        return v["m"], v["w"], 1 / v["t"], np.array([0.5, -1.0]), np.array([[1.0, 0.3], [0.3, 0.5]])
    if name == "lower_triangular":
        return v["m"], np.tril(v["w"]), v["s"] ** 2, *prior
    if name == "one_for_all":
        return v["m"] + np.arange(d), np.full((d, 1), -2.0 * v["w"]), v["s"] ** 2, *prior
    if name == "scale_of_factors":
        known = np.roll(np.linspace(-1.0, 1.0, 2 * d).reshape(2, d), 1, 0) + np.eye(2, d)
        return np.zeros(d), known.T, v["s"] ** 2, v["center"], np.diag(v["tau"] ** 2)
    noise = v["variances"] if name == "FactorAnalysis" else np.full(d, v["variance"])
    return v["means"], v["loadings"], noise, *prior


MODELS = {
    "loadings_first": loadings_first(),
    "summed": summed(),
    "matrix_prior": matrix_prior(),
    "lower_triangular": lower_triangular(),
    "one_for_all": one_for_all(),
    "scale_of_factors": scale_of_factors(),
    "FactorAnalysis": zoo.FactorAnalysis(2),
    "PPCA": zoo.PPCA(2),
}
every_model = pytest.mark.parametrize("name", list(MODELS))


def marginal(name, values, d):
    """The Normal of a row, the factors integrated out."""
    m, w, noise, mean, cov = dense(name, {n: np.asarray(v) for n, v in values.items()}, d)
    return stats.multivariate_normal(m + w @ mean, w @ cov @ w.T + np.diag(noise))


def random_values(program, seed):
    with torch.random.fork_rng(), model_context(program.dtype, program.device):
        reseed(seed)
        sites = [*program.parameters, *program.latents]
        return {s.name: made_up(s.support, program.site_shape(s), s.name) for s in sites}


def climbed(program, steps=3, seed=0):
    """Values on the way up, and what updates see there."""
    ascent = Coordinates(program, averaged=True)
    values = random_values(program, seed)
    for _ in range(steps):
        values = ascent.maximize(ascent.expect(State(values, {}))[1])
    return ascent, values


# -- what is recognised ---------------------------------------------------------------------------------------------


@every_model
def test_every_unknown_of_a_factor_model_has_a_closed_form(name):
    program = prepare(MODELS[name], table())
    plan = closed_form(program)
    assert plan.rest == []
    assert [b.unknowns for b in plan.blocks if isinstance(b, FactorBlock)] == [("z",)]
    assert EM().why_not(program) is None
    assert CAVI().why_not(program) is None


def test_the_feed_says_that_the_location_is_bilinear():
    site = prepare(zoo.PPCA(2), table()).sites["x"]
    assert str(site.args["loc"]) == "bilinear in means, loadings, z"


def test_coefficients_are_grouped_by_the_column_they_feed():
    plan = closed_form(prepare(zoo.FactorAnalysis(2), table()))
    part = next(b.group for b in plan.blocks if isinstance(b, CoefficientBlock))
    assert part.names == ("means", "loadings")
    assert part.design.shape == (4, 1, 3, 3)
    plan = closed_form(prepare(one_for_all(), table()))
    part = next(b.group for b in plan.blocks if isinstance(b, CoefficientBlock))
    assert part.design.shape == (1, 4, 2, 2)


@zoo.model(x=Real("row", "feature"))
def nonlinear(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, torch.tanh(z @ w), 1.0)


@zoo.model(x=Real("row", "feature"))
def squared_loadings(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, z @ w.square(), 1.0)


@zoo.model(x=Real("row", "feature"))
def positive_loadings(x):
    w = pyro.param("w", torch.ones(2, x.shape[1]), constraint=POSITIVE)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, z @ w, 1.0)


@zoo.model(x=Real("row", "feature"))
def heavy_tailed(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.StudentT(4.0, torch.zeros(2), 1.0).to_event(1))
        observe(x, z @ w, 1.0)


@zoo.model(x=Real("row", "feature"))
def noise_by_row(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, z @ w, torch.arange(1.0, len(x) + 1)[:, None])


@zoo.model(x=Real("row", "feature"))
def prior_by_row(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.arange(1.0, len(x) + 1)[:, None].expand(-1, 2), 1.0).to_event(1))
        observe(x, z @ w, 1.0)


@zoo.model(x=Real("row", "feature"))
def trend(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, z @ w + torch.arange(len(x))[:, None], 1.0)


@zoo.model(x=Real("row", "feature"))
def two_at_once(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        u = pyro.sample("u", standard(len(x), 2))
        observe(x, (z + u) @ w, 1.0)


@zoo.model(x=Real("row", "feature"))
def also_a_scale(x):
    w = pyro.param("w", torch.eye(2, x.shape[1]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), 2))
        observe(x, z @ w, z[..., :1].exp())


OTHERS = [
    nonlinear,
    squared_loadings,
    positive_loadings,
    heavy_tailed,
    noise_by_row,
    prior_by_row,
    trend,
    two_at_once,
    also_a_scale,
]


@pytest.mark.parametrize("model", OTHERS)
def test_what_is_no_factor_model_is_not_taken_for_one(model):
    program = prepare(model(), table())
    assert "z" in closed_form(program).rest
    assert "z" in EM().why_not(program)


def test_a_site_that_is_used_elsewhere_is_left_to_the_gradient():
    @zoo.model(x=Real("row", "feature"))
    def tied(x):
        w = pyro.param("w", torch.eye(2, x.shape[1]))
        pyro.sample("size", dist.Normal(w.square().sum(), 1.0), obs=torch.tensor(3.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", standard(len(x), 2))
            observe(x, z @ w, 1.0)

    assert closed_form(prepare(tied(), table())).rest == ["w"]


# -- the E-step -------------------------------------------------------------------------------------------------------


@every_model
@pytest.mark.parametrize("seed", range(3))
def test_the_expectation_is_the_log_density_with_the_factors_integrated_out(name, seed):
    x = table(seed=seed)
    program = prepare(MODELS[name], x)
    values = random_values(program, seed)
    expected = marginal(name, values, 4).logpdf(x).sum()
    assert float(Coordinates(program, averaged=True).expect(State(values, {}))[0]) == pytest.approx(expected, rel=1e-10)


@every_model
def test_the_posterior_of_the_factors_is_gaussian_conditioning(name):
    x = table()
    program = prepare(MODELS[name], x)
    values = random_values(program, 1)
    _, expected = Coordinates(program, averaged=True).expect(State(values, {}))
    m, w, noise, mean, cov = dense(name, {n: v.numpy() for n, v in values.items()}, 4)
    gain = np.linalg.solve(w @ cov @ w.T + np.diag(noise), w @ cov).T
    posterior = expected.posteriors["z"]
    assert np.allclose(posterior.loc, mean + (x - m - w @ mean) @ gain.T, rtol=1e-9)
    assert np.allclose(posterior.cov, cov - gain @ w @ cov, rtol=1e-9)


@every_model
@pytest.mark.parametrize(
    ("weighted", "columns"),
    [
        (True, 4),
        (False, 40),
        pytest.param(False, 4, marks=pytest.mark.slow),
        pytest.param(True, 40, marks=pytest.mark.slow),
    ],
)
def test_second_moments_of_the_rows_say_the_same_as_the_rows(name, weighted, columns):
    x = table(rows=30 if columns < 30 else 100, columns=columns)
    weights = np.random.default_rng(0).integers(0, 4, len(x)) if weighted else None
    program = prepare(MODELS[name], x, weights=weights)
    ascent, values = climbed(program)
    value, expected = ascent.expect(State(values, {}))
    short = FactorSums.of(ascent.plan, program)
    inside, found = short.expect(values, expected.posteriors)
    assert float(inside + short.rest(found, {})) == pytest.approx(float(value), rel=1e-9)
    wanted, got = ascent.maximize(expected), ascent.maximize(found)
    for site in [*program.parameters]:
        assert torch.allclose(got[site.name], wanted[site.name], rtol=1e-7, atol=1e-9), site.name


def test_more_columns_than_rows():
    x = table(rows=6, columns=9)
    program = prepare(loadings_first(), x)
    ascent, values = climbed(program)
    value, expected = ascent.expect(State(values, {}))
    assert float(value) == pytest.approx(marginal("loadings_first", values, 9).logpdf(x).sum(), rel=1e-9)
    inside, found = FactorSums.of(ascent.plan, program).expect(values, {}, averaged=True)
    assert float(inside) == pytest.approx(float(value), rel=1e-10)
    for at in (expected, found):
        assert float(ascent.expect(State(ascent.maximize(at), {}))[0]) > float(value)


CHANGES = {
    "loadings_first": "affine",
    "summed": "linear",
    "matrix_prior": "affine",
    "lower_triangular": "affine",
    "one_for_all": "affine",
    "scale_of_factors": None,
    "FactorAnalysis": "affine",
    "PPCA": "affine",
}


@every_model
def test_a_step_from_expanded_parameters_gains_at_least_as_much(name):
    program = prepare(MODELS[name], table(rows=60), weights=np.random.default_rng(1).integers(1, 4, 60))
    ascent, values = climbed(program)
    short = FactorSums.of(ascent.plan, program)
    assert short.changes == {"z": CHANGES[name]}
    for _ in range(20):
        value, expected = ascent.expect(State(values, {}))
        inside, found = short.expect(values, {}, averaged=True)
        assert float(inside) == pytest.approx(float(value), rel=1e-10)
        plain, expanded = (ascent.expect(State(ascent.maximize(at), {}))[0] for at in (expected, found))
        assert float(expanded) >= float(plain) - 1e-9 * abs(float(plain))
        values = ascent.maximize(found)


@every_model
def test_expanded_factors_have_the_moments_of_their_prior(name):
    """Over all rows: the first two where the coefficients can make up for it, those about 0 where they have no mean."""
    weights = np.random.default_rng(1).integers(1, 4, 60)
    program = prepare(MODELS[name], table(rows=60), weights=weights)
    ascent, values = climbed(program)
    if CHANGES[name] is None:
        return
    _, found = FactorSums.of(ascent.plan, program).expect(values, {}, averaged=True)
    q = found.posteriors["z"]
    loc, share = q.loc.numpy().reshape(60, -1), weights / weights.sum()
    *_, mean, cov = dense(name, {n: v.numpy() for n, v in values.items()}, 4)
    np.testing.assert_allclose((share * loc.T) @ loc + q.cov.numpy(), np.outer(mean, mean) + cov, rtol=1e-8, atol=1e-8)
    if CHANGES[name] == "affine":
        np.testing.assert_allclose(share @ loc, mean, rtol=1e-8, atol=1e-8)


def test_coefficients_with_a_prior_or_fixed_in_part_are_not_expanded():
    @zoo.model(x=Real("row", "feature"))
    def anchored(x):
        w = pyro.param("w", torch.ones(x.shape[1] - 1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", standard(len(x), 1))
            observe(x, z * torch.cat([torch.ones(1), w]), 1.0)

    for model in (anchored(), bayesian_pca()):
        program = prepare(model, table())
        assert FactorSums.of(closed_form(program), program).changes == {"z": None}


@pytest.mark.slow
def test_two_sites_that_share_a_factor():
    """Inter-battery factor analysis: both batteries of columns together are one factor analysis."""

    @zoo.model(x=Real("row", "feature"), y=Real("row", "item"))
    def batteries(x, y):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", standard(len(x), 1))
            for name, value in (("x", x), ("y", y)):
                d = value.shape[1]
                w, m = pyro.param(f"w_{name}", torch.ones(d, 1)), pyro.param(f"m_{name}", torch.zeros(d))
                s = pyro.param(f"s_{name}", torch.ones(d), constraint=POSITIVE)
                pyro.sample(name, dist.Normal(m + z @ w.mT, s).to_event(1), obs=value)

    both = table(rows=60, columns=5, factors=1)
    apart = fit(batteries(), {"x": both[:, :3], "y": both[:, 3:]}, method=EM(), seed=0, progress=False)
    together = fit(zoo.FactorAnalysis(1), both, method=EM(), seed=0, progress=False)
    assert apart.converged
    assert apart.objective.value == pytest.approx(together.objective.value, abs=1e-4)


# -- the M-step -------------------------------------------------------------------------------------------------------


def expected_joint(program, values, posterior):
    """E[log p(x, z)] under the posterior of z as a function of parameters; by sigma points, exact for squares."""
    q = len(posterior.tril)
    shifts = torch.cat([posterior.tril.mT, -posterior.tril.mT]) * q**0.5
    loc = posterior.mean()["z"]
    points = [loc + s.reshape(loc.shape[1:]) for s in shifts]

    def objective(new):
        return sum(program.log_joint({**values, **new, "z": z}).total(program.data.weights) for z in points) / (2 * q)

    return objective


@every_model
def test_each_update_is_a_maximum_of_the_expected_log_joint(name):
    program = prepare(MODELS[name], table(), weights=np.random.default_rng(1).integers(1, 4, 30))
    ascent, values = climbed(program, steps=1)
    _, expected = ascent.expect(State(values, {}))
    objective = expected_joint(program, values, expected.posteriors["z"])
    for block in ascent.plan.blocks:
        if isinstance(block, FactorBlock):
            continue
        new = {n: v.requires_grad_() for n, v in block.maximize(expected).items()}
        gradients = torch.autograd.grad(objective(new), list(new.values()), allow_unused=True)
        before = {n: values[n].clone().requires_grad_() for n in new}
        start = torch.autograd.grad(objective(before), list(before.values()))
        for slope, first in zip(gradients, start, strict=True):
            assert float(slope.abs().max()) < 1e-8 * (1 + float(first.abs().max()))


def test_what_feeds_nothing_keeps_its_value():
    program = prepare(lower_triangular(), table())
    ascent, values = climbed(program, steps=0)
    new = ascent.maximize(ascent.expect(State(values, {}))[1])
    above = torch.ones(4, 2).triu(1).bool()
    assert torch.equal(new["w"][above], values["w"][above])
    assert not torch.equal(new["w"][~above], values["w"][~above])


# -- fits by EM -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@every_model
def test_em_climbs_to_a_maximum_of_the_likelihood(name):
    x = table(rows=60)
    # Faster steps come to a floor of the variances, where the likelihood has fewer digits than are compared.
    faster = None if name == "scale_of_factors" else "auto"
    found = fit(MODELS[name], x, method=EM(max_steps=500, acceleration=faster), seed=0, progress=False)
    assert found.objective.kind == "log_likelihood"
    assert np.diff(found.trace["value"]).min() > -1e-9 * abs(found.objective.value)
    values = {n: v.numpy() for n, v in found.points.items()}
    assert found.objective.value == pytest.approx(marginal(name, values, 4).logpdf(x).sum(), rel=1e-10)
    before = marginal(name, {n: v.numpy() for n, v in found.program.initial().items()}, 4).logpdf(x).sum()
    assert found.objective.value > before


@pytest.mark.parametrize(("factors", "expected"), [(1, -470.669458), (2, -404.962780)])
def test_ppca_of_iris_has_its_known_likelihood(factors, expected):
    found = fit(zoo.PPCA(factors), zoo.datasets.load("iris"), method=EM(), seed=0, progress=False)
    assert found.converged
    assert found.objective.value == pytest.approx(expected, abs=1e-5)


def test_ppca_is_the_principal_axes_and_the_mean_of_the_eigenvalues_left_out():
    """Tipping and Bishop 1999, equations 7 and 8; and scikit-learn's probabilistic score of PCA."""
    x = table(rows=80, columns=6)
    found = fit(zoo.PPCA(2), x, method=EM(tolerance=1e-10, max_steps=5000), seed=0, progress=False)
    values, axes = np.linalg.eigh(np.cov(x.T, bias=True))
    assert float(found.points["variance"]) == pytest.approx(values[:-2].mean(), rel=1e-4)
    kept = axes[:, -2:] @ np.diag(values[-2:] - values[:-2].mean()) @ axes[:, -2:].T
    loadings = found.points["loadings"].numpy()
    assert np.allclose(loadings @ loadings.T, kept, atol=1e-4)
    best = stats.multivariate_normal(x.mean(0), kept + values[:-2].mean() * np.eye(6)).logpdf(x).sum()
    assert found.objective.value == pytest.approx(best, abs=1e-9)
    theirs = PCA(2).fit(x * np.sqrt(79 / 80))  # it divides by n - 1
    assert theirs.noise_variance_ == pytest.approx(values[:-2].mean())


@pytest.mark.slow
@pytest.mark.parametrize("data", ["digits", "made"])
def test_factor_analysis_is_no_worse_than_scikit_learns(data):
    x = table(rows=300, columns=8, factors=3, noise=1.0)
    if data == "digits":
        x = zoo.datasets.load("digits").to_numpy()
        x = x[:, x.std(0) > 4][:, ::2]
    found = fit(zoo.FactorAnalysis(3), x, method=EM(max_steps=5000), seed=0, progress=False)
    theirs = TheirFactorAnalysis(3, tol=1e-9, max_iter=20000, svd_method="lapack").fit(x)
    assert found.converged
    assert found.objective.value == pytest.approx(theirs.score(x) * len(x), abs=1e-4)
    assert np.allclose(found.points["variances"], theirs.noise_variance_, rtol=1e-3)


@pytest.mark.slow
def test_a_weight_of_two_is_a_row_twice():
    x = table(rows=20)
    weights = np.random.default_rng(0).integers(0, 3, 20)
    start = {n: v.numpy() for n, v in prepare(zoo.FactorAnalysis(1), x).initial().items() if n != "z"}
    settings = EM(max_steps=100, start=start, acceleration=None)  # steps that are extrapolated multiply rounding
    weighted = fit(zoo.FactorAnalysis(1), x, method=settings, seed=0, weights=weights, progress=False)
    repeated = fit(zoo.FactorAnalysis(1), np.repeat(x, weights, 0), method=settings, seed=0, progress=False)
    assert weighted.objective.value == pytest.approx(repeated.objective.value, rel=1e-10)
    for name, value in weighted.points.items():
        assert torch.allclose(value, repeated.points[name], rtol=1e-9), name


@every_model
def test_the_log_density_of_new_rows_is_exact(name):
    found = fit(MODELS[name], table(), method=EM(max_steps=5), seed=0, progress=False)
    new = table(rows=7, seed=9)
    values = {n: v.numpy() for n, v in found.points.items()}
    log_prob = found.log_prob(new)
    assert np.allclose(log_prob, marginal(name, values, 4).logpdf(new), rtol=1e-9)
    assert np.abs(log_prob.attrs["mcse"]).max() < 1e-9


@pytest.mark.slow
def test_single_precision_far_from_zero():
    x = table(rows=200, columns=5)
    plain = EM(max_steps=50, acceleration=None)
    near = fit(zoo.FactorAnalysis(1), x, method=plain, seed=0, progress=False)
    far = fit(zoo.FactorAnalysis(1), 4096.0 + x, method=plain, seed=0, dtype=torch.float32, progress=False)
    assert far.objective.value == pytest.approx(near.objective.value, rel=1e-3)
    assert torch.allclose(far.points["variances"].double(), near.points["variances"], rtol=0.02)


def test_a_fit_survives_being_saved(tmp_path):
    found = fit(zoo.PPCA(1), table(), method=EM(max_steps=10), seed=0, progress=False)
    again = Fit.load(found.save(tmp_path / "fit"))
    assert np.allclose(again.log_prob(table(seed=3)), found.log_prob(table(seed=3)), rtol=1e-12)
    assert torch.equal(again.approximation.posteriors[0].loc, found.approximation.posteriors[0].loc)


def test_known_loadings_have_an_exact_posterior_and_evidence():
    x = table(rows=12)
    found = fit(LinearFactors(), x, method=Exact(), seed=0, progress=False)
    loadings = LinearFactors.loadings.double().numpy()
    row = stats.multivariate_normal(np.zeros(4), loadings @ loadings.T + 0.25 * np.eye(4))
    assert found.objective.value == pytest.approx(row.logpdf(x).sum(), rel=1e-10)
    assert np.allclose(found.log_prob(x), row.logpdf(x), rtol=1e-9)


# -- coordinate ascent with priors ------------------------------------------------------------------------------------


@zoo.model(x=Real("row", "feature"))
def bayesian_pca(x, *, q: int = 2):
    """Bishop 1999: relevance of each factor, noise alike."""
    d = x.shape[1]
    mean = pyro.sample("mean", dist.Normal(torch.zeros(d), 3.0).to_event(1))
    alpha = pyro.sample("alpha", dist.Gamma(torch.full((q,), 2.0), 2.0).to_event(1))
    w = pyro.sample("w", dist.Normal(torch.zeros(q, d), alpha[:, None].rsqrt()).to_event(2))
    t = pyro.sample("t", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", standard(len(x), q))
        observe(x, mean + z @ w, t.rsqrt())


@zoo.model(x=Real("row", "feature"))
def bayesian_factors(x):
    """Loadings in plates, one per column; the mean a parameter; a mean of the factors that is unknown too."""
    d = x.shape[1]
    mean = pyro.param("mean", torch.zeros(d))
    center = pyro.sample("center", dist.Normal(0.0, 1.0))
    with pyro.plate("feature", d):
        w = pyro.sample("w", dist.Normal(torch.tensor([0.5]), 1.0).to_event(1))
        t = pyro.sample("t", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(center, 1.0))
        observe(x, mean + z[..., None] * w[:, 0], t.rsqrt())


@zoo.model(x=Real("row", "feature"))
def bayesian_effects(x):
    """One loading and one intercept for all columns, dependent given the data."""
    w = pyro.sample("w", dist.Normal(1.0, 1.0))
    m = pyro.sample("m", dist.Normal(0.0, 3.0))
    t = pyro.sample("t", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        observe(x, m + w * z[..., None].expand(-1, x.shape[1]), t.rsqrt())


BAYESIAN = {
    "bayesian_pca": bayesian_pca(),
    "bayesian_factors": bayesian_factors(),
    "bayesian_effects": bayesian_effects(),
}
every_bayesian = pytest.mark.parametrize("name", list(BAYESIAN))


def believing(name, steps=5, rows=12, columns=3, weights=None):
    """A program with priors, and where coordinate ascent is after a few steps."""
    reseed(0)
    program = prepare(BAYESIAN[name], table(rows=rows, columns=columns, factors=1), weights=weights)
    ascent, state = Coordinates(program), State(program.initial(), {})
    for _ in range(steps):
        state = ascent.step(state)
    return program, ascent, state


def drawn(program, state, count):
    """Draws of all latents, and log p and log q of each."""
    posteriors = {id(q): q for q in state.posteriors.values()}.values()
    values, log_q = {}, torch.zeros(count, dtype=torch.float64)
    for q in posteriors:
        values.update(q.sample(count))
    for q in posteriors:
        for name, density in q.log_prob(values).items():
            log_q += program.weigh(name, density, lead=1)
    points = {s.name: state.values[s.name] for s in program.parameters}

    def one(v):
        return program.log_joint({**points, **v}).total(program.data.weights)

    return torch.vmap(one, chunk_size=500)(values), log_q


@every_bayesian
def test_the_bound_is_the_mean_of_log_p_minus_log_q(name):
    program, ascent, state = believing(name)
    log_p, log_q = drawn(program, state, 20_000)
    gap = log_p - log_q
    assert abs(float(ascent.expect(state)[0] - gap.mean())) < 4 * float(gap.std()) / len(gap) ** 0.5


@every_bayesian
def test_with_priors_second_moments_say_the_same_as_the_rows(name):
    program, ascent, state = believing(name, weights=np.random.default_rng(0).integers(0, 3, 12))
    value, expected = ascent.expect(state)
    short = FactorSums.of(ascent.plan, program)
    inside, found = short.expect(state.values, state.posteriors)
    outside = short.rest(found, ascent._factors(expected, outside=True))
    assert float(inside + outside) == pytest.approx(float(value), rel=1e-10)
    wanted, got = ascent.condition(expected), ascent.condition(found)
    for site in (*program.latents, *program.parameters):
        assert torch.allclose(got.values[site.name], wanted.values[site.name], rtol=1e-8), site.name


@every_bayesian
def test_no_posterior_of_its_family_gives_a_higher_bound(name):
    _, ascent, state = believing(name)
    _, expected = ascent.expect(state)
    for block in ascent.plan.blocks:
        best = block.posterior(expected)
        if best is None:
            continue

        def bound(q):
            posteriors = {**state.posteriors, **dict.fromkeys(q.names, q)}
            return float(ascent.expect(State({**state.values, **q.mean()}, posteriors))[0])

        top = bound(best)
        for seed in range(4):
            reseed(seed)
            found = dict(best.tensors())
            for key, value in found.items():
                if value.is_floating_point():
                    found[key] = value * torch.exp(0.02 * torch.randn_like(value))
            other = read(best.kind, best.names, best.describe(), found)
            assert bound(other) < top, block.unknowns


@pytest.mark.slow
@every_bayesian
def test_cavi_climbs_and_stays_below_the_evidence(name):
    x = table(rows=8, columns=3, factors=1)
    found = fit(BAYESIAN[name], x, method=CAVI(max_steps=500), seed=0, progress=False)
    assert found.objective.kind == "elbo"
    assert np.diff(found.trace["value"]).min() > -1e-9 * abs(found.objective.value)
    program = found.program
    state = State(dict(found.points), {n: q for q in found.approximation.posteriors for n in q.names})
    reseed(0)
    log_p, log_q = drawn(program, state, 100_000)
    evidence, error = log_mean_exp(log_p - log_q)  # biased down, if anything
    assert found.objective.value < float(evidence) + 3 * float(error)


@pytest.mark.slow
@every_bayesian
def test_a_fit_with_priors_can_be_used(name, tmp_path):
    x = table(rows=8, columns=3, factors=1)
    found = fit(BAYESIAN[name], x, method=CAVI(max_steps=30), seed=0, progress=False)
    assert found.posterior["posterior"]["w"].shape[0] == 1
    new = found.log_prob(table(rows=5, columns=3, factors=1, seed=4), samples=2000)
    assert np.isfinite(new).all()
    again = Fit.load(found.save(tmp_path / "fit"))
    assert np.allclose(again.log_prob(samples=2000), found.log_prob(samples=2000))


@pytest.mark.slow
def test_a_bayesian_fit_with_much_data_is_the_one_by_maximum_likelihood():
    x = table(rows=3000, columns=5, factors=1)
    with_priors = fit(bayesian_pca(q=1), x, method=CAVI(max_steps=300), seed=0, progress=False)
    without = fit(zoo.PPCA(1), x, method=EM(), seed=0, progress=False)
    mean = {n: v.numpy() for q in with_priors.approximation.posteriors for n, v in q.mean().items()}
    own = np.outer(mean["w"][0], mean["w"][0])
    loadings = without.points["loadings"].numpy()
    assert np.allclose(own, loadings @ loadings.T, atol=0.05)
    assert 1 / float(mean["t"]) == pytest.approx(float(without.points["variance"]), rel=0.02)


# -- posteriors -------------------------------------------------------------------------------------------------------


def random_tril(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=generator).tril(-1)
    return noise + torch.diag_embed(torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5)


def local_normal(seed=0, events=(3,)):
    reseed(seed)
    size = math.prod(events)
    return LocalNormal(("z",), random_tril(size, seed=seed), events, torch.randn(5, size, dtype=torch.float64))


def grouped_normal(seed=0):
    """Three groups of at most three coefficients, one place empty."""
    reseed(seed)
    where, tril = torch.tensor([0, 3, 6, 1, 4, 7, 2, 5]), random_tril(3, 3, seed=seed)
    tril[2, 2] = torch.tensor([0.0, 0.0, 1.0])
    loc = torch.randn(3, 3, dtype=torch.float64)
    loc[2, 2] = 0.0
    return Coefficients(("a", "b"), ((3,), (5,)), (0, 1), where, loc, tril)


def dense_normal(q):
    """The same, as one Normal over all values."""
    if isinstance(q, LocalNormal):
        return stats.multivariate_normal(q.loc.flatten().numpy(), torch.block_diag(*[q.cov] * 5).numpy())
    cov = torch.block_diag(*(q.tril @ q.tril.mT))[q.where][:, q.where]
    return stats.multivariate_normal(q.loc.flatten()[q.where].numpy(), cov.numpy())


def joined(q, values):
    return np.concatenate([values[n].reshape(len(values[n]), -1) for n in q.names], 1)


POSTERIORS = {
    "factors": local_normal,
    "scalar factor": lambda seed=0: local_normal(seed, ()),
    "matrix of factors": lambda seed=0: local_normal(seed, (2, 2)),
    "coefficients": grouped_normal,
}
every_posterior = pytest.mark.parametrize("make", POSTERIORS.values(), ids=POSTERIORS)


@every_posterior
def test_posteriors_are_the_dense_normal(make):
    q = make()
    normal, values = dense_normal(q), q.sample(6)
    density = sum(v.reshape(6, -1).sum(-1) for v in q.log_prob(values).values())
    assert np.allclose(density, normal.logpdf(joined(q, values)))
    assert float(sum(v.sum() for v in q.entropy().values())) == pytest.approx(normal.entropy())
    assert np.allclose(joined(q, {n: v[None] for n, v in q.mean().items()})[0], normal.mean)
    variance = {n: q.moments(n)["var"].expand(v.shape[1:])[None] for n, v in values.items()}
    assert np.allclose(joined(q, variance)[0], np.diag(normal.cov))
    draws = joined(q, q.sample(40_000))
    spread = np.sqrt(np.diag(normal.cov))
    assert np.abs((draws.mean(0) - normal.mean) / spread).max() < 5 / 200
    assert np.abs((np.cov(draws.T) - normal.cov) / np.outer(spread, spread)).max() < 8 / 200


@every_posterior
def test_divergence_of_posteriors(make):
    p, q = make(0), make(1)
    a, b = dense_normal(p), dense_normal(q)
    gap, inverse = b.mean - a.mean, np.linalg.inv(b.cov)
    logs = np.linalg.slogdet(b.cov)[1] - np.linalg.slogdet(a.cov)[1]
    expected = 0.5 * (np.trace(inverse @ a.cov) - len(gap) + gap @ inverse @ gap + logs)
    assert float(sum(v.sum() for v in p.kl(q).values())) == pytest.approx(expected)


@every_posterior
def test_blends_mix_natural_parameters(make):
    p, q = make(0), make(1)
    a, b, mixed = dense_normal(p), dense_normal(q), dense_normal(p.blend(q, 0.3))
    precision = 0.7 * np.linalg.inv(a.cov) + 0.3 * np.linalg.inv(b.cov)
    right = 0.7 * np.linalg.solve(a.cov, a.mean) + 0.3 * np.linalg.solve(b.cov, b.mean)
    assert np.allclose(np.linalg.inv(mixed.cov), precision)
    assert np.allclose(mixed.mean, np.linalg.solve(precision, right))


@every_posterior
def test_posteriors_are_read_again(make):
    q = make()
    again = read(q.kind, q.names, q.describe(), q.tensors())
    values = q.sample(3)
    for name, density in q.log_prob(values).items():
        assert torch.equal(again.log_prob(values)[name], density)


@every_posterior
def test_what_is_given_the_others_multiplies_to_the_whole(make):
    q = make()
    values = {n: v[0] for n, v in q.sample(1).items()}
    own = sum(q.given(n, values).log_prob(values[n]).sum() for n in q.names)
    assert float(own) == pytest.approx(float(sum(v.sum() for v in q.log_prob(values).values())))
    assert q.given(q.names[0], values).sample().shape == values[q.names[0]].shape
