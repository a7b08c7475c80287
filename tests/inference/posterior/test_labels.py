"""Labels of a dimension come back from JSON as they were."""

from __future__ import annotations

import json
from datetime import timedelta, timezone

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
    ],
    ids=lambda labels: f"{type(labels).__name__}-{labels[0]}",
)
def test_labels_come_back(labels):
    back = read_labels(json.loads(json.dumps(describe_labels(labels))))
    pd.testing.assert_index_equal(back, labels, exact=True)
    assert getattr(back, "freq", None) == getattr(labels, "freq", None)
