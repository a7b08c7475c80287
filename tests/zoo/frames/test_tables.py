"""Tables of other libraries, and files of many kinds."""

from __future__ import annotations

import gzip
import io
import sys
from types import SimpleNamespace

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import xarray as xr

import zoo
from inference import fit
from tests.cases.models import SCHOOLS, EightSchools
from zoo import DataError
from zoo.data.bind import bind
from zoo.frames.read import read
from zoo.frames.separators import separator_of

ROWS = zoo.datasets.load("faithful").head(30)
MIXED = pd.DataFrame({"y": [1.0, 2.5, None, 4.0], "group": ["v", "u", "v", "w"], "age": [3, 1, 2, 5]})
POLARS = pl.from_pandas(MIXED)


class Groups(zoo.Model):
    """All kinds of columns."""

    x = zoo.Real("row", "feature")
    group = zoo.Category("row")
    y = zoo.Real("row")


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table",
    [
        POLARS,
        POLARS.lazy(),
        POLARS.with_columns(pl.col("group").cast(pl.Enum(["u", "v", "w"]))),
        POLARS.to_arrow(),
        POLARS.to_arrow().to_batches()[0],
        MIXED.to_dict("records"),
        duckdb.sql("select * from MIXED"),
        duckdb.sql('select y::decimal(4, 1) as y, "group", age::hugeint as age from MIXED'),
    ],
    ids=["polars", "lazy", "enum", "arrow", "batch", "records", "duckdb", "decimal"],
)
def test_a_table_of_any_library_is_that_of_pandas(table):
    data, expected = bind(Groups(), table), bind(Groups(), MIXED)
    for name, value in expected.values.items():
        assert data.values[name].equal(value), name
    assert data.levels == expected.levels
    assert data.missing["y"].tolist() == [False, False, True, False]
    assert list(data.coords["feature"]) == ["age"]


def test_columns_of_other_libraries_fill_fields():
    for values in (pl.Series(SCHOOLS["effect"]), pa.chunked_array([SCHOOLS["effect"]]), pa.array(SCHOOLS["effect"])):
        data = bind(EightSchools(), {"effect": values, "error": SCHOOLS["error"]})
        assert data.values["effect"].tolist() == SCHOOLS["effect"]
    assert bind(zoo.NormalNormal(), pl.Series("x", [1.0, 2.0])).values["x"].tolist() == [1.0, 2.0]


def test_a_fit_answers_for_new_rows_in_any_form():
    roles = {"x": ["eruptions"], "y": "waiting"}
    found = fit("bayesian_regression", pl.from_pandas(ROWS), columns=roles, method="exact", seed=0)
    again = fit("bayesian_regression", duckdb.sql("select * from ROWS"), columns=roles, method="exact", seed=0)
    assert again.objective.value == found.objective.value
    new = ROWS.head(3)
    for rows in (pl.from_pandas(new), duckdb.sql("select * from new"), xr.Dataset.from_dataframe(new)):
        assert found.log_prob(rows).tolist() == pytest.approx(found.log_prob(new).tolist())
    without = found.predict(pl.from_pandas(new[["eruptions"]]), draws=2, seed=0)
    assert without["posterior_predictive"]["y"].shape == (1, 2, 3)
    named = bind(zoo.GMM(), xr.Dataset.from_dataframe(ROWS), columns={"x": ["waiting"]})
    assert list(named.coords["feature"]) == ["waiting"]


def test_an_index_among_the_columns_of_any_library_labels_the_rows(tmp_path):
    path = tmp_path / "rows.csv"
    ROWS.set_axis([f"day {i}" for i in range(30)]).to_csv(path)
    for table in (pl.read_csv(path), duckdb.read_csv(str(path))):
        data = bind(zoo.GMM(), table)
        assert list(data.coords["feature"]) == ["eruptions", "waiting"]
        assert data.coords["row"][0] == "day 0"
        assert "taken as the labels of the rows" in data.notes[0]


