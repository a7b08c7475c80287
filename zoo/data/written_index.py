"""The index of a table, written among its columns: no feature, but the labels of the rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from zoo.frames.read import INDEX_NAMES, NOTES

NUMBERED = ("index", "rownames", "row_nr")  # what polars, R and others call the numbers of rows


def without_index(frame: pd.DataFrame, expected: Collection[Any]) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Take a column in which a table's index was written as the labels of the rows, and say so.

    Where it holds but the row numbers that are there already it is left out.
    """
    notes: tuple[str, ...] = tuple(frame.attrs.get(NOTES, ()))
    name = next((c for c in INDEX_NAMES if c in frame.columns), None)
    if name == "column0" and "column1" in frame.columns:  # as DuckDB calls all columns of a file without names
        return frame, notes
    numbered = next((c for c in NUMBERED if c in frame.columns and c not in expected), None)
    if name is None and numbered is not None and len(frame.columns) > 1 and _counts_rows(frame[numbered]):
        return frame.drop(columns=numbered), (
            *notes,
            f"left out the column {numbered!r}: it holds the numbers of the rows; columns=... takes it in",
        )
    if name is None or len(frame.columns) == 1 or name in expected:
        return frame, notes
    labels, rest = pd.Index(frame[name], name=None), frame.drop(columns=name)
    if np.array_equal(labels, np.arange(len(frame))) or np.array_equal(labels, frame.index.to_numpy()):
        return rest, (*notes, f"left out the column {name!r}: it holds the numbers of the rows")
    measured = labels.dtype.kind == "f" and not (labels == labels.astype(float).round()).all()
    if measured or labels.hasnans or not (labels.is_unique and isinstance(frame.index, pd.RangeIndex)):
        return frame, notes
    return rest.set_axis(labels), (
        *notes,
        f"the column {name!r} has no name of its own: taken as the labels of the rows",
    )


def _counts_rows(column: pd.Series) -> bool:
    """Whether a column counts the rows from 0 or 1 on."""
    if not pd.api.types.is_integer_dtype(column) or not len(column):
        return False
    return bool((column.to_numpy() - np.arange(len(column)) == min(max(int(column.iloc[0]), 0), 1)).all())
