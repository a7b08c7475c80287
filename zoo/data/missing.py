"""Missing values: cells of the data that are NaN, which inference sums over exactly, and where that is possible.

The sum is the right likelihood of the observed cells if the others are missing at random: whether they are may depend
on what is observed, and not on the values that are missing (Rubin 1976, "Inference and missing data").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.distributions import constraints

from zoo.data.data import Data
from zoo.data.labelled import entry, label
from zoo.declare.fields import Field
from zoo.errors import DataError

NONE = torch.zeros(1, dtype=torch.bool)
MANY = 5  # fields with missing values, beyond which one note tells of all


def as_numbers(array: np.ndarray) -> np.ndarray:
    """Write missing entries, however they are marked (masked, None, NA), as NaN."""
    if isinstance(array, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(array), np.nan, array.filled(0).astype(float))
    return np.where(pd.isna(array), np.nan, array) if array.dtype == object else array


def fill(
    name: str, value: Tensor, kind: Field, like: Tensor | None, coords: Mapping[str, pd.Index]
) -> tuple[Tensor, Tensor | None]:
    """Put finite numbers in place of the missing cells of a field; return it, and which cells they are (None: none).

    The number is the column's median, an observed value, so that it is in the support of whatever explains the column;
    it is never looked at.

    Parameters
    ----------
    name, value, kind
        The field.
    like
        The same field in data bound before, for columns of which nothing is observed.
    coords
        Labels of its dimensions, where they have some.

    Raises
    ------
    DataError
        If nothing is observed of a column, and no data were bound before.
    """
    missing = value.isnan()
    if not bool(missing.any()):
        return value, None
    if like is None and not may_be_unseen(kind):
        check_observed(name, missing, kind.dims, coords)
    middle = value.reshape(len(value) if value.ndim else 1, -1).nanmedian(0).values
    if like is not None:
        known = like.reshape(len(like), -1)[0] if like.ndim > 1 else like.reshape(-1)[:1]
        middle = torch.where(middle.isnan(), known.to(middle), middle)
    middle = middle.nan_to_num(0.0)
    return torch.where(missing, middle.reshape(value.shape[1:]), value), missing


def may_be_unseen(kind: Field) -> bool:
    """Whether a field may have no observed entry at all: what it holds may be a latent of known states."""
    return (kind.integer or kind.support is constraints.boolean) and len(kind.dims) < 2


def check_observed(name: str, missing: Tensor, dims: Sequence[str], coords: Mapping[str, pd.Index]) -> None:
    """Raise if nothing is observed of a field, or of one of its columns or pixels.

    Raises
    ------
    DataError
        Naming it.
    """
    empty = missing.all(0) if missing.ndim else missing
    if bool(empty.any()):
        what, remedy = f"field {name!r}", "drop it"
        at = [int(i) for i in empty.nonzero()[0]]
        if missing.ndim == 2:
            what = f"column {label(coords.get(dims[1]), at[0])!r} of field {name!r}"
        elif missing.ndim > 2 and not bool(empty.all()):
            what = f"{entry(dims[1:], coords, at)} of field {name!r}"
            remedy = f"crop the field, or put a number there ({int(empty.sum())} such entries)"
        raise DataError(f"{what} has no observed value: every entry is missing (NaN); {remedy}")


def notes_of(
    values: Mapping[str, Tensor], missing: Mapping[str, Tensor], fields: Mapping[str, Field]
) -> tuple[str, ...]:
    """Say how many values of each field are missing.

    Raises
    ------
    DataError
        If not one value of any field is observed.
    """
    unseen = all(may_be_unseen(kind) for kind in fields.values())
    if missing and not unseen and all(n in missing and bool(missing[n].all()) for n in values):
        raise DataError(f"fields {', '.join(map(repr, values))}: every value is missing (NaN); there is nothing to fit")
    counts = {n: f"{int(gone.sum())} of {gone.numel()}" for n, gone in missing.items() if bool(gone.any())}
    right = "are missing (NaN) and are summed over, which is right if they are missing at random"
    if len(counts) > MANY:
        return (f"values of {len(counts)} fields {right}: " + ", ".join(f"{n!r} {c}" for n, c in counts.items()),)
    return tuple(f"field {name!r}: {count} values {right}" for name, count in counts.items())


def place(data: Data, name: str) -> str:
    """Say where the first missing cell of a field is, and how many there are."""
    missing = data.missing[name]
    at = [int(i) for i in missing.nonzero()[0]] if bool(missing.any()) else []
    first = entry(data.dims[name], data.coords, at) if at else ""
    return f"{int(missing.sum())} in all" + (f", the first at {first}" if first else "")


def missing_features(data: Data) -> Tensor | None:
    """Which entries of `Data.features` are missing, in the same shape; None if none is."""
    if not data.missing:
        return None
    columns = []
    for name in data.row_fields:
        value = data.values[name]
        width = len(data.levels[name]) if not value.is_floating_point() else 1
        missing = data.missing.get(name, torch.zeros_like(value, dtype=torch.bool))
        columns.append(missing.reshape(len(data), -1).repeat_interleave(width, 1))
    return torch.cat(columns, -1)


def with_nan(data: Data) -> dict[str, Tensor]:
    """Return the fields as they came, with NaN in the missing cells."""
    return {
        n: torch.where(data.missing[n], torch.nan, v.to(data.dtype)) if bool(data.missing.get(n, NONE).any()) else v
        for n, v in data.values.items()
    }
