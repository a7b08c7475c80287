"""Sequences below each other in one table, as chains along the rows have them: their lengths and first rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zoo.errors import DataError
from zoo.replay.chain import firsts


def check_lengths(lengths: Sequence[int] | None, rows: int) -> None:
    """Raise if sequences of these lengths are not all the rows.

    Raises
    ------
    DataError
        With both numbers.
    """
    if lengths is not None and sum(lengths) != rows:
        raise DataError(f"lengths add up to {sum(lengths)}, but there are {rows} rows; correct the lengths")


def first_rows(lengths: Sequence[int] | None, x: Tensor) -> Tensor:
    """Which rows of x begin a sequence, shape (rows,); the first one only for rows of which lengths say nothing."""
    start = None
    if lengths is not None and sum(lengths) == len(x):
        start = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        start[torch.tensor([0, *lengths[:-1]], device=x.device).cumsum(0)] = True
    return firsts(start, len(x), x.device)
