"""Whatever is wrong, the answer is an error of the zoo that names it and says what to do; never NaN, never a guess."""

from __future__ import annotations

import itertools
import math
import re
from decimal import Decimal
from functools import cache

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from guides import Encoder, FullRank, MeanField, Point
from inference import EM, MAP, SVI, Exact, calibrate, check, compare, fit, update
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    BernoulliMixture,
    EightSchools,
    NonCentred,
    PoissonMixture,
    Rate,
    RegressionMixture,
    coin,
)
from tests.cases.spread import spread
from zoo import Binary, Category, Count, Positive, Real, UnitInterval, catalogue

RNG = np.random.default_rng(2)
GEYSER = zoo.datasets.load("faithful").iloc[:30]
PIXELS = pd.DataFrame((RNG.random((20, 3)) < 0.4).astype(float), columns=["left", "middle", "right"])
TOSSES = pd.DataFrame({"flips": FLIPS})
SCHOOL_TABLE = pd.DataFrame(SCHOOLS)
COUNTS = pd.DataFrame({"count": [1, 3, 2, 14, 12, 9]})
LINES = pd.DataFrame({"x": np.linspace(-1, 1, 12), "y": RNG.normal(size=12)})
SHORT, POINT = SVI(steps=5), MAP(steps=5)

CASES = {
    "coin-exact": (coin, TOSSES, "exact"),
    "coin-svi": (coin, TOSSES, SHORT),
    "coin-map": (coin, TOSSES, POINT),
    "zeros-and-ones-exact": (zoo.BetaBernoulli, TOSSES.rename(columns={"flips": "x"}), "exact"),
    "rate-exact": (Rate, COUNTS, "exact"),
    "schools-svi": (EightSchools, SCHOOL_TABLE, SHORT),
    "schools-map": (NonCentred, SCHOOL_TABLE, POINT),
    "gmm-em": (zoo.GMM(components=2), GEYSER, "em"),
    "gmm-svi": (zoo.GMM(components=2), GEYSER, SHORT),
    "gmm-map": (zoo.GMM(components=2, covariance="tied"), GEYSER, POINT),
    "bayesian-em": (zoo.BayesianGMM(components=2), GEYSER, "em"),
    "bayesian-svi": (zoo.BayesianGMM(components=2), GEYSER, SHORT),
    "bayesian-map": (zoo.BayesianGMM(components=2, covariance="diag"), GEYSER, POINT),
    "counts-em": (PoissonMixture, COUNTS, "em"),
    "profiles-em": (BernoulliMixture, PIXELS, "em"),
    "lines-em": (RegressionMixture, LINES, "em"),
    "vae-svi": (zoo.VAE(latent=1, hidden=(3,)), PIXELS, SVI(guide=Encoder(hidden=(3,)), steps=5)),
    "vae-gaussian-svi": (
        zoo.VAE(latent=1, hidden=(3,), likelihood="gaussian"),
        GEYSER,
        SVI(guide=Encoder(hidden=(3,)), steps=5),
    ),
}
MIXTURES = [n for n in CASES if n.startswith(("gmm", "bayesian"))]
every = pytest.mark.parametrize("name", CASES)
few = pytest.mark.parametrize("name", ["gmm-em", pytest.param("vae-svi", marks=pytest.mark.slow)])
some = pytest.mark.parametrize("name", ["coin-exact", "schools-map", "gmm-em", "vae-svi"])


def refused(call, *words: str) -> str:
    """Run `call`, which must raise an error of the zoo whose one line has each of `words`; return the line."""
    with pytest.raises(zoo.ZooError) as caught:
        call()
    text = str(caught.value)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert re.search(word, text), f"{word!r} is not in: {text}"
    assert not re.search(r"Traceback|Expected p_in|aten::", text), text
    assert "\n" not in text.strip(), text
    assert len(text) > 15
    return text


def fits(name: str, data=None, **options):
    model, good, method = CASES[name]
    return fit(model, good if data is None else data, method=method, seed=0, **options)


@cache
def fitted(name: str):
    """The fit of a case to its own data."""
    return fits(name)


@every
def test_the_cases_themselves_are_fine(name):
    found = fitted(name)
    assert math.isfinite(found.objective.value)
    assert np.isfinite(found.summary().astype(float)).all(axis=None)


# -- tables ----------------------------------------------------------------------------------------------------


def with_cell(table: pd.DataFrame, value: object) -> pd.DataFrame:
    """Put `value` in row 4 of the last column."""
    changed = table.astype({table.columns[-1]: object})
    changed.iloc[4, -1] = value
    return changed


CELLS = {
    "inf": (float("inf"), "finite"),
    "minus inf": (-float("inf"), "finite"),
    "a word": ("many", "many"),
    "empty text": ("", "''|expected numbers"),
    "a date": (pd.Timestamp("2020-01-01"), "number"),
    "a complex number": (1 + 2j, "number"),
    "a list": ([1, 2], "number"),
    "too large a number": (10**400, "number|finite"),
}


@pytest.mark.parametrize("cell", ["inf", "a word"])
@every
def test_one_bad_cell(name, cell):
    table, (value, word) = CASES[name][1], CELLS[cell]
    refused(lambda: fits(name, with_cell(table, value)), word, re.escape(str(table.columns[-1])) + "|field")


@pytest.mark.parametrize("cell", [c for c in CELLS if c not in ("inf", "a word")])
@some
def test_one_stranger_cell(name, cell):
    table, (value, word) = CASES[name][1], CELLS[cell]
    refused(lambda: fits(name, with_cell(table, value)), word, re.escape(str(table.columns[-1])) + "|field")


@pytest.mark.parametrize("cell", ["inf", "a word"])
@some
def test_one_bad_cell_in_new_rows(name, cell):
    table, (value, word) = CASES[name][1], CELLS[cell]
    found = fitted(name)
    refused(lambda: found.log_prob(with_cell(table, value)), word)


MISSING = (float("nan"), None, pd.NA)


@spread(("name", "value"), [(c, MISSING[(i + j) % 3]) for i, c in enumerate(CASES) for j in range(3)], part=0)
def test_one_missing_cell(name, value):
    """What a site observes is summed over, and the fit says so; covariates are refused."""
    table = with_cell(CASES[name][1], value)
    if name.startswith("schools"):
        refused(lambda: fits(name, table), "missing values", "'error'", "school 4", "argument scale")
        refused(lambda: fitted(name).log_prob(table), "missing values", "'error'", "argument scale")
        return
    found = fits(name, table)
    assert math.isfinite(found.objective.value)
    assert np.isfinite(found.summary().astype(float)).all(axis=None)
    assert any("1 of" in w and "missing" in w for w in found.warnings)
    assert found.log_prob(table.iloc[3:6]).notna().all()


