"""Every member of a fit, for every method, on models that suit it."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray as xr
from scipy import integrate, stats

import zoo
from guides import Encoder
from inference import EM, MAP, SVI, Exact, Fit, Method, fit
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    BernoulliMixture,
    Colours,
    EightSchools,
    NonCentred,
    PoissonMixture,
    Rate,
    RegressionMixture,
    coin,
)
from tests.cases.spread import spread

RNG = np.random.default_rng(11)
GEYSER = zoo.datasets.load("faithful").iloc[:60]
SCHOOL_TABLE = pd.DataFrame(SCHOOLS, index=pd.Index(list("ABCDEFGH"), name="who"))
COUNTS = pd.DataFrame({"count": np.r_[RNG.poisson(3, 40), RNG.poisson(15, 40)]}, index=pd.RangeIndex(1900, 1980))
LINES = pd.DataFrame({"x": np.linspace(-3, 3, 60)})
LINES["y"] = np.where(np.arange(60) % 2, 5 + 2 * LINES["x"], -5 - LINES["x"]) + RNG.normal(0, 0.5, 60)
PROFILES = pd.DataFrame(RNG.random((60, 4)) < np.where(np.arange(60) % 2, 0.9, 0.2)[:, None], columns=list("pqrs"))
PIXELS = (RNG.random((40, 5)) < 0.4).astype(float)
LABELS = pd.DataFrame({"colour": list("rgbrrgrrbr")})
BRIEF = SVI(steps=50)

CASES = {
    "coin-exact": (coin(a=2.0), FLIPS, "exact"),
    "zeros-and-ones-exact": (zoo.BetaBernoulli(), FLIPS, "exact"),
    "rate-exact": (Rate, COUNTS.rename_axis("day"), "exact"),
    "labels-exact": (Colours, LABELS, "exact"),
    "gmm-em": (zoo.GMM(components=2), GEYSER, "em"),
    "gmm-tied-em": (zoo.GMM(components=2, covariance="tied"), GEYSER, EM(restarts=2)),
    "bayesian-em": (zoo.BayesianGMM(components=2), GEYSER, "em"),
    "counts-em": (PoissonMixture, COUNTS, "em"),
    "profiles-em": (BernoulliMixture, PROFILES, "em"),
    "lines-em": (RegressionMixture, LINES, EM(restarts=2)),
    "coin-svi": (coin, FLIPS, BRIEF),
    "schools-svi": (EightSchools, SCHOOL_TABLE, BRIEF),
    "noncentred-svi": (NonCentred, SCHOOL_TABLE, SVI(steps=600)),
    "bayesian-svi": (zoo.BayesianGMM(components=2), GEYSER, BRIEF),
    "gmm-svi": (zoo.GMM(components=2), GEYSER, BRIEF),
    "profiles-svi": (BernoulliMixture, PROFILES, BRIEF),
    "vae-svi": (zoo.VAE(latent=2, hidden=(4,)), PIXELS, SVI(guide=Encoder(hidden=(8,)), steps=100)),
    "coin-map": (coin, FLIPS, "map"),
    "noncentred-map": (NonCentred, SCHOOL_TABLE, MAP(steps=100)),
    "bayesian-map": (zoo.BayesianGMM(components=2), GEYSER, MAP(steps=100)),
    "gmm-map": (zoo.GMM(components=2), GEYSER, MAP(steps=100)),
}
KINDS = {"exact": "log_evidence", "em": "log_likelihood", "svi": "elbo", "map": "log_posterior"}
KIND = {name: KINDS[name.rpartition("-")[2]] for name in CASES}
KIND |= dict.fromkeys(("bayesian-em", "profiles-em"), "log_posterior")  # priors: MAP-EM
KIND |= dict.fromkeys(("gmm-svi", "gmm-map"), "log_likelihood")  # parameters only: nothing to have a distribution

every = pytest.mark.parametrize("name", CASES)
DISCRETE = [n for n in CASES if n.partition("-")[0] in ("gmm", "bayesian", "counts", "profiles", "lines")]
POINTS = [n for n in CASES if KIND[n] in ("log_likelihood", "log_posterior")]
SAMPLED = [n for n in CASES if n not in POINTS]


@cache
def fitted(name: str) -> Fit:
    model, data, method = CASES[name]
    return fit(model, data, method=method, seed=3, progress=False)


def rows_of(name: str) -> int:
    return len(CASES[name][1])


def point(name: str) -> dict[str, np.ndarray]:
    return {n: v.to_numpy() for n, v in fitted(name).posterior["point_estimate"].data_vars.items()}


def chain(name: str) -> dict[str, np.ndarray]:
    return {n: v.isel(chain=0).to_numpy() for n, v in fitted(name).posterior["posterior"].data_vars.items()}


def within(value, expected, error, z: float = 5.0) -> bool:
    """A z-test; the error must be one that could tell a wrong value from a right one."""
    assert np.all(np.asarray(error) > 0)
    return bool((np.abs(np.asarray(value) - expected) <= z * np.asarray(error)).all())


# -- what every fit has ----------------------------------------------------------------------------------------


@every
def test_objective_has_a_value_and_a_kind(name):
    objective = fitted(name).objective
    assert isinstance(objective.value, float)
    assert math.isfinite(objective.value)
    assert objective.kind == KIND[name]
    assert (objective.error > 0) == (objective.kind == "elbo")


@every
def test_trace_is_a_table_of_steps(name):
    found = fitted(name)
    assert list(found.trace.columns) == ["step", "seconds", "value"]
    assert len(found.trace) >= 1
    assert found.trace["step"].is_monotonic_increasing
    assert found.trace["step"].is_unique
    assert found.trace["seconds"].is_monotonic_increasing
    assert found.trace["step"].max() <= found.steps
    assert np.isfinite(found.trace["value"]).all()


@every
def test_convergence_is_never_silent(name):
    found = fitted(name)
    assert isinstance(found.converged, bool)
    assert found.reason
    assert isinstance(found.warnings, list)
    assert all(isinstance(w, str) and w for w in found.warnings)
    if not found.converged:
        assert any(found.reason in w for w in found.warnings)


@pytest.mark.parametrize(
    ("model", "data", "method"),
    [
        (zoo.GMM(components=3), GEYSER, EM(max_steps=2)),
        (coin, FLIPS, SVI(steps=20)),
        (coin, FLIPS, MAP(steps=3, learning_rate=0.02)),
    ],
    ids=["em", "svi", "map"],
)
def test_stopping_short_is_said(model, data, method):
    found = fit(model, data, method=method, seed=0)
    assert not found.converged
    assert found.warnings
    assert "NOT converged" in repr(found)
    assert str(getattr(method, "max_steps", None) or method.steps) in found.reason


@every
def test_repr_says_what_was_done(name):
    found, text = fitted(name), repr(fitted(name))
    assert repr(found.model) in text
    assert type(found.method).__name__.lower() in text
    assert found.objective.kind in text
    assert f"{found.objective.value:.4f}" in text
    assert "seed 3" in text
    assert found.reason in text


@every
def test_posterior_holds_the_groups_that_exist(name):
    found = fitted(name)
    assert isinstance(found.posterior, xr.DataTree)
    assert ("posterior" in found.posterior.children) == (name in SAMPLED)
    assert found.is_point == (name in POINTS)
    assert found.posterior is found.posterior


@every
def test_summary_is_a_table(name):
    table = fitted(name).summary()
    assert type(table) is pd.DataFrame or isinstance(table, pd.DataFrame)
    if name in POINTS:
        # Standard errors may be left out, and then the note says why.
        assert list(table.columns) == (["value"] if table.attrs["note"] else ["value", "se"])
    else:
        assert list(table.columns[:2]) == ["mean", "sd"]
        values = fitted(name).posterior["posterior"].to_dataset()
        first = next(iter(values.data_vars.values())).isel(chain=0).to_numpy()
        first = first.reshape(len(first), -1)[:, 0]
        assert table["mean"].iloc[0] == pytest.approx(first.mean(), rel=1e-6)
        assert table["sd"].iloc[0] == pytest.approx(first.std(ddof=1), rel=1e-3)
    assert np.isfinite(table.astype(float)).all(axis=None)
    assert table.index.is_unique


@pytest.mark.slow
@every
def test_the_users_model_is_left_alone(name):
    given = CASES[name][0]
    if not isinstance(given, type):
        assert fitted(name).model is not given
        assert not dict(given.named_parameters())
        assert not dict(given.named_buffers())


# -- assign ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", DISCRETE)
def test_assign_gives_one_probability_per_state(name):
    found = fitted(name)
    table = found.assign()
    assert len(table) == rows_of(name)
    assert table.index.equals(CASES[name][1].index)
    assert table.shape[1] == found.model.components
    assert table.columns.name == "z"
    assert (table >= 0).all(axis=None)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.slow
@spread(("rows", "name"), list(itertools.product([1, 7, 1500], DISCRETE)), part=0)
def test_assign_takes_any_number_of_new_rows(name, rows):
    data = CASES[name][1]
    new = data.iloc[np.arange(rows) % len(data)].set_axis(pd.RangeIndex(rows) + 5)
    table = fitted(name).assign(new)
    assert table.index.equals(new.index)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("name", ["gmm-em", "counts-em", "bayesian-map"])
def test_assign_takes_a_hundred_thousand_rows(name):
    data = CASES[name][1]
    new = data.iloc[np.arange(100_000) % len(data)].reset_index(drop=True)
    table = fitted(name).assign(new)
    assert table.shape == (100_000, 2)
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(table.iloc[-1], table.iloc[(100_000 - 1) % len(data)])


@pytest.mark.parametrize("name", DISCRETE)
def test_a_row_is_assigned_the_same_alone_or_among_others(name):
    new = CASES[name][1].iloc[10:20]
    together = fitted(name).assign(new)
    alone = pd.concat([fitted(name).assign(new.iloc[[i]]) for i in range(3)])
    np.testing.assert_allclose(alone, together.iloc[:3], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", DISCRETE)
def test_assigning_the_fitted_rows_by_value_is_assigning_them(name):
    pd.testing.assert_frame_equal(fitted(name).assign(CASES[name][1].copy()), fitted(name).assign())


def gaussian_terms(x: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
    """log weight_k + log Normal(x_i | mean_k, covariance_k), shape (rows, components)."""
    covariances = at["covariances"] if "covariances" in at else np.linalg.inv(at["precisions"])
    means, weights = at["means"], at["weights"]
    if covariances.shape[0] != len(weights) or covariances.ndim == 2:
        covariances = np.broadcast_to(covariances, (len(weights), *covariances.shape[-2:]))
    return np.stack(
        [
            np.log(w) + stats.multivariate_normal(m, c).logpdf(x)
            for w, m, c in zip(weights, means, covariances, strict=True)
        ],
        -1,
    )


def poisson_terms(x: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
    return np.log(at["weights"]) + stats.poisson(at["rate"]).logpmf(x)


def profile_terms(x: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
    return np.log(at["weights"]) + stats.bernoulli(at["p"]).logpmf(x[:, None]).sum(-1)


def line_terms(rows: np.ndarray, at: dict[str, np.ndarray]) -> np.ndarray:
    x, y = rows[:, :1], rows[:, 1:]
    return np.log(at["weights"]) + stats.norm(at["intercept"] + at["slope"] * x, at["noise"]).logpdf(y)


TERMS = {
    "gmm": gaussian_terms,
    "bayesian": gaussian_terms,
    "counts": poisson_terms,
    "profiles": profile_terms,
    "lines": line_terms,
}
NEW = {
    "gmm": pd.DataFrame({"eruptions": [2.0, 4.4, 3.1, 0.5], "waiting": [55.0, 80.0, 66.0, 200.0]}),
    "counts": pd.DataFrame({"count": [0, 8, 40]}),
    "profiles": pd.DataFrame([[1, 1, 1, 0], [0, 0, 0, 0]], columns=list("pqrs")),
    "lines": pd.DataFrame({"x": [0.0, 2.0, -10.0], "y": [1.0, -30.0, 5.0]}),
}
NEW["bayesian"] = NEW["gmm"]


def terms_and_rows(name: str):
    stem = name.partition("-")[0]
    return TERMS[stem], NEW[stem]


@pytest.mark.parametrize("name", [n for n in DISCRETE if n in POINTS])
def test_assign_at_a_point_is_bayes_rule(name):
    terms, new = terms_and_rows(name)
    log_joint = terms(new.to_numpy(dtype=float), point(name))
    expected = np.exp(log_joint - np.logaddexp.reduce(log_joint, 1, keepdims=True))
    np.testing.assert_allclose(fitted(name).assign(new), expected, rtol=1e-7, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DISCRETE if n in SAMPLED])
def test_assign_with_draws_averages_bayes_rule_over_them(name):
    """Fitted rows weigh draws alike; a new row weighs each by its density there: p(z | x, data)."""
    terms, new = terms_and_rows(name)
    draws = chain(name)
    count = len(next(iter(draws.values())))

    def each(rows: pd.DataFrame) -> np.ndarray:
        x = rows.to_numpy(dtype=float)
        return np.stack([terms(x, {n: v[s] for n, v in draws.items()}) for s in range(count)])

    old = each(CASES[name][1])
    expected = np.exp(old - np.logaddexp.reduce(old, 2, keepdims=True)).mean(0)
    np.testing.assert_allclose(fitted(name).assign(), expected, rtol=1e-7, atol=1e-10)
    fresh = each(new)
    joint = np.logaddexp.reduce(fresh, 0)
    expected = np.exp(joint - np.logaddexp.reduce(joint, 1, keepdims=True))
    np.testing.assert_allclose(fitted(name).assign(new), expected, rtol=1e-7, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in CASES if n not in DISCRETE])
def test_nothing_to_assign_is_said(name):
    """Unless rows have continuous latents: then there are their means and standard deviations."""
    found = fitted(name)
    if not found.program.locals:
        with pytest.raises(zoo.FitError, match="no discrete latent"):
            found.assign()
        return
    table = found.assign()
    assert len(table) == rows_of(name)
    assert set(table.columns.get_level_values(1)) == {"mean", "sd"}
    assert np.isfinite(table).all(axis=None)


# -- log_prob --------------------------------------------------------------------------------------------------


@every
def test_log_prob_is_a_series_with_its_error(name):
    series = fitted(name).log_prob()
    assert isinstance(series, pd.Series)
    assert len(series) == rows_of(name)
    assert np.isfinite(series).all()
    assert len(series.attrs["mcse"]) == len(series)
    assert series.attrs["mcse_total"] == pytest.approx(np.sqrt(np.square(series.attrs["mcse"]).sum()))
    exact = name in POINTS and not name.startswith("noncentred")
    assert (np.asarray(series.attrs["mcse"]) == 0).all() == exact
    if isinstance(CASES[name][1], pd.DataFrame):
        assert series.index.equals(CASES[name][1].index)


@pytest.mark.parametrize("name", [n for n in DISCRETE if n in POINTS])
def test_log_prob_at_a_point_is_the_mixture_density(name):
    terms, new = terms_and_rows(name)
    series = fitted(name).log_prob(new)
    expected = np.logaddexp.reduce(terms(new.to_numpy(dtype=float), point(name)), 1)
    np.testing.assert_allclose(series, expected, rtol=1e-8)
    assert set(series.attrs["mcse"]) == {0.0}
    if KIND[name] == "log_likelihood":
        assert fitted(name).log_prob().sum() == pytest.approx(fitted(name).objective.value, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in DISCRETE if n in SAMPLED])
def test_log_prob_with_draws_averages_the_mixture_density(name):
    terms, new = terms_and_rows(name)
    draws = chain(name)
    x = new.to_numpy(dtype=float)
    each = [
        np.logaddexp.reduce(terms(x, {n: v[s] for n, v in draws.items()}), 1)
        for s in range(len(next(iter(draws.values()))))
    ]
    series = fitted(name).log_prob(new)
    relative = np.exp(np.array(each) - series.to_numpy())
    error = np.hypot(relative.std(0) / math.sqrt(len(each)), series.attrs["mcse"])
    assert within(np.log(relative.mean(0)), 0.0, error)


HEADS = (2 + 5) / (2 + 1 + 10)  # of the next toss, under the posterior Beta(2 + 5, 1 + 5)


@pytest.mark.parametrize("samples", [50, 1000, 50_000])
def test_log_prob_of_the_next_toss_is_within_its_error(samples):
    """The error has to shrink with samples and stay honest: more samples are more draws, not the same ones again."""
    z = []
    for seed in range(8):
        found = fit(coin(a=2.0), FLIPS, method="exact", seed=seed)
        series = found.log_prob([1, 0], samples=samples)
        z.append((series.to_numpy() - np.log([HEADS, 1 - HEADS])) / np.asarray(series.attrs["mcse"]))
        assert np.exp(series).sum() == pytest.approx(1, rel=1e-10)  # the same draws for every row
    z = np.array(z)
    assert np.abs(z).max() < 5
    assert 0.05 < np.square(z).mean() < 5  # chi-squared with 8 to 16 degrees of freedom


def test_log_prob_error_falls_with_samples():
    errors = [fitted("coin-exact").log_prob([1], samples=n).attrs["mcse"][0] for n in (100, 10_000)]
    assert errors[1] == pytest.approx(errors[0] / 10, rel=0.5)


def test_log_prob_of_counts_is_negative_binomial():
    counts = COUNTS["count"].to_numpy()
    a, b = 2.0 + counts.sum(), 0.5 + len(counts)
    new = np.array([0, 8, 30])
    series = fitted("rate-exact").log_prob(new, samples=5000)
    assert within(series, stats.nbinom(a, b / (b + 1)).logpmf(new), series.attrs["mcse"])


def test_log_prob_of_labels_is_their_posterior_mean():
    series = fitted("labels-exact").log_prob(pd.DataFrame({"colour": ["b", "g", "r"]}), samples=5000)
    assert within(series, np.log(np.array([2, 2, 6]) + 1) - math.log(13), series.attrs["mcse"])


@pytest.mark.parametrize("name", ["schools-svi", "noncentred-svi"])
@pytest.mark.parametrize("new", [{"effect": [0.0, 10.0, 40.0], "error": [5.0, 10.0, 15.0]}, None], ids=["new", "old"])
def test_log_prob_integrates_local_latents(name, new):
    """p(effect | data) = E_q Normal(effect | mu, sqrt(tau^2 + error^2)), by many fresh draws of mu and tau."""
    found = fitted(name)
    series = found.log_prob(new, samples=2000)
    rows = SCHOOLS if new is None else new
    draws = found.sample(40_000, seed=99)
    mu, tau = (draws[n].to_numpy()[0][:, None] for n in ("mu", "tau"))
    density = stats.norm(mu, np.hypot(tau, rows["error"])).pdf(rows["effect"])
    expected, error = density.mean(0), density.std(0) / math.sqrt(len(density))
    assert within(series, np.log(expected), np.hypot(error / expected, series.attrs["mcse"]))
    assert max(series.attrs["mcse"]) < 0.2  # else the line above could not fail


@pytest.mark.parametrize("error", [5.0, 10.0])
def test_log_prob_of_a_new_school_against_quadrature(error):
    """Under the posterior itself, by quadrature over mu and tau; mean-field q is near it, not at it: KL, not z."""
    mu, tau = np.linspace(-25, 30, 401)[:, None, None], np.exp(np.linspace(-7, 5, 401))[None, :, None]
    joint = stats.norm(0, 5).logpdf(mu) + stats.halfcauchy(scale=5).logpdf(tau) + np.log(tau)
    joint = joint[..., 0] + stats.norm(mu, np.hypot(tau, SCHOOLS["error"])).logpdf(SCHOOLS["effect"]).sum(-1)
    weight = np.exp(joint - joint.max())
    weight /= weight.sum()
    effects = np.array([-15.0, 0.0, 5.0, 20.0])
    exact = np.array([(weight * stats.norm(mu, np.hypot(tau, error)).pdf(e)[..., 0]).sum() for e in effects])
    series = fitted("noncentred-svi").log_prob({"effect": effects, "error": np.full(4, error)})
    kl = -31.311347352292778 - (fitted("noncentred-svi").objective.value - 5 * fitted("noncentred-svi").objective.error)
    total_variation = math.sqrt(kl / 2)  # Pinsker; the density is at most that of Normal(0, error) at its mode
    bound = 2 * total_variation * stats.norm(0, error).pdf(0)
    density = np.exp(series.to_numpy())
    assert (np.abs(density - exact) < bound + 5 * density * np.asarray(series.attrs["mcse"])).all()


def test_log_prob_at_a_point_integrates_local_latents():
    at = point("noncentred-map")
    new = {"effect": [0.0, 10.0, 25.0], "error": [5.0, 10.0, 15.0]}
    series = fitted("noncentred-map").log_prob(new, samples=2000)
    exact = stats.norm(at["mu"], np.hypot(at["tau"], new["error"])).logpdf(new["effect"])
    assert within(series, exact, np.asarray(series.attrs["mcse"]) + 1e-9)


def test_log_prob_of_a_network_is_within_its_error_of_quadrature():
    """p(x) = integral of Normal(z | 0, I) prod_j Bernoulli(x_j | f(z)_j) over the plane, on a fine grid."""
    found = fitted("vae-svi")
    weights = {n.removeprefix("decoder."): v.double() for n, v in found.points.items() if n.startswith("decoder.")}
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    z = torch.cartesian_prod(grid, grid)
    logits = torch.func.functional_call(found.model.decoder.double(), weights, (z,))
    found.model.decoder.float()
    x = torch.as_tensor(PIXELS)
    log_prior = -0.5 * z.square().sum(-1) - math.log(2 * math.pi) + 2 * math.log(float(grid[1] - grid[0]))
    log_joint = log_prior + torch.distributions.Bernoulli(logits=logits[None]).log_prob(x[:, None]).sum(-1)
    exact = log_joint.logsumexp(1).numpy()
    series = found.log_prob(PIXELS.copy(), samples=2000)
    assert within(series, exact, np.asarray(series.attrs["mcse"]) + 1e-5)  # plus float32


def test_log_prob_takes_any_number_of_rows():
    new = GEYSER.iloc[np.arange(100_000) % len(GEYSER)].reset_index(drop=True)
    series = fitted("gmm-em").log_prob(new)
    assert len(series) == 100_000
    assert series.iloc[-1] == series.iloc[99_999 % len(GEYSER)]
    assert fitted("bayesian-svi").log_prob(GEYSER.iloc[:1]).shape == (1,)


@pytest.mark.parametrize("name", ["coin-exact", "gmm-em", "bayesian-svi", "noncentred-map"])
def test_asking_again_gives_the_same(name):
    pd.testing.assert_series_equal(fitted(name).log_prob(), fitted(name).log_prob())
    first, second = fitted(name).generate(5), fitted(name).generate(5)
    pd.testing.assert_frame_equal(pd.DataFrame(first), pd.DataFrame(second))
    xr.testing.assert_equal(fitted(name).predict(draws=3), fitted(name).predict(draws=3))


@pytest.mark.parametrize("samples", [0, -1, 1.5, True, "many", None])
def test_samples_must_be_a_count(samples):
    with pytest.raises(zoo.ZooError, match="whole number"):
        fitted("coin-exact").log_prob(samples=samples)


# -- generate --------------------------------------------------------------------------------------------------


@every
def test_generate_gives_rows_like_those_fitted(name):
    found, data = fitted(name), CASES[name][1]
    made = found.generate(6)
    assert isinstance(made, pd.DataFrame)
    assert len(made) == 6
    if isinstance(data, pd.DataFrame):
        assert list(made.columns) == list(data.columns)
    assert made.notna().all(axis=None)
    assert len(found.generate(1)) == 1
    assert np.isfinite(found.log_prob(made)).all()  # what is generated can be taken in again


@pytest.mark.parametrize("name", ["gmm-em", "gmm-tied-em", "bayesian-map"])
def test_generated_moments_are_those_of_the_mixture(name):
    at, n = point(name), 20_000
    covariances = at["covariances"] if "covariances" in at else np.linalg.inv(at["precisions"])
    covariances = np.broadcast_to(covariances, (len(at["weights"]), 2, 2))
    mean = at["weights"] @ at["means"]
    centred = at["means"] - mean
    covariance = np.einsum("k,kij->ij", at["weights"], covariances + centred[:, :, None] * centred[:, None, :])
    made = fitted(name).generate(n, seed=1).to_numpy()
    assert within(made.mean(0), mean, np.sqrt(np.diag(covariance) / n))
    products = (made - mean)[:, :, None] * (made - mean)[:, None, :]
    assert within(products.mean(0), covariance, products.std(0) / math.sqrt(n))


@pytest.mark.slow
def test_generated_tosses_have_the_predictive_mean_and_spread():
    """Each row has a posterior draw of its own: 1000 draws are reused, so their spread adds to the error."""
    n, posterior = 20_000, stats.beta(7, 6)
    made = fitted("coin-exact").generate(n, seed=1)["flips"].to_numpy()
    assert set(made) == {0, 1}
    assert within(made.mean(), HEADS, math.sqrt(HEADS * (1 - HEADS) / n + posterior.var() / 1000))


@pytest.mark.slow
def test_generated_counts_are_overdispersed_as_negative_binomial():
    counts = COUNTS["count"].to_numpy()
    a, b = 2.0 + counts.sum(), 0.5 + len(counts)
    predictive, n = stats.nbinom(a, b / (b + 1)), 20_000
    made = fitted("rate-exact").generate(n, seed=1)["count"].to_numpy()
    assert (made == made.round()).all()
    assert within(made.mean(), predictive.mean(), math.sqrt(predictive.var() / n + a / b**2 / 1000))


@pytest.mark.slow
def test_generated_labels_are_labels():
    made = fitted("labels-exact").generate(8000, seed=1)["colour"]
    assert set(made) == set("rgb")
    p = 7 / 13
    assert within((made == "r").mean(), p, math.sqrt(p * (1 - p) * (1 / 8000 + 1 / 14 / 1000)))


def test_generated_schools_have_errors_seen_before():
    made = fitted("noncentred-map").generate(8000, seed=1)
    assert set(made["error"]) <= set(SCHOOLS["error"])
    at = point("noncentred-map")
    z = (made["effect"] - at["mu"]) / np.hypot(at["tau"], made["error"])
    assert within(z.mean(), 0, 1 / math.sqrt(8000))
    assert within(z.var(), 1, math.sqrt(2 / 8000))


def test_generated_lines_follow_their_covariate():
    made, at = fitted("lines-em").generate(8000, seed=1), point("lines-em")
    assert set(made["x"]) <= set(LINES["x"])
    means = at["intercept"] + at["slope"] * made["x"].to_numpy()[:, None]
    expected = means @ at["weights"]
    spread = (at["weights"] * (means**2 + at["noise"] ** 2)).sum(1) - expected**2
    z = (made["y"].to_numpy() - expected) / np.sqrt(spread)
    assert within(z.mean(), 0, 1 / math.sqrt(8000))


@pytest.mark.parametrize("name", ["coin-exact", "gmm-em", "bayesian-svi"])
def test_another_seed_generates_other_rows(name):
    found = fitted(name)
    assert not found.generate(50, seed=1).equals(found.generate(50, seed=2))
    assert found.generate(50, seed=1).equals(found.generate(50, seed=1))


@pytest.mark.parametrize("ask", ["generate", "sample", "predict"])
@pytest.mark.parametrize("n", [0, -1, 1.5, True, "five", None])
def test_numbers_of_draws_must_be_counts(ask, n):
    found = fitted("coin-exact")
    with pytest.raises(zoo.ZooError, match="whole number"):
        found.predict(draws=n) if ask == "predict" else getattr(found, ask)(n)


def test_counts_may_come_from_numpy():
    found = fitted("coin-exact")
    assert len(found.generate(np.int64(4))) == 4
    assert found.sample(np.int32(4)).sizes["draw"] == 4
    assert found.predict(draws=np.int64(4))["posterior_predictive"].sizes["draw"] == 4
    assert len(found.log_prob(samples=np.int64(4))) == 10


# -- predict ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@every
def test_predict_has_a_draw_of_every_fitted_row(name):
    found = fitted(name)
    group = found.predict(draws=7)["posterior_predictive"]
    observed = found.posterior["observed_data"]
    assert set(group.data_vars) == set(observed.data_vars)
    for variable, values in group.data_vars.items():
        assert values.dims == ("chain", "draw", *observed[variable].dims)
        assert values.shape == (1, 7, *observed[variable].shape)
        assert set(np.unique(values)) <= {"b", "g", "r"} if name == "labels-exact" else bool(np.isfinite(values).all())
        for dim in observed[variable].dims:
            np.testing.assert_array_equal(values.coords[dim], observed[variable].coords[dim])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["table", "dict"])
def test_predict_needs_covariates_only(kind):
    error = [1.0, 100.0, 1e4]
    new = pd.DataFrame({"error": error}, index=list("XYZ")) if kind == "table" else {"error": error}
    values = fitted("noncentred-map").predict(new, draws=2000, seed=1)["posterior_predictive"]["effect"]
    assert values.sizes == {"chain": 1, "draw": 2000, "school": 3}
    if kind == "table":
        assert values.coords["school"].to_numpy().tolist() == list("XYZ")
    at = point("noncentred-map")
    spread = np.hypot(at["tau"], error)
    draws = values.isel(chain=0).to_numpy()
    assert within(draws.mean(0), at["mu"], spread / math.sqrt(2000))
    assert within(draws.std(0), spread, spread / math.sqrt(4000))


@pytest.mark.slow
def test_predict_follows_a_covariate():
    x = np.array([-20.0, 0.0, 20.0])
    values = fitted("lines-em").predict({"x": x}, draws=4000, seed=1)["posterior_predictive"]["y"]
    draws, at = values.isel(chain=0).to_numpy(), point("lines-em")
    means = at["intercept"] + at["slope"] * x[:, None]
    assert within(draws.mean(0), means @ at["weights"], draws.std(0) / math.sqrt(4000))


def test_predict_never_looks_at_an_observed_column():
    found = fitted("noncentred-map")
    rows = {"error": [3.0, 4.0]}
    without, given = (found.predict(r, draws=5, seed=1) for r in (rows, {**rows, "effect": [1e3, -1e3]}))
    xr.testing.assert_equal(without["posterior_predictive"].to_dataset(), given["posterior_predictive"].to_dataset())


def test_predict_of_fitted_rows_uses_their_own_latents():
    """The posterior mean of theta is shrunk towards each school's effect; new schools know nothing of it."""
    found = fitted("noncentred-svi")
    old = found.predict(draws=1000)["posterior_predictive"]["effect"].isel(chain=0)
    theta = found.posterior["posterior"]["theta"].isel(chain=0)
    spread = np.hypot(theta.std("draw").to_numpy(), SCHOOLS["error"])
    assert within(old.mean("draw").to_numpy(), theta.mean("draw").to_numpy(), spread * math.sqrt(2 / 1000))