@pytest.mark.parametrize("space", [" ", "\t", ",", ";"])
@pytest.mark.parametrize("names", [("1", "2", "3"), ("Mazda RX4", "Fiat 128", "Merc 230")])
@pytest.mark.parametrize("corner", ["", '"" '])
def test_names_of_rows_as_r_writes_them_are_labels(tmp_path, space, names, corner):
    """As `write.table` does, without a name for their column or (col.names = NA) an empty one, and `write.csv2`."""
    comma = "," if space == ";" else "."
    rows = "".join(f'"{n}"{space}{i}{comma}5{space}"a b"{space}TRUE\n' for i, n in enumerate(names))
    path = tmp_path / "r.txt"
    path.write_text(f'{corner.replace(" ", space)}"mpg"{space}"gear"{space}"am"\n{rows}')
    found, (streamed,) = read(path), zoo.stream(path).frames()
    for table in (found, streamed):
        assert list(table.columns) == ["mpg", "gear", "am"]
        assert list(map(str, table.index)) == list(names)
        assert table["mpg"].tolist() == [0.5, 1.5, 2.5]
    assert "the first column has no name: taken as the labels of the rows" in found.attrs["zoo.notes"]


def test_lines_with_more_entries_than_names_are_refused(tmp_path):
    path = tmp_path / "rows.csv"
    for text, said in (
        ("a,b\n1,2,3,4\n5,6,7,8\n", "names 2 columns, and the lines below have 4 entries"),
        ("a,b\n1,2,\n3,4,\n", "remove the separator at their ends"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=f"rows.csv: its first line.*{said}"):
            read(path)
        with pytest.raises(DataError, match=f"rows.csv: its first line.*{said}"):
            fit("gmm", zoo.stream(path), method="em", seed=0)
    path.write_text("name\nAda Lovelace\nAlan Turing\n")  # one column of two words
    assert read(path)["name"].tolist() == ["Ada Lovelace", "Alan Turing"]


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.coo_array])
def test_sparse_matrices_are_refused_with_the_remedy(form):
    sparse = form(np.eye(3))
    for source in (sparse, {"x": sparse}):
        with pytest.raises(DataError, match=r"found a sparse one of SciPy \(3 x 3\).*\.toarray\(\)"):
            bind(zoo.GMM(), source)


def test_sparse_columns_are_refused_with_a_remedy_that_works():
    table = pd.DataFrame({"a": [0.0, 0.0, 2.0], "b": pd.arrays.SparseArray([0.0, 1.0, 0.0])})
    for source in (table, table["b"], {"x": table}):
        with pytest.raises(DataError, match=r"'b': expected dense columns.*\(3 rows\).*table.astype\(") as told:
            bind(zoo.GMM(), source)
    dense = eval(str(told.value).rpartition("that: ")[2], {"table": table, "pandas": pd})
    assert bind(zoo.GMM(), dense).values["x"].tolist() == [[0, 0], [0, 1], [2, 0]]


def test_levels_that_occur_in_no_row_are_said():
    answers = pd.Categorical(["a", "b", "a"], categories=["b", "a", "c"], ordered=True)
    for source in (pd.DataFrame({"q": answers, "r": ["u", "v", "v"]}), {"x": pd.DataFrame({"q": answers})}):
        data = bind(zoo.LatentClass(), source)
        assert [note for note in data.notes if note.startswith("column 'q'") and note.endswith(": 'c'")]


# -- files ------------------------------------------------------------------------------------------------------------


def write(table: pd.DataFrame, path, **options) -> None:
    """Write a table as the suffix says."""
    writers = {
        ".xlsx": lambda: table.to_excel(path, index=False),
        ".feather": lambda: table.to_feather(path),
        ".arrow": lambda: table.to_feather(path),
        ".npz": lambda: np.savez(path, x=table.to_numpy()),
        ".tsv": lambda: table.to_csv(path, sep="\t", index=False),
    }
    writers.get(path.suffix, lambda: table.to_csv(path, index=False, **options))()


@pytest.mark.parametrize("suffix", [".tsv", ".csv.gz", ".xlsx", ".feather", ".arrow", ".npz"])
def test_files_of_many_kinds_are_read(suffix, tmp_path):
    path = tmp_path / f"rows{suffix}"
    write(ROWS, path)
    data = bind(zoo.GMM(), path)
    assert data.values["x"].tolist() == ROWS.to_numpy().tolist()
    if suffix in (".tsv", ".csv.gz"):
        streamed = next(zoo.stream(path, chunk=7).frames())
        assert streamed.equals(ROWS.head(7))