def test_the_row_and_column_are_named():
    text = refused(lambda: fits("gmm-em", with_cell(GEYSER, float("inf"))))
    assert "'waiting'" in text
    assert re.search(r"row 4\b", text)
    refused(lambda: fits("gmm-em", with_cell(GEYSER, "ten")), "'waiting'", "'ten'", r"row 4\b")


@every
def test_an_empty_table(name):
    table = CASES[name][1]
    refused(lambda: fits(name, table.iloc[:0]), "empty|no numeric|size 0")
    refused(lambda: fits(name, table[[]]), re.escape(table.columns[0]) + "|no numeric columns|no column")
    refused(lambda: fits(name, pd.DataFrame()), "no numeric columns|no column")
    found = fitted(name)
    refused(lambda: found.log_prob(table.iloc[:0]), "empty|size 0")


@some
def test_a_column_named_twice(name):
    table = CASES[name][1]
    twice = pd.concat([table, table.iloc[:, -1:]], axis=1)
    refused(lambda: fits(name, twice), "twice", re.escape(table.columns[-1]))


@pytest.mark.parametrize("kind", ["dates", "periods", "durations", "words", "complex"])
@some
def test_a_column_of_another_kind(name, kind):
    table = CASES[name][1].copy()
    size, column = len(table), table.columns[-1]
    table[column] = {
        "dates": pd.date_range("2020-01-01", periods=size),
        "periods": pd.period_range("2020-01", periods=size, freq="M"),
        "durations": pd.to_timedelta(np.arange(size), unit="h"),
        "words": ["word"] * (size - 1) + ["1"],  # a label column would be left out, a damaged one must not be
        "complex": np.arange(size) * 1j,
    }[kind]
    refused(lambda: fits(name, table), re.escape(column) + "|field", "number")


@every
def test_a_missing_column(name):
    table = CASES[name][1]
    if table.shape[1] == 1 and len(CASES[name][0].fields) == 1:
        pytest.skip("one column fills the one field whatever its name")
    found, fewer = fitted(name), table.iloc[:, 1:]
    refused(lambda: found.log_prob(fewer), "column|expected")
    if len(CASES[name][0].fields) > 1:
        refused(lambda: fits(name, fewer), re.escape(table.columns[0]))


# -- other things in place of data -----------------------------------------------------------------------------


class Weird:
    """Nothing that holds data."""

    def __repr__(self):
        return "Weird()"


def no_model(x):
    """A function that was not made a model."""


NOT_DATA = {
    "None": None,
    "a number": 5,
    "a fraction": 1.5,
    "a truth": True,
    "a word": "nonsense",
    "no word": "",
    "bytes": b"abc",
    "a set": {0, 1},
    "a generator": (i for i in range(3)),
    "an object": Weird(),
    "a class": pd.DataFrame,
    "nothing": [],
    "nothing nested": [[]],
    "no fields": {},
    "another field": {"nonsense": [0, 1]},
    "words": ["a", "b", "c"],
    "objects": np.array([Weird(), Weird()], dtype=object),
    "ragged rows": [[1.0, 2.0], [3.0]],
    "three dimensions": np.ones((3, 2, 2)),
    "four dimensions": np.ones((2, 1, 3, 2)),
    "no dimension": np.array(1.0),
    "complex numbers": np.array([[1j, 2], [3, 4]]),
    "a complex tensor": torch.ones(4, 2, dtype=torch.complex64),
    "a sparse tensor": torch.eye(4).to_sparse(),
    "dates": np.array(["2020-01-01", "2021-01-01"], dtype="datetime64[D]"),
    "large numbers": [[10**400, 1], [2, 3], [4, 5]],
    "an array of None": np.array([[None, None]] * 3),
}


@spread("what", NOT_DATA, part=0, of=2)
@few
def test_what_is_no_data(name, what):
    model, good, method = CASES[name]
    if not (name == "vae-svi" and what in ("three dimensions", "four dimensions")):  # which takes images, too
        refused(lambda: fit(model, NOT_DATA[what], method=method, seed=0))
    if what != "None":  # which asks for the fitted rows
        found = fit(model, good, method=method, seed=0)
        refused(lambda: found.log_prob(NOT_DATA[what]))


def test_entries_that_are_masked_are_missing():
    masked = np.ma.masked_array(GEYSER.to_numpy(), mask=np.zeros(GEYSER.shape, bool))
    assert math.isfinite(fit(zoo.GMM(components=2), masked, method="em", seed=0).objective.value)
    masked.mask[3, 1] = True
    found = fit(zoo.GMM(components=2), masked, method="em", seed=0)
    assert "1 of 60 values are missing" in found.warnings[0]
    masked.mask[:, 1] = True
    refused(lambda: fit(zoo.GMM(components=2), masked, method="em", seed=0), "column 1", "missing")


UNUSUAL = {
    "single": GEYSER.astype("float32"),
    "nullable": GEYSER.astype({"waiting": "Int64", "eruptions": "Float64"}),
    "arrow": GEYSER.astype("float64[pyarrow]"),
    "decimals": GEYSER.map(lambda v: Decimal(str(v))),
    "objects": GEYSER.astype(object),
    "numbers in words": GEYSER.astype(str),
    "levels in the index": GEYSER.set_index(pd.MultiIndex.from_product([range(5), range(6)])),
    "an index of one label": GEYSER.set_index(pd.Index([0] * 30)),
    "time running backwards": GEYSER.set_index(pd.date_range("2020-01-01", periods=30)[::-1]),
    "levels in the columns": GEYSER.set_axis(pd.MultiIndex.from_product([["a"], ["x", "y"]]), axis=1),
    "names of several kinds": GEYSER.set_axis([3, ("b", 1)], axis=1),
    "a label column": GEYSER.assign(label=list("ab") * 15),
    "lists": GEYSER.to_numpy().tolist(),
    "half": torch.as_tensor(GEYSER.to_numpy(), dtype=torch.float16),
    "needs gradients": torch.as_tensor(GEYSER.to_numpy()).requires_grad_(),
    "strides": np.asfortranarray(GEYSER.to_numpy())[::-1],
    "a table in a dict": {"x": GEYSER},
    "truths": GEYSER.median() < GEYSER,
}


