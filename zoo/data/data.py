"""The data of one model: its fields as tensors, with named dimensions, labels, weights and what is missing."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from zoo.data.patterns import MissingCells
from zoo.data.slices import Slice
from zoo.data.stream import Stream


@dataclass(frozen=True)
class Data:
    """The fields of one model as tensors.

    Attributes
    ----------
    values
        Field name -> tensor: floating-point numbers; codes of categories as int64; bytes as they came.
    dims
        Field name -> dimension names.
    coords
        Dimension name -> labels.
    row
        The data plate: the first dimension of the first field (empty for data without dimensions).
    levels
        Field name -> labels of a `Category` field in code order (the codes themselves if it came as numbers).
    weights
        A weight per row, or None.
    notes
        What was left out on the way in.
    dtype
        Floating-point type, also when every field holds integers.
    stream
        What these rows are a sample of, if the fit is to read all of it.
    missing
        Field name -> True where a cell is missing, for fields that have such cells; `values` hold made-up finite
        numbers there.
    columns
        Field -> the columns of a table that fill it, for fields that do not have their names.
    parted
        Site -> the field that it observes, for sites whose missing cells are latents because others read them.
    """

    values: dict[str, Tensor]
    dims: dict[str, tuple[str, ...]]
    coords: dict[str, pd.Index]
    row: str
    levels: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    weights: Tensor | None = None
    notes: tuple[str, ...] = ()
    dtype: torch.dtype = torch.float64
    stream: Stream | None = None
    missing: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    parted: dict[str, str] = field(default_factory=dict)
    # Worked out when first asked for, and kept: every E-step needs the rows sorted by what they miss.
    _missing_cells: dict[tuple[str, str], MissingCells] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.coords[self.row]) if self.row else 1

    @property
    def row_fields(self) -> list[str]:
        """Names of the fields that have one entry per row."""
        return [name for name, dims in self.dims.items() if self.row and dims[:1] == (self.row,)]

    def missing_cells(self, name: str, part: Slice | None = None) -> MissingCells | None:
        """Return which cells of a field, or of a slice of it, are missing; None if it was bound without any."""
        if name not in self.missing:
            return None
        key = name, str(part)
        if key not in self._missing_cells:
            value, gone = self.values[name], self.missing[name]
            cells = (value, gone) if part is None else (part(value), part(gone))
            self._missing_cells[key] = MissingCells(*cells)
        return self._missing_cells[key]

    def _missing_at(self, rows: Tensor) -> dict[str, Tensor]:
        inside = set(self.row_fields)
        return {n: m[rows.to(m.device)] if n in inside else m for n, m in self.missing.items()}

    def take(self, rows: Tensor) -> Data:
        """Return the rows at these positions, in this order, with repetition."""
        where = rows.cpu().numpy()
        return replace(
            self,
            values={n: v[rows.to(v.device)] if n in self.row_fields else v for n, v in self.values.items()},
            coords={**self.coords, self.row: self.coords[self.row][where]},
            weights=None if self.weights is None else self.weights[rows.to(self.weights.device)],
            missing=self._missing_at(rows),
            stream=None,
        )

    def batch(self, rows: Tensor, weights: Tensor) -> Data:
        """Return the rows at these positions with other weights and plain labels: what a training step needs."""
        inside = set(self.row_fields)
        return replace(
            self,
            values={n: v[rows] if n in inside else v for n, v in self.values.items()},
            coords={**self.coords, self.row: pd.RangeIndex(len(rows))},
            weights=weights,
            missing=self._missing_at(rows),
            stream=None,
        )

    def to(self, dtype: torch.dtype, device: torch.device) -> Data:
        """Return the data in this floating-point type, on this device; bytes become numbers, codes stay codes."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() or value.dtype == torch.uint8 else None)

        weights = None if self.weights is None else move(self.weights)
        missing = {n: m.to(device) for n, m in self.missing.items()}
        values = {n: move(v) for n, v in self.values.items()}
        return replace(self, values=values, weights=weights, missing=missing, dtype=dtype)

    def feature_widths(self) -> dict[str, int]:
        """How many columns of `features` each row field has, in their order."""
        widths = {}
        for name in self.row_fields:
            value = self.values[name]
            each = 1 if value.is_floating_point() else len(self.levels[name])
            widths[name] = value[0].numel() * each
        return widths

    def features(self) -> Tensor:
        """All row fields side by side as one (rows, columns) floating-point matrix; categories one-hot."""
        size, columns = len(self), []
        for name in self.row_fields:
            value = self.values[name]
            if not value.is_floating_point():
                value = torch.nn.functional.one_hot(value, len(self.levels[name])).to(self.dtype)
            columns.append(value.reshape(size, -1))
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)
