"""EM: maxima that others found, invariants of every step, models the library has never seen, and data that go wrong."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import torch
from scipy import stats
from scipy.special import logsumexp
from torch import distributions as td

import zoo
from inference import EM, fit
from inference.coordinate.convergence import to_limit
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    BernoulliMixture,
    EightSchools,
    LatentClass,
    LinearFactors,
    PoissonMixture,
    RegressionMixture,
    StudentMixture,
    SumMixture,
    TrilMixture,
    coin,
)
from tests.cases.spread import spread
from zoo import catalogue
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

COVARIANCES = ("full", "tied", "diag", "spherical")
TOLERANCE = EM().tolerance  # nats from the limit at which EM may stop


def values_of(found):
    """The point estimate as NumPy arrays."""
    return {n: v.to_numpy() for n, v in found.posterior["point_estimate"].data_vars.items()}


def covariance_matrices(found):
    """Covariances of a GMM, (components, features, features), whatever its covariance type."""
    point = values_of(found)
    given, (k, d) = point["covariances"], point["means"].shape
    return {
        "full": lambda: given,
        "tied": lambda: np.broadcast_to(given, (k, d, d)),
        "diag": lambda: np.stack([np.diag(v) for v in given]),
        "spherical": lambda: given[:, None, None] * np.eye(d),
    }[found.model.covariance]()


def gaussian_mixture_log_density(x, weights, means, covariances):
    """Log density of each row, by SciPy."""
    parts = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(weights, means, covariances, strict=True)
    ]
    return logsumexp(parts, axis=0)


def never_falls(found):
    """Whether no step lowers the objective by more than rounding."""
    values = found.trace["value"].to_numpy()
    return bool((np.diff(values) >= -1e-9 * np.abs(values[1:])).all())


def lines(n=300, seed=0):
    """Points on y = 1 + 2 x (40 %, noise 0.3) and y = -1 - 0.5 x (60 %, noise 0.5)."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-3, 3, n)
    steep = rng.random(n) < 0.4
    noise = rng.normal(size=n) * np.where(steep, 0.3, 0.5)
    return {"x": x, "y": np.where(steep, 1 + 2 * x, -1 - 0.5 * x) + noise}


def heavy_tails(n=400, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.4, -3 + 0.5 * rng.standard_t(4, n), 2 + rng.standard_t(4, n))


def profiles(n=400, seed=0):
    """Rows of six bits from two profiles, and which."""
    rng = np.random.default_rng(seed)
    which = rng.random(n) < 0.3
    p = np.where(which[:, None], [0.9, 0.9, 0.9, 0.1, 0.1, 0.1], [0.1, 0.2, 0.1, 0.8, 0.9, 0.8])
    return (rng.random((n, 6)) < p).astype(float), which


# -- known maxima ------------------------------------------------------------------------------------------------------


@spread("seed", range(20), part=0, of=4)
def test_old_faithful_has_the_known_maximum_from_every_start(seed, faithful):
    found = fit(zoo.GMM(components=2), faithful, method="em", seed=seed)
    assert found.objective.kind == "log_likelihood"
    assert found.objective.value == pytest.approx(-1130.26396, abs=1e-4)  # mclust 6.0.0 and scikit-learn 1.9.1
    assert found.converged
    assert found.warnings == []


@pytest.mark.parametrize("components", [1, 2, 3])
@spread("covariance", COVARIANCES, part=0, of=2)
def test_published_maxima_are_reached_or_bettered(covariance, components, faithful, reference):
    known = reference("mixture_fits.json")[f"gmm_faithful_{covariance}_{components}"]
    model = zoo.GMM(components=components, covariance=covariance)
    found = fit(model, faithful, method=EM(restarts=5 if components > 2 else 1), seed=0)
    point = values_of(found)
    assert found.objective.value >= known["loglik"] - 1e-4
    # What it says it reached is what it reached, and no likelihood that grows without bound.
    density = gaussian_mixture_log_density(
        faithful.to_numpy(), point["weights"], point["means"], covariance_matrices(found)
    )
    assert found.objective.value == pytest.approx(density.sum(), abs=1e-8)
    assert (point["weights"] * len(faithful) > 5).all()
    if found.objective.value < known["loglik"] + 1e-3:  # the same maximum: the same parameters, in some order
        by, known_by = (np.argsort(np.asarray(m)[:, 0]) for m in (point["means"], known["means"]))
        # Within 1e-3 nats of the maximum parameters differ by a small part of their standard errors: that of a mean is
        # at least its component's standard deviation over sqrt(272).
        scale = np.sqrt(np.diagonal(covariance_matrices(found), axis1=1, axis2=2))[by] / np.sqrt(272)
        assert (np.abs(point["means"][by] - np.asarray(known["means"])[known_by]) < 0.1 * scale).all()
        np.testing.assert_allclose(point["weights"][by], np.asarray(known["weights"])[known_by], atol=0.1 * 0.5 / 16.5)


