"""Columns that do not vary: they are kept, with a variance next to nothing that is the same in all components."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.declare.model import Model
from zoo.errors import DataError
from zoo.replay.above import Above, Kind

FLOOR = 1e-6  # smallest variance, as a share of that of neighbours in the data along the same column
BELOW = 1 - 1e-5  # of the smallest variance: the open end of what gradients move in
KNOWN = 1e9  # rows that a prior counts for that leaves nothing to learn
PEAK = -0.5 * math.log(2 * math.pi)  # log density of a Normal at its mean, in units of its standard deviation
NAMED = 3  # columns that are called by name


def units(variance: Tensor) -> Tensor:
    """Variance of each column, or of one that does not vary that of the others on average; 1 where none does."""
    varies = variance > 0
    others = variance[varies].mean() if bool(varies.any()) else torch.ones_like(variance).mean()
    return torch.where(varies, variance, others)


def floors(variance: Tensor) -> Tensor:
    """Smallest variance of columns that do not vary, and 0 of others; from their variances."""
    return torch.where(variance > 0, 0.0, FLOOR * units(variance))


def rows_of_prior(variance: Tensor, rows: float) -> Tensor:
    """Rows that a prior on each column counts for: so many that nothing is left to learn where it does not vary."""
    return torch.where(variance > 0, variance.new_tensor(rows), KNOWN)


def above(floor: Tensor, of: Kind = "variances") -> Any:
    """Support of variances, precisions or covariances of columns: above the floor where there is one, else above 0."""
    if bool((floor > 0).any()):
        return Above(BELOW * floor, of)
    return constraints.positive_definite if of == "covariances" else constraints.positive


def note(model: Model, variance: Tensor, *, shared: bool = False, peak: float = PEAK) -> tuple[str, ...]:
    """Say which columns do not vary, and what becomes of them; nothing where all do.

    Parameters
    ----------
    model
        With a field "x" of rows and columns.
    variance
        Of each column.
    shared
        Whether columns share their variance.
    peak
        Log density of one at its location, in units of its scale.
    """
    names = _constant(model, variance)
    if not names:
        return ()
    what = f"{_called(names)} ({len(names)} of {len(variance)} columns), and kept"
    if shared:
        return (f"{what}: the variance that all columns share is so much smaller",)
    floor = floors(variance)
    floor = floor[floor > 0]
    added = float((peak - 0.5 * floor.log()).sum())
    return (
        f"{what}, with a variance of {float(floor[0]):.3g}, {FLOOR:g} of that of the others on average, which "
        f"moves nothing else; log densities of these rows are {added:.6g} higher than without",
    )


def refuse(model: Model, variance: Tensor, why: str, remedy: str) -> None:
    """Raise if a column does not vary.

    Raises
    ------
    DataError
        Naming it, why that is one too many, and the remedy.
    """
    names = _constant(model, variance)
    if names:
        raise DataError(f"{_called(names)} ({len(names)} of {len(variance)} columns), and {why}; {remedy}")


def _constant(model: Model, variance: Tensor) -> list[Any]:
    where = (variance == 0).nonzero()[:, 0].tolist()
    return [model.coords[model.data_dims["x"][1]][j] for j in where]


def _called(names: list[Any]) -> str:
    if len(names) == 1:
        return f"column {names[0]!r} is constant"
    rest = ", ..." if len(names) > NAMED else ""
    return f"columns {', '.join(repr(n) for n in names[:NAMED])}{rest} are constant"
