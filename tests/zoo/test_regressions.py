"""Regressions with weak priors: maxima of scikit-learn and statsmodels, posteriors by quadrature, rows and groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit, logsumexp

import zoo
from guides import FullRank
from inference import MAP, NUTS, SVI, fit
from tests.cases.models import EVENTS
from zoo.program.prepare import prepare


def predictors(seed=0, rows=200):
    """Columns far from zero, of two values, and tiny; and their effects, with a level."""
    rng = np.random.default_rng(seed)
    x = np.c_[rng.normal(100, 20, rows), rng.random(rows) < 0.3, rng.normal(0, 1e-3, rows)]
    return rng, x, (x - x.mean(0)) @ [0.05, 1.0, -500.0] - 0.5


def answers(**settings):
    rng, x, eta = predictors(**settings)
    return {"x": x, "y": (rng.random(len(x)) < expit(eta)).astype(float)}


def events(**settings):
    rng, x, eta = predictors(**settings)
    exposure = rng.gamma(2.0, 1.0, len(x))
    return {"x": x, "y": rng.poisson(exposure * np.exp(eta)), "exposure": exposure}


def mode(model, data, **settings):
    """The mode, by gradients, with whatever it takes."""
    return fit(model, data, method=MAP(steps=3000, **settings), seed=0, progress=False)


def points(fitted):
    values = fitted.posterior["point_estimate"]
    return {n: values[n].to_numpy().squeeze() for n in values.data_vars}


def by_grid(log_density, *axes):
    """Means and standard deviations of a density over a grid, along each axis."""
    values = log_density(*np.meshgrid(*axes, indexing="ij"))
    weight = np.exp(values - logsumexp(values))
    others = [tuple(j for j in range(len(axes)) if j != i) for i in range(len(axes))]
    margins = [weight.sum(other) for other in others]
    means = [float(m @ a) for m, a in zip(margins, axes, strict=True)]
    return means, [float(m @ (a - c) ** 2) ** 0.5 for m, a, c in zip(margins, axes, means, strict=True)]


def test_a_ridge_is_that_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    data = answers()
    found = points(mode(zoo.LogisticRegression(df=None, scale=0.7, intercept_scale=1e4), data))
    x = data["x"]
    unit = np.where([False, True, False], 1.0, 2 * x.std(0))
    expected = linear.LogisticRegression(C=0.7**2, tol=1e-12, max_iter=2000).fit((x - x.mean(0)) / unit, data["y"])
    np.testing.assert_allclose(found["coefficients"], expected.coef_[0] / unit, rtol=1e-3)
    assert float(found["intercept"]) == pytest.approx(float(expected.intercept_[0]), abs=1e-3)


@pytest.mark.slow
def test_wide_priors_give_maximum_likelihood():
    models = pytest.importorskip("statsmodels.api")
    data = answers()
    columns = models.add_constant(data["x"] - data["x"].mean(0))
    expected = models.Logit(data["y"], columns).fit(disp=0, tol=1e-12).params
    found = points(mode(zoo.LogisticRegression(df=None, scale=1e4, intercept_scale=1e4), data))
    np.testing.assert_allclose(np.r_[found["intercept"], found["coefficients"]], expected, rtol=1e-3)
    data = events()
    columns = models.add_constant(data["x"] - data["x"].mean(0))
    family = models.families.Poisson()
    expected = models.GLM(data["y"], columns, family=family, exposure=data["exposure"]).fit(tol=1e-12).params
    found = points(mode(zoo.PoissonRegression(scale=1e4, intercept_scale=1e4), data))
    np.testing.assert_allclose(np.r_[found["intercept"], found["coefficients"]], expected, rtol=1e-3)


def logistic_by_grid(data, df=1.0):
    x, y = data["x"][:, 0] - data["x"].mean(), data["y"]
    u = 2 * x.std()

    def log_density(a, b):
        eta = a[..., None] + b[..., None] * x
        prior = stats.t(df, 0, 10.0).logpdf(a) + stats.t(df, 0, 2.5 / u).logpdf(b)
        return prior + (y * eta - np.logaddexp(0, eta)).sum(-1)

    return by_grid(log_density, np.linspace(-3, 3, 400), np.linspace(-0.1, 0.3, 400))


def poisson_by_grid(data):
    x, y, t = data["x"][:, 0] - data["x"].mean(), data["y"], data["exposure"]
    u, level = 2 * x.std(), np.log(y.sum() / t.sum())

    def log_density(a, b):
        eta = a[..., None] + b[..., None] * x
        prior = stats.norm(level, 5.0).logpdf(a) + stats.norm(0, 2.5 / u).logpdf(b)
        return prior + (y * eta - t * np.exp(eta)).sum(-1)

    return by_grid(log_density, np.linspace(-2, 1, 400), np.linspace(-0.05, 0.15, 400))


METHODS = [pytest.param(m, marks=pytest.mark.slow) for m in ("laplace", "nuts", "svi", "pathfinder", "smc")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["logistic", "poisson"])
def test_the_posterior_is_that_of_quadrature(kind, method):
    """Means within 0.1 posterior sds and sds within 10 %, which is what a verdict of trust says."""
    model, made, by = {
        "logistic": (zoo.LogisticRegression(), answers, logistic_by_grid),
        "poisson": (zoo.PoissonRegression(), events, poisson_by_grid),
    }[kind]
    data = made(rows=60)
    data["x"] = data["x"][:, :1]
    means, sds = by(data)
    used = SVI(guide=FullRank()) if method == "svi" else method  # effects are correlated
    found = fit(model, data, method=used, seed=0, progress=False)
    assert found.verdict.startswith(("trust", "usable") if method == "svi" else "trust")
    summary = found.summary()
    np.testing.assert_array_less(np.abs(summary["mean"] - means), 0.1 * np.array(sds))
    np.testing.assert_allclose(summary["sd"], sds, rtol=0.1)


def test_separated_answers_have_a_mode():
    """A line tells yes from no, so that maximum likelihood is at infinity; the mode is where the prior holds it."""
    x, y = np.array([[1.0], [2.0], [3.0], [10.0], [11.0]]), np.array([0, 0, 0, 1, 1])
    found = points(mode(zoo.LogisticRegression(), {"x": x, "y": y}))
    z = (x[:, 0] - x.mean()) / (2 * x.std())

    def loss(v):
        eta = v[0] + v[1] * z
        return np.logaddexp(0, np.where(y == 1, -eta, eta)).sum() - stats.t(1, 0, [10, 2.5]).logpdf(v).sum()

    expected = minimize(
        loss, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
    )
    at = np.array([float(found["intercept"]), float(found["coefficients"]) * 2 * x.std()])
    np.testing.assert_allclose(at, expected.x, rtol=2e-3)


def test_exposure_is_one_where_data_have_none():
    plain = {n: v for n, v in EVENTS.items() if n != "exposure"}
    model, ones = zoo.PoissonRegression(), {**plain, "exposure": np.ones(5)}
    first, second = (prepare(model, data) for data in (plain, ones))
    values = first.initial()
    assert float(first.log_joint(values).total()) == float(second.log_joint(values).total())
    frame = pd.DataFrame(EVENTS["x"], columns=["a", "b", "c"]).assign(y=EVENTS["y"])
    third = prepare(model, frame)
    assert torch.equal(third.data.values["exposure"], torch.ones(5, dtype=torch.float64))
    assert list(third.data.coords["feature"]) == ["a", "b", "c"]
    with_exposure = prepare(model, frame.assign(exposure=EVENTS["exposure"]))
    assert with_exposure.data.values["exposure"].tolist() == EVENTS["exposure"]
    assert list(with_exposure.data.coords["feature"]) == ["a", "b", "c"]


def test_exposure_in_other_units_moves_the_intercept_only():
    hours = {**EVENTS, "exposure": [60 * e for e in EVENTS["exposure"]]}
    first, second = (points(mode(zoo.PoissonRegression(), data)) for data in (EVENTS, hours))
    np.testing.assert_allclose(second["coefficients"], first["coefficients"], rtol=1e-6)
    assert float(second["intercept"]) == pytest.approx(float(first["intercept"]) - np.log(60), abs=1e-6)


# -- groups ------------------------------------------------------------------------------------------------------------


def groups(seed=0, number=12, rows=150):
    rng = np.random.default_rng(seed)
    g, x = rng.integers(0, number, rows), rng.normal(10, 3, rows)
    level, slope = rng.normal(0, 2, number), rng.normal(0.5, 0.3, number)
    y = 50 + level[g] + slope[g] * (x - 10) + rng.normal(0, 1, rows)
    return pd.DataFrame({"x": x, "group": np.array([f"school {i}" for i in range(number)])[g], "y": y})


def integrated(program, values, names):
    """log of the integral of the joint density over latents in which its logarithm is quadratic, at values of the rest.

    With q(u) = log p, gradient g and curvature -H at any u, it is q + (g H^-1 g + d log 2 pi - log |H|) / 2.
    """
    shapes = [values[n].shape for n in names]
    sizes = [s.numel() for s in shapes]

    def height(u):
        parts = {n: p.reshape(s) for n, p, s in zip(names, u.split(sizes), shapes, strict=True)}
        return program.log_joint({**values, **parts}).total()

    u = torch.cat([values[n].flatten() for n in names])
    slope = torch.func.grad(height)
    gradient, curvature = slope(u), -torch.func.jacrev(slope)(u)
    inner = gradient @ torch.linalg.solve(curvature, gradient)
    total = height(u) + 0.5 * (inner + len(u) * np.log(2 * np.pi) - torch.linalg.slogdet(curvature).logabsdet)
    return float(total)


@pytest.mark.parametrize("slopes", [False, True])
def test_the_marginal_likelihood_is_that_of_mixed_models(slopes):
    """At the maximum that statsmodels finds, with intercepts and slopes of groups integrated out."""
    mixed = pytest.importorskip("statsmodels.regression.mixed_linear_model")
    data = groups()
    x, y = data["x"] - data["x"].mean(), data["y"]
    columns = np.c_[np.ones(len(x)), x]
    free = mixed.MixedLMParams.from_components(fe_params=np.ones(2), cov_re=np.eye(1 + slopes))
    random = columns if slopes else columns[:, :1]
    expected = mixed.MixedLM(y, columns, groups=data["group"], exog_re=random).fit(reml=False, free=free)
    between, *slope_scale = np.sqrt(np.diag(expected.cov_re))
    model = zoo.HierarchicalRegression(slopes=slopes)
    program = prepare(model, data)
    level, slope = expected.fe_params
    given = {"intercept": level, "coefficients": [slope], "between": between, "noise": expected.scale**0.5}
    if slopes:
        given["slope_scales"] = slope_scale
    values = {**program.initial(), **{n: torch.tensor(v, dtype=torch.float64) for n, v in given.items()}}
    s, u = y.std(ddof=0), 2 * x.std(ddof=0)
    prior = stats.norm(y.mean(), 2.5 * s).logpdf(level) + stats.norm(0, 2.5 * s / u).logpdf(slope)
    prior += stats.halfnorm(scale=s).logpdf([between, given["noise"]]).sum()
    prior += stats.halfnorm(scale=s / u).logpdf(slope_scale).sum()
    names = ["intercepts", "slopes"] if slopes else ["intercepts"]
    assert integrated(program, values, names) - prior == pytest.approx(expected.llf, abs=1e-8)


def mixed_by_grid(data, scale=2.5):
    """Posterior of (between, noise) with everything else integrated out: y is jointly Normal given the two."""
    x, y = (data["x"] - data["x"].mean()).to_numpy(), data["y"].to_numpy()
    s, u = y.std(), 2 * x.std()
    member = pd.get_dummies(data["group"]).to_numpy(dtype=float)
    fixed = (scale * s) ** 2 + (scale * s / u) ** 2 * np.outer(x, x)

    def height(between, noise):
        covariance = between**2 * member @ member.T + fixed + noise**2 * np.eye(len(y))
        value = stats.multivariate_normal(np.full(len(y), y.mean()), covariance).logpdf(y)
        return value + stats.halfnorm(scale=s).logpdf([between, noise]).sum()

    return by_grid(np.vectorize(height), np.linspace(0.5, 6.0, 40), np.linspace(0.7, 2.2, 40))


@pytest.mark.slow
def test_scales_of_groups_are_those_of_quadrature():
    data = groups(rows=60)
    means, sds = mixed_by_grid(data)
    found = fit(zoo.HierarchicalRegression(slopes=False), data, method=NUTS(draws=2000), seed=0, progress=False)
    summary = found.summary().loc[["between", "noise"]]
    assert found.verdict.startswith("trust")
    errors = np.hypot(summary["mcse_mean"], 0.01 * np.array(sds))  # of the grid
    np.testing.assert_array_less(np.abs(summary["mean"] - means), 4 * errors)
    np.testing.assert_allclose(summary["sd"], sds, rtol=0.1)


@pytest.mark.slow
def test_groups_have_their_labels_and_new_rows_may_show_few_of_them_or_others():
    data = groups(number=4, rows=40)
    found = fit(zoo.HierarchicalRegression(slopes=False), data, method="pathfinder", seed=0, progress=False)
    assert "intercepts[school 2]" in found.summary().index
    one = data[data["group"] == "school 2"].head(3)
    np.testing.assert_allclose(found.log_prob(one, samples=200), found.log_prob(samples=200)[one.index], rtol=1e-9)
    level = found.summary()["mean"]["intercepts[school 2]"]
    at_mean = one.assign(x=data["x"].mean()).drop(columns="y")
    drawn = found.predict(at_mean, draws=500, seed=0).posterior_predictive["y"]
    error = float(drawn.std()) / np.sqrt(500)
    assert abs(float(drawn[..., 0].mean()) - level) < 5 * error
    # of a group that is new its prior is known alone, whose spread is that of groups
    assert np.isfinite(found.log_prob(one.assign(group="school 9"), samples=200)).all()
    strange = found.predict(at_mean.assign(group="school 9"), draws=500, seed=0).posterior_predictive["y"]
    assert float(strange.std()) > float(drawn.std())


X = np.array(EVENTS["x"])
WRONG = {
    "constant column": (zoo.LogisticRegression(), {"x": [[1.0], [1.0]], "y": [0, 1]}, "column 0 is constant"),
    "words for answers": (zoo.LogisticRegression(), {"x": [[1.0], [2.0]], "y": ["no", "yes"]}, "'y': expected numbers"),
    "numbers for answers": (zoo.LogisticRegression(), {"x": [[1.0], [2.0]], "y": [1, 2]}, "'y' .*0 or 1, found 2"),
    "huge predictors": (zoo.LogisticRegression(), {"x": [[1e200], [0.0]], "y": [0, 1]}, "column 0.*too large"),
    "shares for counts": (zoo.PoissonRegression(), {**EVENTS, "y": [0.5, 1, 2, 3, 4]}, "'y' .*whole number.*0.5"),
    "no exposure": (zoo.PoissonRegression(), {**EVENTS, "exposure": [0, 1, 1, 1, 1]}, "'exposure' .*above 0, found 0"),
    "tiny exposure": (zoo.PoissonRegression(), {**EVENTS, "exposure": [1e-200] * 5}, "'exposure'.*1e-200.*other units"),
    "one group": (
        zoo.HierarchicalRegression(),
        {"x": X[:, :1], "group": ["a"] * 5, "y": X[:, 1]},
        "'group': expected at least 2 groups, found 1 in 5 rows; use BayesianRegression",
    ),
    "no variation": (
        zoo.HierarchicalRegression(),
        {"x": X[:, :1], "group": [0, 0, 1, 1, 1], "y": np.ones(5)},
        "'y': .*found 1 5 times",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_data_that_cannot_be_fitted_are_refused(what):
    model, data, message = WRONG[what]
    with pytest.raises(zoo.DataError, match=message):
        prepare(model, data)


def test_defaults_are_what_a_field_can_hold_and_of_vectors():
    with pytest.raises(zoo.ModelError, match="only a field of one dimension has a default, found 2"):
        zoo.Real("row", "feature", default=1.0)
    with pytest.raises(zoo.ModelError, match=r"Positive\(default=-1.0\): expected a number above 0"):
        zoo.Positive("row", default=-1.0)
    assert repr(zoo.Positive("row", default=1.0)) == "Positive('row', default=1.0)"
