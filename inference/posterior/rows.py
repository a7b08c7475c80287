"""Chunks of rows, and tables: between a program's tensors and labelled tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.program.program import Program

CELLS = 4_000_000  # entries of the data times states in one chunk: 32 MB in float64, as much as a large cache holds
NETWORK_ROWS = 1000  # that go through a network at once: what it holds of each may be a hundred times the row
DRAWN_CELLS = 20_000_000  # numbers, one for each row, state and draw, in one chunk: 160 MB in float64


def row_chunks(program: Program, *, whole: bool, draws: int = 1) -> Iterator[Program]:
    """Split a program by rows, so that any number of rows fits in memory under `draws` draws.

    One piece if it is to stay whole, as a chain has to.
    """
    rows = len(program.data)
    states = max([1, *(s.cardinality for s in program.enumerated)])
    width = max(1, sum(v.numel() for v in program.data.values.values()) // rows) * states
    size = max(1000, min(CELLS // width, DRAWN_CELLS // (draws * states)))
    size = min(size, NETWORK_ROWS) if program.networks and program.locals else size
    if whole or program.chained or rows <= size:
        yield program
        return
    for some in torch.arange(rows).tensor_split(-(-rows // size)):  # all of one size or two: each may be compiled
        yield program.rebind(program.data.take(some))


def frame_of(
    program: Program, values: Mapping[str, Tensor], rows: int, *, whole: bool = True
) -> pd.DataFrame | dict[str, np.ndarray]:
    """Return generated fields as a table with the fitted columns, or as arrays where they are no columns.

    Counts are whole numbers, unless `whole` is false: means of counts.
    """
    data = program.data
    arrays = {n: values[n].cpu().numpy() for n in program.model.fields if n in values}  # a loaded fit has them by name
    for name in arrays:
        if whole and program.model.fields[name].support.is_discrete:
            arrays[name] = arrays[name].astype(np.int64)
    for name, names in data.levels.items():
        arrays[name] = np.asarray(names, dtype=object)[arrays[name]]
    if any(data.dims[n][:1] != (program.row,) or len(data.dims[n]) > 2 for n in arrays):
        return arrays
    columns: dict[Any, np.ndarray] = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            columns[data.columns.get(name, (name,))[0]] = array
        else:
            columns.update({label: array[:, j] for j, label in enumerate(data.coords[data.dims[name][1]])})
    return pd.DataFrame(columns, index=pd.RangeIndex(rows))
