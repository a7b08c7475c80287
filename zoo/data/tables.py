"""Two tables in one model: rows that name an entry of another table, by its labels.

The rows of a model are those of the first dimension of its first field. A field of another first dimension is a column
of another table (persons beside their visits), and a `Category` field of the rows may say which of its entries a row
belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from zoo.data.plain import as_numpy
from zoo.declare.fields import Field
from zoo.errors import DataError, short


def entries_of(
    name: str, fields: Mapping[str, Field], array: Any, coords: Mapping[str, pd.Index]
) -> tuple[Any, ...] | None:
    """Return the labels of another table, in its order, if a field names its entries by them; else None.

    Parameters
    ----------
    name, fields, array
        The field, among all.
    coords
        Labels of dimensions, where arrays bring them along.

    Raises
    ------
    DataError
        If it names some entries of the table, and one that is not there.
    """
    kind = fields[name]
    if not kind.integer or len(kind.dims) != 1:
        return None
    tables = {f.dims[0] for f in fields.values() if f.dims} - set(kind.dims)
    try:
        given = np.asarray(pd.unique(pd.Series(as_numpy(array).ravel()).dropna()))
    except (TypeError, ValueError):  # labels that have no hash: lists, sets, dicts
        raise DataError(f"field {name!r}: expected words or numbers as labels, found {short(array)}") from None
    for dim, index in coords.items():
        if dim not in tables or isinstance(index, pd.RangeIndex) or not index.is_unique:
            continue
        lacking = [label for label in given.tolist() if label not in index]
        if not lacking:
            return tuple(index.tolist())
        if len(lacking) < len(given) and not _are_codes(given, len(index)):
            raise DataError(
                f"field {name!r} names {lacking[0]!r}, which is no label of {dim!r} "
                f"({', '.join(map(str, index[:8]))}); add its row to the table of {dim!r}, or correct the label"
            )
    return None


def _are_codes(given: np.ndarray, count: int) -> bool:
    """Tell whether entries can be positions in a table of so many rows."""
    return bool(given.dtype.kind in "iuf" and ((given >= 0) & (given < count)).all())
