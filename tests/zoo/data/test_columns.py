"""Columns by name, identifiers, dates, an index among the columns, and weights with labels."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import xarray as xr

import zoo
from inference import Fit, compare, fit
from zoo import DataError, Real, UnknownNameError
from zoo.data.bind import bind

GEYSER = zoo.datasets.load("faithful").head(40)
BLOOD = pd.DataFrame({"age": [30.0, 41, 55, 62, 38, 47], "bmi": [21.0, 25, 24, 30, 27, 22], "id": range(100, 106)})
BLOOD["sbp"] = 90 + BLOOD["age"] * 0.7 + BLOOD["bmi"] + [0.1, -0.3, 0.2, 0.0, 0.4, -0.4]
COLUMNS = {"x": ["age", "bmi"], "y": "sbp"}


class Pairs(zoo.Model):
    """Two matrices of one table."""

    x = Real("row", "cause")
    y = Real("row", "effect")

    def forward(self, x, y):
        loc = pyro.sample("loc", dist.Normal(0.0, 100.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(loc + x.sum(-1, keepdim=True), 1.0).expand(y.shape).to_event(1), obs=y)


# -- columns by name --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_columns_fill_fields_of_other_names_and_a_fit_remembers_them(tmp_path):
    plain = fit(
        "bayesian_regression", BLOOD[["age", "bmi", "sbp"]].rename(columns={"sbp": "y"}), method="exact", seed=0
    )
    named = fit("bayesian_regression", BLOOD, columns=COLUMNS, method="exact", seed=0)
    assert named.objective.value == plain.objective.value
    assert list(named.posterior["posterior"]["feature"].values) == ["age", "bmi"]
    new = BLOOD.iloc[[4, 1], ::-1]  # in another order, with a column more
    expected = plain.log_prob(new.rename(columns={"sbp": "y"}).drop(columns="id"))
    named.save(tmp_path / "fit")
    for result in (named, Fit.load(tmp_path / "fit")):
        assert result.log_prob(new).tolist() == pytest.approx(expected.tolist())
        assert result.log_prob(new.to_dict("list")).tolist() == pytest.approx(expected.tolist())
        without = result.predict(new.drop(columns="sbp"), draws=2, seed=0)
        assert without["posterior_predictive"]["y"].shape == (1, 2, 2)
        assert list(result.generate(2, seed=0).columns) == ["age", "bmi", "sbp"]
    with pytest.raises(DataError, match="no column 'bmi' for field 'x'"):
        named.log_prob(new.drop(columns="bmi"))


def test_columns_reach_every_question_of_a_model():
    assert "(40, 1)" in zoo.explain("gmm", GEYSER, columns={"x": "waiting"})
    assert zoo.check("gmm", GEYSER, columns={"x": "waiting"}).ok
    table = compare("gmm", GEYSER, methods=["em"], columns={"x": ["waiting"]}, seed=0, progress=False)
    assert list(table["em"].posterior["point_estimate"]["feature"].values) == ["waiting"]


def test_columns_named_for_some_leave_the_rest_to_the_others():
    table = BLOOD.drop(columns="id")
    data = bind(zoo.BayesianRegression(), table, columns={"y": "sbp"})
    assert list(data.coords["feature"]) == ["age", "bmi"]
    data = bind(Pairs(), table, columns={"y": ["sbp"]})  # two matrices, of which one takes what is left
    assert [list(data.coords[d]) for d in ("cause", "effect")] == [["age", "bmi"], ["sbp"]]


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"x": ["age", "weight"]}, DataError, "no column 'weight'"),
        ({"z": "age"}, UnknownNameError, "field of BayesianRegression 'z'"),
        ({"x": "age", "y": "age"}, DataError, "'age' is given twice, to 'x' and to 'y'"),
        ({"y": ["sbp", "age"]}, DataError, "field 'y'.*takes one column; found"),
        ({"x": []}, DataError, "field 'x'.*takes one column or more"),
        (["age"], DataError, "expected a dict from fields to columns"),
    ],
    ids=str,
)
def test_columns_that_cannot_be_are_told(columns, error, message):
    with pytest.raises(error, match=message):
        bind(zoo.BayesianRegression(), BLOOD, columns=columns)


def test_columns_of_what_is_no_table_are_refused():
    with pytest.raises(DataError, match="columns= names columns of a table, found ndarray"):
        bind(zoo.GMM(), GEYSER.to_numpy(), columns={"x": "waiting"})
    with pytest.raises(DataError, match=r"at most without its columns being named \(columns="):
        bind(Pairs(), BLOOD)


# -- what is no feature and no category -------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [range(1, 41), [f"p{i}" for i in range(40)]], ids=["numbers", "words"])
def test_an_index_among_the_columns_becomes_the_labels_of_the_rows(labels, tmp_path):
    """As R writes a table, read by hand."""
    GEYSER.set_axis(list(labels)).to_csv(tmp_path / "rows.csv")
    data = bind(zoo.GMM(), pd.read_csv(tmp_path / "rows.csv"))
    assert list(data.coords["feature"]) == ["eruptions", "waiting"]
    assert list(data.coords["row"]) == list(labels)
    assert data.notes == ("the column 'Unnamed: 0' has no name of its own: taken as the labels of the rows",)


@pytest.mark.parametrize(("name", "first"), [("index", 0), ("rownames", 1)])
def test_a_column_that_counts_the_rows_is_left_out(name, first):
    """As polars names it in `with_row_index`, pandas in `reset_index`, and R's collections of data."""
    rows = GEYSER.reset_index(drop=True)
    counted = rows.assign(**{name: range(first, first + len(rows))})
    data = bind(zoo.GMM(), counted)
    assert list(data.coords["feature"]) == ["eruptions", "waiting"]
    assert data.notes == (f"left out the column {name!r}: it holds the numbers of the rows; columns=... takes it in",)
    assert list(bind(zoo.GMM(), counted.assign(**{name: 7})).coords["feature"])[-1] == name
    assert bind(zoo.GMM(), counted, columns={"x": [name, "waiting"]}).values["x"].shape == (len(rows), 2)
    assert len(bind(zoo.GMM(), counted.tail(3), like=data)) == 3


