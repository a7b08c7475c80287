"""Row weights: an integer weight is a repeated row, zero a dropped one; labelled ones go by the labels of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from zoo.data.data import Data
from zoo.data.labelled import is_data_array
from zoo.errors import DataError


def as_weights(data: Data, weights: Any, source: Any) -> Data:
    """Return the data with a weight per row, given as an array or as the name of a column of the table.

    A pandas Series, or an array of xarray with labels, is aligned with the rows by its labels.

    Raises
    ------
    DataError
        If there is not one finite, non-negative number per row, all are zero, or labels are not those of the rows.
    """
    if isinstance(weights, str):
        if not isinstance(source, pd.DataFrame) or weights not in source.columns:
            raise DataError(f"weights={weights!r} is not a column of the data; give a column name or an array")
        weights = source[weights]
    if is_data_array(weights) and len(weights.indexes) == 1:
        weights = weights.to_series()
    if isinstance(weights, pd.Series):
        own = source.index if isinstance(source, pd.DataFrame | pd.Series) and len(source) == len(data) else None
        weights = _aligned(weights, [data.coords[data.row], *([] if own is None else [own])] if data.row else [])
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().double().numpy()
    try:
        array = np.array(weights)
        if array.dtype.kind == "c":
            raise ValueError("complex")
        array = array.astype(float)
    except (TypeError, ValueError, OverflowError):
        raise DataError("weights must be numbers, one per row") from None
    if array.shape != (len(data),):
        raise DataError(f"weights must have one entry per row: expected shape ({len(data)},), found {array.shape}")
    with np.errstate(over="ignore"):
        total = array.sum()
    if not np.isfinite(array).all() or (array < 0).any() or not 0 < total < np.inf:
        raise DataError("weights must be finite, 0 or above, not all 0, and small enough to add up")
    kept = torch.as_tensor(array)
    data = replace(data, weights=kept)
    return data.take(torch.arange(len(data))[kept > 0]) if (array == 0).any() else data


def _aligned(weights: pd.Series, labels: Sequence[pd.Index]) -> pd.Series:
    """Return weights in the order of the rows, whose labels are one of these: those of the data, or of their table."""
    index = weights.index
    for rows in labels:
        if index.equals(rows):
            return weights
    for rows in labels if index.is_unique else ():
        found = index.get_indexer(rows) if index.nlevels == rows.nlevels else np.array([-1])
        if (found >= 0).all() and len(np.unique(found)) == len(index):
            return weights.iloc[found]
    rows = labels[0] if labels else index
    lacking, other = [v for v in rows if v not in index], [v for v in index if v not in rows]
    what = f"none is labelled {lacking[0]!r}" if lacking else "one is there twice"
    what = f"no row is labelled {other[0]!r}" if other and not lacking else what
    raise DataError(
        f"weights are labelled, and their labels are not those of the rows ({what}): "
        f"{', '.join(map(repr, index[:4]))}{', ...' if len(index) > 4 else ''}. Give them the index of the data, or "
        "weights.to_numpy() if they are in the order of the rows"
    )
