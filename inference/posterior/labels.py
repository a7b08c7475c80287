"""Labels of dimensions as JSON and back: ranges, dates, texts, numbers, and several levels of these."""

from __future__ import annotations

from typing import Any

import pandas as pd

from inference.runtime.settings import plain


def describe_labels(index: pd.Index) -> dict[str, Any]:
    """Return the labels of a dimension as JSON."""
    kind = {pd.RangeIndex: "range", pd.DatetimeIndex: "dates", pd.MultiIndex: "levels"}.get(type(index), "plain")
    described: dict[str, Any] = {"kind": kind, "labels": [plain(v) for v in index], "name": plain(index.name)}
    if isinstance(index, pd.DatetimeIndex):
        described |= {"unit": index.unit, "freq": index.freqstr, "zone": str(index.tz) if index.tz else None}
    if isinstance(index, pd.MultiIndex):
        described["names"] = list(index.names)
    return described


def read_labels(saved: dict[str, Any]) -> pd.Index:
    """Make labels again from what `describe_labels` returned."""
    labels, name = saved["labels"], saved["name"]
    if saved["kind"] == "range":
        step = labels[1] - labels[0] if len(labels) > 1 else 1
        return pd.RangeIndex(labels[0], labels[0] + step * len(labels), step, name=name)
    if saved["kind"] == "dates":
        zone = saved.get("zone")  # which version 0.1.0 did not write
        times = pd.to_datetime(labels, utc=True, format="ISO8601").tz_convert(zone) if zone else labels
        dates: pd.DatetimeIndex = pd.DatetimeIndex(times, name=name, freq=saved["freq"]).as_unit(saved["unit"])
        return dates
    if saved["kind"] == "levels":
        return pd.MultiIndex.from_tuples([tuple(entry) for entry in labels], names=saved["names"])
    index: pd.Index = pd.Index(labels, name=name)
    return index