@spread("data", UNUSUAL, part=0)
@pytest.mark.parametrize("method", ["em", pytest.param(SHORT, marks=pytest.mark.slow)], ids=["em", "svi"])
def test_unusual_data_that_are_fine(data, method, tmp_path):
    data = UNUSUAL[data]
    found = fit(zoo.BayesianGMM(components=2), data, method=method, seed=0)
    assert math.isfinite(found.objective.value)
    assert np.isfinite(found.summary().astype(float)).all(axis=None)
    np.testing.assert_allclose(found.assign().sum(axis=1), 1, rtol=1e-9)
    np.testing.assert_allclose(found.assign(data).sum(axis=1), 1, rtol=1e-9)
    assert np.isfinite(found.log_prob()).all()
    assert len(found.generate(3)) == 3
    found.predict(draws=2)
    found.save(tmp_path)
    assert type(found).load(tmp_path).log_prob().to_list() == found.log_prob().to_list()


# -- values ----------------------------------------------------------------------------------------------------


def one_field(kind: zoo.Real) -> type[zoo.Model]:
    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x.to(mu.dtype))

    body = {"x": kind, "forward": forward, "__doc__": "One field.", "__annotations__": {}}
    return type(zoo.Model)("OneField", (zoo.Model,), body)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Positive("row"), 0.0),
        (Positive("row"), -1.0),
        (UnitInterval("row"), 1.0001),
        (UnitInterval("row"), -0.0001),
        (Count("row"), 0.5),
        (Count("row"), -1),
        (Binary("row"), 2),
        (Binary("row"), 0.5),
        (Category("row"), -2),
        (Category("row"), 1.5),
    ],
)
@pytest.mark.parametrize("method", [SHORT, POINT], ids=["svi", "map"])
def test_values_outside_the_support(kind, value, method):
    name = type(kind).__name__
    refused(lambda: fit(one_field(kind), [1, 1, value, 0], method=method, seed=0), "'x'", name, f"{value:g}", "row 2")


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (coin, [0, 1, 2], ["flips", "0 or 1", "2"]),
        (zoo.BetaBernoulli, "galaxies", ["'x'", "0 or 1"]),
        (EightSchools, {"effect": [1.0, 2.0], "error": [1.0, -1.0]}, ["error", "above 0", "-1"]),
        (zoo.VAE(), [[0, 1], [0.5, 1]], ["bernoulli", "0.5", "binomial"]),
        (zoo.VAE(likelihood="binomial"), [[0, 1], [0.5, 1]], ["binomial", "0.5", "gaussian"]),
        (zoo.VAE(likelihood="binomial", total_count=4), [[0, 1], [5, 1]], ["5", "total_count=4"]),
    ],
    ids=["coin", "zeros and ones", "error", "bernoulli", "binomial", "above the count"],
)
def test_values_outside_the_support_of_a_model(model, data, words):
    refused(lambda: fit(model, data, method=SHORT, seed=0), *words)


@pytest.mark.parametrize("name", MIXTURES)
def test_a_mixture_needs_variation(name):
    model, _, method = CASES[name]
    refused(lambda: fit(model, GEYSER.iloc[:1], method=method, seed=0), "rows|row of data", "1")
    refused(lambda: fit(model, GEYSER.iloc[[0] * 9], method=method, seed=0), "same|distinct")
    still = GEYSER.assign(waiting=3.0)
    if isinstance(model, zoo.BayesianGMM) and model.covariance == "full":
        refused(lambda: fit(model, still, method=method, seed=0), "'waiting'", "constant", "covariance='diag'")
    else:
        kept = fit(model, still, method=method, seed=0)
        assert any("column 'waiting' is constant" in w for w in kept.warnings)


@pytest.mark.parametrize("method", ["em", SHORT, POINT], ids=["em", "svi", "map"])
@pytest.mark.parametrize("model", [zoo.GMM, zoo.BayesianGMM])
def test_more_components_than_rows(model, method):
    refused(lambda: fit(model(components=31), GEYSER, method=method, seed=0), "31", "30", "fewer|more data")
    refused(lambda: fit(model(components=3), GEYSER.iloc[[0, 1] * 5], method=method, seed=0), "3", "2", "fewer")
    refused(lambda: fit(model(components=1), GEYSER.iloc[:1], method=method, seed=0), "one row")


@pytest.mark.parametrize("scale", [1e300, 1e-300])
@pytest.mark.parametrize("name", ["gmm-em", "bayesian-em", "bayesian-svi", "bayesian-map", "vae-gaussian-svi"])
def test_values_whose_squares_are_no_numbers(name, scale):
    """The column is named, whatever breaks first inside."""
    refused(lambda: fits(name, GEYSER.assign(waiting=GEYSER["waiting"] * scale)), "waiting|'x'", "scale|unit")


@pytest.mark.parametrize("scale", [1e-8, 1e8])
@spread("name", MIXTURES, part=0, of=2)
def test_values_in_any_reasonable_unit(name, scale):
    found = fits(name, GEYSER.assign(waiting=GEYSER["waiting"] * scale))
    assert math.isfinite(found.objective.value)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["em", SVI(steps=300), MAP(steps=300)], ids=["em", "svi", "map"])
@pytest.mark.parametrize(
    "rows", [[[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [9.0, 9.0]]]
)
def test_a_likelihood_without_maximum_is_said(rows, method):
    """A component can close in on few rows, where the likelihood has no bound: an error or a warning, never NaN."""
    try:
        found = fit(zoo.GMM(components=2), rows, method=method, seed=0)
    except zoo.ZooError as error:
        assert "component" in str(error) or "prior" in str(error)  # noqa: PT017 - either outcome is right
    else:
        assert found.warnings
        assert math.isfinite(found.objective.value)


@pytest.mark.parametrize("value", [1e12, 1e200, 1e300, -1e300])
@pytest.mark.parametrize("name", ["gmm-em", "bayesian-em", "bayesian-svi", "counts-em"])
def test_far_away_rows_are_assigned_or_refused(name, value):
    found, new = fitted(name), CASES[name][1].iloc[:2].astype(float)
    new.iloc[1, 0] = abs(value) if name == "counts-em" else value
    try:
        table = found.assign(new)
    except zoo.ZooError as error:
        assert re.search("row|column|'x'", str(error))  # noqa: PT017 - either outcome is right
    else:
        np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["coin-exact", "coin-svi", "coin-map", "zeros-and-ones-exact", "rate-exact", "vae-svi"]
)
def test_one_row_is_enough_where_nothing_needs_two(name):
    found = fits(name, CASES[name][1].iloc[:1])
    assert math.isfinite(found.objective.value)
    assert np.isfinite(found.log_prob()).all()


