"""New rows without the labels that other rows have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from zoo.data.bind import Source
from zoo.data.data import Data


def without(new: Source | Data, fields: Iterable[str], like: Data) -> Source | Data:
    """Fill in as missing the fields that new rows, a table or a dict of arrays, have not at all.

    In a table the column has the name that it had in the data that were fitted.
    """
    for field in fields:
        (column,) = like.columns.get(field, (field,))
        if isinstance(new, pd.DataFrame) and column not in new.columns:
            new = new.assign(**{column: np.nan})
        elif isinstance(new, dict) and new and field not in new:
            new = {**new, field: np.full(len(next(iter(new.values()))), np.nan)}
    return new
