"""Mixtures of Student t distributions: maxima by a general optimizer, and what outliers do not move."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp

import zoo
from inference import EM, fit


def clusters(seed=0, rows=200):
    rng = np.random.default_rng(seed)
    heavy = rng.standard_t(3, (rows, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    return heavy + np.where(rng.random((rows, 1)) < 0.6, 7.0, 0.0)


def unpacked(u, df):
    """Weights, means, roots of covariances and degrees of freedom of two components, from a vector."""
    weights = np.array([1.0, np.exp(u[0])]) / (1 + np.exp(u[0]))
    roots = np.zeros((2, 2, 2))
    roots[:, 0, 0], roots[:, 1, 0], roots[:, 1, 1] = np.exp(u[5:7]), u[7:9], np.exp(u[9:11])
    return weights, u[1:5].reshape(2, 2), roots, np.exp(u[11:13]) if df is None else np.full(2, df)


def packed(points, df):
    weights, means, roots = points["weights"], points["means"], np.linalg.cholesky(points["covariances"])
    tails = [] if df is not None else np.log(points["df"])
    odds = np.log(weights[1] / weights[0])
    return np.r_[odds, means.ravel(), np.log(roots[:, 0, 0]), roots[:, 1, 0], np.log(roots[:, 1, 1]), tails]


@pytest.mark.parametrize("df", [4.0, pytest.param(None, marks=pytest.mark.slow)])
def test_em_climbs_to_the_maximum(df):
    x = clusters()
    found = fit(zoo.StudentTMixture(df=df), x, method="em", seed=0, progress=False)

    def loss(u):
        weights, means, roots, tails = unpacked(u, df)
        laws = [stats.multivariate_t(m, r @ r.T, t).logpdf(x) for m, r, t in zip(means, roots, tails, strict=True)]
        return -logsumexp(np.log(weights)[:, None] + laws, axis=0).sum()

    start = packed({n: v.numpy() for n, v in found.points.items()}, df)
    assert found.objective.value == pytest.approx(-loss(start), abs=1e-8)
    if df is None:
        best = minimize(loss, start + 0.05, options={"gtol": 1e-6}).fun
        assert found.objective.value == pytest.approx(-best, abs=2e-5)
    else:  # no direction leads up
        slopes = [(loss(start + e) - loss(start - e)) / 2e-4 for e in 1e-4 * np.eye(len(start))]
        np.testing.assert_allclose(slopes, 0.0, atol=0.02)
    assert found.converged
    assert (found.trace["value"].diff().dropna() > -1e-9).all()


@pytest.mark.slow
def test_columns_apart_are_at_a_maximum():
    x = clusters()
    found = fit(zoo.StudentTMixture(covariance="diag", df=None), x, method="em", seed=0, progress=False)
    at = {n: v.numpy() for n, v in found.points.items()}

    def height(weights, means, scales, df):
        laws = [stats.t(df[k], means[k], scales[k]).logpdf(x).sum(1) for k in range(2)]
        return logsumexp(np.log(weights)[:, None] + laws, axis=0).sum()

    top = height(at["weights"], at["means"], at["scales"], at["df"])
    assert top == pytest.approx(found.objective.value, abs=1e-8)
    for name in ("means", "scales", "df"):
        for cell in np.ndindex(at[name].shape):
            for step in (-1e-3, 1e-3):
                moved = {**at, name: at[name].copy()}
                moved[name][cell] += step
                assert height(moved["weights"], moved["means"], moved["scales"], moved["df"]) <= top + 1e-6


@pytest.mark.slow
def test_outliers_hardly_move_a_robust_cluster():
    x = np.random.default_rng(0).normal(size=(100, 2))
    far = np.vstack([x, [[100.0, -100.0]]])
    robust, plain = (
        [fit(model, data, method="em", seed=0, progress=False).points["means"].numpy() for data in (x, far)]
        for model in (zoo.StudentTMixture(1), zoo.GMM(1))
    )
    assert np.abs(robust[1] - robust[0]).max() < 0.02
    assert np.abs(plain[1] - plain[0]).max() > 0.9  # 100 / 101


@pytest.mark.slow
def test_with_many_degrees_of_freedom_it_is_a_normal_mixture(faithful):
    normal = fit(zoo.GMM(2), faithful, method=EM(restarts=3), seed=0, progress=False)
    robust = fit(zoo.StudentTMixture(df=1e7), faithful, method=EM(restarts=3), seed=0, progress=False)
    assert robust.objective.value == pytest.approx(normal.objective.value, abs=1e-3)


@pytest.mark.slow
def test_missing_cells_need_columns_apart():
    x = clusters()
    x[3, 1] = np.nan
    found = fit(zoo.StudentTMixture(covariance="diag"), x, method="em", seed=0, progress=False)
    at = {n: v.numpy() for n, v in found.points.items()}
    laws = [stats.t(4.0, at["means"][k, 0], at["scales"][k, 0]).logpdf(x[3, 0]) for k in range(2)]
    assert found.log_prob()[3] == pytest.approx(logsumexp(np.log(at["weights"]) + laws), abs=1e-9)
    with pytest.raises(zoo.ZooError, match="missing"):
        fit(zoo.StudentTMixture(), x, method="em", seed=0, progress=False)
