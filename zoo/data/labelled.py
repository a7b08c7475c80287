"""Arrays with names and labels: dimensions of xarray put in the order of a field, labels in that of the fitted data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from zoo.data.data import Data
from zoo.declare.fields import Field
from zoo.errors import DataError

Labels = dict[str, pd.Index]


def of_xarray(source: Any, fields: Mapping[str, Field]) -> Any:
    """Return a source as it is, but a `Dataset` (or a node of a `DataTree`) as a dict of the arrays that are fields.

    One of columns, all along the same dimension and none of them a field, is a table.
    """
    xarray = sys.modules.get("xarray")  # who has an array of it has imported it
    if xarray is None:
        return source
    if isinstance(source, xarray.DataTree):
        source = source.to_dataset()
    if isinstance(source, xarray.Dataset):
        if not any(name in source for name in fields) and len({v.dims for v in source.data_vars.values()}) == 1:
            columns = source.reset_coords(drop=True)
            return columns.to_dataframe() if len(columns.sizes) == 1 else {}
        return {name: source[name] for name in fields if name in source}
    return {next(iter(fields)): source} if isinstance(source, xarray.DataArray) and len(fields) == 1 else source


def unlabelled(name: str, array: Any, kind: Field) -> tuple[Any, Labels]:
    """Take an array apart into its entries, dimensions in the order of the field, and its labels by dimension.

    Series and DataFrames stay what they are, as these may be of categories; labels are theirs.

    Raises
    ------
    DataError
        If the names of an xarray's dimensions are not those of the field.
    """
    if isinstance(array, pd.Series | pd.DataFrame):
        axes = array.axes if array.ndim == len(kind.dims) else array.axes[: len(kind.dims)]
        return array, dict(zip(kind.dims, axes, strict=False))
    if not is_data_array(array):
        return array, {}
    named = tuple(map(str, array.dims))
    if all(dim == f"dim_{i}" for i, dim in enumerate(named)):  # xarray's own, where nobody has named them
        return array.values, {}
    if set(named) != set(kind.dims):
        own = [dim for dim in kind.dims if dim not in named]
        theirs = [dim for dim in named if dim not in kind.dims]
        renamed = ", ".join(f"{theirs[i]!r}: {own[i]!r}" for i in range(min(len(own), len(theirs))))
        raise DataError(
            f"field {name!r}: expected dimensions {', '.join(map(repr, kind.dims))} in any order, found "
            f"{', '.join(map(repr, named)) or 'none'}; "
            + (f"rename them: .rename({{{renamed}}})" if renamed else "select or stack those that are too many")
        )
    labels = {str(dim): index for dim, index in array.indexes.items()}
    return array.transpose(*kind.dims).values, labels


def is_data_array(array: Any) -> bool:
    """Tell whether it is an array of xarray."""
    xarray = sys.modules.get("xarray")
    return xarray is not None and isinstance(array, xarray.DataArray)


def shared(fields: Mapping[str, Field], labels: Mapping[str, Labels]) -> Labels:
    """Return the labels of each dimension, which fields that share it must agree on.

    Raises
    ------
    DataError
        If they do not.
    """
    coords: Labels = {}
    for name in fields:
        for dim, index in labels[name].items():
            first = coords.setdefault(dim, index)
            if not first.equals(index):
                raise DataError(
                    f"field {name!r}: its labels along {dim!r} differ from another field's "
                    f"({list(index[:3])} and {list(first[:3])}, ...); align them first"
                )
    return coords


def in_fitted_order(name: str, array: Any, kind: Field, labels: Labels, row: str, like: Data) -> tuple[Any, Labels]:
    """Put the entries along labelled dimensions, but that of the rows, in the order of the fitted data.

    Columns that these had not are left out; another table than that of the rows has to have its very entries.

    Raises
    ------
    DataError
        If a label of the fitted data is not there, or another table has other entries.
    """
    labels = dict(labels)
    for axis, dim in enumerate(kind.dims):
        index, fitted = labels.get(dim), like.coords[dim]
        unnamed = index is None or isinstance(index, pd.RangeIndex) or isinstance(fitted, pd.RangeIndex)
        if dim == row or index is None or unnamed or index.equals(fitted):
            continue
        lacking = fitted[~fitted.isin(index)].tolist()
        other = index[~index.isin(fitted)].tolist()
        if axis == 0 and (lacking or other or len(index) != len(fitted)):
            raise DataError(
                f"field {name!r}: {dim!r} must have the labels of the fitted data, and only one of them "
                f"has {[*other, *lacking][:1]!r}; new data are rows of the first table beside the same other table"
            )
        if lacking or not index.is_unique:
            what = f"has no label {lacking[0]!r} of the fitted data" if lacking else "has a label twice"
            raise DataError(
                f"field {name!r}: {dim!r} {what}; expected {', '.join(map(str, fitted[:8]))}, found "
                f"{', '.join(map(str, index[:8]))}"
            )
        order = index.get_indexer(fitted)
        frame = isinstance(array, pd.Series | pd.DataFrame)
        array = array.iloc[(slice(None),) * axis + (order,)] if frame else np.take(array, order, axis)
        labels[dim] = fitted
    return array, labels


def entry(dims: Sequence[str], coords: Mapping[str, pd.Index], at: Sequence[int]) -> str:
    """Say which entry stands at these positions along its dimensions, by the labels of those that have some."""
    return ", ".join(f"{dim} {label(coords.get(dim), i)!r}" for dim, i in zip(dims, at, strict=True))


def label(index: pd.Index | None, i: int) -> Any:
    """Return the i-th label, numbers as those of Python; the position where there are no labels."""
    return i if index is None else index[i : i + 1].tolist()[0]
