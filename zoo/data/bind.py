"""Data in: tables, arrays and files become checked tensors with named dimensions and coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.data.identifiers import identifiers, many_levels, unused
from zoo.data.indexed import Indexed, as_stream
from zoo.data.labelled import Labels, in_fitted_order, of_xarray, shared, unlabelled
from zoo.data.match import Columns, Matched, from_arrays, from_frame, named_columns
from zoo.data.missing import check_observed, fill, may_be_unseen, notes_of
from zoo.data.stream import Stream
from zoo.data.tables import entries_of
from zoo.data.tally import tally
from zoo.data.tensors import check_support, to_tensor
from zoo.data.weights import as_weights
from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.declare.regression import Regression
from zoo.errors import DataError, UnseenLevelError
from zoo.frames.table import opened

if TYPE_CHECKING:  # xarray takes long to import, and who has an array of it has done so
    import torch.utils.data as of_torch
    import xarray as xr
    from narwhals.typing import IntoFrame, IntoSeries

Arrays: TypeAlias = "np.ndarray | Tensor | Sequence[Any] | xr.DataArray"
Tables: TypeAlias = "pd.DataFrame | pd.Series | Mapping[str, Any] | xr.Dataset | xr.DataTree | IntoFrame | IntoSeries"
OfTorch: TypeAlias = "of_torch.Dataset[Any] | of_torch.DataLoader[Any]"
MOST_LEVELS = 1_000_000  # of codes whose number nobody declared: beyond it they are identifiers, and not counted up to

Source: TypeAlias = "Arrays | Tables | OfTorch | str | Path | Stream"


def bind(
    model: Model,
    source: Source | Data,
    *,
    like: Data | None = None,
    weights: Any = None,
    columns: Columns | None = None,
) -> Data:
    """Match `source` to the model's fields and check it.

    Parameters
    ----------
    model
        Its fields say what is expected.
    source
        A table (of pandas, polars, Arrow, DuckDB or whatever narwhals knows), a dict of arrays, an xarray Dataset, an
        array, tensor or DataArray (for a model with one field), a path to a file of a table or array, or the name of a
        shipped dataset. Dimensions of xarray are matched by name, in any order.
    like
        Data bound before: columns are matched to its columns, labels to its labels.
    weights
        A weight for each row, or the name of the column that holds them, which is then no column of a field.
    columns
        Field -> its column or columns, for a table whose columns have other names than the fields; None for those of
        the data bound before, if any.

    Raises
    ------
    DataError
        Naming the field or column, what was expected and found, and the remedy.
    """
    if isinstance(source, Data):
        return source if weights is None else as_weights(source, weights, None)
    if not model.fields:
        raise DataError(f"{type(model).__name__} declares no data fields; add one, for example x = Real('row')")
    chosen = named_columns(model, columns) if columns is not None else like.columns if like is not None else {}
    source = as_stream(source, tuple(model.fields))
    if isinstance(source, Indexed) and source.fixed:
        source = source.at(np.arange(len(source)))
    if isinstance(source, Stream):
        remedy = "give the rows themselves here" if source.fixed else "draw once, as in zoo.binarised(x, seed=0)"
        raise DataError(f"only fit(...) reads a stream; {remedy}")
    formula = model.formula if isinstance(model, Regression) else None
    if formula is not None:
        chosen = {**chosen, **formula.columns}
    source = opened(source, columns=columns is not None or (bool(chosen) and not _has_fields(source, model)))
    if formula is not None and isinstance(source, pd.DataFrame):
        source = formula.design(source)
    rows = source
    if columns is not None and not isinstance(source, pd.DataFrame):
        raise DataError(
            f"columns= names columns of a table, found {type(source).__name__}; give a DataFrame, or a dict"
        )
    if isinstance(weights, str) and isinstance(source, pd.DataFrame) and weights in source.columns:
        rows = source.drop(columns=weights)
    data = replace(_checked(model, _matched(model, rows, chosen, like), like), columns=chosen)
    if formula is not None and like is None:
        data = replace(data, notes=(*data.notes, *many_levels(formula.design.coded)))
    if weights is None:
        return data
    data = as_weights(data, weights, source)
    for name, gone in data.missing.items() if like is None else ():  # rows of weight 0 are gone
        if may_be_unseen(model.fields[name]):
            continue
        check_observed(name, gone, data.dims[name], data.coords)
    return data


def _has_fields(source: Any, model: Model) -> bool:
    """Whether a dict has a field of the model for each name."""
    return isinstance(source, Mapping) and all(name in model.fields for name in source)


def _matched(model: Model, source: Any, columns: Mapping[str, tuple[Any, ...]], like: Data | None) -> Matched:
    """Find the entries of each field in a table, a dict or an array."""
    if isinstance(source, pd.Series):
        source = source.to_frame(source.name if source.name is not None else next(iter(model.fields)))
    source = of_xarray(source, model.fields)
    if not isinstance(source, pd.DataFrame):
        return Matched(from_arrays(model, source))
    counted = None if columns else tally(model, source, like)
    if counted is not None:
        return Matched({counted.field: counted.counts}, counted.coords)
    return from_frame(model, source, columns, like)


def _checked(model: Model, matched: Matched, like: Data | None) -> Data:
    """Check shapes, named dimensions and supports field by field, and gather the coordinates."""
    # What the data that were fitted have decides, not what new ones happen to have.
    fields = {
        n: f.shaped(_dimensions(matched.arrays[n]) if like is None else len(like.dims[n])) if f.open else f
        for n, f in model.fields.items()
    }
    row = next((f.dims[0] for f in fields.values() if f.dims), "")
    arrays, coords = _by_label(fields, matched.arrays, row, like)
    coords |= matched.coords
    told = _told(coords, row, like)
    values: dict[str, Tensor] = {}
    missing: dict[str, Tensor] = {}
    levels: dict[str, tuple[Any, ...]] = {}
    sizes: dict[str, tuple[int, str]] = {}  # dimension -> its size, and the field that showed it first
    for name, kind in fields.items():
        known = entries_of(name, fields, arrays[name], coords) if like is None else like.levels.get(name)
        value, labels = to_tensor(name, arrays[name], kind, known)
        value = _shaped(name, value, kind, alone=len(fields) == 1 and like is None)
        _check_sizes(name, value, kind, sizes, row, like)
        value, gone = fill(name, value, kind, None if like is None else like.values[name], told)
        if gone is not None:
            missing[name] = gone
        elif like is not None and name in like.missing:
            missing[name] = torch.zeros_like(value, dtype=torch.bool)
        check_support(name, value, kind, told)
        values[name] = value.long() if kind.integer else value
        if kind.integer:
            levels[name] = labels or _levels(name, value, kind, like)
    coords = _coordinates(matched, row, sizes, coords, like)
    dims = {n: f.dims for n, f in fields.items()}
    notes = (*matched.notes, *notes_of(values, missing, fields))
    if like is None:
        notes += identifiers(values, missing, fields, coords, row)
        notes += unused({n: matched.arrays[n] for n, kind in fields.items() if kind.integer})
    return Data(values, dims, coords, row, levels, notes=notes, missing=missing)


def _by_label(
    fields: Mapping[str, Field], arrays: Mapping[str, Any], row: str, like: Data | None
) -> tuple[dict[str, Any], Labels]:
    """Return the entries of each field, in the order of the fitted data where they have labels, and these labels."""
    entries: dict[str, Any] = {}
    labels: dict[str, Labels] = {}
    for name, kind in fields.items():
        entries[name], labels[name] = unlabelled(name, arrays[name], kind)
        if like is not None:
            entries[name], labels[name] = in_fitted_order(name, entries[name], kind, labels[name], row, like)
    return entries, shared(fields, labels)


def _told(coords: Labels, row: str, like: Data | None) -> Labels:
    """Return the labels that errors call entries by: rows are counted, and what has no labels is, too."""
    known = {**({} if like is None else like.coords), **coords}
    return {dim: index for dim, index in known.items() if dim != row}


def _dimensions(array: Any) -> int:
    """How many dimensions an array has; 0 for what is none, which is refused where its entries are read."""
    try:
        return np.ndim(array)
    except ValueError:  # rows of unequal lengths
        return 0


def _shaped(name: str, value: Tensor, kind: Field, *, alone: bool) -> Tensor:
    """Give a field the dimensions that it is declared with; one column is a vector and, if it is `alone`, a matrix."""
    if value.ndim == 1 and len(kind.dims) == 2 and alone:
        value = value[:, None]  # one feature
    if value.ndim == 2 and value.shape[1] == 1 and len(kind.dims) == 1:
        value = value[:, 0]
    if value.ndim != len(kind.dims):
        images = "; or images" if kind.open and alone else ""
        raise DataError(
            f"field {name!r}: expected {len(kind.dims)} dimensions {kind.dims}{images}, found shape "
            f"{tuple(value.shape)}"
        )
    return value


def _check_sizes(
    name: str, value: Tensor, kind: Field, sizes: dict[str, tuple[int, str]], row: str, like: Data | None
) -> None:
    """Raise if a dimension is empty, or of another size than in an earlier field or in the fitted data."""
    for dim, size in zip(kind.dims, value.shape, strict=True):
        if size == 0:
            raise DataError(f"field {name!r} is empty: dimension {dim!r} has size 0; there is nothing to fit")
        expected, other = sizes.setdefault(dim, (size, name))
        if expected != size:
            raise DataError(
                f"fields {other!r} and {name!r} must agree on {dim!r}: {other!r} has {expected}, {name!r} has {size}"
            )
        fitted = None if like is None or dim == row else like.coords.get(dim)
        if fitted is not None and size != len(fitted):
            raise DataError(
                f"field {name!r}: expected {len(fitted)} along {dim!r} as in the fitted data "
                f"({', '.join(map(str, fitted[:8]))}), found {size}"
            )


def _levels(name: str, value: Tensor, kind: Field, like: Data | None) -> tuple[Any, ...]:
    """Return the levels of a field of codes: those of the fitted data, else as many as declared or as occur."""
    codes = int(value.max()) + 1
    if like is None and not kind.levels and codes > MOST_LEVELS:
        raise DataError(
            f"field {name!r}: expected codes 0, 1, 2, ... of at most {MOST_LEVELS} levels, found {codes - 1}; if "
            "these are labels, give them as text (.astype(str)) or recode them (pandas.factorize); else drop them"
        )
    levels = like.levels[name] if like is not None else tuple(range(kind.levels or codes))
    if codes > len(levels):
        raise UnseenLevelError(
            f"field {name!r}: unknown category {codes - 1}; the fitted data have {len(levels)} "
            f"categories. Say how many there can be: {name} = Category({', '.join(map(repr, kind.dims))}, "
            f"levels={codes})",
            name,
            tuple(range(len(levels), codes)),
        )
    return levels


def _coordinates(
    matched: Matched,
    row: str,
    sizes: dict[str, tuple[int, str]],
    coords: dict[str, pd.Index],
    like: Data | None,
) -> dict[str, pd.Index]:
    """Return the labels of every dimension: the table's or the arrays' own, else the fitted data's, else 0, 1, ..."""
    coords = dict(coords)
    for dim, columns in matched.coords.items():
        _check_columns(columns, None if like is None or dim == row else like.coords[dim])
    if matched.index is not None and row:
        coords[row] = matched.index
    for dim, (size, name) in sizes.items():
        if dim in coords and len(coords[dim]) != size:
            raise DataError(f"field {name!r}: {len(coords[dim])} labels for {size} entries along {dim!r}")
        fitted = like.coords.get(dim) if like is not None and dim != row else None
        coords.setdefault(dim, fitted if fitted is not None else pd.RangeIndex(size))
    return coords


def _check_columns(columns: pd.Index, fitted: pd.Index | None) -> None:
    """Raise if a table has no column of a name that the fitted data had; columns without names are taken in order."""
    if fitted is None or isinstance(fitted, pd.RangeIndex):
        return
    lacking = [c for c in fitted if c not in set(columns)]
    if lacking:
        raise DataError(
            f"the new data have no column {lacking[0]!r}; the model was fitted to {', '.join(map(repr, fitted))}"
        )