def test_galaxies_have_the_known_maximum(reference):
    known = reference("mixture_fits.json")["gmm_galaxies_corrected_3"]
    velocity = zoo.datasets.load("galaxies") / 1000
    found = fit(zoo.GMM(components=3), velocity, method=EM(restarts=5), seed=0)
    point = values_of(found)
    assert found.objective.value >= known["loglik"] - 1e-4
    if found.objective.value < known["loglik"] + 1e-3:
        by = np.argsort(point["means"][:, 0])
        np.testing.assert_allclose(point["means"][by, 0], known["means"], atol=1e-2)
        np.testing.assert_allclose(np.sqrt(point["covariances"][by, 0, 0]), known["sd"], atol=1e-2)


# Zucchini and MacDonald (2009), table 3.1
@pytest.mark.parametrize(("components", "loss"), [(1, 391.9189), (2, 360.3690), (3, 356.8489)])
def test_a_mixture_of_poissons_reaches_its_published_maximum(components, loss, reference):
    counts = reference("data/earthquakes.json")["counts"]
    found = fit(PoissonMixture(components=components), counts, method=EM(restarts=3), seed=0)
    assert -found.objective.value == pytest.approx(loss, abs=1e-3)
    assert found.converged
    assert never_falls(found)


# K = 3 as printed in the manual of poLCA (Linzer and Lewis 2011); K = 2 and 4 by the same program
@pytest.mark.parametrize(("components", "log_likelihood"), [(2, -317.256837), (3, -293.704979)])
def test_latent_classes_reach_their_published_maximum(components, log_likelihood, references):
    ratings = pd.read_csv(references / "data" / "lca_carcinoma.csv") - 1
    found = fit(LatentClass(components=components), ratings, method=EM(restarts=6), seed=0)
    assert found.objective.value == pytest.approx(log_likelihood, abs=1e-4)  # some probabilities are 0 and 1
    assert never_falls(found)


