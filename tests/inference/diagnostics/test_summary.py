"""A summary prints with all of its columns in 80 characters, and keeps its numbers as they are."""

from __future__ import annotations

import pickle
import re

import arviz_stats
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import zoo
from inference import fit
from inference.diagnostics.summary import Summary

COLUMNS = ["mean", "sd", "eti89_lb", "eti89_ub", "ess_bulk", "ess_tail", "r_hat", "mcse_mean", "mcse_sd"]


def summary(names: list[str], scale: float = 1.0, draws: int = 300) -> Summary:
    """What ArviZ says of draws of four chains."""
    rng = np.random.default_rng(0)
    values = {n: (("chain", "draw"), scale * rng.normal(3 * i, 1.0, (4, draws))) for i, n in enumerate(names)}
    tree = xr.DataTree.from_dict({"/posterior": xr.Dataset(values)})
    return Summary(arviz_stats.summary(tree, round_to="none"))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e4, 1e9])
@pytest.mark.parametrize(
    "names", [["mu", "tau", "theta[0]"], ["weights[0]", "precisions[0, eruptions, eruptions]", "a" * 80]], ids=len
)
def test_all_columns_and_rows_are_shown_in_80_characters(names, scale):
    table = summary(names, scale, draws=3000)
    text = repr(table)
    assert str(table) == text
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "..." not in text
    assert set(COLUMNS) <= set(" ".join(lines[:2]).split())
    for name, row in table.iterrows():
        at = next(i for i, line in enumerate(lines) if line == name or line.startswith(f"{name} "))
        numbers = [float(v) for v in (lines[at + 1] if lines[at] == name else lines[at].removeprefix(name)).split()]
        for value, column in zip(numbers, COLUMNS, strict=True):
            error = 0.05 * row["sd"] if column in ("mean", "eti89_lb", "eti89_ub") else 0.05 * row[column]
            error = {"ess_bulk": 1.0, "ess_tail": 1.0, "r_hat": 0.005}.get(column, error)
            assert value == pytest.approx(row[column], abs=error)


def test_names_of_columns_end_where_their_numbers_end():
    """On two lines, where names are wider than numbers."""
    lines = repr(summary(["weights[0]", "covariance[0, 1]"])).splitlines()
    top, bottom, row = lines[0], lines[1], lines[2]
    ends = [m.end() for m in re.finditer(r"\S+", row)][1:]
    for name, end in zip(COLUMNS, ends, strict=True):
        assert top[:end].endswith(f" {name}") or bottom[:end].endswith(f" {name}")
    assert top.strip()


def test_numbers_are_kept_whole_and_rounded_in_print():
    table = summary(["mu"])
    assert table.dtypes.unique().tolist() == [np.float64]
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(table)), table, check_exact=True)
    plain = pd.DataFrame({"mean": [79.98971, 1e-4], "sd": [0.4731, 0.0], "eti89_lb": [79.2511, 0.0]}, index=["a", "b"])
    assert repr(Summary(plain)).splitlines() == [
        "     mean    sd  eti89_lb",
        "a   79.99  0.47     79.25",
        "b  0.0001     0         0",
    ]
    assert repr(Summary(plain).to_csv()) == repr(plain.to_csv())
    chains = pd.DataFrame({"ess_bulk": [1234.9], "r_hat": [np.nan], "mcse_mean": [0.04567]}, index=["a"])
    assert repr(Summary(chains)).splitlines()[1].split() == ["a", "1234", "nan", "0.046"]


@pytest.mark.slow
def test_many_rows_are_cut_as_pandas_cuts_them():
    table = summary([f"x[{i}]" for i in range(70)], draws=20)
    lines = repr(table).splitlines()
    assert lines[-1] == "[70 rows x 9 columns]"
    assert [line.split()[0] for line in lines[-13:-2]] == [
        *(f"x[{i}]" for i in range(5)),
        "...",
        *(f"x[{i}]" for i in range(65, 70)),
    ]
    with pd.option_context("display.max_rows", None):
        assert len(repr(table).splitlines()) >= 71


def test_what_is_no_summary_any_more_prints_as_pandas_prints_it():
    table = summary(["mu", "tau"])
    for other in (table.T, table.isna(), table.iloc[:0], table.rename(columns={"mean": 3}), table.assign(note="x")):
        assert isinstance(other, Summary)
        assert repr(other) == repr(pd.DataFrame(other)).replace("Empty DataFrame", "Empty Summary")
    assert isinstance(table["mean"], pd.Series)


@pytest.mark.slow
def test_summaries_of_fits_are_such_frames():
    for method in ("em", "cavi"):
        made = fit(zoo.BayesianGMM(components=2), "faithful", method=method, seed=0, progress=False)
        table = made.summary()
        assert isinstance(table, Summary)
        text = repr(table)
        assert max(map(len, text.splitlines())) <= 80
        assert len(text.splitlines()) == 1 + len(table)