def test_predict_misses_a_covariate():
    with pytest.raises(zoo.DataError, match="error"):
        fitted("noncentred-svi").predict({"effect": [1.0]})


# -- sample ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLED)
def test_sample_is_labelled_like_the_posterior(name):
    found = fitted(name)
    draws = found.sample(5)
    assert isinstance(draws, xr.Dataset)
    latents = {s.name for s in found.program.latents}
    assert set(draws.data_vars) == latents
    for variable, values in draws.data_vars.items():
        assert values.dims == found.posterior["posterior"][variable].dims
        assert values.sizes["draw"] == 5
        assert values.sizes["chain"] == 1


@pytest.mark.parametrize(
    ("name", "variable", "posterior"),
    [
        ("coin-exact", "heads", stats.beta(7, 6)),
        ("zeros-and-ones-exact", "p", stats.beta(6, 6)),
        ("rate-exact", "rate", stats.gamma(2 + COUNTS["count"].sum(), scale=1 / 80.5)),
    ],
)
def test_sample_has_the_moments_of_the_exact_posterior(name, variable, posterior):
    n = 20_000
    draws = fitted(name).sample(n, seed=1)[variable].to_numpy()[0]
    assert len(np.unique(draws)) == n
    assert within(draws.mean(), posterior.mean(), posterior.std() / math.sqrt(n))
    fourth = posterior.moment(4) - 4 * posterior.mean() * posterior.moment(3)
    fourth += 6 * posterior.mean() ** 2 * posterior.moment(2) - 3 * posterior.mean() ** 4
    assert within(draws.var(), posterior.var(), math.sqrt((fourth - posterior.var() ** 2) / n))