# -- models the library has never seen ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_mixture_of_bernoullis_recovers_its_profiles():
    x, which = profiles()
    found = fit(BernoulliMixture(), x, method=EM(restarts=3), seed=0)
    point = values_of(found)
    minority = int(np.argmin(point["weights"]))
    assert (found.assign()[minority].to_numpy().round() == which).mean() > 0.98  # nearly separable: see `profiles`
    # Given the classes the modes are closed-form; misclassified rows move them by less than a standard error.
    for k, rows in ((minority, x[which]), (1 - minority, x[~which])):
        mode = (rows.sum(0) + 0.5) / (len(rows) + 1)
        assert (np.abs(point["p"][k] - mode) < np.sqrt(0.25 / len(rows))).all()
    # log posterior = log likelihood + log Dirichlet(1, 1) + sum of log Beta(1.5, 1.5), every constant kept
    logits = x @ np.log(point["p"]).T + (1 - x) @ np.log1p(-point["p"]).T + np.log(point["weights"])
    prior = stats.beta(1.5, 1.5).logpdf(point["p"]).sum() + stats.dirichlet([1, 1]).logpdf(point["weights"])
    assert found.objective.kind == "log_posterior"
    assert found.objective.value == pytest.approx(logsumexp(logits, axis=1).sum() + prior, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_mixture_of_lines_recovers_them(seed):
    data = lines(seed=seed)
    found = fit(RegressionMixture(), data, method=EM(restarts=2), seed=seed)
    point = values_of(found)
    order = np.argsort(-point["slope"])
    fitted = {n: point[n][order] for n in ("weights", "intercept", "slope", "noise")}
    true = {"weights": [0.4, 0.6], "intercept": [1, -1], "slope": [2, -0.5], "noise": [0.3, 0.5]}
    n = len(data["x"]) * np.array(true["weights"])
    errors = {  # standard errors with known components; overlap adds to them
        "weights": np.sqrt(0.24 / len(data["x"])),
        "intercept": true["noise"] / np.sqrt(n),
        "slope": true["noise"] / np.sqrt(3 * n),
        "noise": true["noise"] / np.sqrt(2 * n),
    }
    for name, values in true.items():
        assert (np.abs(fitted[name] - values) < 5 * errors[name]).all(), name
    at_truth = sum(
        w * stats.norm(a + b * data["x"], s).pdf(data["y"]) for w, a, b, s in zip(*true.values(), strict=True)
    )
    assert found.objective.value >= np.log(at_truth).sum()
    assert never_falls(found)


# -- generalized EM ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_student_mixture_is_at_a_maximum():
    x = heavy_tails()
    found = fit(StudentMixture(), x, method="em", seed=0)
    point = values_of(found)

    def loss(u):
        weights = np.array([1 / (1 + np.exp(-u[0])), 1 / (1 + np.exp(u[0]))])
        parts = [np.log(weights[k]) + stats.t(4, u[1 + k], np.exp(u[3 + k])).logpdf(x) for k in range(2)]
        return -logsumexp(parts, axis=0).sum()

    start = np.r_[np.log(point["weights"][0] / point["weights"][1]), point["loc"], np.log(point["scale"])]
    assert -loss(start) == pytest.approx(found.objective.value, abs=1e-8)
    assert -scipy.optimize.minimize(loss, start).fun <= found.objective.value + 1e-4
    assert found.converged
    assert never_falls(found)
    # Standard errors of a location: scale * sqrt((df + 3) / (df + 1) / n) with 160 and 240 rows.
    np.testing.assert_allclose(np.sort(point["loc"]), [-3, 2], atol=5 * 1.2 / np.sqrt(160))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_cholesky_factors_reach_what_covariances_reach(seed, faithful):
    """Declared parameter values are far off (unit factors, a mean below any row), so the first step goes far."""
    found = fit(TrilMixture(), faithful, method="em", seed=seed)
    assert found.objective.value == pytest.approx(-1130.26396, abs=1e-3)
    assert found.converged
    assert never_falls(found)
    factor = values_of(found)["factor"]
    assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
    np.testing.assert_array_equal(np.triu(factor, 1), 0)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["standardized", "raw"])
def test_a_covariance_that_is_a_sum_beats_the_tied_one(unit, faithful):
    data = (faithful - faithful.mean()) / faithful.std() if unit == "standardized" else faithful
    found = fit(SumMixture(), data, method="em", seed=0)
    point = values_of(found)
    assert never_falls(found)
    np.testing.assert_array_equal(point["shared"], point["shared"].T)
    assert np.linalg.eigvalsh(point["shared"]).min() > 0
    assert (point["noise"] > 0).all()
    # With both noises at 0 it is the tied mixture, so its maximum is no lower.
    tied = fit(zoo.GMM(components=2, covariance="tied"), data, method="em", seed=0)
    assert found.objective.value >= tied.objective.value - 1e-3


@pytest.mark.slow
def test_a_positive_definite_parameter_has_a_floor():
    """All rows on one line: the likelihood has no maximum, but covariances stay positive definite and finite."""
    rng = np.random.default_rng(0)
    t = np.r_[rng.normal(-4, 1, 30), rng.normal(4, 1, 30)]
    found = fit(SumMixture(), np.stack([t, t], 1), method=EM(max_steps=60), seed=0)
    point = values_of(found)
    assert np.linalg.eigvalsh(point["shared"]).min() > 0
    assert np.isfinite(found.trace["value"]).all()
    assert never_falls(found)


