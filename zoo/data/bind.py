"""Data in: tables, arrays and files become checked tensors with named dimensions and coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data.match import from_arrays, from_frame
from zoo.data.missing import as_numbers, fill, notes_of
from zoo.data.patterns import Cells
from zoo.data.read import read
from zoo.data.stream import Stream
from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.errors import DataError

Source = pd.DataFrame | pd.Series | Mapping[str, Any] | np.ndarray | Tensor | str | Path | Stream


@dataclass(frozen=True)
class Data:
    """The fields of one model as tensors.

    Attributes
    ----------
    values
        Field name -> tensor.
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
        The file that these rows are a sample of, if the fit is to read all of it.
    missing
        Field name -> True where a cell is missing, for fields that have such cells; `values` hold made-up finite
        numbers there.
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
    _cells: dict[str, Cells] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.coords[self.row]) if self.row else 1

    @property
    def row_fields(self) -> list[str]:
        """Names of the fields that have one entry per row."""
        return [name for name, dims in self.dims.items() if self.row and dims[:1] == (self.row,)]

    def cells(self, name: str) -> Cells | None:
        """Return the missing cells of a field, None if it has none."""
        if name in self.missing and name not in self._cells:
            self._cells[name] = Cells(self.values[name], self.missing[name])
        return self._cells.get(name)

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
        """Return the data in this floating-point type, on this device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device, dtype if value.is_floating_point() else None)

        weights = None if self.weights is None else move(self.weights)
        missing = {n: m.to(device) for n, m in self.missing.items()}
        values = {n: move(v) for n, v in self.values.items()}
        return replace(self, values=values, weights=weights, missing=missing, dtype=dtype)

    def features(self) -> Tensor:
        """All row fields side by side as one (rows, columns) floating-point matrix; categories one-hot."""
        size, columns = len(self), []
        for name in self.row_fields:
            value = self.values[name]
            if not value.is_floating_point():
                value = torch.nn.functional.one_hot(value, len(self.levels[name])).to(self.dtype)
            columns.append(value.reshape(size, -1))
        return columns[0] if len(columns) == 1 else torch.cat(columns, -1)


def bind(model: Model, source: Source | Data, *, like: Data | None = None) -> Data:
    """Match `source` to the model's fields and check it.

    Parameters
    ----------
    model
        Its fields say what is expected.
    source
        A DataFrame, a dict of arrays, an array or tensor (for a model with one field), a path to a CSV, Parquet or
        NPY file, or the name of a shipped dataset.
    like
        Data bound before: columns are matched to its columns, and category labels to its labels.

    Raises
    ------
    DataError
        Naming the field or column, what was expected and found, and the remedy.
    """
    if isinstance(source, Data):
        return source
    if not model.fields:
        raise DataError(f"{type(model).__name__} declares no data fields; add one, for example x = Real('row')")
    if isinstance(source, Stream):
        raise DataError("a stream is read by fit(...); give the rows themselves here")
    if isinstance(source, str | Path):
        source = read(source)
    if isinstance(source, pd.Series):
        source = source.to_frame(source.name if source.name is not None else next(iter(model.fields)))
    frame = source if isinstance(source, pd.DataFrame) else None
    if frame is not None:
        arrays, columns, notes = from_frame(model, frame, _columns(model, like))
    else:
        arrays, columns, notes = from_arrays(model, source), None, ()
    return _check(model, arrays, columns, frame, notes, like)


def _columns(model: Model, like: Data | None) -> pd.Index | None:
    """Return the columns of the matrix field in data bound before."""
    matrix = next((f for f in model.fields.values() if len(f.dims) == 2), None)
    return None if like is None or matrix is None else like.coords[matrix.dims[1]]


def _check(
    model: Model,
    arrays: dict[str, Any],
    columns: pd.Index | None,
    frame: pd.DataFrame | None,
    notes: tuple[str, ...],
    like: Data | None,
) -> Data:
    """Check shapes, named dimensions and supports, and gather the coordinates."""
    values: dict[str, Tensor] = {}
    missing: dict[str, Tensor] = {}
    levels: dict[str, tuple[Any, ...]] = {}
    sizes: dict[str, tuple[int, str]] = {}
    coords: dict[str, pd.Index] = {}
    row = next((f.dims[0] for f in model.fields.values() if f.dims), "")
    for name, kind in model.fields.items():
        array = arrays[name]
        if isinstance(array, pd.Series | pd.DataFrame):
            if isinstance(array, pd.DataFrame) and len(kind.dims) == 2:
                coords.setdefault(kind.dims[1], array.columns)
            _agree(coords.setdefault(kind.dims[0] if kind.dims else "", array.index), array.index, name, kind)
        value = _tensor(name, array, kind, levels, like)
        if value.ndim == 1 and len(kind.dims) == 2 and len(model.fields) == 1 and like is None:
            value = value[:, None]  # one feature
        if value.ndim == 2 and value.shape[1] == 1 and len(kind.dims) == 1:
            value = value[:, 0]
        if value.ndim != len(kind.dims):
            raise DataError(
                f"field {name!r}: expected {len(kind.dims)} dimensions {kind.dims}, found shape {tuple(value.shape)}"
            )
        for dim, size in zip(kind.dims, value.shape, strict=True):
            if size == 0:
                raise DataError(f"field {name!r} is empty: dimension {dim!r} has size 0; there is nothing to fit")
            expected, other = sizes.setdefault(dim, (size, name))
            if expected != size:
                raise DataError(
                    f"fields {other!r} and {name!r} must agree on {dim!r}: {other!r} has {expected}, "
                    f"{name!r} has {size}"
                )
            if like is not None and dim != row and dim in like.coords and size != len(like.coords[dim]):
                raise DataError(
                    f"field {name!r}: expected {len(like.coords[dim])} along {dim!r} as in the data that "
                    f"was fitted ({', '.join(map(str, like.coords[dim][:8]))}), found {size}"
                )
        labels = columns if columns is not None or len(kind.dims) < 2 else coords.get(kind.dims[1])
        value, gone = fill(name, value, kind, None if like is None else like.values[name], labels)
        if gone is not None:
            missing[name] = gone
        elif like is not None and name in like.missing:
            missing[name] = torch.zeros_like(value, dtype=torch.bool)
        _check_support(name, value, kind, columns)
        values[name] = value.long() if kind.integer else value
        if kind.integer and name not in levels:
            codes = int(value.max()) + 1
            known_levels = tuple(range(getattr(kind, "levels", None) or codes))
            levels[name] = like.levels[name] if like is not None else known_levels
            if codes > len(levels[name]):
                raise DataError(
                    f"field {name!r}: unknown category {codes - 1}; the data that were fitted have {len(levels[name])} "
                    f"categories. Say how many there can be: {name} = Category({', '.join(map(repr, kind.dims))}, "
                    f"levels={codes})"
                )
    if frame is not None and row:
        coords[row] = frame.index
        if columns is not None:
            matrix = next(f for f in model.fields.values() if len(f.dims) == 2)
            coords[matrix.dims[1]] = columns
            if like is not None and not set(like.coords[matrix.dims[1]]) <= set(columns):
                lacking = [c for c in like.coords[matrix.dims[1]] if c not in set(columns)]
                if not isinstance(like.coords[matrix.dims[1]], pd.RangeIndex):
                    raise DataError(
                        f"the new data lack column {lacking[0]!r}; the model was fitted to "
                        f"{', '.join(map(repr, like.coords[matrix.dims[1]]))}"
                    )
    for dim, (size, name) in sizes.items():
        if dim in coords and len(coords[dim]) != size:
            raise DataError(f"field {name!r}: {len(coords[dim])} labels for {size} entries along {dim!r}")
        known = like.coords.get(dim) if like is not None and dim != row else None
        coords.setdefault(dim, known if known is not None else pd.RangeIndex(size))
    dims = {n: f.dims for n, f in model.fields.items()}
    return Data(values, dims, coords, row, levels, notes=(*notes, *notes_of(values, missing)), missing=missing)


def _agree(first: pd.Index, index: pd.Index, name: str, kind: Field) -> None:
    """Raise if two labelled fields have other labels along the same dimension."""
    if not first.equals(index):
        raise DataError(
            f"field {name!r}: its labels along {kind.dims[0]!r} differ from another field's "
            f"({list(index[:3])} and {list(first[:3])}, ...); align them first"
        )


def _tensor(name: str, array: Any, kind: Field, levels: dict[str, tuple[Any, ...]], like: Data | None) -> Tensor:
    """Convert to a tensor: integers for categories (labels coded in sorted order), otherwise float64."""
    if isinstance(array, Tensor):
        if array.layout is not torch.strided:
            raise DataError(f"field {name!r}: expected a dense tensor, found a sparse one; give its .to_dense()")
        array = array.detach().cpu().numpy()
    if kind.integer and isinstance(array, np.ma.MaskedArray) and np.ma.getmaskarray(array).any():
        raise DataError(
            f"field {name!r}: {int(np.ma.getmaskarray(array).sum())} entries are masked, which means missing; "
            "drop them, or give them a category of their own"
        )
    try:
        array = array if isinstance(array, np.ma.MaskedArray) else np.asarray(array)
    except ValueError:
        raise DataError(f"field {name!r}: its entries are of unequal lengths; give an array or a plain list") from None
    if array.dtype.kind in "cmMV" or (array.dtype.kind == "O" and any(isinstance(v, complex) for v in array.flat)):
        raise DataError(f"field {name!r}: expected numbers, found {array.dtype} data; convert it")
    known = like.levels.get(name) if like is not None else None
    if kind.integer and array.dtype.kind in "OUST":
        missing = pd.isna(array)
        if missing.any():
            raise DataError(
                f"field {name!r} (Category): {int(missing.sum())} labels are missing; drop these rows, or "
                "give them a label of their own"
            )
        present = sorted(set(array.ravel().tolist()), key=str)
        names = known or tuple(present)
        strange = [v for v in present if v not in names]
        if strange:
            raise DataError(f"field {name!r}: unknown category {strange[0]!r}; the model was fitted to {names}")
        most = getattr(kind, "levels", None)
        if most is not None and len(names) > most:
            raise DataError(f"field {name!r} has {len(names)} categories, but is declared with levels={most}")
        levels[name] = names
        return torch.as_tensor(np.vectorize({v: i for i, v in enumerate(names)}.get, otypes=[int])(array))
    try:
        value = torch.tensor(np.array(as_numbers(array, kind), dtype=np.float64))  # in torch's own, aligned memory
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"field {name!r}: expected numbers, found {array.dtype} data such as "
            f"{array.ravel()[:1].tolist()}; convert it"
        ) from None
    return value


def _check_support(name: str, value: Tensor, kind: Field, columns: pd.Index | None) -> None:
    """Raise if an entry is missing, infinite or outside the field's support; say which."""
    for wrong, expected, remedy in (
        (value.isnan(), "no missing values (NaN)", "drop or impute these rows"),
        (value.isinf(), "finite numbers", "drop or correct these rows"),
        (~kind.support.check(value), kind.describes, "correct the data, or declare the field with another kind"),
    ):
        if bool(wrong.any()):
            at = [int(i) for i in wrong.nonzero()[0]]
            place = f"row {at[0]}" if at else "the value"
            if len(at) > 1:
                place += f", column {columns[at[1]]!r}" if columns is not None else f", position {at[1:]}"
            raise DataError(
                f"field {name!r} ({type(kind).__name__}): expected {expected}, found "
                f"{float(value[tuple(at)]):g} at {place} ({int(wrong.sum())} such entries); {remedy}"
            )