def test_streams_of_arrow_and_records_of_numpy_are_tables(tmp_path):
    table = pa.Table.from_pandas(ROWS)
    with pa.ipc.new_stream(tmp_path / "rows.arrow", table.schema) as writer:
        writer.write_table(table)
    for source in (tmp_path / "rows.arrow", ROWS.to_records(index=False)):
        assert bind(zoo.GMM(), source).values["x"].tolist() == ROWS.to_numpy().tolist()


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("a;b\n1,5;2\n3,5;4\n", ";"),
        ('"a, or ""so""";b\n1;2\n', ";"),
        ("a\tb\n1\t2\n", "\t"),
        ("a|b\n1|2\n", "|"),
        ("a\n1\n", ","),
        ("time (s, from start);b\n0,5;1,5\n", ";"),
        ("", ","),
    ],
)
def test_the_separator_shows_in_the_first_lines(text, separator):
    assert separator_of(text) == separator


def test_separators_and_decimal_commas(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("\ufeffa;b;c\n1,5;2;x\n-3,25;4;y,z\n", encoding="utf-8")
    assert read(path).to_dict("list") == {"a": [1.5, -3.25], "b": [2, 4], "c": ["x", "y,z"]}
    (tmp_path / "spaces.txt").write_text("a  b\n1   2\n")
    assert read(tmp_path / "spaces.txt", separator="space").to_dict("list") == {"a": [1], "b": [2]}
    ROWS.to_parquet(tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="only text files have a separator, and this is PARQUET"):
        read(tmp_path / "rows.parquet", separator=";")


def test_doubled_names_of_columns_are_refused(tmp_path):
    table, (text, sheet) = pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), (tmp_path / "t.csv", tmp_path / "t.xlsx")
    table.to_csv(text, index=False)
    table.to_excel(sheet, index=False)
    for found in (lambda: read(text), lambda: read(sheet), lambda: list(zoo.stream(text).frames())):
        with pytest.raises(DataError, match=r"t\.\w+: its first line names several columns 'a'; rename"):
            found()


def test_arrays_of_several_names_fill_fields(tmp_path):
    np.savez(tmp_path / "schools.npz", **SCHOOLS)
    assert bind(EightSchools(), tmp_path / "schools.npz").values["error"].tolist() == SCHOOLS["error"]
    both = bind(zoo.BayesianRegression(), tmp_path / "schools.npz", columns={"x": "error", "y": "effect"})
    assert list(both.coords["feature"]) == ["error"]


@pytest.mark.parametrize("kind", ["csv", "gz", "parquet", "npy", "npz", "feather", "xlsx"])
def test_standard_input_is_read_for_what_it_is(kind, monkeypatch, tmp_path):
    text = ROWS.to_csv(index=False, sep=";").encode()
    path = tmp_path / f"rows.{kind}"
    {
        "csv": lambda: path.write_bytes(text),
        "gz": lambda: path.write_bytes(gzip.compress(text)),
        "parquet": lambda: ROWS.to_parquet(path),
        "npy": lambda: np.save(path, ROWS.to_numpy()),
    }.get(kind, lambda: write(ROWS, path))()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(path.read_bytes())))
    assert np.asarray(read("-")).tolist() == ROWS.to_numpy().tolist()


def test_only_the_first_sheet_is_read_and_a_note_says_so(tmp_path):
    with pd.ExcelWriter(tmp_path / "rows.xlsx") as book:
        ROWS.to_excel(book, sheet_name="now", index=False)
        ROWS.to_excel(book, sheet_name="then")
    assert bind(zoo.GMM(), tmp_path / "rows.xlsx").notes == ("read sheet 'now', the first of 2",)


def test_thousands_are_no_decimals(tmp_path):
    grouped, decimal = tmp_path / "grouped.csv", tmp_path / "decimal.csv"
    grouped.write_text('price,size\n"1,234",2\n"5,678",3\n')
    decimal.write_text("price;size\n1,234;2\n5,678;3\n")
    assert list(read(grouped)["price"]) == ["1,234", "5,678"]
    table = read(decimal)
    assert list(table["price"]) == [1.234, 5.678]
    assert table.attrs["zoo.notes"] == ("commas in numbers are read as decimal points: column 'price'",)
