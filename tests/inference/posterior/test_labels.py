"""Labels of a dimension come back from JSON as they were."""

from __future__ import annotations

import json
from datetime import date, timedelta, timezone

import pandas as pd
import pytest

from inference.posterior.labels import describe_labels, read_labels


@pytest.mark.parametrize(
    "labels",
    [
        pd.RangeIndex(5),
        pd.RangeIndex(60, 90, 3, name="row"),  # rows of a larger table
        pd.RangeIndex(7, 8),
        pd.Index([3, 1, 2], name="number"),
        pd.Index(["a", "b"], name="letter"),
        pd.Index([0.5, 1.5]),
        pd.date_range("2021-03-01", periods=4, name="day"),
        pd.date_range("2021-03-01", periods=3, freq="MS", tz="Europe/Berlin"),
        pd.date_range("2021-03-01", periods=3, tz=timezone(timedelta(hours=-3))),
        pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["letter", "number"]),
        pd.MultiIndex.from_product([pd.date_range("2021-03-01", periods=2, tz="Asia/Tokyo"), [1.5, 2.5]]),
        pd.MultiIndex.from_tuples([("a", 1.5), (None, 2.5), ("b", 1.5)]),
        pd.date_range("2021-10-30 22:00", periods=9, freq="h", tz="Europe/Berlin"),  # the clock goes back
        pd.DatetimeIndex(["2021-03-01 12:00:00.123456789", "2021-03-02"]).as_unit("ns"),
        pd.to_timedelta(range(4), unit="h"),
        pd.TimedeltaIndex(["1 day", "3 days"], name="after").as_unit("ms"),
        pd.timedelta_range("1h", periods=3, freq="h"),
        pd.period_range("2020-01", periods=4, freq="M", name="month"),
        pd.period_range("2020Q1", periods=3, freq="Q-NOV"),
        pd.interval_range(0, 4),
        pd.interval_range(pd.Timestamp("2021-03-01"), periods=3, closed="both"),
        pd.Index([date(2020, 1, 1), date(2020, 1, 2)], name="date"),
        pd.CategoricalIndex(["low", "high", "low"], categories=["low", "high", "top"], ordered=True, name="level"),
        pd.Index([3, 1, 2], dtype="int8"),
        pd.Index([3, 1], dtype="uint64", name=("two", "parts")),
        pd.Index([0.1, 1.5], dtype="float32"),
        pd.Index([1, 2], dtype="Int64"),
        pd.Index([True, False]),
        pd.Index(["a", 1, (2, "b")], dtype=object),
    ],
    ids=lambda labels: f"{type(labels).__name__}-{labels.dtype}-{labels[0]}",
)
def test_labels_come_back(labels):
    back = read_labels(json.loads(json.dumps(describe_labels(labels))))
    pd.testing.assert_index_equal(back, labels, exact=True)
    assert getattr(back, "freq", None) == getattr(labels, "freq", None)


@pytest.mark.parametrize(
    ("saved", "labels"),
    [
        ({"kind": "plain", "labels": [3, 1], "name": "n"}, pd.Index([3, 1], name="n")),
        (
            {"kind": "levels", "labels": [["a", 1], ["a", 2]], "name": None, "names": ["letter", "number"]},
            pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["letter", "number"]),
        ),
    ],
    ids=["plain", "levels"],
)
def test_labels_of_version_0_1_0_are_read(saved, labels):
    pd.testing.assert_index_equal(read_labels(saved), labels, exact=True)
