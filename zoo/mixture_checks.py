"""Checks that mixtures of continuous data share."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from zoo.errors import DataError


def check_rows(x: Tensor, components: int, features: pd.Index) -> None:
    """Raise if a mixture cannot be fitted: too few distinct rows, or a column that does not vary.

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
    distinct = count_distinct(x) if components > 1 else components
    if distinct < components:
        raise DataError(f"more components ({components}) than distinct rows ({distinct}); ask for fewer components")


def count_distinct(x: Tensor) -> int:
    """Count distinct rows: a few thousand of them exactly, more by a projection that keeps rows apart."""
    if len(x) <= 2000:
        return len(torch.unique(x, dim=0))
    weights = torch.sqrt(torch.arange(2.0, x.shape[1] + 2.0, dtype=x.dtype, device=x.device))
    return len(torch.unique((x - x.mean(0)) @ weights))


def _check_scale(x: Tensor, features: pd.Index) -> None:
    """Raise if a column's variance is beyond what floating-point numbers hold."""
    variance = (x - x.mean(0)).square().mean(0)
    bad = ~(variance.isfinite() & (variance > 1e-200) & (variance < 1e200))
    if bool(bad.any()):
        at = int(bad.nonzero()[0])
        raise DataError(
            f"column {features[at]!r}: its values, around {float(x[:, at].abs().max()):.0e}, are too large or too "
            "small to square; rescale it to other units"
        )


def check_varies(x: Tensor, features: pd.Index) -> None:
    """Raise if there is one row only, all rows are the same, or a column is constant: a scale needs variation."""
    if len(x) == 1:
        raise DataError("one row of data: a covariance cannot be estimated; give at least 2 rows")
    constant = (x == x[0]).all(0)
    if bool(constant.all()):
        raise DataError(f"all {len(x)} rows are the same; there is no variation to model")
    if bool(constant.any()):
        name = features[int(constant.nonzero()[0])]
        raise DataError(
            f"column {name!r} is constant, so its variance is zero; drop it ({int(constant.sum())} of "
            f"{x.shape[1]} columns are constant)"
        )
    _check_scale(x, features)
