"""Data in: what a model takes, in which forms, and what it says of data it cannot take."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import EM, SVI, fit
from tests.cases.models import FLIPS, ROWS, SCHOOLS, EightSchools, PoissonMixture, RegressionMixture, coin
from tests.cases.spread import spread
from zoo import Binary, Category, Count, DataError, Positive, Real, UnitInterval, UnknownNameError
from zoo.data.bind import bind
from zoo.data.precision import check_precision
from zoo.declare.fields import Field
from zoo.program.prepare import prepare

NAMES = [f"school {c}" for c in "ABCDEFGH"]
FAITHFUL = zoo.datasets.load("faithful")


def one_field(kind, *dims):
    """A model with one field, x."""

    class One(zoo.Model):
        x = kind(*(dims or ("row",)))

    return One()


class Labelled(zoo.Model):
    """A matrix beside vectors."""

    x = Real("row", "feature")
    kind = Category("row")
    size = Positive("row")

    def forward(self, x, kind, size):
        mu = pyro.sample("mu", dist.Normal(torch.zeros(x.shape[1]), 100.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, size[:, None]).to_event(1), obs=x)


# -- the forms data come in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        FLIPS,
        tuple(FLIPS),
        [bool(f) for f in FLIPS],
        np.array(FLIPS),
        np.array(FLIPS, dtype=np.int8),
        np.array(FLIPS, dtype=np.float32),
        np.array(FLIPS, dtype=bool),
        np.array(FLIPS)[:, None],
        torch.tensor(FLIPS),
        torch.tensor(FLIPS, dtype=torch.bool),
        torch.tensor(FLIPS, dtype=torch.float16),
        torch.tensor(FLIPS, dtype=torch.bfloat16),
        torch.tensor(FLIPS, dtype=torch.float32, requires_grad=True),
        pd.Series(FLIPS),
        pd.Series(FLIPS, name="flips"),
        pd.Series(FLIPS, name="some other name"),
        pd.Series(FLIPS, dtype="Int64"),
        pd.Series(FLIPS, dtype="boolean"),
        pd.DataFrame({"flips": FLIPS}),
        pd.DataFrame({"heads?": FLIPS}),
        pd.DataFrame({"flips": FLIPS, "note": "a"}),
        pd.DataFrame({"flips": FLIPS, "other": 7}),
        {"flips": FLIPS},
        {"flips": np.array(FLIPS)},
        {"flips": torch.tensor(FLIPS)},
        {"flips": pd.Series(FLIPS)},
        "coin",
    ],
    ids=lambda s: f"{type(s).__name__}",
)
def test_a_vector_comes_in_many_forms(source):
    data = bind(coin(), source)
    expected = zoo.datasets.load("coin")["flips"].tolist() if isinstance(source, str) else FLIPS
    assert data.values["flips"].tolist() == expected
    assert data.values["flips"].dtype == torch.float64
    assert not data.values["flips"].requires_grad
    assert data.row == "toss"
    assert len(data) == 10


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        np.array(ROWS),
        np.array(ROWS, order="F"),
        np.array(ROWS)[::-1][::-1],
        torch.tensor(ROWS, dtype=torch.float64),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, columns=["a", "b"]),
        {"x": ROWS},
        {"x": pd.DataFrame(ROWS, columns=["a", "b"])},
        {"x": pd.Series(ROWS)},
        {"x": pd.Series([np.array(row) for row in ROWS])},
        {"x": pd.Series([torch.tensor(row, dtype=torch.float64, requires_grad=True) for row in ROWS])},
    ],
    ids=lambda s: type(s).__name__,
)
def test_a_matrix_comes_in_many_forms(source):
    data = bind(zoo.GMM(), source)
    assert data.values["x"].tolist() == ROWS
    table = source["x"] if isinstance(source, dict) else source
    named = isinstance(table, pd.DataFrame) and "a" in table.columns
    assert list(data.coords["feature"]) == (["a", "b"] if named else [0, 1])


def test_a_vector_is_a_matrix_of_one_column():
    assert bind(zoo.GMM(), [1.0, 2.0, 3.0]).values["x"].tolist() == [[1.0], [2.0], [3.0]]
    series = bind(zoo.GMM(), pd.Series([1.0, 2.0], name="velocity"))
    assert series.values["x"].tolist() == [[1.0], [2.0]]
    assert list(series.coords["feature"]) == ["velocity"]


def test_the_source_is_not_written_to_or_shared():
    array = np.array(ROWS)
    data = bind(zoo.GMM(), array)
    data.values["x"][0, 0] = -1.0
    assert array[0, 0] == ROWS[0][0]
    tensor = torch.tensor(ROWS, dtype=torch.float64)
    bind(zoo.GMM(), {"x": tensor}).values["x"][0, 0] = -1.0
    assert float(tensor[0, 0]) == ROWS[0][0]


def test_columns_fill_fields_by_name_in_any_order():
    frame = pd.DataFrame({"note": ["a"] * 8, "error": SCHOOLS["error"], "effect": SCHOOLS["effect"], "more": 1.0})
    data = bind(EightSchools(), frame)
    assert data.values["effect"].tolist() == SCHOOLS["effect"]
    assert data.values["error"].tolist() == SCHOOLS["error"]
    assert data.row_fields == ["effect", "error"]


def test_numeric_columns_fill_the_matrix_and_text_is_left_out_with_a_note():
    frame = pd.DataFrame({"species": ["a", "b"], "width": [1, 2], "wet": [True, False], "height": [0.5, 0.25]})
    data = bind(zoo.GMM(), frame)
    assert list(data.coords["feature"]) == ["width", "wet", "height"]
    assert data.values["x"].tolist() == [[1.0, 1.0, 0.5], [2.0, 0.0, 0.25]]
    assert data.notes == ("left out the columns that are text: 'species'",)


def test_what_was_left_out_is_a_warning_of_the_fit():
    frame = FAITHFUL.head(20).assign(place="Yellowstone")
    result = fit(zoo.GMM(components=1), frame, method=EM(), seed=0)
    assert any("'place'" in w for w in result.warnings)
    assert not fit(zoo.GMM(components=1), FAITHFUL.head(20), method=EM(), seed=0).warnings


TAKEN = "the first column has no name: taken as the labels of the rows"
LEFT_OUT = "left out the column 'Unnamed: 0': it holds the numbers of the rows"


LABELS = {"numbers": None, "words": [f"day {i}" for i in range(30)], "same": [7] * 30}


@spread("index", [pytest.param(labels, id=name) for name, labels in LABELS.items()], part=2, of=3)
def test_a_column_without_a_name_holds_the_labels_of_the_rows(index, tmp_path):
    """As `DataFrame.to_csv` writes them; rows in memory, in a file and in chunks of it give the same fit."""
    frame = FAITHFUL.head(30) if index is None else FAITHFUL.head(30).set_axis(index)
    frame.to_csv(tmp_path / "rows.csv")
    data = bind(zoo.GMM(), tmp_path / "rows.csv")
    assert list(data.coords["feature"]) == ["eruptions", "waiting"]
    assert list(data.coords["row"]) == list(frame.index)
    assert data.notes == (TAKEN,)
    model, path = zoo.GMM(components=1), tmp_path / "rows.csv"
    plain = fit(model, frame, method="em", seed=0)
    for source in (path, str(path), zoo.stream(path, chunk=8)):
        read = fit(model, source, method="em", seed=0)
        assert read.objective.value == pytest.approx(plain.objective.value, rel=1e-9)
        assert TAKEN in read.warnings
        assert read.assign(path).shape == read.assign(frame).shape == (30, 1)


def test_a_vector_beside_labels_without_a_name_is_the_field_whatever_its_name(tmp_path):
    pd.DataFrame({"toss": FLIPS}).to_csv(tmp_path / "tosses.csv")
    data = bind(coin(), tmp_path / "tosses.csv")
    assert data.values["flips"].tolist() == FLIPS
    assert data.notes == (TAKEN,)
    kept = bind(coin(), pd.DataFrame({"Unnamed: 0": range(len(FLIPS)), "toss": FLIPS}))
    assert kept.values["flips"].tolist() == FLIPS
    assert kept.notes == (LEFT_OUT,)


def test_row_numbers_among_the_columns_are_left_out_with_a_note():
    numbered = FAITHFUL.reset_index(names="Unnamed: 0")
    for rows in (numbered, numbered[20:50]):
        data = bind(zoo.GMM(), rows)
        assert list(data.coords["feature"]) == ["eruptions", "waiting"]
        assert data.notes == (LEFT_OUT,)
    other = numbered.assign(**{"Unnamed: 0": numbered["waiting"]})
    assert list(bind(zoo.GMM(), other).coords["feature"]) == ["Unnamed: 0", "eruptions", "waiting"]
    only = bind(zoo.GMM(), numbered[["Unnamed: 0"]])
    assert list(only.coords["feature"]) == ["Unnamed: 0"]


def test_vectors_take_their_columns_and_the_matrix_the_rest():
    frame = pd.DataFrame({"a": [1.0, 2.0], "kind": ["v", "u"], "b": [3.0, 4.0], "size": [1, 2], "name": ["p", "q"]})
    data = bind(Labelled(), frame)
    assert data.values["x"].tolist() == [[1.0, 3.0], [2.0, 4.0]]
    assert data.values["kind"].tolist() == [1, 0]
    assert list(data.coords["feature"]) == ["a", "b"]
    assert data.notes == ("left out the columns that are text: 'name'",)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".CSV"])
def test_tables_are_read_from_files(tmp_path, suffix):
    path = tmp_path / f"schools{suffix}"
    frame = pd.DataFrame(SCHOOLS)
    if suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    for source in (path, str(path)):
        assert bind(EightSchools(), source).values["effect"].tolist() == SCHOOLS["effect"]


def test_arrays_are_read_from_files(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array(ROWS, dtype=np.float32))
    assert torch.allclose(bind(zoo.GMM(), path).values["x"], torch.tensor(ROWS).double(), rtol=1e-6)


def test_a_parquet_file_keeps_its_index(tmp_path):
    path = tmp_path / "schools.parquet"
    pd.DataFrame(SCHOOLS, index=pd.Index(NAMES, name="school")).to_parquet(path)
    assert list(bind(EightSchools(), path).coords["school"]) == NAMES


@pytest.mark.parametrize("name", zoo.datasets.names())
def test_a_dataset_is_taken_by_name(name):
    model = {"coin": coin(), "eight_schools": EightSchools()}.get(name, zoo.GMM())
    data = bind(model, name)
    frame = zoo.datasets.load(name)
    assert len(data) == len(frame)
    assert list(data.coords[data.row]) == list(frame.index)


def test_a_field_without_dimensions_is_one_number():
    @zoo.model(n=Count(), total=Count())
    def number(n, total):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("n", dist.Binomial(total, p), obs=n)

    data = bind(number(), {"n": 3, "total": 10})
    assert (data.row, len(data), float(data.values["n"])) == ("", 1, 3.0)
    with pytest.raises(DataError, match="give a dict of arrays"):
        bind(number(), pd.DataFrame({"n": [3], "total": [10]}))
    with pytest.raises(DataError, match=r"field 'n': expected 0 dimensions .* found shape \(2,\)"):
        bind(number(), {"n": [3, 4], "total": 10})


def test_a_field_of_three_dimensions_comes_from_an_array():
    data = bind(one_field(Real, "row", "time", "axis"), np.arange(24.0).reshape(2, 3, 4))
    assert data.values["x"].shape == (2, 3, 4)
    assert [len(data.coords[d]) for d in ("row", "time", "axis")] == [2, 3, 4]


# -- labels -----------------------------------------------------------------------------------------------------------


def test_coordinates_come_from_index_and_columns():
    frame = pd.DataFrame(ROWS, columns=["eruptions", "waiting"], index=["a", "b", "c", "d"])
    data = bind(zoo.GMM(), frame)
    assert list(data.coords["row"]) == ["a", "b", "c", "d"]
    assert list(data.coords["feature"]) == ["eruptions", "waiting"]
    series = {n: pd.Series(v, index=NAMES) for n, v in SCHOOLS.items()}
    assert list(bind(EightSchools(), series).coords["school"]) == NAMES
    assert list(bind(EightSchools(), SCHOOLS).coords["school"]) == list(range(8))


@pytest.mark.slow
def test_coordinates_end_up_in_the_posterior():
    frame = pd.DataFrame(SCHOOLS, index=NAMES)
    tree = fit(EightSchools(), frame, method=SVI(steps=10), seed=0).posterior
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert list(tree["posterior"]["school"].to_numpy()) == NAMES
    assert tree["observed_data"]["effect"].dims == ("school",)
    assert tree["observed_data"]["effect"].sel(school="school C").item() == -3.0
    assert tree["constant_data"]["error"].sel(school="school C").item() == 16.0
    assert list(tree["log_likelihood"]["school"].to_numpy()) == NAMES


def test_rows_and_columns_are_labelled_in_every_answer():
    frame = FAITHFUL.head(30).set_axis([f"eruption {i}" for i in range(30)])
    result = fit(zoo.GMM(components=2), frame, method=EM(), seed=0)
    assert list(result.assign().index) == list(frame.index)
    assert list(result.log_prob().index) == list(frame.index)
    assert list(result.generate(3).columns) == ["eruptions", "waiting"]
    assert list(result.posterior["observed_data"]["feature"].to_numpy()) == ["eruptions", "waiting"]


def test_an_index_of_several_levels_or_of_dates_is_taken():
    dates = pd.DataFrame(ROWS, index=pd.date_range("2020-01-01", periods=4))
    assert list(fit(zoo.GMM(components=1), dates, method=EM(), seed=0).posterior["observed_data"].sizes) == [
        "row",
        "feature",
    ]
    several = pd.DataFrame(ROWS, index=pd.MultiIndex.from_product([["a", "b"], [1, 2]]))
    result = fit(zoo.GMM(components=1), several, method=EM(), seed=0)
    assert result.posterior["observed_data"].sizes["row"] == 4
    assert list(result.assign().index) == list(several.index)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="'school'"):
        bind(EightSchools(), {"effect": pd.Series([1.0, 2.0], index=["a", "b"]), "error": [1.0, 2.0, 3.0]})


def test_series_whose_labels_disagree_are_refused():
    """Two series of one length: which value belongs to which, by position or by label, is unclear."""
    effect, error = pd.Series([1.0, 2.0], index=["a", "b"]), pd.Series([3.0, 4.0], index=["b", "a"])
    with pytest.raises(DataError, match="school"):
        bind(EightSchools(), {"effect": effect, "error": error})


# -- shapes and names -------------------------------------------------------------------------------------------------


def test_fields_must_agree_on_a_dimension():
    with pytest.raises(
        DataError, match="fields 'effect' and 'error' must agree on 'school': 'effect' has 8, 'error' has 7"
    ):
        bind(EightSchools(), {**SCHOOLS, "error": SCHOOLS["error"][:7]})


@pytest.mark.parametrize(
    ("model", "source", "message"),
    [
        (EightSchools(), {"effect": [1.0]}, r"EightSchools has data fields effect, error; missing: error"),
        (EightSchools(), {**SCHOOLS, "eror": [1.0]}, "not a field: eror"),
        (EightSchools(), [1.0, 2.0], "has 2 data fields .effect, error.; give a dict or a DataFrame"),
        (
            EightSchools(),
            pd.DataFrame({"effect": [1.0]}),
            "no column for field 'error'; the table has columns 'effect'",
        ),
        (EightSchools(), pd.DataFrame({"effect": [1.0], "Error": [1.0]}), "no column for field 'error'.*'Error'"),
        (coin(), pd.DataFrame({"a": [1], "b": [0]}), "no column for field 'flips'"),
        (coin(), [[1, 0], [1, 1]], r"field 'flips': expected 1 dimensions \('toss',\), found shape \(2, 2\)"),
        (zoo.GMM(), np.zeros((2, 2, 2)), r"field 'x': expected 2 dimensions .* found shape \(2, 2, 2\)"),
        (zoo.GMM(), pd.DataFrame({"name": ["a", "b"]}), "no numeric columns for field 'x'; the table has 'name'"),
        (zoo.GMM(), pd.DataFrame(ROWS, columns=["a", "a"]), "names column 'a' twice"),
        (coin(), 3.0, "cannot take data of type float; give a table"),
        (coin(), None, "cannot take data of type NoneType"),
        (coin(), [[1], [0, 1]], "field 'flips'"),
        (coin(), {1: [0, 1]}, "missing: flips"),
        (zoo.GMM(), {"x": ROWS, 3: 1}, "not a field: 3"),
        (zoo.GMM(), {"x": pd.Series([[1.0], [1.0, 2.0]])}, "field 'x': its entries are of unequal lengths"),
        (zoo.RecurrentDensity(), [[0, 1], [0, 1, 1]], "unequal lengths; .* a further symbol that says where they end"),
    ],
    ids=str,
)
def test_shapes_and_names_that_do_not_fit_are_told(model, source, message):
    with pytest.raises(DataError, match=message):
        bind(model, source)


@pytest.mark.parametrize(
    "source",
    [
        [],
        np.zeros(0),
        torch.zeros(0),
        pd.Series([], dtype=float),
        pd.DataFrame({"flips": []}),
        {"flips": []},
    ],
    ids=lambda s: type(s).__name__,
)
def test_empty_data_are_refused(source):
    with pytest.raises(DataError, match="field 'flips' is empty: dimension 'toss' has size 0"):
        bind(coin(), source)


@pytest.mark.parametrize(
    "source", [pd.DataFrame(), pd.DataFrame({"a": []}), np.zeros((0, 2)), np.zeros((3, 0))], ids=str
)
def test_empty_tables_are_refused(source):
    with pytest.raises(DataError, match=r"empty|no numeric columns"):
        bind(zoo.GMM(), source)


# -- values -----------------------------------------------------------------------------------------------------------

OUTSIDE = {
    Real: [],
    Positive: [0.0, -1.0],
    UnitInterval: [-0.01, 1.01],
    Count: [-1.0, 0.5],
    Binary: [2.0, -1.0, 0.5],
    Category: [-2.0, 0.5],
}
INSIDE = {
    Real: [-1e300, 0.0, 1e300],
    Positive: [1e-300, 2.0],
    UnitInterval: [0.0, 0.5, 1.0],
    Count: [0.0, 1.0, 1e6],
    Binary: [0.0, 1.0],
    Category: [0.0, 1.0, 5.0],
}


def test_every_field_kind_is_tried():
    assert set(Field.__subclasses__()) == set(OUTSIDE) == set(INSIDE)


@pytest.mark.parametrize("kind", INSIDE)
def test_values_inside_the_support_are_taken(kind):
    assert bind(one_field(kind), INSIDE[kind]).values["x"].tolist() == INSIDE[kind]


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in OUTSIDE.items() for v in values])
def test_values_outside_the_support_are_told_with_their_row(kind, value):
    with pytest.raises(DataError) as caught:
        bind(one_field(kind), [1.0, 1.0, value, value])
    text = str(caught.value)
    assert f"field 'x' ({kind.__name__}): expected {kind.describes}, found {value:g} at row 2 (2 such entries)" in text


@pytest.mark.parametrize("kind", INSIDE)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_values_that_are_not_finite_are_told_with_their_row(kind, value):
    with pytest.raises(DataError, match=r"field 'x'.*expected finite.*at row 1") as caught:
        bind(one_field(kind), [1.0, value])
    assert "drop or" in str(caught.value)


@pytest.mark.parametrize("gap", [np.nan, None, -1, -1.0])
def test_a_missing_category_is_missing(gap):
    data = bind(one_field(Category), [1, gap, 0])
    assert data.missing["x"].tolist() == [False, True, False]
    assert data.values["x"][[0, 2]].tolist() == [1, 0]
    assert "1 of 3 values are missing" in data.notes[0]


def test_the_column_of_a_wrong_entry_is_named():
    frame = FAITHFUL.head(5).astype(float)
    frame.iloc[3, 1] = np.inf
    with pytest.raises(DataError, match="found inf at row 3, column 'waiting'"):
        bind(zoo.GMM(), frame)
    with pytest.raises(DataError, match=r"at row 3, position \[1\]"):
        bind(zoo.GMM(), frame.to_numpy())


@pytest.mark.parametrize("bad", ["n/a", "1,5", "?"])
def test_words_in_a_numeric_column_are_told_with_their_row(bad):
    frame = pd.DataFrame({"a": ["1.5", bad, "2.5"], "b": [1.0, 2.0, 3.0]}, index=["p", "q", "r"])
    with pytest.raises(DataError, match=r"column 'a': expected numbers, found '.*' at row 'q'"):
        bind(zoo.GMM(), frame)


def test_numbers_written_as_text_are_numbers():
    frame = pd.DataFrame({"a": ["1.5", "2.5"], "b": [1.0, 2.0]})
    assert bind(zoo.GMM(), frame).values["x"].tolist() == [[1.5, 1.0], [2.5, 2.0]]


@pytest.mark.parametrize(
    "source",
    [["a", "b"], np.array(["a", "b"]), np.array([1.0, "b"], dtype=object), np.array([1j, 2.0]), [{}, {}], [[1], "b"]],
    ids=str,
)
def test_what_holds_no_numbers_is_told(source):
    with pytest.raises(DataError, match="field 'x'"):
        bind(one_field(Real), source)


@pytest.mark.parametrize("kind", [Real, Positive])
def test_dates_are_no_numbers(kind):
    dates = pd.date_range("2020-01-01", periods=3)
    for source in (pd.DataFrame({"x": dates}), {"x": dates.to_numpy()}):
        with pytest.raises(DataError, match="x"):
            bind(one_field(kind), source)


def test_complex_numbers_lose_nothing_silently():
    with pytest.raises(DataError, match="field 'x'"):
        bind(one_field(Real), torch.tensor([1.0 + 2.0j, 0.0]))


# -- categories -------------------------------------------------------------------------------------------------------


@zoo.model(y=Real("row"), kind=Category("row"))
def by_kind(y, kind):
    """A mean for each category."""
    loc = pyro.param("loc", torch.zeros(3))
    weights = pyro.param("weights", torch.full((2,), 0.5), constraint=constraints.simplex)
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[kind] + z, 1.0), obs=y)


KINDS = pd.DataFrame({"y": [0.0, 5.0, 0.5, 9.0], "kind": ["low", "mid", "low", "top"]})


@pytest.mark.parametrize(
    "column",
    [
        ["low", "mid", "low", "top"],
        np.array(["low", "mid", "low", "top"]),
        pd.Series(["low", "mid", "low", "top"]),
        pd.Series(["low", "mid", "low", "top"], dtype="string"),
        pd.Categorical(["low", "mid", "low", "top"]),
        pd.Categorical(["low", "mid", "low", "top"], categories=["top", "mid", "low"]),
    ],
    ids=lambda c: type(c).__name__,
)
def test_labels_are_coded_in_sorted_order(column):
    for source in ({"y": [0.0, 5.0, 0.5, 9.0], "kind": column}, KINDS.assign(kind=column)):
        data = bind(by_kind(), source)
        assert data.values["kind"].tolist() == [0, 1, 0, 2]
        assert data.values["kind"].dtype == torch.long
        assert data.levels["kind"] == ("low", "mid", "top")


def test_codes_stay_codes():
    data = bind(by_kind(), KINDS.assign(kind=[2, 0, 2, 1]))
    assert data.values["kind"].tolist() == [2, 0, 2, 1]
    assert data.levels["kind"] == (0, 1, 2)


def test_new_rows_use_the_labels_of_those_fitted():
    data = bind(by_kind(), KINDS)
    later = bind(by_kind(), KINDS.iloc[[3, 1]], like=data)
    assert later.values["kind"].tolist() == [2, 1]
    assert later.levels == data.levels
    with pytest.raises(DataError, match=r"field 'kind': unknown category 'odd'; the model was fitted to \('low'"):
        bind(by_kind(), KINDS.assign(kind="odd"), like=data)
    coded = bind(by_kind(), KINDS.assign(kind=[0, 1, 2, 1]))
    with pytest.raises(DataError, match="field 'kind': unknown category 3; the fitted data have 3 categories"):
        bind(by_kind(), KINDS.assign(kind=[0, 3, 0, 0]), like=coded)


@pytest.mark.parametrize("labels", [pd.Categorical([1, 2, 10, 1]), ["1", "2", "10", "1"]], ids=["numbers", "words"])
def test_numbers_are_labels_where_the_fitted_data_had_labels(labels):
    """Labels 1, 10, 2 are coded 0, 1, 2; a column of the numbers 2, 10 says which labels, not which codes."""
    data = bind(by_kind(), KINDS.assign(kind=labels))
    later = bind(by_kind(), KINDS.assign(kind=[2, 10, 1, 1]), like=data)
    assert [str(data.levels["kind"][code]) for code in later.values["kind"]] == ["2", "10", "1", "1"]
    with pytest.raises(DataError, match="unknown category"):
        bind(by_kind(), KINDS.assign(kind=[0, 1, 1, 1]), like=data)


def test_a_missing_label_is_missing():
    for gap in (None, np.nan, pd.NA):
        data = bind(by_kind(), KINDS.assign(kind=["low", gap, "low", "top"]))
        assert data.missing["kind"].tolist() == [False, True, False, False]
        assert data.levels["kind"] == ("low", "top")
        assert data.values["kind"][[0, 2, 3]].tolist() == [0, 0, 1]
    with pytest.raises(DataError, match=r"'kind' has missing values.*feeds the argument"):
        prepare(by_kind(), KINDS.assign(kind=["low", None, "low", "top"]))


@pytest.mark.slow
def test_labels_are_used_in_every_answer():
    result = fit(by_kind(), KINDS, method=EM(max_steps=20), seed=0)
    new = pd.DataFrame({"y": [5.0], "kind": ["mid"]})
    at = result.assign(KINDS).iloc[[1]].to_numpy()
    assert np.allclose(result.assign(new).to_numpy(), at, rtol=1e-9)
    with pytest.raises(DataError, match="unknown category 'odd'"):
        result.assign(pd.DataFrame({"y": [5.0], "kind": ["odd"]}))


# -- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_truncated_files_are_told(tmp_path, suffix, share):
    path = tmp_path / f"rows{suffix}"
    if suffix == ".parquet":
        FAITHFUL.to_parquet(path)
    else:
        np.save(path, FAITHFUL.to_numpy())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(DataError) as caught:
        bind(zoo.GMM(), path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "truncated" in str(caught.value)


@pytest.mark.parametrize(
    "content", [b"", b"\x00\xff\xfe\x00\x81", b'a,b\n1,2\n"3,4\n'], ids=["empty", "binary", "quote"]
)
def test_unreadable_csv_files_are_told(tmp_path, content):
    path = tmp_path / "rows.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"rows\.csv"):
        bind(zoo.GMM(), path)


def test_a_pickle_in_an_array_file_is_not_run(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="cannot be read as NPY"):
        bind(zoo.GMM(), path)


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        bind(zoo.GMM(), tmp_path / "rows.csv")
    other = tmp_path / "rows.sav"
    other.write_bytes(b"x")
    with pytest.raises(DataError, match=r"cannot read '\.sav' files; give \.csv or \.tsv \(also \.gz\), \.xlsx"):
        bind(zoo.GMM(), other)
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    with pytest.raises(DataError, match="no such file"):
        bind(zoo.GMM(), folder)


def test_unknown_datasets_suggest_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'faithfull'; did you mean 'faithful'\?.*A file needs"):
        bind(zoo.GMM(), "faithfull")


# -- new rows ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    return fit(zoo.GMM(components=2), FAITHFUL, method=EM(), seed=0)


def test_columns_of_new_rows_are_matched_by_name(fitted):
    swapped = FAITHFUL[["waiting", "eruptions"]]
    pd.testing.assert_frame_equal(fitted.assign(swapped), fitted.assign(FAITHFUL))
    extra = FAITHFUL.assign(more=1.0, place="Wyoming")[["more", "place", "waiting", "eruptions"]]
    pd.testing.assert_frame_equal(fitted.assign(extra), fitted.assign(FAITHFUL))
    pd.testing.assert_series_equal(fitted.log_prob(swapped), fitted.log_prob(FAITHFUL))


def test_an_array_of_new_rows_is_matched_by_position(fitted):
    assert np.array_equal(fitted.assign(FAITHFUL.to_numpy()).to_numpy(), fitted.assign(FAITHFUL).to_numpy())


def test_rows_are_answered_in_their_order_with_their_labels(fitted):
    shuffled = FAITHFUL.sample(frac=1.0, random_state=0)
    found = fitted.assign(shuffled)
    assert list(found.index) == list(shuffled.index)
    pd.testing.assert_frame_equal(found.sort_index(), fitted.assign(FAITHFUL), rtol=1e-12)
    one = fitted.assign(FAITHFUL.iloc[[5]])
    assert np.allclose(one.to_numpy(), fitted.assign(FAITHFUL).iloc[[5]].to_numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (FAITHFUL[["waiting"]], "'eruptions'|expected 2 along 'feature'"),
        (FAITHFUL.rename(columns={"waiting": "wait"}), "have no column 'waiting'"),
        (np.zeros((3, 3)), "expected 2 along 'feature' as in the fitted data .*found 3"),
        (np.zeros((0, 2)), "is empty"),
        ([1.0, 2.0], "'x'"),
        (FAITHFUL.head(3) * np.nan, "every value is missing"),
        (FAITHFUL.assign(waiting="long"), "waiting"),
        ("faithfull", "did you mean 'faithful'"),
    ],
    ids=["column missing", "column renamed", "three columns", "no rows", "vector", "NaN", "words", "dataset"],
)
def test_new_rows_that_do_not_fit_are_told(fitted, new, message):
    for question in (fitted.assign, fitted.log_prob):
        with pytest.raises(zoo.ZooError, match=message):
            question(new)


def test_new_rows_of_a_model_fitted_to_an_array_may_be_a_table():
    result = fit(zoo.GMM(components=2), FAITHFUL.to_numpy(), method=EM(), seed=0)
    assert np.array_equal(result.assign(FAITHFUL).to_numpy(), result.assign().to_numpy())


def test_new_rows_need_every_field_that_is_asked_about():
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0], "y": [0.0, 1.1, 1.9, 3.2]})
    result = fit(RegressionMixture(components=1), frame, method=EM(), seed=0)
    with pytest.raises(DataError, match="no column for field 'x'"):
        result.log_prob(frame[["y"]])


# -- precision, rows, weights -----------------------------------------------------------------------------------------


def test_precision_reaches_the_data_but_not_the_codes():
    data = bind(by_kind(), KINDS).to(torch.float32, torch.device("cpu"))
    assert data.values["y"].dtype == torch.float32
    assert data.values["kind"].dtype == torch.long
    assert data.dtype == torch.float32


def test_taking_rows_takes_labels_and_leaves_what_has_no_rows():
    class Mixed(zoo.Model):
        x = Real("row", "feature")
        w = Real("feature")

    data = bind(Mixed(), {"x": pd.DataFrame(ROWS, index=list("abcd")), "w": [1.0, 2.0]})
    part = data.take(torch.tensor([2, 0, 2]))
    assert part.values["x"].tolist() == [ROWS[2], ROWS[0], ROWS[2]]
    assert part.values["w"].tolist() == [1.0, 2.0]
    assert list(part.coords["row"]) == ["c", "a", "c"]
    assert data.row_fields == ["x"]
    assert data.features().tolist() == ROWS


def test_features_put_fields_side_by_side():
    data = bind(Labelled(), {"x": ROWS[:2], "kind": ["b", "a"], "size": [3.0, 4.0]})
    assert data.features().tolist() == [[*ROWS[0], 0.0, 1.0, 3.0], [*ROWS[1], 1.0, 0.0, 4.0]]


@pytest.mark.parametrize(
    "weights",
    [[1, 2, 0, 1], np.array([1.0, 2.0, 0.0, 1.0]), torch.tensor([1.0, 2.0, 0.0, 1.0])],
    ids=lambda w: type(w).__name__,
)
def test_weights_are_one_number_per_row_and_zero_drops_it(weights):
    program = prepare(PoissonMixture(), [4, 5, 6, 7], weights=weights)
    assert program.data.values["count"].tolist() == [4.0, 5.0, 7.0]
    assert program.data.weights.tolist() == [1.0, 2.0, 1.0]
    assert list(program.data.coords["year"]) == [0, 1, 3]


def test_weights_may_be_a_column():
    frame = pd.DataFrame({"count": [4, 5], "times": [1, 3]})
    assert prepare(PoissonMixture(), frame, weights="times").data.weights.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"expected shape \(2,\), found \(1,\)"),
        ([[1.0, 1.0]], "one entry per row"),
        ([2.0, -1.0], "0 or above"),
        ([0.0, 0.0], "not all 0"),
        ([1.0, np.nan], "finite"),
        (["a", "b"], "must be numbers"),
        ("times", "'times' is not a column"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit_are_told(weights, message):
    with pytest.raises(DataError, match=message):
        prepare(PoissonMixture(), [4, 5], weights=weights)


# -- what the zoo's models refuse -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["GMM", "BayesianGMM"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (ROWS[:1], "one row|more components"),
        ([[1.0, 2.0]] * 5, "all 5 rows are the same"),
        (ROWS[:2], r"more components \(3\) than rows \(2\)"),
        ([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]], r"more components \(3\) than distinct rows \(2 among 4\)"),
    ],
    ids=["one row", "duplicates", "few rows", "few distinct rows"],
)
def test_mixtures_refuse_data_without_enough_variation(model, data, message):
    with pytest.raises(DataError, match=message):
        prepare(getattr(zoo, model)(components=3), data)


@pytest.mark.parametrize(
    ("settings", "data", "message"),
    [
        ({}, [[0.0, 0.5]], "likelihood='bernoulli' expects 0 or 1, found 0.5"),
        ({"likelihood": "binomial"}, [[0.0, 0.5]], "likelihood='binomial' expects counts"),
        ({"likelihood": "binomial", "total_count": 3}, [[0.0, 4.0]], "found 4, above total_count=3"),
        ({"likelihood": "gaussian"}, [[0.0, 4.0]], "one row"),
        ({"likelihood": "gaussian"}, [[0.0, 4.0], [0.0, 4.0]], "all the same"),
    ],
    ids=str,
)
def test_vae_refuses_data_outside_its_likelihood(settings, data, message):
    with pytest.raises(DataError, match=message):
        prepare(zoo.VAE(latent=1, **settings), data)


def test_a_coin_takes_one_toss_only():
    result = fit(coin(), [1], method="exact", seed=0)
    assert result.objective.value == pytest.approx(np.log(0.5))


@zoo.model(x=Real("row", "column"))
def plain_rows(x):
    """Rows of any kind."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros(x.shape[1], dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(("offset", "kept"), [(0.0, True), (1e5, True), (1e7, False), (-1e8, False)])