# -- MAP-EM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_map_em_ends_where_a_numeric_maximization_ends(covariance, faithful):
    """Maximize the log posterior, written out with torch.distributions, by L-BFGS from the same start."""
    model = zoo.BayesianGMM(components=2, covariance=covariance)
    x = torch.as_tensor(faithful.to_numpy())
    center, spread = x.mean(0), x.var(0, correction=0) / 2

    def log_posterior(weights, means, precisions):
        total = td.Dirichlet(torch.ones(2).double()).log_prob(weights)
        if covariance == "full":
            prior = td.Wishart(torch.tensor(4.0).double(), torch.diag(1 / spread))  # df - d - 1 = 1
            total = total + prior.log_prob(precisions).sum()
            total = total + td.MultivariateNormal(center, precision_matrix=0.01 * precisions).log_prob(means).sum()
            rows = td.MultivariateNormal(means, precision_matrix=precisions).log_prob(x[:, None])
        else:
            total = total + td.Gamma(1.5, 0.5 * spread).log_prob(precisions).sum()
            total = total + td.Normal(center, (0.01 * precisions).rsqrt()).log_prob(means).sum()
            rows = td.Normal(means, precisions.rsqrt()).log_prob(x[:, None]).sum(-1)
        return total + (weights.log() + rows).logsumexp(1).sum()

    with torch.random.fork_rng():
        reseed(0)
        begin = prepare(model, faithful).initial()
    scale = spread.sqrt()

    def unpack(u):
        weights = torch.softmax(torch.stack([u[0], -u[0]]), 0)
        means = center + scale * u[1:5].reshape(2, 2)
        if covariance == "diag":
            return weights, means, u[5:9].reshape(2, 2).exp() / spread
        lower = torch.stack(
            [torch.stack([torch.stack([a.exp(), 0 * a]), torch.stack([b, c.exp()])]) for a, b, c in u[5:].reshape(2, 3)]
        )
        return weights, means, (lower @ lower.mT) / (scale[:, None] * scale)

    parts = [0.5 * (begin["weights"][:1] / begin["weights"][1:]).log(), ((begin["means"] - center) / scale).reshape(-1)]
    if covariance == "diag":
        parts.append((begin["precisions"] * spread).log().reshape(-1))
    else:
        lower = torch.linalg.cholesky(begin["precisions"] * scale[:, None] * scale)
        parts.append(torch.stack([lower[:, 0, 0].log(), lower[:, 1, 0], lower[:, 1, 1].log()], 1).reshape(-1))
    start = torch.cat(parts)
    np.testing.assert_allclose(unpack(start)[2], begin["precisions"], rtol=1e-9)

    def loss(u):
        at = torch.as_tensor(u).requires_grad_()
        value = -log_posterior(*unpack(at))
        value.backward()
        return float(value.detach()), at.grad.numpy()

    best = scipy.optimize.minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options={"ftol": 1e-15})
    found = fit(model, faithful, method=EM(tolerance=1e-9), seed=0)
    assert found.objective.kind == "log_posterior"
    assert found.objective.value == pytest.approx(-best.fun, abs=1e-6)
    point = {n: torch.as_tensor(v) for n, v in values_of(found).items()}
    assert float(log_posterior(**point)) == pytest.approx(found.objective.value, abs=1e-8)
    for ours, theirs in zip(
        (point["weights"], point["means"], point["precisions"]), unpack(torch.as_tensor(best.x)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)  # 1e-6 nats are 1e-3 standard errors


# -- every step --------------------------------------------------------------------------------------------------------

STEPPED = {
    **{f"gmm-{c}": (zoo.GMM(components=3, covariance=c), "faithful") for c in COVARIANCES},
    **{f"bayesian-{c}": (zoo.BayesianGMM(components=3, covariance=c), "faithful") for c in ("full", "diag")},
    "poisson": (PoissonMixture(components=2), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 19, 17, 23, 18, 14]),
    "bernoulli": (BernoulliMixture(), profiles(60)[0]),
    "lines": (RegressionMixture(), lines(60)),
    "student": (StudentMixture(), heavy_tails(60)),
    "cholesky": (TrilMixture(), "faithful"),
}


@spread("name", STEPPED, part=0, of=2)
def test_one_step_at_a_time_never_falls_and_is_the_trace(name):
    model, data = STEPPED[name]
    whole = fit(model, data, method=EM(max_steps=6), seed=1)
    for steps in (1, 2, 5):
        shorter = fit(model, data, method=EM(max_steps=steps), seed=1).objective.value
        assert whole.trace["value"].iloc[min(steps, whole.steps)] == shorter
    assert never_falls(whole)
    assert whole.trace["step"].tolist() == list(range(whole.steps + 1))


@spread("name", STEPPED, part=1, of=2)
def test_no_step_falls_until_the_end(name):
    model, data = STEPPED[name]
    found = fit(model, data, method=EM(max_steps=60), seed=2)
    assert never_falls(found)
    assert found.trace["value"].iloc[-1] == found.objective.value


