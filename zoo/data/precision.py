"""What is lost of data in single precision."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch

from zoo.data.data import Data
from zoo.errors import DataError

DEPENDENT = 300.0  # condition number of predictors whose square leaves half of the digits of single precision
LOST = 0.02  # of a column's standard deviation, that rounding may move its entries by


def check_precision(data: Data, dtype: torch.dtype) -> None:
    """Refuse columns of which rounding to this precision leaves too little: small spreads far from zero.

    Raises
    ------
    DataError
        If entries of a column are moved by more than 2 % of its standard deviation.
    """
    if dtype == torch.float64:
        return
    for name, value in data.values.items():
        if not value.is_floating_point() or value.ndim == 0 or len(value) < 2:
            continue
        columns = value.double().reshape(len(value), -1)  # (rows, columns)
        moved = (columns - columns.to(dtype).double()).square().mean(0).sqrt()
        spread = columns.std(0)
        lost = (moved > LOST * spread) & (spread > 1e-12 * columns.abs().amax(0))  # what is constant has none to lose
        if not bool(lost.any()):
            continue
        at = int(lost.nonzero()[0])
        where = "" if columns.shape[1] == 1 else f", column {at}"
        raise DataError(
            f"field {name!r}{where}: its entries are near {float(columns[:, at].mean()):.4g} with a standard deviation "
            f"of {float(spread[at]):.4g}, of which single precision (float32) keeps too little: rounding moves them by "
            f"{float(moved[at]):.2g}. Subtract an offset, such as the mean, or fit with dtype=torch.float64"
        )


def check_predictors(data: Data, names: Collection[str], dtype: torch.dtype) -> None:
    """Refuse predictors of which one is nearly a combination of others, in single precision.

    Posteriors of their coefficients are about the inverse of X^T X, whose condition number is the square of that of X:
    single precision has no digits of it left where X's, with columns centred and scaled, is in the thousands.

    Parameters
    ----------
    data
        The fields, in any precision.
    names
        Those that linear predictors are made of.
    dtype
        The precision that a model is fitted in.

    Raises
    ------
    DataError
        Naming the field and the column that depends on others most.
    """
    for name in names if dtype != torch.float64 else ():
        value = data.values[name]
        if not value.is_floating_point() or value.ndim != 2 or value.shape[1] < 2:
            continue
        rows = value[value.isfinite().all(1)].double()
        rows = rows - rows.mean(0)
        length = rows.norm(dim=0)
        rows = rows[:, length > 0] / length[length > 0]
        if len(rows) <= rows.shape[1] or rows.shape[1] < 2:
            continue
        least, vectors = torch.linalg.eigh(rows.mT @ rows)
        condition = math.sqrt(float(least[-1] / least[0].clamp_min(torch.finfo(least.dtype).tiny)))
        if condition < DEPENDENT:
            continue
        at = int((length > 0).nonzero()[int(vectors[:, 0].abs().argmax())])
        said = f"{condition:.2g}" if condition < 1e7 else "beyond 1e7"
        raise DataError(
            f"field {name!r}, column {at}: it is nearly a combination of other columns (condition number {said}), and "
            "single precision (float32) cannot tell their coefficients apart. Fit with dtype=torch.float64, or leave "
            "the column out"
        )
