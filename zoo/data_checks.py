"""Checks that models of all kinds share: enough distinct rows, columns that differ, numbers that can be squared."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.mixture_checks import check_varies, count_distinct

FIRST = 2000  # rows that are looked at before all


def check_components(x: Tensor, components: int) -> None:
    """Raise if there are more components than distinct rows, so that some would be left without data.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    components
        Number of components.

    Raises
    ------
    DataError
        Naming the numbers of components and rows.
    """
    distinct = 1
    for part in (x[:FIRST], x):  # the first rows are nearly always enough
        if distinct < components:
            distinct = count_distinct(part.double())
    if distinct < components:
        raise DataError(
            f"more components ({components}) than distinct rows ({distinct} among {len(x)}); ask for fewer components "
            "or give more data"
        )


def check_range(x: Tensor, features: pd.Index) -> None:
    """Raise if a column's values are too large or too small to square; constant columns are fine.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    features
        Names of the columns.

    Raises
    ------
    DataError
        Naming the column.
    """
    varies = (x != x[0]).any(0)
    if bool(varies.any()):
        check_varies(x[:, varies], features[varies.numpy()])


def rank(x: Tensor) -> int:
    """Return the number of linearly independent columns of x, shape (rows, columns), whose columns share a scale."""
    found = 0
    for part in (x[:FIRST], x):
        if found < x.shape[1]:
            found = int(torch.linalg.matrix_rank(part))
    return found