def test_a_dataset_of_xarray_with_a_variable_for_each_column_is_a_table():
    columns = xr.Dataset.from_dataframe(GEYSER.rename_axis("day"))
    data = bind(zoo.GMM(), columns)
    assert data.values["x"].tolist() == GEYSER.to_numpy().tolist()
    assert list(data.coords["feature"]) == ["eruptions", "waiting"]
    assert len(bind(zoo.GMM(), columns.isel(day=slice(3)), like=data)) == 3


def test_identifiers_among_categories_are_named_and_continuous_columns_refused():
    rows = pd.DataFrame({"item": ["a", "b"] * 20, "patient": [f"P{i:03}" for i in range(40)]})
    found = bind(zoo.LatentClass(), rows).notes
    assert len(found) == 1
    assert "column 'patient' of field 'x': a category for every row or two of 40" in found[0]
    assert not bind(zoo.LatentClass(), rows[["item"]]).notes
    rows["pressure"] = np.linspace(110.5, 150.0, 40)
    with pytest.raises(DataError, match=r"column 'pressure': expected categories, found 110\.5; a continuous column"):
        bind(zoo.LatentClass(), rows)
    with pytest.raises(DataError, match=r"field 'x': expected categories, found 110\.5 among labels"):
        bind(zoo.LatentClass(), {"x": rows[["item", "pressure"]].to_numpy()})


def test_dates_are_alike_as_text_and_parsed():
    text = GEYSER.assign(day=[f"2024-03-{1 + i % 28:02}" for i in range(40)])
    parsed = text.assign(day=pd.to_datetime(text["day"]))
    days = text.assign(day=parsed["day"].dt.date)
    for rows in (text, parsed, days):
        for columns in (None, {"x": ["waiting", "day"]}):
            with pytest.raises(DataError, match="column 'day': expected numbers, found dates such as '2024-03-01"):
                bind(zoo.GMM(), rows, columns=columns)
        assert bind(zoo.GMM(), rows, columns={"x": ["waiting"]}).values["x"].shape == (40, 1)
        model, roles = zoo.HierarchicalRegression(), {"x": "waiting", "y": "eruptions", "group": "day"}
        assert bind(model, rows, columns=roles).levels["group"][:2] == ("2024-03-01", "2024-03-02")
    for form in ("%d.%m.%Y", "%m/%d/%y", "%Y/%m/%d %H:%M", "%d %b %Y", "%B %d, %Y"):
        with pytest.raises(DataError, match="column 'day': expected numbers, found dates such as"):
            bind(zoo.GMM(), text.assign(day=parsed["day"].dt.strftime(form)))