@spread("name", ["coin-exact", "counts-em", "profiles-em", "lines-em", "schools-svi", "vae-svi"], part=1, of=2)
def test_equal_rows_are_fitted_or_refused(name):
    same = CASES[name][1].iloc[[0] * 8].reset_index(drop=True)
    try:
        found = fits(name, same)
    except zoo.ZooError as error:
        assert re.search("same|distinct|prior|constant|component|bound", str(error))  # noqa: PT017
    else:
        assert math.isfinite(found.objective.value)
        assert np.isfinite(found.summary().astype(float)).all(axis=None)


@pytest.mark.parametrize(
    "new",
    [
        GEYSER.assign(more=1.0).to_numpy(),
        GEYSER[["waiting"]],
        GEYSER.rename(columns={"waiting": "wait"}),
        [[1.0]],
        [[1.0, 2.0, 3.0]],
        [1.0, 2.0],
        "coin",
    ],
    ids=["one more", "one less", "another name", "one", "three", "a vector", "another dataset"],
)
@pytest.mark.parametrize("name", ["gmm-em", "bayesian-svi", "vae-gaussian-svi"])
def test_new_rows_with_other_columns(name, new):
    found = fitted(name)
    text = refused(lambda: found.log_prob(new))
    assert "eruptions" in text or "waiting" in text or "feature" in text
    refused(lambda: found.predict(new))
    if name != "vae-gaussian-svi":
        refused(lambda: found.assign(new))


@pytest.mark.parametrize(
    "data",
    [
        {"effect": [1.0, 2.0], "error": [1.0]},
        {"effect": [1.0, 2.0]},
        {"effect": [1.0], "error": [1.0], "more": [1.0]},
        {"effect": 1.0, "error": 1.0},
        {"effect": [[1.0, 2.0]], "error": [1.0]},
        [1.0, 2.0],
        {"effect": None, "error": None},
    ],
    ids=["lengths", "missing", "unknown", "scalars", "matrix", "one array", "None"],
)
def test_fields_that_disagree(data):
    refused(lambda: fit(EightSchools, data, method=SHORT, seed=0), "effect|error")


def test_fields_that_disagree_name_the_dimension():
    text = refused(lambda: fit(EightSchools, {"effect": [1.0, 2.0], "error": [1.0]}, method=SHORT, seed=0))
    for word in ("effect", "error", "school", "2", "1"):
        assert word in text


@pytest.mark.parametrize("new", [["b", "x"], [0, 5], pd.DataFrame({"colour": ["q"]})], ids=repr)
def test_labels_never_seen(new):
    from tests.cases.models import Colours

    found = fit(Colours, ["a", "b", "c"], method="exact", seed=0)
    refused(lambda: found.log_prob(new), "colour", "categor")


def name_of(value: object) -> str:
    """An id that is the same in every process."""
    return getattr(value, "__name__", None) or repr(value)


# -- names and settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [None, 5, "nonsense", "", [], {}, int, Weird(), zoo.Model, no_model], ids=name_of)
def test_what_is_no_model(model):
    refused(lambda: fit(model, GEYSER, method="em", seed=0), "model|Model")
    refused(lambda: zoo.explain(model, GEYSER), "model|Model")
    refused(lambda: compare(model, GEYSER, methods=["em"], seed=0), "model|Model")


@pytest.mark.parametrize("method", [None, 5, "nonsense", "", [], True, int, Weird(), MeanField(), zoo.GMM], ids=name_of)
def test_what_is_no_method(method):
    text = refused(lambda: fit(zoo.GMM(), GEYSER, method=method, seed=0), "method")
    for name in ("em", "svi", "map", "exact"):
        assert name in text.lower()


@pytest.mark.parametrize("given", [None, zoo.BetaBernoulli, coin, zoo.GMM(), TOSSES, "exact"], ids=name_of)
def test_what_is_no_fit(given):
    for call, usage in (
        (lambda: check(given), r"check\(fit\(model, data, method"),
        (lambda: update(given, TOSSES), r"update\(fit\(model, data, method=...\), new_data"),
    ):
        refused(call, "expected a fit, found", usage)
    if given is not None:
        refused(lambda: calibrate("coin", "exact", posterior=given), "expected a fit", r"posterior=fit\(model")


@pytest.mark.parametrize("guide", [None, 5, "nonsense", "", [], True, int, Weird(), EM(), zoo.GMM], ids=name_of)
def test_what_is_no_guide(guide):
    refused(lambda: SVI(guide=guide), "guide")
    refused(lambda: Encoder(globals=guide), "guide|globals")


@pytest.mark.parametrize("name", ["faithfull", "nonsense", "FAITHFUL", ""])
def test_what_is_no_dataset(name):
    text = refused(lambda: fit(zoo.GMM(), name, method="em", seed=0), "dataset")
    assert "faithful" in text
    refused(lambda: zoo.datasets.load(name), "dataset", "faithful")


