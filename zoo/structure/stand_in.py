"""Rows that stand for all in the runs that a model is looked at by, where runs on all would take time and memory.

A run lays out what a plate of rows has in it, as a covariance of each row, which no method does afterwards. What the
sites are does not change with the number of rows; that it does not is seen at two numbers of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.replay.sites import Site, support_of
from zoo.structure.discover import Discover, sample_sites

MANY = 100_000  # rows that are never run at once
LARGE = 1 << 25  # numbers that a run on all rows may take, if it has one for each pair of entries of a row
FEW = 1000  # rows that stand for more
FEWEST = 16  # however wide they are
SAMPLE_ROWS = 64  # rows that the comparing runs see: enough to tell values apart, whatever the size of the data


def standing_for_all(data: Data) -> Tensor | None:
    """Rows of large data that stand for all, in their order; None where all are to be run.

    They are spread evenly. Where a model asks the data for a size (the largest code of a group, a largest count), it
    gets the same answer from them: each code, the extremes of each column and its first missing cell are among them.
    """
    pairs = _pairs(data)
    if not data.row or (len(data) <= MANY and len(data) * pairs <= LARGE):
        return None
    count = max(FEWEST, min(FEW, LARGE // pairs))
    if len(data) <= 2 * count:
        return None
    found = [torch.linspace(0, len(data) - 1, count).long()]
    for name in data.row_fields:
        columns = data.values[name].reshape(len(data), -1).cpu()
        found.extend(_extremes(columns, count) if columns.is_floating_point() else [_first_of_each(columns)])
        if name in data.missing:
            found.append(_first_gaps(data.missing[name].reshape(len(data), -1).cpu(), count))
    rows = torch.cat(found).unique()
    return rows if 2 * len(rows) <= len(data) else None


def sample_rows(data: Data) -> Tensor | None:
    """Rows for the comparing runs, spread evenly: fewer where they are wide; None for all of them."""
    count = max(FEWEST // 2, min(SAMPLE_ROWS, LARGE // _pairs(data)))
    if not data.row or len(data) <= count:
        return None
    return torch.linspace(0, len(data) - 1, count).long()


def check_same(sites: Mapping[str, Site], trace: Any, messenger: Discover, row: str) -> None:
    """Check that sites outside the plate of rows are what they are in a run on another number of rows.

    Raises
    ------
    ModelError
        Naming a site that has another shape or other states, or a parameter that starts elsewhere.
    """
    nodes = dict(sample_sites(trace))
    for name, site in sites.items():
        if site.role == "parameter":
            initial = messenger.params[name][0] if name in messenger.params else None
            same = initial is not None and site.initial is not None and torch.equal(initial, site.initial)
        elif name not in nodes:
            same = site.family == "Evidence"
        elif site.role != "deterministic" and _sizes(support_of(nodes[name]["fn"])) != _sizes(site.support):
            same = False
        elif row in site.plates:
            same = True
        elif site.states is not None:
            same = len(nodes[name]["fn"].enumerate_support(expand=False)) == len(site.states)
        else:
            same = tuple(nodes[name]["value"].shape) == site.shape
        if not same:
            raise ModelError(f"site {name!r} is not the same on any number of rows")


def with_all_rows(sites: Mapping[str, Site], data: Data, few: int) -> dict[str, Site]:
    """Sites as they are on all rows, as seen on a few: as long as the data along the plate of rows."""
    found = {}
    for name, site in sites.items():
        shape = list(site.shape)
        axis = site.batch_dim + site.plate_dim(data.row) if data.row in site.plates else -1
        if axis >= 0 and shape[axis] == few:
            shape[axis] = len(data)
        found[name] = replace(site, shape=tuple(shape))
    return found


def _sizes(support: Any) -> list[tuple[int, ...]]:
    """Shapes of the numbers that a support has, as the largest count of each row."""
    within = getattr(support, "base_constraint", None)
    own = [tuple(v.shape) for v in vars(support).values() if isinstance(v, Tensor)]
    return own if within is None else own + _sizes(within)


def _pairs(data: Data) -> int:
    """Pairs of entries of a row."""
    return max(1, sum(data.values[n][:1].numel() for n in data.row_fields)) ** 2


def _extremes(columns: Tensor, count: int) -> list[Tensor]:
    """Rows with the least and the largest number of each column; of all columns together where there are many."""
    if 2 * columns.shape[1] <= count:
        return [columns.argmin(0), columns.argmax(0)]
    return [(columns.argmin() // columns.shape[1])[None], (columns.argmax() // columns.shape[1])[None]]


def _first_of_each(codes: Tensor) -> Tensor:
    """The first row that each code is in."""
    _, inverse = codes.unique(return_inverse=True)
    rows = torch.arange(len(codes))[:, None].expand_as(inverse).flatten()
    first = torch.full((int(inverse.max()) + 1,), len(codes))
    return first.scatter_reduce(0, inverse.flatten(), rows, "amin")


def _first_gaps(gone: Tensor, count: int) -> Tensor:
    """The first row in which each column has a missing cell, of so many columns."""
    return gone.byte().argmax(0)[gone.any(0)][:count]
