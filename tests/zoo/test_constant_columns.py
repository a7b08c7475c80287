"""Columns that do not vary: every model of real columns keeps them, with answers on the others as without them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import zoo
from inference import EM, fit
from tests.cases.spread import spread
from zoo import catalogue
from zoo.declare.fields import Real
from zoo.replay.above import Above
from zoo.replay.bijections import bijection

RNG = np.random.default_rng(3)
ROWS = np.r_[RNG.normal([0, 0, 0], 1, (60, 3)), RNG.normal([4, 3, 1], [1, 0.5, 1], (40, 3))]
WIDE = np.insert(ROWS, 1, 0.1, axis=1)  # a number that is rounded
LABELS = np.repeat([0, 1], [60, 40])
KEPT = {
    "GMM": [zoo.GMM(), zoo.GMM(covariance="diag"), zoo.GMM(covariance="tied")],
    "StudentTMixture": [zoo.StudentTMixture(covariance="diag")],
    "HiddenMarkov": [zoo.HiddenMarkov(), zoo.HiddenMarkov(covariance="diag")],
    "FactorAnalysis": [zoo.FactorAnalysis()],
    "MixtureOfFactorAnalyzers": [zoo.MixtureOfFactorAnalyzers()],
    "LinearDynamicalSystem": [zoo.LinearDynamicalSystem()],
    "NaiveBayes": [zoo.NaiveBayes(), zoo.NaiveBayes(smoothing=None)],
    "BayesianGMM": [zoo.BayesianGMM(covariance="diag")],
    "DirichletProcessMixture": [zoo.DirichletProcessMixture(components=2, covariance="diag")],
}
SHARED = {
    "KMeans": [zoo.KMeans()],
    "PPCA": [zoo.PPCA()],
    "GMM": [zoo.GMM(covariance="spherical")],
    "HiddenMarkov": [zoo.HiddenMarkov(covariance="spherical")],
}
REFUSED = {
    "BayesianGMM": zoo.BayesianGMM(),
    "DirichletProcessMixture": zoo.DirichletProcessMixture(),
    "StudentTMixture": zoo.StudentTMixture(),
    "StudentTMixture with df": zoo.StudentTMixture(covariance="diag", df=None),
}
PREDICTORS = "BayesianRegression HierarchicalRegression LogisticRegression MixtureOfExperts MixtureOfRegressions "
PREDICTORS += "PoissonRegression"
EASY = EM(tolerance=1e-7)


def data_of(model, x):
    return {"x": x, "y": LABELS[:: len(LABELS) // len(x)][: len(x)]} if "y" in type(model).fields else x


def stated(found):
    """What a fit says that log densities are higher by."""
    note = next(w for w in found.warnings if w.startswith("column 1 is constant (1 of 4 columns), and kept, with a"))
    return float(re.search(r"are (\S+) higher than without", note)[1])


def cases(of):
    slow = zoo.LinearDynamicalSystem  # by gradient steps through a filter
    marks = {True: [pytest.mark.slow], False: []}
    return [pytest.param(m, id=repr(m), marks=marks[type(m) is slow]) for models in of.values() for m in models]


def test_every_model_of_real_columns_is_here():
    models = {n: catalogue.find("model", n) for n in catalogue.entries("model")}
    real = {n for n, m in models.items() if isinstance(m.fields.get("x"), Real) and len(m.fields["x"].dims) > 1}
    pixels = {n for n in real if hasattr(models[n], "likelihood")}  # whose noise has a floor in the unit of all pixels
    assert real - pixels == {*KEPT, *SHARED, *PREDICTORS.split()}


@spread("model", cases(KEPT), part=0, of=2)
def test_constant_columns_move_nothing_else(model):
    without = fit(model, data_of(model, ROWS), method=EASY, seed=0)
    found = fit(model, data_of(model, WIDE), method=EASY, seed=0)
    assert not any("collapsed" in w or "floor" in w for w in found.warnings)
    log_p, before = found.log_prob(data_of(model, WIDE[::10])), without.log_prob(data_of(model, ROWS[::10]))
    np.testing.assert_allclose(log_p - before, stated(found), atol=2e-3)
    if not isinstance(model, zoo.NaiveBayes):
        mine, theirs = found.assign().to_numpy(), without.assign().to_numpy()
        if theirs.shape[1] == 2 and np.abs(mine - theirs).max() > 0.5:  # labels may be the other way round
            mine = mine[:, ::-1]
        np.testing.assert_allclose(mine, theirs, atol=2e-3, rtol=1e-3)
    for name, value in without.points.items():
        if name in ("means", "variances", "scales"):
            other = np.delete(found.points[name].numpy(), 1, axis=-1)
            order = (other[..., 0].argsort(), value.numpy()[..., 0].argsort()) if value.ndim == 2 else (..., ...)
            np.testing.assert_allclose(other[order[0]], value.numpy()[order[1]], atol=5e-3)
    assert np.isfinite(np.asarray(found.generate(5))[:, :4].astype(float)).all()


@pytest.mark.parametrize("model", cases(SHARED))
def test_constant_columns_share_a_variance(model):
    found = fit(model, WIDE, method="em", seed=0)
    assert any("column 1 is constant" in w and "so much smaller" in w for w in found.warnings)
    assert np.isfinite(found.log_prob()).all()


@pytest.mark.parametrize("model", REFUSED.values(), ids=REFUSED)
def test_constant_columns_that_would_move_others_are_refused(model):
    with pytest.raises(zoo.DataError, match=r"column 1 is constant \(1 of 4 .*; (use cov|give df).*drop it"):
        fit(model, WIDE, method="em", seed=0)


@pytest.mark.parametrize("of", ["variances", "precisions", "covariances"])
def test_values_stay_on_their_side_of_the_floor(of):
    floor = torch.tensor([0.0, 0.5], dtype=torch.double)
    support = Above(floor, of)
    transform = bijection(support, "v")
    u = torch.randn(*transform.inverse_shape(torch.Size([2, 2] if of == "covariances" else [2])), dtype=torch.double)
    value = transform(u)
    assert bool(support.check(value).all())
    torch.testing.assert_close(transform.inv(value), u)
    lower = torch.ones(2, 2).tril() > 0
    jacobian = torch.func.jacrev(lambda u: transform(u)[lower] if of == "covariances" else transform(u))(u)
    torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], transform.log_abs_det_jacobian(u, value).sum())
    edge = transform(torch.full_like(u, 80.0 if of == "precisions" else -80.0))
    inside = edge.diagonal() if of == "covariances" else edge
    assert bool((inside.reciprocal() if of == "precisions" else inside)[1] >= 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("model", [zoo.GMM(), zoo.StudentTMixture(covariance="diag"), zoo.NaiveBayes(smoothing=None)])
def test_gradients_do_not_climb_without_end(model):
    found, without = (fit(model, data_of(model, x), method="map", seed=0) for x in (WIDE, ROWS))
    assert found.converged
    assert found.verdict == without.verdict
    change = found.log_prob(data_of(model, WIDE)) - without.log_prob(data_of(model, ROWS))
    np.testing.assert_allclose(change, stated(found), atol=1e-3)


def test_the_evidence_of_constant_columns_is_what_is_stated():
    model = zoo.NaiveBayes()
    found, without = (fit(model, data_of(model, x), method="exact", seed=0) for x in (WIDE, ROWS))
    change = found.objective.value - without.objective.value
    assert change == pytest.approx(len(ROWS) * stated(found), rel=1e-5)  # stated to six digits