def test_a_near_miss_is_suggested():
    refused(lambda: fit("GMN", GEYSER, method="em"), r"did you mean '?GMM")
    refused(lambda: fit("GMM", "faithfull", method="em"), r"did you mean '?faithful")
    refused(lambda: fit("GMM", GEYSER, method="exacct"), r"did you mean '?[Ee]xact")
    refused(lambda: fit("GMM", GEYSER, method="emm"), r"did you mean 'EM'")
    refused(lambda: zoo.GMM(component=2), r"did you mean '?components")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: zoo.GMM(nonsense=2), ["nonsense", "components"]),
        (lambda: zoo.GMM(components=0), ["components", "0"]),
        (lambda: zoo.GMM(components=-1), ["components", "-1"]),
        (lambda: zoo.GMM(components=2.5), ["components", "2.5"]),
        (lambda: zoo.GMM(components="two"), ["components", "two"]),
        (lambda: zoo.GMM(components=True), ["components", "True"]),
        (lambda: zoo.GMM(components=None), ["components"]),
        (lambda: zoo.GMM(components=[2]), ["components"]),
        (lambda: zoo.GMM(components=math.nan), ["components"]),
        (lambda: zoo.GMM(covariance="round"), ["covariance", "round", "spherical"]),
        (lambda: zoo.GMM(2, "full", 3), ["GMM", "components", "covariance"]),
        (lambda: zoo.GMM(2, components=3), ["components"]),
        (lambda: zoo.BayesianGMM(concentration=0), ["concentration"]),
        (lambda: zoo.BayesianGMM(shrinkage=-1.0), ["shrinkage"]),
        (lambda: zoo.BayesianGMM(df=math.nan), ["df"]),
        (lambda: zoo.BayesianGMM(covariance="tied"), ["covariance", "tied", "diag"]),
        (lambda: zoo.BetaBernoulli(a=0), ["a=0"]),
        (lambda: zoo.BetaBernoulli(b=math.nan), ["b=nan"]),
        (lambda: zoo.VAE(latent=0), ["latent"]),
        (lambda: zoo.VAE(hidden=(0,)), ["hidden"]),
        (lambda: zoo.VAE(hidden="wide"), ["hidden"]),
        (lambda: zoo.VAE(likelihood="poisson"), ["likelihood", "poisson", "gaussian"]),
        (lambda: coin(a="one"), ["a", "one"]),
        (lambda: coin(c=1.0), ["c", "a, b"]),
        (lambda: EightSchools(scale=None), ["scale"]),
        (lambda: SVI(steps=0), ["SVI", "steps=0"]),
        (lambda: SVI(steps=-1), ["steps=-1"]),
        (lambda: SVI(steps=1.5), ["steps=1.5"]),
        (lambda: SVI(steps=True), ["steps=True"]),
        (lambda: SVI(steps=None), ["steps"]),
        (lambda: SVI(steps="many"), ["steps", "many"]),
        (lambda: SVI(learning_rate=-1), ["learning_rate=-1"]),
        (lambda: SVI(learning_rate=0), ["learning_rate=0"]),
        (lambda: SVI(learning_rate=math.nan), ["learning_rate"]),
        (lambda: SVI(learning_rate="fast"), ["learning_rate", "fast"]),
        (lambda: SVI(batch_size=0), ["batch_size=0"]),
        (lambda: SVI(batch_size=2.5), ["batch_size=2.5"]),
        (lambda: SVI(particles=0), ["particles=0"]),
        (lambda: MAP(steps=0), ["MAP", "steps=0"]),
        (lambda: EM(restarts=0), ["EM", "restarts=0"]),
        (lambda: EM(tolerance=-1e-6), ["tolerance"]),
        (lambda: EM(max_steps=0), ["max_steps=0"]),
        (lambda: Encoder(hidden=()) and Encoder(hidden=(-3,)), ["hidden"]),
        (lambda: Encoder(hidden=5), ["hidden"]),
    ],
)
def test_settings_out_of_place(make, words):
    refused(make, *words)


@pytest.mark.parametrize("value", [-1.0, 0.0, math.nan, math.inf])
@pytest.mark.parametrize("method", ["exact", SHORT, POINT], ids=["exact", "svi", "map"])
def test_hyperparameters_that_make_no_prior(value, method):
    """A user's own model declares `a: float`: what is wrong shows only in its density."""
    refused(lambda: fit(coin(a=value), FLIPS, method=method, seed=0), "heads|'a'|a=")


@pytest.mark.parametrize("seed", [-1, 1.5, "a", True, 2**63, 2**70, math.nan, [1], np.float64(3), b"x"], ids=repr)
def test_what_is_no_seed(seed):
    refused(lambda: fit(coin, FLIPS, method="exact", seed=seed), "seed")
    refused(lambda: compare(coin, FLIPS, methods=["exact"], seed=seed), "seed")
    found = fit(coin, FLIPS, method="exact", seed=0)
    for ask in (found.generate, found.sample):
        refused(lambda ask=ask: ask(3, seed=seed), "seed")
    refused(lambda: found.predict(seed=seed), "seed")


@pytest.mark.parametrize("seed", [0, 2**63 - 1, np.int64(7), torch.tensor(7)], ids=repr)
def test_what_is_a_seed(seed):
    found = fit(coin, FLIPS, method="exact", seed=seed)
    assert found.seed == int(seed)
    assert type(found.seed) is int
    found.summary()
    found.log_prob()
    found.generate(2)
    found.predict(draws=2)
    found.sample(2)


WEIGHTS = {
    "negative": [-1.0] + [1.0] * 9,
    "NaN": [math.nan] + [1.0] * 9,
    "infinite": [math.inf] + [1.0] * 9,
    "all zero": [0.0] * 10,
    "too few": [1.0] * 9,
    "too many": [1.0] * 11,
    "a number": 5,
    "a matrix": [[1.0] * 10],
    "words": ["a"] * 10,
    "None inside": [None] + [1.0] * 9,
    "complex": np.ones(10) * 1j,
    "no column": "times",
    "a dict": {"w": 1},
    "too large to add up": [1e308] * 10,
}


@pytest.mark.parametrize("which", WEIGHTS)
@pytest.mark.parametrize("method", ["exact", SHORT, POINT], ids=["exact", "svi", "map"])
def test_what_are_no_weights(which, method):
    refused(lambda: fit(coin, TOSSES, method=method, seed=0, weights=WEIGHTS[which]), "weight")


@pytest.mark.parametrize("options", [{"nonsense": 1}, {"Seed": 0}])
def test_unknown_keywords_are_not_swallowed(options):
    with pytest.raises((zoo.ZooError, TypeError), match=next(iter(options))):
        fit(coin, FLIPS, method="exact", **options)
    with pytest.raises((zoo.ZooError, TypeError), match=next(iter(options))):
        compare(coin, FLIPS, methods=["exact"], **options)


