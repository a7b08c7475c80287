"""Columns of tables and entries of dicts, matched to the fields of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from torch import Tensor

from zoo.data.data import Data
from zoo.data.identifiers import unused
from zoo.data.written_index import without_index
from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.errors import DataError, short, unknown
from zoo.frames.dates import are_dates, as_words, dated_numbers, what_of
from zoo.frames.table import as_table

Columns: TypeAlias = "Mapping[str, str | int | Sequence[str] | Sequence[int]]"


@dataclass(frozen=True)
class Matched:
    """One array for each field, and what a table says of its labels.

    Attributes
    ----------
    arrays
        Field name -> its entries, not yet looked at.
    coords
        Labels by dimension, of the columns of a table or of a long one that was counted.
    index
        Labels of a table's rows.
    notes
        What was left out.
    """

    arrays: dict[str, Any]
    coords: dict[str, pd.Index] = field(default_factory=dict)
    index: pd.Index | None = None
    notes: tuple[str, ...] = ()


def named_columns(model: Model, columns: Columns) -> dict[str, tuple[Any, ...]]:
    """Return the columns of each field that `columns` names, as tuples.

    Raises
    ------
    DataError
        If a field is none of the model's or not one that columns fill, or a column is given twice.
    """
    if not isinstance(columns, Mapping):
        raise DataError(
            f"columns={short(columns)}: expected a dict from fields to columns, such as "
            f"{{{next(iter(model.fields))!r}: ['height', 'weight']}}"
        )
    found: dict[str, tuple[Any, ...]] = {}
    owner: dict[Any, str] = {}
    for name, given in columns.items():
        if name not in model.fields:
            raise unknown(f"field of {type(model).__name__}", str(name), model.fields)
        kind = model.fields[name]
        listed = (given,) if isinstance(given, str) or not isinstance(given, Sequence | pd.Index) else tuple(given)
        if len(kind.dims) not in (1, 2) or not listed or (len(kind.dims) == 1 and len(listed) > 1):
            expected = {1: "one column", 2: "one column or more"}.get(
                len(kind.dims), "no columns, but an array in a dict"
            )
            raise DataError(f"columns: field {name!r}, {kind!r}, takes {expected}; found {list(listed)!r}")
        for column in listed:
            if column in owner:
                raise DataError(
                    f"columns: {column!r} is given twice, to {owner[column]!r} and to {name!r}; leave one out"
                )
            owner[column] = name
        found[name] = listed
    return found


def from_frame(model: Model, frame: pd.DataFrame, columns: Mapping[str, tuple[Any, ...]], like: Data | None) -> Matched:
    """Match the columns of a table to fields: those named in `columns`, others by name, and the rest to a matrix field.

    Parameters
    ----------
    model, frame
        The fields, and the table that fills them.
    columns
        Field -> its columns, for fields that do not have the name of their column.
    like
        Data bound before, whose labels of columns the table has to have.

    Raises
    ------
    DataError
        If a column is not there or there twice, or holds no numbers.
    """
    if not frame.columns.is_unique:
        twice = list(frame.columns[frame.columns.duplicated()])
        raise DataError(f"the table names column {twice[0]!r} twice; rename one")
    name_of_model, fields = type(model).__name__, model.fields
    matrices = [n for n, f in fields.items() if len(f.dims) == 2]
    vectors = [n for n, f in fields.items() if len(f.dims) == 1]
    rest_of = [n for n in matrices if n not in columns]  # the one matrix that takes what is left
    expected = like.coords[fields[rest_of[0]].dims[1]] if like is not None and rest_of else None
    named = {*fields, *sum(columns.values(), ()), *(() if expected is None else expected)}
    frame, notes = without_index(frame, named)
    if len(matrices) + len(vectors) < len(fields) or len(rest_of) > 1:
        raise DataError(
            f"{name_of_model}: a table fills vector fields and matrix fields, and of these one at most without its "
            f"columns being named (columns={{{matrices[0]!r}: [...]}}); give a dict of "
            if matrices
            else f"{name_of_model}: a table fills vector fields and matrix fields; give a dict of "
            f"arrays for {', '.join(f'{n}={f!r}' for n, f in fields.items())}"
        )
    if len(vectors) == 1 and not matrices and not columns and len(frame.columns) == 1:
        return Matched({vectors[0]: _numbers(frame.iloc[:, 0], fields[vectors[0]])}, {}, frame.index, notes)
    names = {n: columns.get(n, (n,))[0] for n in vectors}
    absent = [n for n in vectors if names[n] not in frame.columns]
    lacking = [(n, c) for n, listed in columns.items() for c in listed if c not in frame.columns]
    if lacking:
        raise DataError(
            f"{name_of_model}: no column {lacking[0][1]!r} for field {lacking[0][0]!r}; the table has columns "
            f"{', '.join(map(repr, frame.columns))}"
        )
    missing = [n for n in absent if fields[n].default is None]
    if missing:
        raise DataError(
            f"{name_of_model}: no column for field {missing[0]!r}; the table has columns "
            f"{', '.join(map(repr, frame.columns))}. Rename the column that holds it, or say which it is: "
            f"columns={{{missing[0]!r}: ...}}"
        )
    arrays = {
        n: np.full(len(frame), fields[n].default) if n in absent else _numbers(frame[names[n]], fields[n])
        for n in vectors
    }
    told = {names[n]: a for n, a in arrays.items() if not fields[n].integer}
    coords: dict[str, pd.Index] = {}
    for name in matrices:
        kind = fields[name]
        if name in columns:
            part = frame[list(columns[name])]
        else:
            used = {*names.values(), *sum(columns.values(), ())}
            part, more = _rest(frame[[c for c in frame.columns if c not in used]], kind, expected)
            notes += more
            if not len(part.columns):
                raise DataError(
                    f"{name_of_model}: no numeric columns for field {name!r}; the table has "
                    f"{', '.join(map(repr, frame.columns)) or 'no columns'}"
                )
        arrays[name] = np.stack([_numbers(part[c], kind) for c in part.columns], axis=1)
        told |= {} if kind.integer else dict(zip(part.columns, arrays[name].T, strict=True))
        notes += unused({name: part}) if kind.integer and like is None else ()
        labels = coords.setdefault(kind.dims[1], part.columns)
        if not labels.equals(part.columns):
            raise DataError(
                f"field {name!r}: its columns along {kind.dims[1]!r}, {', '.join(map(repr, part.columns))}, are not "
                f"those of another field, {', '.join(map(repr, labels))}"
            )
    notes += dated_numbers(told) if like is None else ()
    return Matched(arrays, coords, frame.index, notes)


def _rest(frame: pd.DataFrame, kind: Field, expected: pd.Index | None) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the columns that fill a matrix field: those of the fitted data, else all but what holds no numbers."""
    if expected is not None and set(expected) <= set(frame.columns):
        return frame[list(expected)], ()
    if kind.integer:  # a matrix of categories may hold labels
        return frame, ()
    text = [c for c in frame.columns if _is_text(frame[c]) and not are_dates(frame[c])]  # which are refused, as parsed
    notes = (f"left out the columns that are text: {', '.join(map(repr, text))}",) if text else ()
    return frame.drop(columns=text), notes


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
    dated = are_dates(column)
    if kind.integer and not pd.api.types.is_numeric_dtype(column):
        return (as_words(column) if dated else column).to_numpy(dtype=object)
    if dated or isinstance(column.dtype, pd.IntervalDtype):
        found = str(column.dropna().iloc[0]) if column.notna().any() else "NaT"
        what = what_of(found) if dated else "intervals"
        raise DataError(
            f"column {column.name!r}: expected numbers, found {what} such as {found!r}; convert them (dates to days "
            "since the first, say), or leave it out: drop it, or name the others by columns=..."
        )
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
    numbers = column.to_numpy(dtype=float, na_value=np.nan)
    whole = numbers == np.round(numbers) if kind.integer else None
    if whole is not None and not (whole | np.isnan(numbers)).all():
        raise DataError(
            f"column {column.name!r}: expected categories, found {numbers[~whole & ~np.isnan(numbers)][0]:g}; a "
            "continuous column is none: drop it or cut it into classes (pandas.cut). If its numbers are labels, give "
            "them as text: .astype(str)"
        )
    return numbers


