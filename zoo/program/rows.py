"""Rows of a program as plain tensors: what a training step and a compiled program take."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values


class Batch(NamedTuple):
    """Tensors of some rows; without any fields it stands for all rows as they are.

    A named tuple, so that `torch.vmap`, `torch.compile` and a data loader's workers take it as they take a tuple.

    Attributes
    ----------
    fields
        Data fields by name: those of rows begin with the number of rows of the batch.
    rows
        Which rows of the data they are, whole numbers (rows,); None for all.
    weights
        What each row counts, (rows,).
    """

    fields: Values
    rows: Tensor | None = None
    weights: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on another device."""
        fields = {n: t.to(device, non_blocking=True) for n, t in self.fields.items()}
        rows, weights = (None if t is None else t.to(device, non_blocking=True) for t in (self.rows, self.weights))
        return Batch(fields, rows, weights)


def rows_of(data: Data, rows: Tensor | None = None, weights: Tensor | None = None) -> Batch:
    """Some rows of the data; `weights` are what these count, where `rows` are given."""
    by_row = set(data.row_fields)
    fields = {n: v if rows is None or n not in by_row else v[rows] for n, v in data.values.items()}
    return Batch(fields, rows, data.weights if rows is None else weights)


def on(program: Program, batch: Batch) -> Program:
    """Return the program on the rows of a batch."""
    data, rows, weights = program.data, batch.rows, batch.weights
    if not batch.fields:
        return program
    if rows is None:
        return program.rebind(replace(data, values=batch.fields, weights=weights))
    if data.missing:
        assert weights is not None
        return program.rebind(data.batch(rows, weights))
    coords = {**data.coords, data.row: pd.RangeIndex(len(rows))}
    return program.rebind(replace(data, values=batch.fields, weights=weights, coords=coords, stream=None))
