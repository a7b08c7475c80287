"""What is odd about categories: identifiers, which differ in every row, and levels that occur in none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from zoo.data.labelled import label
from zoo.declare.fields import Field

FEWEST = 10  # rows, below which categories that all differ are no surprise


def identifiers(
    values: Mapping[str, Tensor],
    missing: Mapping[str, Tensor],
    fields: Mapping[str, Field],
    coords: Mapping[str, pd.Index],
    row: str,
) -> tuple[str, ...]:
    """Say which fields of categories have as many categories as rows, and which columns of such more than half as many.

    A vector may name the groups of rows, of which some have two rows each.
    """
    notes = []
    for name, kind in fields.items():
        if not kind.integer or kind.dims[:1] != (row,) or len(kind.dims) > 2:
            continue
        value = values[name] if values[name].ndim == 2 else values[name][:, None]
        gone = missing.get(name, torch.zeros_like(values[name], dtype=torch.bool)).reshape(value.shape)
        share = 1.0 if len(kind.dims) == 1 else 0.5
        found = [j for j in range(value.shape[1]) if _differ(value[:, j][~gone[:, j]], share)]
        columns = ", ".join(repr(label(coords.get(kind.dims[1]), j)) for j in found) if len(kind.dims) > 1 else ""
        if found:
            what = f"column{'s' * (len(found) > 1)} {columns} of field {name!r}" if columns else f"field {name!r}"
            notes.append(
                f"{what}: a category for every row or two of {len(value)}, from which little can be learned; is it an "
                "identifier, or a number? Then leave it out, or cut it into classes (pandas.cut)"
            )
    return tuple(notes)


def unused(tables: Mapping[str, Any]) -> tuple[str, ...]:
    """Say which levels of categorical columns occur in no row; a field's entries may be several of these."""
    notes = []
    for name, entries in tables.items():
        several = isinstance(entries, pd.DataFrame)
        for what, column in entries.items() if several else ((name, entries),):
            declared = getattr(getattr(column, "dtype", None), "categories", None)
            absent = [] if declared is None else declared.difference(pd.Index(column.unique()), sort=False).tolist()
            if absent:
                shown = f"{', '.join(map(repr, absent[:8]))}{', ...' if absent[8:] else ''}"
                notes.append(
                    f"{'column' if several else 'field'} {what!r}: declared levels that occur in no row are left out, "
                    f"as nothing can be learned of them: {shown}"
                )
    return tuple(notes)


def many_levels(coded: pd.DataFrame) -> tuple[str, ...]:
    """Say which predictors of a formula, of words, have more levels than half of the rows."""
    counts = coded.nunique() if len(coded) >= FEWEST else pd.Series(dtype=int)
    return tuple(
        f"column {name!r} of the formula: {count} levels in {len(coded)} rows, a coefficient for each, from which "
        "little can be learned; is it an identifier, or a number? Then leave it out, or cut it into classes "
        "(pandas.cut)"
        for name, count in counts.items()
        if 2 * count > len(coded)
    )


def _differ(codes: Tensor, share: float) -> bool:
    """Whether so many rows have a code of their own; the largest tells of most columns that they cannot."""
    count = len(codes)
    return count >= FEWEST and int(codes.max()) >= share * count - 1 and len(codes.unique()) >= share * count
