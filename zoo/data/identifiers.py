"""Identifiers among the categories: columns with another category in every row, of which nothing can be learned."""

from __future__ import annotations

from collections.abc import Mapping

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
    """Say which fields of categories, or columns of these, have as many categories as rows."""
    notes = []
    for name, kind in fields.items():
        if not kind.integer or kind.dims[:1] != (row,) or len(kind.dims) > 2:
            continue
        value = values[name] if values[name].ndim == 2 else values[name][:, None]
        gone = missing.get(name, torch.zeros_like(values[name], dtype=torch.bool)).reshape(value.shape)
        found = [j for j in range(value.shape[1]) if _all_differ(value[:, j][~gone[:, j]])]
        columns = ", ".join(repr(label(coords.get(kind.dims[1]), j)) for j in found) if len(kind.dims) > 1 else ""
        if found:
            what = f"column{'s' * (len(found) > 1)} {columns} of field {name!r}" if columns else f"field {name!r}"
            notes.append(
                f"{what}: another category in each of {len(value)} rows, from which nothing can be learned; is it an "
                "identifier, or a number? Then leave it out, or cut it into classes (pandas.cut)"
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


def _all_differ(codes: Tensor) -> bool:
    """Whether each row has a code of its own; the largest tells of most columns that they cannot."""
    count = len(codes)
    return count >= FEWEST and int(codes.max()) >= count - 1 and len(codes.unique()) == count