def from_arrays(model: Model, source: Any) -> dict[str, Any]:
    """Match a dict of arrays, or one array for a model with one field."""
    fields, name_of_model = model.fields, type(model).__name__
    if isinstance(source, Mapping):
        absent = [n for n in fields if n not in source]
        missing = [n for n in absent if fields[n].default is None]
        extra = [str(n) for n in source if n not in fields]
        if missing or extra:
            strange = not set(source) & set(fields)
            raise DataError(
                f"{name_of_model} has data fields {', '.join(fields)}; "
                + (f"missing: {', '.join(missing)}" if missing else f"not a field: {', '.join(extra)}")
                + (". A dict has an array for each field; of the columns of a table make a DataFrame" * strange)
            )
        source = {n: as_table(v) for n, v in source.items()}
        return {**source, **{n: _by_default(fields, n, source) for n in absent}}
    if len(fields) > 1:
        raise DataError(
            f"{name_of_model} has {len(fields)} data fields ({', '.join(fields)}); give a dict or a "
            "DataFrame with these names, not one array"
        )
    if not isinstance(source, np.ndarray | Tensor | Sequence) or isinstance(source, str):
        raise DataError(
            f"cannot take data of type {type(source).__name__}; give a table (of pandas, polars, Arrow, DuckDB), a "
            "dict of arrays, an array (of NumPy, torch or xarray), a path or the name of a dataset"
        )
    return {next(iter(fields)): source}


def _by_default(fields: Mapping[str, Field], name: str, source: Mapping[str, Any]) -> np.ndarray:
    """Return the default entries of a field, as many as the data have along its dimension."""
    along = next((n for n, f in fields.items() if n in source and f.dims[:1] == fields[name].dims), None)
    if along is None or not hasattr(source[along], "__len__"):
        raise DataError(f"no field of the data says how many entries the default of {name!r} has; give {name!r}")
    return np.full(len(source[along]), fields[name].default)
