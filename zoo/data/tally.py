"""Long tables, counted: a row for each event becomes a count in each cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import DataError


@dataclass(frozen=True)
class Tally:
    """Counts of a long table, with the labels along each dimension."""

    field: str
    counts: np.ndarray
    coords: dict[str, pd.Index]


def tally(model: Model, frame: pd.DataFrame, like: Data | None) -> Tally | None:
    """Count the rows of a long table in each cell of a model's only field, a `Count` of two dimensions or more.

    Labels along the first dimension come in the order of their first row, along others sorted, or as in the data bound
    before. A column with the field's own name says how often each row counts.

    Parameters
    ----------
    model
        Its fields say what is expected.
    frame
        A column for each dimension of the field, by name; any other table is none of this kind.
    like
        Data bound before.

    Returns
    -------
    Tally or None
        None where the table has no column for some dimension.

    Raises
    ------
    DataError
        If a label is missing, or new along a dimension other than the first.
    """
    if len(model.fields) != 1:
        return None
    (name, kind), *_ = model.fields.items()
    if len(kind.dims) < 2 or kind.integer or not kind.support.is_discrete or not set(kind.dims) <= set(frame.columns):
        return None
    codes, coords = [], {}
    for i, dim in enumerate(kind.dims):
        column = frame[dim]
        if column.isna().any():
            raise DataError(f"column {dim!r}: {int(column.isna().sum())} labels are missing; drop these rows")
        known = like.coords[dim] if like is not None and i > 0 else None
        coords[dim] = _labels(column, known, first=i == 0)
        codes.append(coords[dim].get_indexer(pd.Index(column)))
        if (codes[-1] < 0).any():
            new = column[codes[-1] < 0].iloc[0]
            raise DataError(
                f"column {dim!r}: {new!r} is new; the model was fitted to {', '.join(map(str, coords[dim]))}"
            )
    counts = np.zeros([len(labels) for labels in coords.values()])
    np.add.at(counts, tuple(codes), frame[name].to_numpy(dtype=float) if name in frame.columns else 1.0)
    return Tally(name, counts, coords)


def _labels(column: pd.Series, known: pd.Index | None, *, first: bool) -> pd.Index:
    """Labels in their order: by first row, by the categories of an ordered column, or sorted."""
    if known is not None:
        return known
    labels: pd.Index = pd.Index(column.unique())
    if isinstance(column.dtype, pd.CategoricalDtype) and not first:
        labels = column.cat.categories
    elif not first:
        labels = pd.Index(sorted(labels, key=lambda v: (isinstance(v, str), v)))
    return labels