def test_sample_of_a_trained_guide_has_the_moments_of_its_posterior_group():
    draws = fitted("coin-svi").sample(4000, seed=1)["heads"].to_numpy()[0]
    shown = chain("coin-svi")["heads"]
    assert within(draws.mean(), shown.mean(), shown.std() * math.sqrt(1 / 4000 + 1 / len(shown)))


@pytest.mark.parametrize("name", POINTS)
def test_a_point_has_no_draws(name):
    with pytest.raises(zoo.FitError, match="point estimate"):
        fitted(name).sample(3)


# -- seeds and state -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", SVI(steps=50), "map"], ids=["exact", "svi", "map"])
def test_a_seed_is_drawn_and_recorded(method):
    first, second = (fit(coin, FLIPS, method=method) for _ in range(2))
    assert isinstance(first.seed, int)
    assert first.seed != second.seed
    again = fit(coin, FLIPS, method=method, seed=first.seed)
    assert again.objective == first.objective
    pd.testing.assert_series_equal(again.log_prob(), first.log_prob())
    pd.testing.assert_frame_equal(again.summary(), first.summary())


@pytest.mark.slow
@spread("name", CASES, part=0, of=3)
def test_global_state_is_left_as_it_was(name):
    model, data, method = CASES[name]
    method = replace(method, steps=20) if isinstance(method, SVI) else method
    pyro.get_param_store().clear()
    pyro.param("mine", torch.ones(2))
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    dtype, validation = torch.get_default_dtype(), pyro.settings.get("validate_distributions_pyro")
    found = fit(model, data, method=method, seed=1)
    found.summary()
    found.log_prob()
    found.generate(3)
    found.predict(draws=3)
    if not found.is_point:
        found.sample(3)
    if name in DISCRETE:
        found.assign()
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.get_default_dtype() == dtype
    assert pyro.settings.get("validate_distributions_pyro") == validation
    pyro.get_param_store().clear()


