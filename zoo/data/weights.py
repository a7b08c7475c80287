"""Row weights: an integer weight is a repeated row, zero a dropped one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from zoo.data.data import Data
from zoo.errors import DataError


def as_weights(data: Data, weights: Any, source: Any) -> Data:
    """Return the data with a weight per row, given as an array or as the name of a column of the table.

    Raises
    ------
    DataError
        If there is not one finite, non-negative number per row, or all are zero.
    """
    if isinstance(weights, str):
        if not isinstance(source, pd.DataFrame) or weights not in source.columns:
            raise DataError(f"weights={weights!r} is not a column of the data; give a column name or an array")
        weights = source[weights]
    if isinstance(weights, torch.Tensor):
        weights = weights.detach().cpu().numpy()
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