# -- files -----------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    GEYSER.to_csv(tmp_path / "good.csv", index=False)
    GEYSER.to_parquet(tmp_path / "good.parquet")
    np.save(tmp_path / "good.npy", GEYSER.to_numpy())
    for kind in ("csv", "parquet", "npy"):
        content = (tmp_path / f"good.{kind}").read_bytes()
        (tmp_path / f"cut.{kind}").write_bytes(content[: len(content) * 2 // 3].rstrip(b"0123456789\n"))
        (tmp_path / f"empty.{kind}").write_bytes(b"")
        (tmp_path / f"noise.{kind}").write_bytes(bytes(range(256)) * 8)
        (tmp_path / f"folder.{kind}").mkdir()
    np.save(tmp_path / "objects.npy", np.array([{1: 2}], dtype=object), allow_pickle=True)
    (tmp_path / "data.feather").write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet", "npy"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "folder", "missing"])
def test_files_that_cannot_be_read(files, kind, damage):
    path = files / f"{damage}.{kind}"
    assert math.isfinite(fit(zoo.GMM(), files / f"good.{kind}", method="em", seed=0).objective.value)
    for given in (path, str(path)):
        if (damage, kind) == ("cut", "csv"):  # a table that lacks its last number
            assert "missing" in fit(zoo.GMM(), given, method="em", seed=0).warnings[0]
            continue
        refused(lambda given=given: fit(zoo.GMM(), given, method="em", seed=0), f"{damage}.{kind}|column")


@pytest.mark.parametrize("file", ["objects.npy", "data.feather", "", "nowhere/good.csv"])
def test_files_of_another_kind(files, file):
    refused(lambda: fit(zoo.GMM(), files / file, method="em", seed=0))


def test_a_pickle_is_never_opened(tmp_path):
    """An .npy file can hold a pickle, which could run anything."""
    evidence = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(evidence), "w"))

    np.save(tmp_path / "evil.npy", np.array([Evil()], dtype=object), allow_pickle=True)
    refused(lambda: fit(zoo.GMM(), tmp_path / "evil.npy", method="em", seed=0), "evil.npy")
    assert not evidence.exists()


# -- pairs -----------------------------------------------------------------------------------------------------

METHODS = {"em": EM(), "exact": Exact(), "svi": SHORT, "map": POINT}


def prepared(name: str):
    from zoo.program.prepare import prepare

    return prepare(*CASES[name][:2])


@pytest.mark.slow
@spread(("name", "method"), list(itertools.product(CASES, METHODS)), part=0, of=10)
def test_an_illegal_method_says_why_and_what_would_work(name, method):
    model, data, _ = CASES[name]
    program = prepared(name)
    reason = METHODS[method].why_not(program)
    if reason is None:
        assert math.isfinite(fit(model, data, method=METHODS[method], seed=0).objective.value)
        return
    text = refused(lambda: fit(model, data, method=METHODS[method], seed=0), method, type(program.model).__name__)
    assert reason in text
    legal = re.search(r"Legal here: ([a-z, ]+)\.", text)
    assert legal
    for other in legal[1].split(", "):
        assert catalogue.find("method", other)().why_not(program) is None


def test_the_scale_of_eight_schools_has_no_closed_form():
    refused(lambda: fit(EightSchools, SCHOOLS, method="em", seed=0), "'tau' has no closed-form update", "svi")


@spread("name", [n for n in CASES if not n.startswith(("schools", "vae"))], part=0, of=2)
def test_an_encoder_needs_local_latents(name):
    model, data, _ = CASES[name]
    program = prepared(name)
    if not program.latents:
        pytest.skip("parameters only: no guide is used")
    refused(
        lambda: fit(model, data, method=SVI(guide=Encoder()), seed=0), "Encoder", "local latents", "MeanField|Point"
    )


def test_a_full_covariance_of_very_many_coordinates():
    pixels = np.tile(PIXELS.to_numpy(), (60, 1))
    refused(lambda: fit(zoo.VAE(latent=2), pixels, method=SVI(guide=FullRank()), seed=0), "2400", "MeanField")


def test_an_encoder_is_no_guide_for_globals():
    refused(lambda: fit(zoo.VAE(latent=1), PIXELS, method=SVI(guide=Encoder(globals=Encoder())), seed=0), "MeanField")


@pytest.mark.parametrize("guide", [MeanField(), Point(), FullRank(), Encoder()], ids=repr)
def test_every_guide_reports_a_bad_cell(guide):
    refused(lambda: fit(NonCentred, with_cell(SCHOOL_TABLE, math.nan), method=SVI(guide=guide, steps=5)), "error")


# -- models that are wrong -------------------------------------------------------------------------------------

X = [1.0, 2.0, -1.0, 0.5, 3.0]


def declared(forward, **body) -> type[zoo.Model]:
    fields = {"x": Real("row"), "__doc__": "A model that is wrong.", "__annotations__": {}}
    return type(zoo.Model)("Wrong", (zoo.Model,), {**fields, "forward": forward, **body})


def mean() -> torch.Tensor:
    return pyro.sample("mu", dist.Normal(0.0, 1.0))


def observe(x, plate="row", size=None, **options):
    """Observe x around an unknown mean, inside a plate that may be wrong."""

    def forward(self, x):
        mu = mean()
        with pyro.plate(plate, len(x) if size is None else size, **options):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    return forward


def no_plate(self, x):
    pyro.sample("x", dist.Normal(mean(), 1.0), obs=x)


def longer_event(self, x):
    pyro.sample("x", dist.Normal(mean(), 1.0).expand([len(x) + 1]).to_event(1), obs=x)


def expanded(self, x):
    pyro.sample("x", dist.Normal(mean(), 1.0).expand([len(x)]), obs=x)


def latent_without_plate(self, x):
    effect = pyro.sample("effect", dist.Normal(torch.zeros(len(x)), 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(effect, 1.0), obs=x)


def other_shape(self, x):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def same_plate_twice(self, x):
    mu = mean()
    with pyro.plate("row", len(x)), pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


PLATES = {
    "too short": (observe(X, size=3), "row"),
    "too long": (observe(X, size=50), "row"),
    "another name": (observe(X, plate="rows"), "row"),
    "subsampled": (observe(X, subsample_size=2), "subsample"),
    "another dimension": (observe(X, dim=-2), "row|'x'"),
    "none": (no_plate, "row"),
    "an event of more rows": (longer_event, r"site 'x'.*event shape \(\d+,\).*values of shape \(\d+,\)"),
    "a batch instead": (expanded, "'x'"),
    "a latent outside": (latent_without_plate, "effect"),
    "another shape inside": (other_shape, "x"),
    "twice": (same_plate_twice, "row"),
}


@pytest.mark.parametrize("method", [*METHODS, "explain"])
@pytest.mark.parametrize("wrong", PLATES)
def test_plates_that_are_wrong(wrong, method):
    model, word = declared(PLATES[wrong][0]), PLATES[wrong][1]
    if method == "explain":
        refused(lambda: zoo.explain(model, X), word)
    else:
        refused(lambda: fit(model, X, method=METHODS[method], seed=0), word)


def nan_likelihood(self, x):
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu * math.nan, 1.0), obs=x)


def nan_scale(self, x):
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, mu - mu), obs=x)


def negative_scale(self, x):
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, -1.0), obs=x)


