"""What is lost of data in single precision."""

from __future__ import annotations

import torch

from zoo.data.data import Data
from zoo.errors import DataError

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