# -- precision, weights, devices, progress ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["coin-exact", "rate-exact", "gmm-em", "bayesian-em", "profiles-em", "coin-svi"])
def test_single_precision_on_request(name):
    model, data, method = CASES[name]
    found = fit(model, data, method=method, seed=3, dtype=torch.float32)
    assert found.program.dtype == torch.float32
    tree = found.posterior["point_estimate" if found.is_point else "posterior"]
    assert {v.dtype for v in tree.data_vars.values()} == {np.dtype("float32")}
    eps = float(torch.finfo(torch.float32).eps)
    # Rounding: one part in eps per term of a sum over rows of terms no larger than the value itself.
    slack = rows_of(name) * eps * abs(fitted(name).objective.value)
    slack += 5 * (found.objective.error + fitted(name).objective.error)
    assert abs(found.objective.value - fitted(name).objective.value) < slack
    if name in DISCRETE:
        np.testing.assert_allclose(found.assign().sum(axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_double_precision_is_the_default_without_networks():
    assert fitted("gmm-em").program.dtype == torch.float64
    assert fitted("vae-svi").program.dtype == torch.float32
    model, data, _ = CASES["vae-svi"]
    found = fit(model, data, method=SVI(guide="encoder", steps=20), seed=0, dtype=torch.float64)
    assert {v.dtype for v in found.points.values()} == {torch.float64}


@spread(
    ("name", "how"),
    list(
        itertools.product(
            ["coin-exact", "gmm-em", "bayesian-em", "counts-em", "lines-em"], ["column", "array", "series", "tensor"]
        )
    ),
    part=0,
)
def test_a_weight_is_a_repeated_row(name, how):
    model, data, method = CASES[name]
    table = data if isinstance(data, pd.DataFrame) else pd.DataFrame({"flips": data})
    times = np.random.default_rng(0).integers(0, 3, len(table))
    repeated = table.loc[table.index.repeat(times)]
    plain = fit(model, repeated, method=method, seed=3)
    if how == "column":
        weighted = fit(model, table.assign(times=times), method=method, seed=3, weights="times")
    else:
        given = {"array": times, "series": pd.Series(times, table.index), "tensor": torch.as_tensor(times)}[how]
        weighted = fit(model, table, method=method, seed=3, weights=given)
    assert set(weighted.program.data.values) == set(plain.program.data.values)
    for field, values in plain.program.data.values.items():
        assert weighted.program.data.values[field].shape[1:] == values.shape[1:]  # weights are no feature
    if name == "coin-exact":
        assert weighted.objective.value == pytest.approx(plain.objective.value, rel=1e-12)
    else:  # the two start from other k-means++ draws; both end within the tolerance of the same limit
        assert weighted.objective.value == pytest.approx(plain.objective.value, abs=1e-5)
    assert len(weighted.log_prob()) == (times > 0).sum()


@pytest.mark.slow
def test_weights_scale_the_objective_of_every_climbing_method():
    model = coin()
    for method in (SVI(steps=300), "map"):
        weighted = fit(model, [1, 0], method=method, seed=0, weights=[5, 5])
        plain = fit(model, [1] * 5 + [0] * 5, method=method, seed=0)
        error = weighted.objective.error + plain.objective.error
        assert abs(weighted.objective.value - plain.objective.value) < 5 * error + 1e-3


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda")])
def test_a_device_that_is_not_there(device):
    with pytest.raises(zoo.ZooError, match=r"cuda.*cpu"):
        fit(coin, FLIPS, method="exact", seed=0, device=device)


@pytest.mark.parametrize("device", ["nonsense", "", 5, None, "meta", "mps", "xla"])
def test_a_device_that_is_none(device):
    with pytest.raises(zoo.ZooError, match="device"):
        fit(coin, FLIPS, method="exact", seed=0, device=device)


@pytest.mark.parametrize("dtype", ["float32", torch.int64, torch.float16, torch.complex64, np.float64, 32])
def test_a_precision_that_is_none(dtype):
    with pytest.raises(zoo.ZooError, match="dtype"):
        fit(coin, FLIPS, method="exact", seed=0, dtype=dtype)


@spread(
    ("method", "progress"),
    list(itertools.product(["exact", "em", SVI(steps=5), MAP(steps=5)], [True, False])),
    part=0,
    of=3,
    ids=lambda v: type(v).__name__.lower() if isinstance(v, Method) else v,
)
def test_nothing_is_printed_where_there_is_no_terminal(method, progress, capfd):
    model, data = (coin, FLIPS) if method == "exact" else (zoo.BayesianGMM(components=2), GEYSER)
    fit(model, data, method=method, seed=0, progress=progress)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err == ""


def test_a_terminal_sees_progress_on_standard_error(monkeypatch, capfd):
    monkeypatch.setattr("rich.console.Console.is_terminal", property(lambda self: True))
    fit(zoo.GMM(components=2), GEYSER, method="em", seed=0, progress=False)
    assert capfd.readouterr() == ("", "")
    fit(zoo.GMM(components=2), GEYSER, method="em", seed=0, progress=True)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "em" in printed.err


# -- exact numbers ---------------------------------------------------------------------------------------------


def test_the_evidence_is_the_integral_of_the_joint():
    density = lambda p: stats.beta(2, 1).pdf(p) * p**5 * (1 - p) ** 5  # noqa: E731
    value, error = integrate.quad(density, 0, 1)
    assert abs(math.exp(fitted("coin-exact").objective.value) - value) < error


def test_updating_is_conditioning_on_more():
    first = fit(coin, FLIPS[:4], method="exact", seed=0)
    second = Exact().update(first, FLIPS[4:])
    whole = fit(coin, FLIPS, method="exact", seed=0)
    assert first.objective.value + second.objective.value == pytest.approx(whole.objective.value, rel=1e-12)
    a, b = second.approximation.distributions["heads"], whole.approximation.distributions["heads"]
    assert (float(a.concentration1), float(a.concentration0)) == (float(b.concentration1), float(b.concentration0))


@pytest.mark.parametrize("switch", [torch.no_grad, torch.inference_mode])
def test_gradients_are_taken_where_the_caller_has_switched_them_off(switch):
    outside = fit(zoo.BetaBernoulli(), [1, 0, 1, 1], method=MAP(steps=20), seed=0)
    with switch():
        inside = fit(zoo.BetaBernoulli(), [1, 0, 1, 1], method=MAP(steps=20), seed=0)
        assert torch.is_inference_mode_enabled() is (switch is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert inside.objective == outside.objective


@pytest.mark.slow
@spread(("switch", "method"), list(itertools.product([torch.no_grad, torch.inference_mode], ["cavi", "em"])), part=1)
def test_a_verdict_does_not_hang_on_what_the_caller_has_switched_off(switch, method):
    outside, inside = (fit(zoo.BayesianGMM(components=2), GEYSER, method=method, seed=0) for _ in range(2))
    with switch():
        asked = inside.verdict, inside.diagnostics
    assert asked == (outside.verdict, outside.diagnostics)
