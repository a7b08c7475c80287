"""Data written in another way: fits of them are the same, or differ by what follows from the change.

Row order and weights are among the promises of `zoo.testing` already, which `test_invariants.py` checks on every model.
"""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.random import default_rng

import zoo
from inference import fit
from tests.cases.models import ZOO_CASES
from zoo.program.prepare import prepare
from zoo.testing.models import ModelChecks

RNG = default_rng(24)
GROUPS = RNG.integers(0, 2, 60)
X = RNG.normal(size=(60, 3)) @ np.array([[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.0, 0.0, 1.2]]) + 4.0 * GROUPS[:, None]
SLOPES = {"x": X[:, :1], "y": np.where(GROUPS == 1, 2.0, -1.0) * X[:, 0] + 0.3 * RNG.normal(size=60)}
CODES = RNG.integers(0, 3, (60, 4))
CODES[GROUPS == 1] = np.minimum(CODES[GROUPS == 1], 1)
COUNTS = RNG.poisson(np.where(GROUPS == 1, 8.0, 1.0))

SCALED = {  # model, data, the field whose unit changes
    **{f"GMM {c}": (zoo.GMM(components=2, covariance=c), {"x": X}, "x") for c in ("full", "diag", "tied", "spherical")},
    "StudentTMixture": (zoo.StudentTMixture(components=2, df=4.0), {"x": X}, "x"),
    "MixtureOfFactorAnalyzers": (zoo.MixtureOfFactorAnalyzers(components=2), {"x": X}, "x"),
    "FactorAnalysis": (zoo.FactorAnalysis(), {"x": X}, "x"),
    "PPCA": (zoo.PPCA(), {"x": X}, "x"),
    "MixtureOfRegressions": (zoo.MixtureOfRegressions(), SLOPES, "y"),
    "HiddenMarkov": (zoo.HiddenMarkov(components=2), {"x": X}, "x"),
    "LinearDynamicalSystem": (zoo.LinearDynamicalSystem(), {"x": X}, "x"),
    "NaiveBayes": (zoo.NaiveBayes("normal", smoothing=None), {"x": X, "y": GROUPS}, "x"),
}
QUICK = ("GMM full", "PPCA")


def cases(named):
    return [pytest.param(name, marks=[] if name in QUICK else [pytest.mark.slow]) for name in named]


def _em(model, data, **settings):
    return fit(model, data, method="em", seed=0, progress=False, **settings)


@pytest.mark.parametrize("name", cases(SCALED))
def test_a_unit_changes_densities_by_its_logarithm(name):
    """log p(s x) = log p(x) - n log s, and with s = 2^k every step of the ascent is the same but for rounding."""
    model, data, field = SCALED[name]
    plain, scaled = (_em(model, {**data, field: factor * data[field]}) for factor in (1.0, 1024.0))
    shift = data[field].size * math.log(1024.0)
    assert scaled.objective.value == pytest.approx(plain.objective.value - shift, rel=1e-7)
    if plain.program.enumerated and name != "NaiveBayes":
        np.testing.assert_allclose(scaled.assign().to_numpy(), plain.assign().to_numpy(), atol=1e-5)


MOVED = [n for n in SCALED if n not in ("LinearDynamicalSystem", "MixtureOfRegressions")]  # which have an origin


@pytest.mark.slow
@pytest.mark.parametrize("name", MOVED)
def test_an_origin_changes_nothing(name):
    model, data, field = SCALED[name]
    plain, moved = (_em(model, {**data, field: data[field] + by}) for by in (0.0, 256.0))
    assert moved.objective.value == pytest.approx(plain.objective.value, rel=1e-7)


RELABELLED = {
    "LatentClass": (zoo.LatentClass(components=2), {"x": CODES}, "em"),
    "NaiveBayes": (zoo.NaiveBayes("categories", smoothing=0.5), {"x": CODES, "y": GROUPS}, "em"),
    "HiddenMarkov": (zoo.HiddenMarkov(components=2, emission="categorical"), {"x": CODES}, "em"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", RELABELLED)
def test_labels_are_names(name):
    """Categories numbered the other way, classes by names that sort the other way: the same objective."""
    model, data, method = RELABELLED[name]
    found = [
        fit(
            model,
            {n: (names if n == "y" else codes)[v] for n, v in data.items()},
            method=method,
            seed=0,
            progress=False,
        )
        for names, codes in ((np.array(["a", "b"]), np.arange(3)), (np.array(["z", "b"]), np.arange(3)[::-1]))
    ]
    assert found[0].objective.value == pytest.approx(found[1].objective.value, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GMM full", "GMM diag", "FactorAnalysis", "PPCA", "StudentTMixture"])
def test_the_order_of_columns_does_not_matter(name):
    model, data, field = SCALED[name]
    plain, turned = (_em(model, {field: data[field][:, order]}) for order in ([0, 1, 2], [2, 0, 1]))
    assert turned.objective.value == pytest.approx(plain.objective.value, rel=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GMM full", "MixtureOfRegressions"])
def test_columns_that_no_field_takes_do_not_matter(name):
    model, data, _ = SCALED[name]
    table = pd.DataFrame({f"{n}{j}": v for n, a in data.items() for j, v in enumerate(a.reshape(60, -1).T)})
    columns = {n: [f"{n}{j}" for j in range(a.reshape(60, -1).shape[1])] for n, a in data.items()}
    found = [_em(model, t, columns=columns) for t in (table, table.assign(other=RNG.normal(size=60), text="a"))]
    assert found[0].objective.value == found[1].objective.value


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO_CASES)
def test_a_row_of_which_nothing_is_known_adds_nothing(name):
    """Where missing cells are legal, such a row has the log density 0 and leaves that of the others as it was."""
    model, data = ZOO_CASES[name][0]
    checks = ModelChecks(model, data)
    program = checks.program
    if program.locals or checks.apart() or not isinstance(data, list) or len(program.data.values) > 1:
        pytest.skip("rows have latents, are tied, or have predictors")
    rows = np.asarray(data, dtype=float)
    more = np.concatenate([rows, np.full((1, *rows.shape[1:]), np.nan)])
    try:
        after = prepare(model, more, device="cpu", dtype=torch.float64).log_joint(checks.values)
    except zoo.ZooError as error:
        pytest.skip(f"refused: {error}")
    before = program.log_joint(checks.values)
    torch.testing.assert_close(after.rows[:-1], before.rows, rtol=1e-9, atol=1e-9)
    assert abs(float(after.rows[-1])) < 1e-9
    assert float(after.rest) == pytest.approx(float(before.rest), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["em", "cavi"])
def test_a_row_of_weight_three_is_three_rows_or_two_and_one(method):
    model = zoo.GMM(components=2) if method == "em" else zoo.BayesianGMM(components=2)
    weights = RNG.integers(1, 4, 60)
    split = np.repeat(np.arange(60), np.where(weights == 3, 2, 1))
    parts = np.concatenate([[2, 1] if w == 3 else [w] for w in weights])
    found = [
        fit(model, X[rows], method=method, weights=w, seed=0, progress=False).objective.value
        for rows, w in ((np.arange(60), weights), (split, parts), (np.repeat(np.arange(60), weights), None))
    ]
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    assert found[2] == pytest.approx(found[0], rel=1e-6)


@pytest.mark.slow
def test_rows_in_chunks_are_the_same_rows(tmp_path):
    np.save(tmp_path / "x.npy", X)
    whole, chunked = (_em(zoo.GMM(components=2), d) for d in (X, zoo.stream(tmp_path / "x.npy", chunk=7)))
    assert chunked.objective.value == pytest.approx(whole.objective.value, rel=1e-6)
