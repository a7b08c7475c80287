"""Rows of a program as plain tensors: what a training step and a compiled program take."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from torch import Tensor

from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values

FIELD = "field."  # what the names of data fields begin with in a batch


def rows_of(data: Data, rows: Tensor | None = None, weights: Tensor | None = None) -> Values:
    """Tensors of some rows, for `Bound.gradient`: fields, their weights, and which rows they are."""
    inside = set(data.row_fields)
    batch = {FIELD + n: v if rows is None or n not in inside else v[rows] for n, v in data.values.items()}
    batch |= {} if rows is None else {"rows": rows}
    weights = data.weights if rows is None else weights
    return batch if weights is None else {**batch, "weights": weights}


def on(program: Program, batch: Values) -> Program:
    """Return the program on the rows of a batch."""
    data = program.data
    if not batch:
        return program
    rows, weights = batch.get("rows"), batch.get("weights")
    values = {n: batch[FIELD + n] for n in data.values}
    if rows is None:
        return program.rebind(replace(data, values=values, weights=weights))
    if data.missing:
        assert weights is not None
        return program.rebind(data.batch(rows, weights))
    coords = {**data.coords, data.row: pd.RangeIndex(len(rows))}
    return program.rebind(replace(data, values=values, weights=weights, coords=coords, stream=None))
