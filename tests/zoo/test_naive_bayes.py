"""Naive Bayes: scikit-learn's estimates and classifications, evidence in closed form, rows without labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import gammaln, logsumexp

import zoo
from inference import EM, MAP, fit
from zoo import FitError
from zoo.program.prepare import prepare

KINDS = {"normal": "GaussianNB", "counts": "MultinomialNB", "categories": "CategoricalNB"}


def flowers(features):
    """Iris with the names of its kinds; in counts, or in few categories."""
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_iris(return_X_y=True)
    x = {"normal": x, "counts": np.round(4 * x), "categories": np.round(x / 2)}[features]
    return x, np.array(["setosa", "versicolor", "virginica"])[y]


def classified(found, x):
    """Probabilities of the classes of rows without labels."""
    return found.assign({"x": x, "y": [None] * len(x)}).to_numpy()


@pytest.mark.parametrize(
    "features", [pytest.param(f, marks=[pytest.mark.slow] if f != "normal" else []) for f in KINDS]
)
def test_without_prior_it_is_scikit_learns(features):
    bayes = pytest.importorskip("sklearn.naive_bayes")
    x, y = flowers(features)
    settings = {"var_smoothing": 0} if features == "normal" else {"alpha": 1e-10, "force_alpha": True}
    expected = getattr(bayes, KINDS[features])(**settings).fit(x, y)
    method = MAP(steps=2000)
    found = fit(zoo.NaiveBayes(features, smoothing=None), {"x": x, "y": y}, method=method, seed=0, progress=False)
    np.testing.assert_allclose(found.points["weights"], np.full(3, 1 / 3), atol=1e-4)
    if features == "normal":
        np.testing.assert_allclose(found.points["means"], expected.theta_, rtol=1e-5)
        np.testing.assert_allclose(1 / found.points["precisions"], expected.var_, rtol=1e-4)
    np.testing.assert_allclose(classified(found, x), expected.predict_proba(x), atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("features", ["counts", "categories"])
def test_the_mode_is_laplaces_rule(features):
    """Smoothing is scikit-learn's alpha."""
    bayes = pytest.importorskip("sklearn.naive_bayes")
    x, y = flowers(features)
    expected = getattr(bayes, KINDS[features])(alpha=0.5).fit(x, y)
    found = fit(
        zoo.NaiveBayes(features, smoothing=0.5), {"x": x, "y": y}, method=MAP(steps=3000), seed=0, progress=False
    )
    probs = found.posterior["point_estimate"]["probs"].to_numpy().squeeze()
    if features == "counts":
        np.testing.assert_allclose(probs, np.exp(expected.feature_log_prob_), atol=1e-3)
    else:
        for j, logs in enumerate(expected.feature_log_prob_):
            own = probs[:, j, : logs.shape[1]]
            assert own.shape == logs.shape
            # Levels that a column never takes have smoothing too: the shares among those that it takes are the same.
            np.testing.assert_allclose(own / own.sum(1, keepdims=True), np.exp(logs), atol=1e-2)
    np.testing.assert_allclose(classified(found, x), expected.predict_proba(x), atol=1e-2)


def evidence_of_counts(counts, prior):
    """Of counts under a Dirichlet, without coefficients."""
    return gammaln(prior.sum()) - gammaln(prior).sum() + gammaln(prior + counts).sum() - gammaln((prior + counts).sum())


@pytest.mark.parametrize("features", ["counts", "categories"])
def test_the_evidence_is_a_product_of_closed_forms(features):
    x, y = flowers(features)
    found = fit(zoo.NaiveBayes(features), {"x": x, "y": y}, method="exact", seed=0, progress=False)
    kinds = [x[y == name] for name in np.unique(y)]
    expected = evidence_of_counts(np.array([len(k) for k in kinds]), np.ones(3))
    for rows in kinds:
        if features == "counts":
            expected += evidence_of_counts(rows.sum(0), np.full(4, 2.0))
            expected += (gammaln(rows.sum(1) + 1) - gammaln(rows + 1).sum(1)).sum()
        else:
            levels = int(x.max()) + 1
            tallies = [np.bincount(column.astype(int), minlength=levels) for column in rows.T]
            expected += sum(evidence_of_counts(t, np.full(levels, 2.0)) for t in tallies)
    assert found.objective.value == pytest.approx(expected, abs=1e-7)