def test_spreads_that_single_precision_does_not_keep_are_refused(offset, kept):
    """Steps of float32 near 1e5 are 0.008, near 1e7 they are 1."""
    rows = np.column_stack([np.full(50, 0.1), offset + np.random.default_rng(0).normal(size=50)])
    data = bind(plain_rows(), rows)
    if kept:
        check_precision(data, torch.float32)
    else:
        with pytest.raises(zoo.DataError, match=r"field 'x', column 1: .* single precision .* dtype=torch.float64"):
            check_precision(data, torch.float32)
        with pytest.raises(zoo.DataError, match="single precision"):
            prepare(plain_rows(), rows, dtype=torch.float32)
    check_precision(data, torch.float64)


def test_counts_beyond_what_log_densities_hold_are_refused():
    prepare(zoo.GammaPoisson(), [3, 10**12])
    with pytest.raises(DataError, match=r"Count.*at most 1e\+12.*1e\+13.*thousands"):
        prepare(zoo.GammaPoisson(), [3, 10**13])


def test_predictors_that_nearly_depend_are_refused_in_single_precision():
    x = np.random.default_rng(0).normal(size=(60, 3))
    rows = {"x": x, "y": x.sum(1)}
    assert prepare(zoo.BayesianRegression(), rows, dtype=torch.float32).dtype == torch.float32
    x[:, 2] = x[:, 0] + 1e-4 * x[:, 2]
    assert prepare(zoo.BayesianRegression(), rows).dtype == torch.float64
    with pytest.raises(DataError, match=r"field 'x', column \d: it is nearly a combination of other columns"):
        prepare(zoo.BayesianRegression(), rows, dtype=torch.float32)
