"""Rows with weights as rows that differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def merged(data: dict[str, Any], weights: np.ndarray | None) -> tuple[dict[str, Any], np.ndarray | None]:
    """Write rows that occur more than once as one with their weights' sum, in an order of their values.

    So a weight of 2 is a row twice to every last digit, whatever draws of rows a method starts from. Rows that all
    differ and have no weights stay as they are.
    """
    columns = [pd.DataFrame(np.asarray(v).reshape(len(v), -1)) for v in data.values()]
    codes = [pd.factorize(c, sort=True, use_na_sentinel=False)[0] for t in columns for _, c in t.items()]
    _, first, of = np.unique(np.column_stack(codes), axis=0, return_index=True, return_inverse=True)
    if weights is None and len(first) == len(of):
        return data, None
    total = np.bincount(of, weights=weights, minlength=len(first)).astype(float)
    kept = total > 0
    return {n: take(v, first[kept]) for n, v in data.items()}, None if (total[kept] == 1).all() else total[kept]


def take(table: Any, rows: np.ndarray) -> Any:
    """Return some rows of an array or of a table."""
    return table.iloc[rows].reset_index(drop=True) if isinstance(table, pd.DataFrame) else table[rows]
