"""Held-out log density: fit without some rows, and see how probable they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference.diagnostics.arviz import RowDensities
from inference.fitting import fit
from inference.method import Method
from inference.runtime.random import seeded
from zoo.data.plain import as_numpy
from zoo.declare.model import Model
from zoo.errors import DataError, short
from zoo.program.program import Program

Rows = float | Sequence[Any] | np.ndarray | Tensor


def splits(program: Program, holdout: Rows | None, folds: int | None, seed: int) -> list[Tensor]:
    """Return the positions of the rows that are held out, fold by fold; none if nothing is asked for.

    Raises
    ------
    DataError
        If that is no split of these rows.
    """
    rows = len(program.data)
    with seeded(seed):
        order = torch.randperm(rows)
    if holdout is not None and folds is not None:
        raise DataError("give holdout= or folds=, not both")
    if folds is not None:
        if isinstance(folds, bool) or not hasattr(folds, "__index__") or not 2 <= int(folds) <= rows:
            raise DataError(f"folds must be a whole number from 2 to the number of rows, {rows}; found {folds!r}")
        return [part.sort().values for part in order.chunk(int(folds))]
    if holdout is None:
        return []
    if isinstance(holdout, float):
        count = round(holdout * rows) if 0 < holdout < 1 else 0
        if not 0 < holdout < 1 or not 0 < count < rows:
            raise DataError(
                f"holdout={holdout!r} of {rows} rows leaves none to fit, or none to hold out; give a fraction between "
                "0 and 1, or positions of rows"
            )
        return [order[:count].sort().values]
    return [_positions(holdout, rows)]


def _positions(holdout: Any, rows: int) -> Tensor:
    """Return rows given by position, or marked by True."""
    given = as_numpy(holdout)
    marked = given.dtype == bool and given.shape == (rows,)
    where = np.flatnonzero(given) if marked else given
    if where.ndim != 1 or where.dtype.kind not in "iu" or len(np.unique(where)) != len(where):
        raise DataError(
            f"holdout must be a fraction, positions of distinct rows, or one True or False for each of {rows} rows; "
            f"found {short(holdout)}"
        )
    if not 0 < len(where) < rows or where.min() < 0 or where.max() >= rows:
        raise DataError(f"holdout must hold some positions from 0 to {rows - 1}, and not all of them")
    return torch.as_tensor(np.sort(where))


def held_out(model: Model, program: Program, method: Method, parts: Sequence[Tensor], seed: int) -> RowDensities:
    """w_i log p(x_i | the other folds) of the rows held out.

    Raises
    ------
    DataError
        If rows depend on each other, so that leaving some out leaves a gap.
    """
    if program.chained or program.shared:
        raise DataError("rows depend on one another, so none can be held out")
    if program.data.stream is not None:
        raise DataError("rows that are read in chunks cannot be held out")
    data, found = program.data, []
    for part in parts:
        kept = torch.ones(len(data), dtype=torch.bool)
        kept[part] = False
        train, test = data.take(kept.nonzero()[:, 0]), data.take(part)
        fitted = fit(model, train, method=method, seed=seed, device=program.device, dtype=program.dtype, progress=False)
        density = fitted.log_prob(test).to_numpy()
        found.append(density if test.weights is None else density * test.weights.cpu().numpy())
    return RowDensities(np.concatenate(found))
