"""Models as scikit-learn estimators: scikit-learn's own checks, and its tools."""

import copy
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import BayesianRidge
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import zoo
from guides import Encoder
from inference import SVI
from inference.estimators import Classifier, Clusterer, Density, Regressor, Transformer
from zoo.errors import MethodError, ModelError, UnknownNameError

IRIS = load_iris().data
SPECIES = load_iris().target


@pytest.mark.slow
@pytest.mark.parametrize(
    "estimator",
    [
        Clusterer(),
        Clusterer("KMeans"),
        Clusterer("BayesianGMM"),
        Clusterer("StudentTMixture"),
        Density("FactorAnalysis"),
        Transformer(),
        Transformer(zoo.VAE(likelihood="gaussian", latent=2, hidden=(8,)), SVI(steps=30, guide=Encoder(hidden=(8,)))),
        Regressor(),
        Classifier(),
        Classifier("LogisticRegression"),
    ],
    ids=lambda e: f"{type(e).__name__}-{e.model if isinstance(e.model, str) else type(e.model).__name__}",
)
def test_scikit_learn_finds_nothing_wrong(estimator):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a few steps have not converged, and scikit-learn's own
        results = check_estimator(estimator, on_fail=None)
    bad = {r["check_name"]: r["exception"] for r in results if r["status"] in ("failed", "xfail")}
    assert len(results) > 40
    assert not bad


@pytest.mark.slow
def test_a_grid_over_components_finds_two_eruptions(faithful):
    pipeline = make_pipeline(StandardScaler(), Clusterer("GMM", random_state=0))
    search = GridSearchCV(pipeline, {"clusterer__model__components": [1, 2]}, cv=3)
    state = torch.get_rng_state()
    search.fit(faithful)
    assert torch.equal(torch.get_rng_state(), state)
    assert search.best_params_ == {"clusterer__model__components": 2}
    best = search.best_estimator_
    scaled = StandardScaler().fit_transform(faithful)
    theirs = GaussianMixture(2, random_state=0, tol=1e-9, max_iter=500).fit(scaled)
    assert best.score(faithful) == pytest.approx(theirs.score(scaled), abs=1e-5)
    assert best[-1].bic(scaled) == pytest.approx(theirs.bic(scaled), abs=1e-2)
    assert best[-1].aic(scaled) == pytest.approx(theirs.aic(scaled), abs=1e-2)
    drawn, states = best[-1].sample(500)
    assert drawn.shape == (500, 2)
    assert (states == best[-1].predict(drawn)).mean() > 0.95
    assert Clusterer("GMM", random_state=0).fit(faithful).sample(3)[0].shape == (3, 2)


def test_copies_answer_with_the_same_bytes():
    fitted = Clusterer(zoo.GMM(components=3), "em", random_state=0).fit(IRIS)
    for other in (pickle.loads(pickle.dumps(fitted)), copy.deepcopy(fitted), clone(fitted).fit(IRIS)):
        assert other.predict_proba(IRIS).tobytes() == fitted.predict_proba(IRIS).tobytes()
        assert other.fit_.objective.value == fitted.fit_.objective.value


@pytest.mark.slow
def test_processes_give_what_one_gives():
    density = Density(zoo.GMM(components=2), "em", random_state=0)
    alone = cross_val_score(density, IRIS, cv=3)
    assert cross_val_score(density, IRIS, cv=3, n_jobs=2) == pytest.approx(alone, rel=1e-9)


def test_a_weight_is_a_row_as_often():
    rng = np.random.default_rng(0)
    times = rng.integers(0, 4, len(IRIS))
    order = rng.permutation(len(IRIS))
    weighted = Clusterer("GMM", random_state=0).fit(IRIS[order], sample_weight=times[order])
    repeated = Clusterer("GMM", random_state=0).fit(np.repeat(IRIS, times, axis=0))
    assert weighted.predict_proba(IRIS).tobytes() == repeated.predict_proba(IRIS).tobytes()


def test_codes_are_a_table_with_names():
    names = pd.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    scores = Transformer("PPCA", random_state=0).set_params(model__factors=2).set_output(transform="pandas")
    codes = scores.fit_transform(names)
    assert list(codes.columns) == ["transformer0", "transformer1"]
    back = scores.inverse_transform(codes)
    centred = IRIS - IRIS.mean(0)
    subspace = np.linalg.svd(centred, full_matrices=False)[2][:2]
    assert np.allclose((back - IRIS.mean(0)) @ subspace.T @ subspace, back - IRIS.mean(0), atol=1e-4)


@pytest.mark.slow
def test_a_regression_predicts_as_scikit_learns():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ [1.0, -2.0, 0.5] + 3 + rng.normal(size=200)
    ours, theirs = Regressor("BayesianRegression", random_state=0).fit(x, y), BayesianRidge().fit(x, y)
    sd = theirs.predict(x, return_std=True)[1].mean()  # of y about its mean, which draws of coefficients do not have
    assert np.abs(ours.predict(x) - theirs.predict(x)).max() < 0.1 * sd
    assert ours.score(x, y) == pytest.approx(theirs.score(x, y), abs=0.01)


@pytest.mark.slow
def test_labels_are_those_given():
    names = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
    fitted = Classifier("NaiveBayes", random_state=0).fit(IRIS, names)
    assert fitted.classes_.tolist() == ["setosa", "versicolor", "virginica"]
    assert fitted.predict_proba(IRIS).sum(1) == pytest.approx(1.0)
    assert fitted.score(IRIS, names) > 0.94
    two = names[:100]
    assert Classifier("LogisticRegression", random_state=0).fit(IRIS[:100], two).score(IRIS[:100], two) == 1.0
    with pytest.raises(ValueError, match="Only binary classification is supported by LogisticRegression; y has 3"):
        Classifier("LogisticRegression").fit(IRIS, names)


@pytest.mark.slow
def test_what_does_not_fit_says_what_would():
    with pytest.raises(ModelError, match=r"Clusterer takes models whose rows have a discrete latent; PPCA has none"):
        Clusterer("PPCA").fit(IRIS)
    with pytest.raises(ModelError, match="Density takes models with one data field, X; BayesianRegression has x, y"):
        Density("BayesianRegression").fit(IRIS)
    with pytest.raises(ModelError, match="rows of HiddenMarkov depend on each other"):
        Clusterer("HiddenMarkov", random_state=0).fit(IRIS)
    with pytest.raises(MethodError, match="'steps' is a setting of which method"):
        Clusterer().set_params(method__steps=3)
    with pytest.raises(UnknownNameError, match="component"):
        Clusterer().set_params(model__component=3)
    with pytest.raises(ValueError, match="Invalid parameter 'components'"):
        Clusterer().set_params(components=3)


@pytest.mark.slow
def test_columns_keep_their_names(faithful):
    summary = Clusterer("GMM", random_state=0).fit(faithful).fit_.summary()
    assert "means[0, eruptions]" in summary.index
    table = faithful[["eruptions"]]
    fitted = Regressor("BayesianRegression", random_state=0).fit(table, faithful["waiting"])
    assert "coefficients[eruptions]" in fitted.fit_.summary().index
    assert len(fitted.predict(table)) == 272


def test_settings_of_a_method_are_parameters():
    fitted = Clusterer(method="em", random_state=0).set_params(method__restarts=2, model__components=3)
    assert fitted.get_params()["method__restarts"] == 2
    assert clone(fitted).get_params()["model__components"] == 3
