"""Checks of data that models share: distinct rows, columns that vary, numbers that can be squared, codes."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from zoo.errors import DataError

FIRST = 2000  # rows that are looked at before all: nearly always enough to see what is asked
MOST_LEVELS = 1000  # beyond which codes are taken for a mistake: an identifier, or a number that marks missing answers
SMALLEST, LARGEST = 1e-200, 1e200  # variances whose products with each other stay far from underflow and overflow


def check_rows(x: Tensor, components: int, features: pd.Index) -> None:
    """Raise if a mixture of continuous data cannot be fitted: too few distinct rows, or none that differ.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    components
        Number of components.
    features
        Names of the columns.

    Raises
    ------
    DataError
        Naming the column, or the numbers of rows and components.
    """
    if len(x) < components:
        raise DataError(
            f"more components ({components}) than rows ({len(x)}); ask for fewer components or give more data"
        )
    check_varies(x, features)
    check_components(x, components)


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
    for part in (x[:FIRST], x):
        if distinct < components:
            distinct = count_distinct(part.double())
    if distinct < components:
        raise DataError(
            f"more components ({components}) than distinct rows ({distinct} among {len(x)}); ask for fewer components "
            "or give more data"
        )


def count_distinct(x: Tensor) -> int:
    """Count distinct rows: a few thousand of them exactly, more by a projection that keeps rows apart.

    Sorting whole rows takes n log n comparisons of d columns each, sorting one number per row does not. Irrational
    weights rarely send two rows to one number, and of thousands of distinct rows a few more or less do not matter.
    """
    if len(x) <= FIRST:
        return len(torch.unique(x, dim=0))
    weights = torch.sqrt(torch.arange(2.0, x.shape[1] + 2.0, dtype=x.dtype, device=x.device))
    return len(torch.unique((x - x.mean(0)) @ weights))


def check_varies(x: Tensor, features: pd.Index) -> None:
    """Raise if there is one row only, or all rows are the same: a scale needs variation.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    features
        Names of the columns.

    Raises
    ------
    DataError
        Naming the column, if it is one with numbers too large or too small.
    """
    if len(x) == 1:
        raise DataError("one row of data: a covariance cannot be estimated; give at least 2 rows")
    if bool((x == x[0]).all()):
        raise DataError(f"all {len(x)} rows are the same; there is no variation to model")
    check_range(x, features)


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
        _check_scale(x[:, varies], features[varies.numpy()])


def check_predictors(x: Tensor, features: pd.Index, *, intercept: bool) -> None:
    """Raise if a column has no effect that could be told: constant beside an intercept, or 0 without.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    features
        Names of the columns.
    intercept
        Whether the response has a level of its own.

    Raises
    ------
    DataError
        Naming the column.
    """
    check_range(x, features)
    useless = (x == (x[0] if intercept else 0.0)).all(0)
    if bool(useless.any()):
        name = features[int(useless.nonzero()[0])]
        why = "is constant, so its coefficient cannot be told from the intercept" if intercept else "is 0"
        raise DataError(f"column {name!r} {why}; drop it ({int(useless.sum())} of {x.shape[1]} columns have no effect)")


def _check_scale(x: Tensor, features: pd.Index) -> None:
    """Raise if a column's variance is beyond what floating-point numbers hold."""
    variance = (x - x.mean(0)).square().mean(0)
    bad = ~(variance.isfinite() & (variance > SMALLEST) & (variance < LARGEST))
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise DataError(
            f"column {features[at]!r}: its values, around {float(x[:, at].abs().max()):.0e}, are too large or too "
            "small to square; rescale it to other units"
        )


def check_factors(x: Tensor, factors: int) -> None:
    """Raise if so many factors leave no noise to estimate: too few columns, rows, or directions the rows vary in.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    factors
        Number of factors.

    Raises
    ------
    DataError
        Naming the numbers of factors, columns and directions.
    """
    if factors >= x.shape[1]:
        raise DataError(
            f"expected fewer factors than columns, found {factors} factors and {x.shape[1]} columns; ask for at most "
            f"{x.shape[1] - 1}"
        )
    centred = x - x.mean(0)
    scale = centred.abs().amax(0)
    directions = rank(centred / torch.where(scale > 0, scale, torch.ones_like(scale)))
    if directions <= factors:
        raise DataError(
            f"factors={factors} would explain the {len(x)} rows without error, because these vary in {directions} "
            f"direction(s) only; {'ask for fewer factors' if directions > 1 else 'use fewer columns'} or give more data"
        )


def rank(x: Tensor) -> int:
    """Return the number of linearly independent columns of x, shape (rows, columns), whose columns share a scale."""
    independent = 0
    for part in (x[:FIRST], x):
        if independent < x.shape[1]:
            independent = int(torch.linalg.matrix_rank(part))
    return independent


def check_symbols(x: Tensor) -> None:
    """Raise if codes (rows, ...) can be no symbols of sequences.

    Raises
    ------
    DataError
        Naming the largest code.
    """
    if int(x.max()) >= MOST_LEVELS:
        raise DataError(
            f"field 'x': expected codes 0, 1, 2, ... of at most {MOST_LEVELS} symbols, found {int(x.max())}; recode "
            "them (pandas.factorize)"
        )