@pytest.mark.parametrize(
    ("parsed", "words"),
    [
        (pd.period_range("2020-01", periods=3, freq="M"), ["Jan 2020", "February 2020", "Mar-20"]),
        (pd.period_range("2020-01", periods=3, freq="Q"), ["2020Q1", "Q2 2020", "2020-W05"]),
        (pd.to_datetime(["2020-01-05 13:45"] * 3), ["Sun Jan  5 13:45:00 2020", "5th of Jan 2020 1:45 pm", "5/1/2020"]),
        ([datetime.time(13, 45), datetime.time(9), datetime.time(0)], ["13:45", "9 am", "00:00:00.5"]),
        (pd.to_timedelta([26, -1, 120], unit="h"), ["1 days 02:00:00", "-1 days +23:00:00", "P5DT2H"]),
    ],
    ids=["months", "quarters", "moments", "times", "spans"],
)
def test_months_moments_times_and_spans_are_refused_as_text_too(parsed, words):
    """What `bind` would leave out as a column of words otherwise."""
    rows = GEYSER.head(3)
    for entries in (parsed, [str(v) for v in parsed], words):
        with pytest.raises(DataError, match=r"column 'when': expected numbers, found (dates|times) such as"):
            bind(zoo.GMM(), rows.assign(when=entries))


def test_words_that_look_a_little_like_dates_are_words():
    for words in (
        ["May", "June"],
        ["Mon", "Tue"],
        ["Market 5", "Market 6"],
        ["1:64", "1:128"],
        ["Q1", "Q2"],
        ["12/31"] * 2,
    ):
        data = bind(zoo.GMM(), GEYSER.head(2).assign(word=words))
        assert data.notes == ("left out the columns that are text: 'word'",)


def test_days_written_as_numbers_are_told_of():
    days = [20200131, 20200201, 20200229]
    told = "column 'day': all numbers read as days written as yyyymmdd"
    for entries in (days, [str(day) for day in days], [*days[:2], np.nan]):
        assert told in " ".join(bind(zoo.GMM(), GEYSER.head(3).assign(day=entries)).notes)
    for entries in (
        [20200131, 20200201, 20200230],
        [20200131] * 3,
        [2020, 2021, 2022],
        [20200131.5, 20200201, 20200202],
    ):
        assert told not in " ".join(bind(zoo.GMM(), GEYSER.head(3).assign(day=entries)).notes)
    known = bind(zoo.GMM(), GEYSER.head(3).assign(day=days))
    assert not bind(zoo.GMM(), GEYSER.head(3).assign(day=days), like=known).notes


# -- weights with labels ----------------------------------------------------------------------------------------------


def test_weights_with_labels_go_by_these():
    """The weighted mean of 1, 2, 10 with 5 for the first: 2.429, by position 7.571."""
    rows = pd.DataFrame({"x": [1.0, 2.0, 10.0]}, index=["a", "b", "c"])
    weights = pd.Series([1.0, 1.0, 5.0], index=["b", "c", "a"])
    for given in (weights, xr.DataArray(weights.to_numpy(), coords={"row": ["b", "c", "a"]}, dims="row")):
        found = fit(zoo.GMM(components=1), rows, weights=given, method="em", seed=0, progress=False)
        assert float(found.points["means"]) == pytest.approx(17 / 7)
        assert bind(zoo.GMM(), rows, weights=given).weights.tolist() == [5.0, 1.0, 1.0]
    assert bind(zoo.GMM(), rows, weights=weights.to_numpy()).weights.tolist() == [1.0, 1.0, 5.0]
    twice = rows.loc[["a", "a", "c", "b"]]
    assert bind(zoo.GMM(), twice, weights=weights).weights.tolist() == [5.0, 5.0, 1.0, 1.0]
    numbered = rows.reset_index(names="Unnamed: 0")  # labelled as the table, or as the rows are in the end
    assert bind(zoo.GMM(), numbered, weights=weights).weights.tolist() == [5.0, 1.0, 1.0]
    assert bind(zoo.GMM(), numbered, weights=pd.Series([5.0, 1.0, 1.0])).weights.tolist() == [5.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (["a", "b", "d"], "none is labelled 'c'"),
        (range(3), "none is labelled 'a'"),
        (list("abcd"), "no row is labelled 'd'"),
    ],
    ids=str,
)
def test_weights_with_other_labels_are_refused(index, said):
    rows = pd.DataFrame({"x": [1.0, 2.0, 10.0]}, index=["a", "b", "c"])
    with pytest.raises(DataError, match=rf"weights are labelled.*{said}.*weights\.to_numpy\(\)"):
        bind(zoo.GMM(), rows, weights=pd.Series(1.0, index=index))
