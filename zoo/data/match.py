"""Columns of tables and entries of dicts, matched to the fields of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from zoo.data.read import NAMELESS, NOTES
from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.errors import DataError


def from_frame(
    model: Model, frame: pd.DataFrame, expected: pd.Index | None
) -> tuple[dict[str, Any], pd.Index | None, tuple[str, ...]]:
    """Match the columns of a table to fields: by name, and the other numeric columns to the single matrix field."""
    if not frame.columns.is_unique:
        twice = list(frame.columns[frame.columns.duplicated()])
        raise DataError(f"the table names column {twice[0]!r} twice; rename one")
    frame, notes = _without_index(frame, expected)
    name_of_model, fields = type(model).__name__, model.fields
    matrices = [n for n, f in fields.items() if len(f.dims) == 2]
    vectors = [n for n, f in fields.items() if len(f.dims) == 1]
    if len(matrices) + len(vectors) < len(fields) or len(matrices) > 1:
        raise DataError(
            f"{name_of_model}: a table fills vector fields and at most one matrix field; give a dict of "
            f"arrays for {', '.join(f'{n}={f!r}' for n, f in fields.items())}"
        )
    if len(vectors) == 1 and not matrices and len(frame.columns) == 1:
        return {vectors[0]: _numbers(frame.iloc[:, 0], fields[vectors[0]])}, None, notes
    absent = [n for n in vectors if n not in frame.columns]
    missing = [n for n in absent if fields[n].default is None]
    if missing:
        raise DataError(
            f"{name_of_model}: no column for field {missing[0]!r}; the table has columns "
            f"{', '.join(map(repr, frame.columns))}. Rename the column that holds it"
        )
    arrays = {
        n: np.full(len(frame), fields[n].default) if n in absent else _numbers(frame[n], fields[n]) for n in vectors
    }
    if not matrices:
        return arrays, None, notes
    rest = frame[[c for c in frame.columns if c not in vectors]]
    if expected is not None and set(expected) <= set(rest.columns):
        rest = rest[list(expected)]
    else:
        labels = fields[matrices[0]].integer  # a matrix of categories may hold labels
        text = [] if labels else [c for c in rest.columns if _is_text(rest[c])]
        rest = rest.drop(columns=text)
        if text:
            notes += (f"left out the columns that are text: {', '.join(map(repr, text))}",)
        if not len(rest.columns):
            raise DataError(
                f"{name_of_model}: no numeric columns for field {matrices[0]!r}; the table has "
                f"{', '.join(map(repr, frame.columns)) or 'no columns'}"
            )
    stacked = [_numbers(rest[c], fields[matrices[0]]) for c in rest.columns]
    arrays[matrices[0]] = np.stack(stacked, axis=1)
    return arrays, rest.columns, notes


def _without_index(frame: pd.DataFrame, expected: pd.Index | None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Leave out a column in which pandas has kept the row numbers, and say what became of these."""
    notes: tuple[str, ...] = tuple(frame.attrs.get(NOTES, ()))
    if NAMELESS not in frame.columns or len(frame.columns) == 1 or (expected is not None and NAMELESS in expected):
        return frame, notes
    numbers = frame[NAMELESS].to_numpy()
    if not (np.array_equal(numbers, np.arange(len(frame))) or np.array_equal(numbers, frame.index.to_numpy())):
        return frame, notes
    return frame.drop(columns=NAMELESS), (*notes, f"left out the column {NAMELESS!r}: it holds the numbers of the rows")


def _parsed(column: pd.Series) -> pd.Series:
    """Parse a column's entries as numbers, missing where one is none."""
    try:
        return pd.to_numeric(column, errors="coerce")
    except OverflowError:
        raise DataError(
            f"column {column.name!r}: an entry is too large for a floating-point number; rescale the column"
        ) from None


def _is_text(column: pd.Series) -> bool:
    """Tell whether a column holds words and no numbers at all (a label column, not a damaged numeric one)."""
    if pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return False
    return bool(_parsed(column).isna().all()) and len(column) > 0


def _numbers(column: pd.Series, kind: Field) -> np.ndarray | pd.Series:
    """Return a column as numbers, or labels for a `Category` field; one of categories as it is, with their order."""
    if kind.integer and isinstance(column.dtype, pd.CategoricalDtype):
        return column
    if kind.integer and not pd.api.types.is_numeric_dtype(column):
        return column.to_numpy(dtype=object)
    dated = pd.api.types.is_datetime64_any_dtype(column) or pd.api.types.is_timedelta64_dtype(column)
    if dated or isinstance(column.dtype, pd.PeriodDtype | pd.IntervalDtype):
        raise DataError(f"column {column.name!r}: expected numbers, found dates; convert or drop it")
    strange = column.dtype == object and any(isinstance(v, complex) for v in column)
    if strange or pd.api.types.is_complex_dtype(column):
        raise DataError(f"column {column.name!r}: expected real numbers, found complex ones; convert or drop it")
    if not (pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)):
        bad = _parsed(column).isna() & column.notna()
        if bad.any():
            at = column.index[bad][0]
            raise DataError(
                f"column {column.name!r}: expected numbers, found {column[bad].iloc[0]!r} at row {at!r}"
                f"{f' and {int(bad.sum()) - 1} more' if bad.sum() > 1 else ''}; clean or drop the column"
            )
        column = pd.to_numeric(column)
    return column.to_numpy(dtype=float, na_value=np.nan)


def from_arrays(model: Model, source: Any) -> dict[str, Any]:
    """Match a dict of arrays, or one array for a model with one field."""
    fields, name_of_model = model.fields, type(model).__name__
    if isinstance(source, Mapping):
        absent = [n for n in fields if n not in source]
        missing = [n for n in absent if fields[n].default is None]
        extra = [str(n) for n in source if n not in fields]
        if missing or extra:
            raise DataError(
                f"{name_of_model} has data fields {', '.join(fields)}; "
                + (f"missing: {', '.join(missing)}" if missing else f"not a field: {', '.join(extra)}")
            )
        return {**source, **{n: _by_default(fields, n, source) for n in absent}}
    if len(fields) > 1:
        raise DataError(
            f"{name_of_model} has {len(fields)} data fields ({', '.join(fields)}); give a dict or a "
            "DataFrame with these names, not one array"
        )
    if not isinstance(source, np.ndarray | Tensor | Sequence) or isinstance(source, str):
        raise DataError(
            f"cannot take data of type {type(source).__name__}; give a DataFrame, a dict of arrays, an "
            "array (of NumPy, torch or xarray), a path or the name of a dataset"
        )
    return {next(iter(fields)): source}


def _by_default(fields: Mapping[str, Field], name: str, source: Mapping[str, Any]) -> np.ndarray:
    """Return the default entries of a field, as many as the data have along its dimension."""
    along = next((n for n, f in fields.items() if n in source and f.dims[:1] == fields[name].dims), None)
    if along is None or not hasattr(source[along], "__len__"):
        raise DataError(f"no field of the data says how many entries the default of {name!r} has; give {name!r}")
    return np.full(len(source[along]), fields[name].default)