def nan_prior(self, x):
    mu = pyro.sample("mu", dist.Normal(math.nan, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def nan_parameter(self, x):
    mu = pyro.param("mu", torch.tensor(math.nan))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def nan_factor(self, x):
    mu = mean()
    pyro.factor("penalty", mu * math.nan)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def nan_probability(self, x):
    mu = pyro.sample("mu", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Bernoulli(mu * math.nan), obs=(x > 0).to(mu.dtype))


def probability_above_one(self, x):
    mu = pyro.sample("mu", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Bernoulli(mu + 1.0), obs=(x > 0).to(mu.dtype))


def nan_rate(self, x):
    mu = pyro.sample("mu", dist.Gamma(1.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(-mu), obs=x.abs().floor())


def nan_states(self, x):
    weights = pyro.param("weights", torch.full((2,), 0.5), constraint=constraints.simplex)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(torch.tensor([0.0, math.nan])[z], 1.0), obs=x)


def nan_weights(self, x):
    loc = pyro.param("loc", torch.tensor([0.0, 1.0]))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.full((2,), math.nan)))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


def impossible(self, x):
    top = pyro.sample("top", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Uniform(0.0, top), obs=x)


def not_positive_definite(self, x):
    mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 2.0], [2.0, 1.0]])))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)


NANS = {
    f.__name__.replace("_", " "): f
    for f in (
        nan_likelihood,
        nan_scale,
        negative_scale,
        nan_prior,
        nan_parameter,
        nan_factor,
        nan_probability,
        probability_above_one,
        nan_rate,
        nan_states,
        nan_weights,
        impossible,
        not_positive_definite,
    )
}


@spread(("wrong", "method"), list(itertools.product(NANS, METHODS)), part=0, of=2)
def test_densities_that_are_no_numbers(wrong, method):
    """The site is named; a method that is not legal may say that instead."""
    text = refused(lambda: fit(declared(NANS[wrong]), X, method=METHODS[method], seed=0))
    assert "not legal" in text or re.search("site '(x|mu|top|penalty|z)'|^Wrong failed", text)


@spread("wrong", NANS, part=0, of=2)
def test_explaining_densities_that_are_no_numbers(wrong):
    """Sites can be shown whatever their density, or the error names one."""
    try:
        assert "mu" in zoo.explain(declared(NANS[wrong]), X) or wrong in ("nan states", "nan weights", "impossible")
    except zoo.ZooError as error:
        assert "site" in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("guide", [MeanField(), FullRank(), Point()], ids=repr)
@spread("steps", [3, 60, pytest.param(400, marks=pytest.mark.slow)], part=0, of=2)
def test_a_density_that_becomes_nan_on_the_way(guide, steps):
    """Fine at the start, no number a few steps uphill: an error, or the last good place with a warning; never NaN."""

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = torch.where(mu > 0.25, math.nan, 1.0)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, scale), obs=x)

    model = declared(forward, initial=lambda self, x: {"mu": torch.tensor(-1.0)})
    try:
        found = fit(model, X, method=SVI(guide=guide, steps=steps, learning_rate=0.1), seed=0)
    except zoo.ZooError as error:
        assert re.search("finite|not a number|NaN", str(error))  # noqa: PT017 - either outcome is right
    else:
        assert math.isfinite(found.objective.value)
        assert np.isfinite(found.trace["value"]).all()
        assert np.isfinite(found.summary().astype(float)).all(axis=None)
        assert found.warnings


def test_a_step_far_too_long():
    refused(lambda: fit(coin, FLIPS, method=SVI(learning_rate=1e8, steps=300), seed=0), "learning_rate", "smaller")


def observes_nothing(self, x):
    mean()


def same_site_twice(self, x):
    mean()
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def raises(self, x):
    raise KeyError("an error\nof the user's own")


def recurses(self, x):
    return recurses(self, x)


def changes_its_sites(self, x):
    mu = mean()
    if torch.rand(()) > 0.5:
        pyro.sample("extra", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def many_states(self, x):
    n = pyro.sample("n", dist.Multinomial(3, torch.ones(2) / 2))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(n[0], 1.0), obs=x)


def improper(self, x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def no_distribution(self, x):
    pyro.sample("mu", 3.0)


def no_arguments(self):
    pass


def nothing_to_fit(self, x):
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def moving_support(self, x):
    top = pyro.sample("top", dist.Gamma(1.0, 1.0))
    mu = pyro.sample("mu", dist.Uniform(0.0, top))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


OTHERS = {
    "observes nothing": (observes_nothing, "observes nothing"),
    "same site twice": (same_site_twice, "mu"),
    "raises": (raises, "an error"),
    "recurses": (recurses, "Wrong"),
    "changes its sites": (changes_its_sites, "extra"),
    "states that cannot be listed": (many_states, "'n'"),
    "improper": (improper, "'mu' is masked in all entries.*ImproperUniform"),
    "no distribution": (no_distribution, "mu"),
    "no arguments": (no_arguments, "argument"),
    "nothing to fit": (nothing_to_fit, "no latent|nothing"),
    "moving support": (moving_support, "mu"),
}


GROUPS = {"y": np.linspace(-1.0, 1.0, 12), "group": np.tile(np.arange(1, 7), 2)}


def of_groups(effect, kind=Category, groups=6):
    """Rows in groups, whose effects `effect` looks up."""

    @zoo.model(y=Real("row"), group=kind("row"))
    def grouped(y, group):
        with pyro.plate("group", groups):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(effect(theta, group), 1.0), obs=y)

    return grouped


@pytest.mark.parametrize(
    ("effect", "kind", "entries"),
    [
        (lambda theta, group: theta[group], Category, "6 entries"),
        (lambda theta, group: theta[group.long()], Count, "6 entries"),
        (lambda theta, group: theta.gather(0, group), Category, "6 entries"),
        (lambda theta, group: torch.nn.functional.embedding(group, theta[:, None])[:, 0], Category, "fewer entries"),
    ],
    ids=["codes", "counts", "gather", "embedding"],
)
def test_codes_that_begin_with_one_are_named(effect, kind, entries):
    model = of_groups(effect, kind)
    said = f"'group' holds codes up to 6, and what they index has {entries}; codes count from 0: subtract 1"
    assert "data plate" not in refused(lambda: zoo.explain(model, GROUPS), said, "have 7 entries")
    zoo.explain(model, {**GROUPS, "group": GROUPS["group"] - 1})
    gap = GROUPS["group"] - (GROUPS["group"] == 1)
    assert "subtract" not in refused(
        lambda: zoo.explain(model, {**GROUPS, "group": gap}), "'group' holds codes up to 6"
    )


