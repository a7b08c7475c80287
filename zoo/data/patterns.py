"""The missing cells of a field, and its rows sorted by which entries they miss.

Rows that miss the same entries are handled alike, and by one matrix where that depends on what is missing. Patterns
with similar numbers of rows are gathered in groups, which are tensors: few operations, whatever the number of patterns.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

MOST = 512  # rows that are handled by one copy of their pattern's matrix
ENTRIES = 1 << 16  # numbers of rows and matrices in one group, for each component


@dataclass(frozen=True)
class Group:
    """Some patterns, each with as many rows: those with fewer repeat one.

    Attributes
    ----------
    missing
        Entries that are missing, shape (patterns, d).
    rows
        Positions of the rows, shape (patterns, r).
    real
        1, or 0 where a row is such a repetition, shape (patterns, r).
    """

    missing: Tensor
    rows: Tensor
    real: Tensor


@dataclass(frozen=True)
class Patterns:
    """The rows of a matrix by which entries they miss.

    Attributes
    ----------
    groups
        Patterns with similar numbers of rows.
    place
        Where each row stands among all rows of all groups, laid end to end.
    """

    groups: list[Group]
    place: Tensor

    @classmethod
    def of(cls, missing: Tensor, most: int = MOST) -> Patterns:
        """Sort rows, `missing` of shape (rows, d), by pattern; at most so many share a copy of their pattern.

        A pattern with more rows is cut into pieces, each with a copy of its matrices, so that groups stay small enough
        for the cache.
        """
        n, d = missing.shape
        if most == 1:
            patterns, which = missing, torch.arange(n, device=missing.device)
        else:
            patterns, which = torch.unique(missing, dim=0, return_inverse=True)
        # The rows pattern by pattern, and the position of each among those of its pattern.
        order = which.argsort(stable=True)
        counts = which.bincount(minlength=len(patterns))
        rank = torch.arange(n, device=missing.device) - (counts.cumsum(0) - counts)[which[order]]
        # (pattern, which copy of it) of each piece, and its number of rows.
        pieces, counts = torch.unique(torch.stack([which[order], rank // most]), dim=1, return_counts=True)
        patterns, starts = patterns[pieces[0]], counts.cumsum(0) - counts
        # Numbers of rows are rounded up to a power of 2: one group for each, and at most half of it repeats rows.
        width = counts.double().log2().ceil().exp2().long()
        groups, place, begin = [], torch.empty_like(order), 0
        for size in width.unique().tolist():
            alike = (width == size).nonzero()[:, 0]
            for part in alike.split(max(1, ENTRIES // (d * (d + size)))):
                at = torch.arange(size, device=missing.device)
                real = at < counts[part, None]
                rows = order[starts[part, None] + torch.where(real, at, 0)]
                cells = begin + torch.arange(rows.numel(), device=missing.device).reshape(rows.shape)
                place[rows[real]] = cells[real]
                groups.append(Group(patterns[part], rows, real))
                begin += rows.numel()
        return cls(groups, place)


@dataclass(frozen=True)
class MissingCells:
    """Which cells of a field are missing.

    Attributes
    ----------
    value
        The values, with finite numbers in place of the missing ones.
    missing
        True where a cell is missing, in the same shape.
    """

    value: Tensor
    missing: Tensor

    @cached_property
    def patterns(self) -> Patterns:
        """Rows (all entries along the last dimension) that miss the same entries, together."""
        return Patterns.of(self.missing.reshape(-1, self.missing.shape[-1]))

    @cached_property
    def singles(self) -> Patterns:
        """Every row by itself, for matrices that differ by row."""
        return Patterns.of(self.missing.reshape(-1, self.missing.shape[-1]), 1)