@pytest.mark.slow
def test_restarts_keep_the_best_end(faithful):
    model = zoo.GMM(components=4, covariance="diag")
    methods = [EM(restarts=n, max_steps=40, acceleration=None) for n in range(1, 6)]  # the same steps in all of them
    ends = [fit(model, faithful, method=method, seed=3).objective.value for method in methods]
    assert ends == sorted(ends)
    assert ends[-1] > ends[0]  # several maxima: one start is not enough here


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([0.0, 1.0], False),  # too short to tell a rate
        ([-16.0, -8.0, -4.0], False),  # limit 0: 4 nats away
        ([-4e-7, -2e-7, -1e-7], True),
        ([-4e-5, -2e-5, -1e-5], False),
        ([0.0, 1e-7, 2e-7], False),  # small but steady steps: no limit in sight
        ([5.0, 5.0, 5.0], True),
    ],
)
def test_arrival_is_judged_by_the_limit_and_not_by_the_step(history, expected):
    assert (to_limit(history, 2.2e-16) < 1e-6) is expected


def test_stopping_within_tolerance_is_meant(faithful):
    """The slowest of these fits creeps: its steps fall below any tolerance long before its limit is that near."""
    model = zoo.GMM(components=3, covariance="tied")
    far = fit(model, faithful, method=EM(tolerance=1e-2), seed=0)
    near = fit(model, faithful, method=EM(tolerance=1e-9, max_steps=5000), seed=0)
    assert near.converged
    assert 0 <= near.objective.value - far.objective.value < 2e-2  # extrapolation is no bound; twice it is generous


@pytest.mark.parametrize(
    ("method", "converged", "said"),
    [
        (EM(tolerance=0, max_steps=200), True, "took all 200 steps, as tolerance=0 asks; the objective stands still"),
        (EM(tolerance=0, max_steps=3), False, "took all 3 steps, .*; the last one still changed the objective by"),
        (EM(tolerance=0, max_steps=20, hard=True), True, "took all 20 steps, .*; the objective stands still"),
        (EM(tolerance=0, max_steps=1), False, "took all 1 steps, .* changed the objective by"),
        (EM(tolerance=0, max_steps=12, batch_size=50), None, "took all 12 passes, as tolerance=0 asks"),
        (EM(tolerance=0, max_steps=30, restarts=3), None, "took all 30 steps, as tolerance=0 asks"),
    ],
    ids=repr,
)
def test_without_tolerance_all_steps_are_taken(method, converged, said, faithful):
    found = fit(zoo.GMM(components=2), faithful, method=method, seed=0)
    assert found.steps == method.max_steps
    assert found.trace["step"].max() == method.max_steps + (method.batch_size is not None)
    assert re.search(said, found.reason)
    assert converged in (None, found.converged)
    assert found.warnings == ([] if found.converged else [found.reason])