def test_an_index_of_the_models_own_is_not_blamed_on_a_field():
    model = of_groups(lambda theta, group: theta[torch.arange(len(group))] + 0.0 * group)
    assert "'group' holds" not in refused(lambda: zoo.explain(model, GROUPS), "IndexError: index 6 is out of bounds")


def takes_another_argument(self, y):
    pass


def adds_another_length(self, x):
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu + torch.zeros(3) + x, 1.0), obs=x)


@pytest.mark.parametrize(
    ("forward", "word", "lengths"),
    [
        (adds_another_length, "after plate 'row'", True),
        (takes_another_argument, r"forward\(self, x\)", False),
        (same_site_twice, "site 'mu'", False),
        (raises, "before its first site", False),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_lengths_are_asked_about_where_shapes_differ(forward, word, lengths):
    text = refused(lambda: zoo.explain(declared(forward), X), word)
    assert ("Check that every data plate has the length" in text) == lengths


def by_numpy(self, x):
    mu = mean()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, torch.as_tensor(np.exp(mu))), obs=x)


def a_parameter_by_numpy(self, x):
    width = np.exp(pyro.param("width", torch.tensor(0.0)))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, width), obs=x)


def data_by_numpy(self, x):
    mu, width = mean(), torch.as_tensor(np.std(x.numpy()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, width), obs=x)


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
@pytest.mark.parametrize(
    ("forward", "place"), [(by_numpy, "after plate 'row'"), (a_parameter_by_numpy, "after parameter 'width'")]
)
@pytest.mark.parametrize("rows", [5, 500])
def test_latents_and_parameters_do_not_pass_through_numpy(forward, place, rows):
    x = np.linspace(-1.0, 1.0, rows)
    for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with grad():
            refused(lambda: fit(declared(forward), x, method=POINT, seed=0), f"NumPy {place}", r"torch\.exp")
            refused(lambda: zoo.explain(declared(forward), x), f"NumPy {place}", r"torch\.exp")
    fit(declared(data_by_numpy), x, method=POINT, seed=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrong", OTHERS)
def test_models_that_are_wrong_otherwise(wrong, method):
    forward, word = OTHERS[wrong]
    text = refused(lambda: fit(declared(forward), X, method=METHODS[method], seed=0))
    assert "not legal" in text or re.search(word, text)


@zoo.model(x=Real("row"))
def flat(x):
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize(
    ("method", "reason"),
    [("em", "no discrete latent"), ("exact", "'mu' ~ ImproperUniform"), ("smc", "its prior is flat")],
)
def test_a_flat_prior_is_refused_where_it_has_no_use(method, reason):
    text = refused(lambda: fit(flat, X, method=method, seed=0), reason)
    assert "Legal here: dadvi, laplace, map, nuts, pathfinder, svi" in text


@pytest.mark.parametrize(
    ("proposal", "word"),
    [
        ({"nu": torch.tensor(0.0)}, "nu"),
        ({"mu": torch.zeros(3)}, "mu"),
        ({"mu": torch.tensor(math.nan)}, "mu"),
        ({"mu": 0.0}, "mu"),
        ({"mu": "start"}, "mu"),
        (None, "initial"),
        (3, "initial"),
    ],
    ids=["no site", "another shape", "NaN", "a number", "a word", "None", "no dict"],
)
def test_starting_values_that_are_wrong(proposal, word):
    model = declared(observe(X), initial=lambda self, x: proposal)
    if isinstance(proposal, dict) and isinstance(proposal.get("mu"), float):  # a plain number is a fair way to say it
        try:
            assert math.isfinite(fit(model, X, method=POINT, seed=0).objective.value)
        except zoo.ZooError as error:
            assert "mu" in str(error)  # noqa: PT017 - either outcome is right
        return
    refused(lambda: fit(model, X, method=POINT, seed=0), word)


def test_starting_values_outside_the_support():
    def forward(self, x):
        scale = pyro.sample("scale", dist.Gamma(1.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(0.0, scale), obs=x)

    model = declared(forward, initial=lambda self, x: {"scale": torch.tensor(-1.0)})
    refused(lambda: fit(model, X, method=SHORT, seed=0), "scale", "support")


@pytest.mark.parametrize("hook", ["check", "setup", "initial"])
def test_an_error_in_a_hook_is_the_users_own_or_the_zoos(hook):
    """It must not be hidden: either it comes through as it is, or wrapped with its words."""

    def broken(self, x):
        raise RuntimeError("my hook is broken")

    with pytest.raises((RuntimeError, zoo.ZooError), match="my hook is broken"):
        fit(declared(observe(X), **{hook: broken}), X, method=POINT, seed=0)


@pytest.mark.parametrize("name", ["chain", "draw", "sample", "label", "variable", "summary", "row_dim"])
def test_dimensions_may_have_any_name_or_the_name_is_refused(name):
    """ArviZ has names of its own for dimensions."""

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)

    try:
        found = fit(declared(forward, dims={"mu": (name,)}), X, method=SHORT, seed=0)
        table = found.summary()
        assert len(table) == 2
        assert found.posterior["posterior"]["mu"].shape == (1, found.posterior["posterior"].sizes["draw"], 2)
    except zoo.ZooError as error:
        assert name in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize("dims", [{"mu": ("school", "school")}, {"nonsense": ("a",)}, {"mu": ("a", "b", "c")}])
def test_dims_that_do_not_fit(dims):
    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu[0], 1.0), obs=x)

    try:
        found = fit(declared(forward, dims=dims), X, method=SHORT, seed=0)
        assert len(found.summary()) == 2
    except zoo.ZooError as error:
        assert re.search("mu|nonsense|dims", str(error))  # noqa: PT017 - either outcome is right


@zoo.model(item=zoo.Category("answer"), y=zoo.Binary("answer"))
def answers(item, y):
    """A long table: the latent of an item is read by several rows."""
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("item", int(item.max()) + 1):
        z = pyro.sample("z", dist.Bernoulli(p))
    with pyro.plate("answer", len(y)):
        pyro.sample("y", dist.Bernoulli(0.2 + 0.6 * z[..., item]), obs=y)


def test_a_discrete_latent_that_data_index_is_named_with_the_remedy():
    with pytest.raises(zoo.ModelError, match=r"'z' cannot be indexed by data .* declare the field with that dimension"):
        fit(answers(), {"item": [0, 0, 1, 2], "y": [1, 0, 1, 1]}, method="map", seed=0)