@pytest.mark.slow
def test_rows_without_labels_say_what_goes_together():
    """Semi-supervised EM: the likelihood of known labels, and of the others a mixture; at a maximum of the sum."""
    x, y = flowers("normal")
    known = np.random.default_rng(0).random(len(y)) < 0.1
    part = [name if k else None for name, k in zip(y, known, strict=True)]
    found = fit(zoo.NaiveBayes(smoothing=None), {"x": x, "y": part}, method="em", seed=0, progress=False)
    at = {n: v.numpy() for n, v in found.points.items()}
    codes = np.unique(y, return_inverse=True)[1]

    def height(weights, means, precisions):
        joint = np.stack([stats.norm(means[k], precisions[k] ** -0.5).logpdf(x).sum(1) for k in range(3)], 1)
        joint += np.log(weights)
        return joint[known, codes[known]].sum() + logsumexp(joint[~known], axis=1).sum()

    top = height(**at)
    assert found.objective.value == pytest.approx(top, abs=1e-6)
    for name in ("means", "precisions"):
        for cell in np.ndindex(at[name].shape):
            for step in (0.999, 1.001):
                moved = {**at, name: at[name].copy()}
                moved[name][cell] *= step
                assert height(**moved) < top + 1e-5
    assigned = found.assign().to_numpy()
    np.testing.assert_allclose(assigned[known], np.eye(3)[codes[known]], atol=1e-12)
    assert (assigned.argmax(1) == codes).mean() > 0.9  # 0.95 with all labels


@pytest.mark.slow
def test_missing_labels_at_random_cost_no_bias():
    """With all labels missing but one of each class, EM is that of a mixture with these rows known."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, 200)
    x = rng.normal(size=(200, 2)) + 4 * codes[:, None]
    first = [int(np.flatnonzero(codes == k)[0]) for k in (0, 1)]
    part = [int(c) if i in first else -1 for i, c in enumerate(codes)]
    found = fit(zoo.NaiveBayes(smoothing=None), {"x": x, "y": part}, method=EM(), seed=0, progress=False)
    np.testing.assert_allclose(found.points["means"], [[0, 0], [4, 4]], atol=4 / np.sqrt(90))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (zoo.NaiveBayes(), {"x": [[1.0], [2.0]], "y": ["a", "a"]}, "'y': expected at least 2 classes, found 1"),
        (zoo.NaiveBayes(), {"x": [[1.0], [1.0]], "y": ["a", "b"]}, "the same"),
        (zoo.NaiveBayes("counts"), {"x": [[1.5], [2.0]], "y": ["a", "b"]}, "expects counts 0, 1, 2, ..., found 1.5"),
        (zoo.NaiveBayes("categories"), {"x": [[-1], [2]], "y": ["a", "b"]}, "expects category codes .*found -1"),
        (zoo.NaiveBayes("categories"), {"x": [[1], [5000]], "y": ["a", "b"]}, "column 0: .*below 1000, found 5000"),
    ],
)
def test_rows_that_say_nothing_are_refused(model, data, message):
    with pytest.raises(zoo.DataError, match=message):
        prepare(model, data)


def test_with_all_labels_em_is_the_mode_in_closed_form():
    """Counts of each class with what the prior adds, as MAP finds it by gradient; there is no step to repeat."""
    y, x = np.array([0, 0, 1, 1, 1, 0]), np.array([[3, 1], [2, 2], [0, 5], [1, 4], [0, 2], [4, 0]])
    result = fit(zoo.NaiveBayes(features="counts"), {"x": x, "y": y}, method="em", seed=0)
    totals = np.stack([x[y == k].sum(0) + 1.0 for k in (0, 1)])
    found = result.posterior["point_estimate"]["probs"].to_numpy().reshape(2, 2)
    assert found == pytest.approx(totals / totals.sum(1, keepdims=True), rel=1e-9)


def test_rows_without_labels_are_assigned_and_those_with_labels_point_to_predict():
    rows = pd.DataFrame({"a": [0.0, 0.5, 1.0, 5.0, 5.5, 6.0], "kind": ["u", "u", "u", "v", "v", "v"]})
    found = fit(zoo.NaiveBayes(), rows, columns={"y": "kind"}, method="map", seed=0, progress=False)
    bare = rows.drop(columns="kind")
    assert found.assign(bare).equals(found.assign(rows.assign(kind=None)))
    assert found.assign(bare).idxmax(axis=1).tolist() == rows["kind"].tolist()
    for new in (None, rows):
        with pytest.raises(FitError, match=r"no discrete latent to assign.*predict\(new\) says what rows without 'y'"):
            found.assign(new)
