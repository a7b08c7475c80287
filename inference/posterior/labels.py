"""Labels of a dimension, as JSON and back."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_object_dtype

from inference.runtime.settings import plain


def describe_labels(index: pd.Index) -> dict[str, Any]:
    """Return the labels of a dimension as JSON: what kind of index they are, and what that kind is made of.

    Labels of mixed Python objects come back as numbers and text, dates among them as dates.
    """
    if isinstance(index, pd.MultiIndex):
        levels = [describe_labels(level) for level in index.levels]
        codes = [plain(np.asarray(c)) for c in index.codes]
        return {"kind": "product", "levels": levels, "codes": codes, "names": [_described(n) for n in index.names]}
    described: dict[str, Any] = {"name": _described(index.name)}
    match index:
        case pd.RangeIndex():
            return {"kind": "range", "labels": [plain(v) for v in index], **described}
        case pd.DatetimeIndex():
            zone = str(index.tz) if index.tz else None
            described |= {"unit": index.unit, "freq": index.freqstr, "zone": zone}
            return {"kind": "dates", "labels": [plain(v) for v in index], **described}
        case pd.TimedeltaIndex():
            described |= {"unit": index.unit, "freq": index.freqstr}
            return {"kind": "times", "counts": index.asi8.tolist(), **described}
        case pd.PeriodIndex():
            return {"kind": "periods", "counts": index.asi8.tolist(), "freq": index.freqstr, **described}
        case pd.IntervalIndex():
            ends = {side: describe_labels(getattr(index, side)) for side in ("left", "right")}
            return {"kind": "intervals", **ends, "closed": index.closed, **described}
        case pd.CategoricalIndex():
            categories = describe_labels(index.categories)
            codes = index.codes.tolist()
            return {
                "kind": "categories",
                "categories": categories,
                "codes": codes,
                "ordered": index.ordered,
                **described,
            }
    if is_object_dtype(index.dtype):
        return {"kind": "objects", "labels": [_described(v) for v in index], **described}
    return {"kind": "plain", "labels": [plain(v) for v in index], "dtype": str(index.dtype), **described}


def read_labels(saved: dict[str, Any]) -> pd.Index:
    """Make labels again from what `describe_labels` returned, of version 0.1.0 too."""
    name = _read(saved.get("name"))
    index: pd.Index[Any]
    match saved["kind"]:
        case "product":
            levels: list[Any] = [read_labels(level) for level in saved["levels"]]
            index = pd.MultiIndex(levels, saved["codes"], names=_read(saved["names"]))
        case "levels":  # of version 0.1.0, as "plain" without a type
            index = pd.MultiIndex.from_tuples([tuple(entry) for entry in saved["labels"]], names=saved["names"])
        case "range":
            labels = saved["labels"]
            step = labels[1] - labels[0] if len(labels) > 1 else 1
            index = pd.RangeIndex(labels[0], labels[0] + step * len(labels), step, name=name)
        case "dates":
            zone, labels = saved.get("zone"), saved["labels"]  # version 0.1.0 did not write a zone
            times = pd.to_datetime(labels, utc=True, format="ISO8601").tz_convert(zone) if zone else labels
            index = pd.DatetimeIndex(times, name=name, freq=saved["freq"]).as_unit(saved["unit"])
        case "times":
            counts = np.array(saved["counts"], dtype="int64").view(f"timedelta64[{saved['unit']}]")
            index = pd.TimedeltaIndex(counts, name=name, freq=saved["freq"])
        case "periods":
            periods = [pd.Period(ordinal=n, freq=saved["freq"]) for n in saved["counts"]]
            index = pd.PeriodIndex(periods, freq=saved["freq"], name=name)
        case "intervals":
            left, right = read_labels(saved["left"]), read_labels(saved["right"])
            index = pd.IntervalIndex.from_arrays(left, right, closed=saved["closed"], name=name)
        case "categories":
            categories = read_labels(saved["categories"])
            coded = pd.Categorical.from_codes(saved["codes"], categories=categories, ordered=saved["ordered"])
            index = pd.CategoricalIndex(coded, name=name)
        case "objects":
            index = pd.Index([_read(v) for v in saved["labels"]], dtype=object, name=name)
        case _:
            index = pd.Index(saved["labels"], dtype=saved.get("dtype"), name=name)
    return index


def _described(label: Any) -> Any:
    if type(label) is datetime.date:
        return {"date": label.isoformat()}
    return [_described(v) for v in label] if isinstance(label, tuple) else plain(label)


def _read(label: Any) -> Any:
    if isinstance(label, dict):
        return datetime.date.fromisoformat(label["date"])
    return tuple(_read(v) for v in label) if isinstance(label, list) else label