# -- one component, other units, weights -------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_component_is_a_normal(covariance, faithful):
    found = fit(zoo.GMM(components=1, covariance=covariance), faithful, method="em", seed=0)
    x = faithful.to_numpy()
    cov = np.cov(x.T, bias=True)
    expected = {
        "full": cov,
        "tied": cov,
        "diag": np.diag(np.diag(cov)),
        "spherical": np.eye(2) * np.diag(cov).mean(),
    }[covariance]
    point = values_of(found)
    np.testing.assert_allclose(point["means"][0], x.mean(0), rtol=1e-10)
    np.testing.assert_allclose(covariance_matrices(found)[0], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_array_equal(point["weights"], [1.0])
    np.testing.assert_array_equal(found.assign().to_numpy(), 1.0)
    assert found.objective.value == pytest.approx(
        stats.multivariate_normal(x.mean(0), expected).logpdf(x).sum(), abs=1e-8
    )


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_one_component_with_priors_is_the_conjugate_mode(covariance, faithful):
    found = fit(zoo.BayesianGMM(components=1, covariance=covariance), faithful, method=EM(tolerance=1e-10), seed=0)
    x = faithful.to_numpy()
    n, mean, point = len(x), x.mean(0), values_of(found)
    scatter = (x - mean).T @ (x - mean)  # the prior's centre is the mean, so it does not shift
    np.testing.assert_allclose(point["means"][0], mean, rtol=1e-10)
    if covariance == "full":  # Wishart(4 + n, .) with one more half power from the joint mode over the mean
        mode = (4 - 3 + n + 1) * np.linalg.inv(np.diag(x.var(0)) + scatter)
    else:
        mode = (1.5 - 1 + 0.5 * (n + 1)) / (0.5 * x.var(0) + 0.5 * np.diag(scatter))
    np.testing.assert_allclose(point["precisions"][0], mode, rtol=1e-8)


def test_one_component_without_closed_form():
    x = heavy_tails(100)
    found = fit(StudentMixture(components=1), x, method="em", seed=0)

    def loss(u):
        return -stats.t(4, u[0], np.exp(u[1])).logpdf(x).sum()

    assert found.objective.value == pytest.approx(-scipy.optimize.minimize(loss, [0.0, 0.0]).fun, abs=1e-5)


UNSCALED = [zoo.GMM(components=2, covariance=c) for c in ("full", "tied", "diag")]
UNSCALED += [zoo.BayesianGMM(components=2, covariance=c) for c in ("full", "diag")]


UNITS = {
    "stretched": ((1e6, 1e-6), 0.0),
    "squeezed": ((1e-6, 1e6), 0.0),
    "far": ((1.0, 1.0), 1e6),
    "large": ((1e6, 1e6), -1e6),
}


@spread(("model", "units"), list(itertools.product(UNSCALED, UNITS)), part=0, ids=str)
def test_units_do_not_matter(model, units, faithful):
    factor, offset = UNITS[units]
    plain = fit(model, faithful, method="em", seed=0)
    moved = fit(model, faithful * np.array(factor) + offset, method="em", seed=0)
    np.testing.assert_allclose(moved.assign(), plain.assign(), atol=1e-6)
    # A density of x changes by -log of the factor for every row, one of a mean likewise, and one of a precision by the
    # inverse of that squared (a matrix: to the power d + 1, by column), for each of the two components.
    jacobian = -len(faithful) * np.log(factor).sum()
    if isinstance(model, zoo.BayesianGMM):
        power = 2 + (1 if model.covariance == "full" else 0)
        jacobian += 2 * (power - 1) * np.log(factor).sum()
    assert moved.objective.value - plain.objective.value == pytest.approx(jacobian, abs=1e-5)


def test_spherical_units_are_shared_by_all_columns(faithful):
    model = zoo.GMM(components=2, covariance="spherical")
    plain, moved = (fit(model, faithful * f + o, method="em", seed=0) for f, o in ((1, 0), (1e6, 1e6)))
    np.testing.assert_allclose(moved.assign(), plain.assign(), atol=1e-6)


@pytest.mark.slow
@spread(
    ("model", "data"),
    [
        *((zoo.GMM(components=2, covariance=c), "faithful") for c in COVARIANCES),
        *((zoo.BayesianGMM(components=2, covariance=c), "faithful") for c in ("full", "diag")),
        (TrilMixture(), "faithful"),
        (BernoulliMixture(), pd.DataFrame(profiles(80)[0])),
        (RegressionMixture(), pd.DataFrame(lines(80))),
        (PoissonMixture(), pd.DataFrame({"count": [0, 3, 1, 9, 11, 2, 8, 1, 0, 12, 2, 2, 10, 7]})),
    ],
    part=1,
    of=2,
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_a_weight_repeats_a_row_and_zero_drops_it(model, data):
    table = zoo.datasets.load(data) if isinstance(data, str) else data
    method = EM(tolerance=1e-10, max_steps=3000)
    doubled = fit(model, table, method=method, seed=0, weights=np.full(len(table), 2.0))
    repeated = fit(model, pd.concat([table, table], ignore_index=True), method=method, seed=0)
    assert doubled.converged
    assert repeated.converged
    assert doubled.objective.value == pytest.approx(repeated.objective.value, rel=1e-8)
    keep = np.arange(len(table)) % 3 > 0
    dropped = fit(model, table, method=method, seed=0, weights=keep.astype(float))
    left_out = fit(model, table[keep], method=method, seed=0)
    assert dropped.objective.value == left_out.objective.value  # the very same rows: the very same steps
    assert list(dropped.log_prob().index) == list(table.index[keep])


# -- what goes wrong ---------------------------------------------------------------------------------------------------

DUPLICATES = np.r_[np.random.default_rng(0).normal(size=(20, 2)), np.repeat([[0.3, 0.2]], 6, axis=0)]


@pytest.mark.parametrize("components", [3, 6, pytest.param(8, marks=pytest.mark.slow)])
@spread("covariance", COVARIANCES, part=1, of=2)
def test_components_that_close_in_on_a_point_stay_finite(covariance, components):
    found = fit(zoo.GMM(components=components, covariance=covariance), DUPLICATES, method=EM(restarts=6), seed=0)
    assert np.isfinite(found.objective.value)
    assert np.isfinite(found.trace["value"]).all()
    assert all(np.isfinite(v).all() for v in values_of(found).values())
    assert np.linalg.eigvalsh(covariance_matrices(found)).min() > 0
    np.testing.assert_allclose(found.assign().sum(axis=1), 1)
    assert np.isfinite(found.log_prob(np.array([[0.3, 0.2], [100.0, -100.0]]))).all()
    assert never_falls(found)


@pytest.mark.parametrize("components", [3, 6, pytest.param(8, marks=pytest.mark.slow)])
@spread("covariance", COVARIANCES, part=0, of=2)
def test_a_component_on_one_point_is_warned_about(covariance, components):
    found = fit(zoo.GMM(components=components, covariance=covariance), DUPLICATES, method=EM(restarts=6), seed=0)
    smallest = np.linalg.eigvalsh(covariance_matrices(found)).min()
    if components > 3:  # several components for 21 distinct rows: some hold next to none
        assert any("rows in effect" in w for w in found.warnings)
    if smallest < 1e-4 * DUPLICATES.var():  # its likelihood says nothing but how small a variance may be
        assert any("component" in w for w in found.warnings)


def test_priors_rule_collapse_out():
    found = fit(zoo.BayesianGMM(components=6), DUPLICATES, method=EM(restarts=3), seed=0)
    covariances = np.linalg.inv(values_of(found)["precisions"])
    assert np.linalg.eigvalsh(covariances).min() > 1e-3 * DUPLICATES.var()


def test_as_many_components_as_rows():
    found = fit(zoo.GMM(components=4), DUPLICATES[:4], method="em", seed=0)
    assert np.isfinite(found.objective.value)
    assert any(w.startswith("components 0, 1, 2 and 3 have collapsed") for w in found.warnings)
    assert not found.log_prob().isna().any()


def test_a_far_outlier_makes_no_nan(faithful):
    data = pd.concat([faithful, pd.DataFrame({"eruptions": [1e8], "waiting": [-1e8]})], ignore_index=True)
    found = fit(zoo.GMM(components=2), data, method="em", seed=0)
    assert np.isfinite(found.trace["value"]).all()
    assert not found.assign().isna().any(axis=None)
    assert any("rows in effect" in w for w in found.warnings)


@pytest.mark.parametrize("model", [zoo.GMM(components=3), zoo.BayesianGMM(components=3), TrilMixture(components=3)])
def test_not_converged_is_said(model, faithful):
    found = fit(model, faithful, method=EM(max_steps=3), seed=0)
    assert not found.converged
    assert found.steps == 3
    assert "max_steps=3" in found.reason
    assert found.reason in found.warnings
    assert "NOT converged" in repr(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "reason"),
    [
        (EightSchools, SCHOOLS, "'tau' has no closed-form update"),
        (coin, FLIPS, "nothing to enumerate"),
        (LinearFactors, np.zeros((3, 4)), "no parameter to estimate"),
    ],
)
def test_without_discrete_latents_it_says_why_not_and_names_what_works(model, data, reason):
    with pytest.raises(zoo.MethodError, match=reason) as caught:
        fit(model, data, method="em")
    assert "svi" in str(caught.value)
    assert reason in zoo.explain(model, data)
    legal = str(caught.value).rpartition("Legal here: ")[2].rstrip(".").split(", ")
    assert legal
    brief = {"svi": {"steps": 20}, "map": {"steps": 20}, "nuts": {"chains": 1, "warmup": 20, "draws": 20}}
    for name in legal:
        method = catalogue.find("method", name)(**brief.get(name, {}))
        assert np.isfinite(fit(model, data, method=method, seed=0).objective.value)
