"""Names and labels of dimensions: of plates, events, rows, groups and categories; names of single entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

TRIED = 3  # groups whose value is changed, to see which rows it is about


def event_names(program: Program, site: Site) -> tuple[str, ...]:
    """Names of a site's dimensions: its plates, then its event dimensions as the model or its data field names them."""
    if site.role == "observed" and site.field is not None:
        return program.data.dims[site.field]
    own = tuple(program.model.dims.get(site.name, ()))
    if len(own) == len(site.shape) and site.role == "parameter":
        return own
    own = own[len(site.plates) :] if len(own) == len(site.shape) and own[: len(site.plates)] == site.plates else own
    return (*site.plates, *own[: site.event_dim])


def all_dims(program: Program) -> dict[str, tuple[str, ...]]:
    """Names of the dimensions of each site and data field."""
    return {**{n: event_names(program, s) for n, s in program.sites.items()}, **program.data.dims}


def labels_of(program: Program, dims: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Labels of dimensions: the data's own, also for a second dimension over the same labels (`feature_2`)."""
    labels: dict[str, Any] = dict(program.data.coords)
    for names in dims.values():
        for name in names:
            stem = name.rpartition("_")[0]
            if name not in labels and name.rpartition("_")[2].isdigit() and stem in labels:
                labels[name] = labels[stem]
    return {n: plain_labels(v) for n, v in labels.items() if n}


def plain_labels(index: Any) -> np.ndarray:
    """Return labels that NetCDF can hold: numbers or text."""
    if isinstance(index, pd.MultiIndex):
        return np.asarray([", ".join(map(str, entry)) for entry in index])
    values = np.asarray(index)
    return values if values.dtype.kind in "iufb" else np.asarray([str(entry) for entry in index])


def category_labels(data: Data, field: str) -> np.ndarray:
    """Labels of a field of categories in code order: numbers where all are numbers, else text."""
    levels = data.levels[field]
    numbers = all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in levels)
    return np.asarray(levels) if numbers else np.asarray([str(v) for v in levels])


def decoded(data: Data, field: str | None, codes: np.ndarray) -> np.ndarray:
    """Return the labels of a field's codes, blank where one is missing; entries of any other field as they are."""
    if field not in data.levels:
        return codes
    labels, missing = category_labels(data, field), np.isnan(codes)
    found: np.ndarray = labels[np.where(missing, 0, codes).astype(np.int64)]
    if missing.any():
        found = np.where(missing, np.nan if labels.dtype.kind in "iuf" else "", found)
    return found


def group_labels(program: Program, values: Values) -> dict[str, np.ndarray]:
    """Labels of dimensions that have an entry for each category of a field: effects of groups, shares of categories.

    An effect belongs to a group if changing it moves the densities of that group's rows, and of no other row.

    Parameters
    ----------
    program
        The program.
    values
        Latents and parameters, at which it is asked.
    """
    data, found = program.data, dict[str, np.ndarray]()
    for field in data.levels:
        labels = category_labels(data, field)
        if np.array_equal(labels, np.arange(len(labels))):
            continue
        for site, axis, name in _axes(program, len(labels)):
            if name not in found and (
                _shares(program, site, axis, field) or _about(program, values, site, axis, field)
            ):
                found[name] = labels
    return found


def all_labels(program: Program, values: Values) -> dict[str, Any]:
    """Labels of all dimensions: the data's own, and those of groups and categories, as asked for at some values."""
    return labels_of(program, all_dims(program)) | group_labels(program, values)


def entry_name(name: str, labels: Iterable[object]) -> str:
    """Name an entry of an array by the labels of its place, as ArviZ does: theta[Choate], loc[0, x]."""
    where = ", ".join(map(str, labels))
    return f"{name}[{where}]" if where else name


@dataclass
class Names:
    """Names of single entries of sites, as `Fit.summary` has them.

    Attributes
    ----------
    program, values
        The program, and one draw of its latents beside its parameters; labels are found when one is first needed.
    """

    program: Program
    values: Values

    @cached_property
    def labels(self) -> dict[str, Any]:
        """Labels of all dimensions that have some."""
        return all_labels(self.program, self.values)

    def entry(self, name: str, place: Sequence[int]) -> str:
        """Name an entry of a site; of what is no site, by its place."""
        site = self.program.sites.get(name)
        dims = () if site is None else dimension_names(self.program, site)
        dims = dims if len(dims) == len(place) else ("",) * len(place)
        labels = [self.labels.get(d) if d else None for d in dims]
        return entry_name(name, [i if own is None else own[i] for own, i in zip(labels, place, strict=True)])


def dimension_names(program: Program, site: Site) -> tuple[str, ...]:
    """Names of all dimensions of a site's value: those that nobody named have the name that ArviZ gives them."""
    own = event_names(program, site)[: len(site.shape)]
    return (*own, *(f"{site.name}_dim_{i}" for i in range(len(own), len(site.shape))))


def _axes(program: Program, size: int) -> Iterator[tuple[Site, int, str]]:
    """Dimensions of latents and parameters that have this size and no labels of their own."""
    for site in (*program.latents, *program.parameters):
        for axis, name in enumerate(dimension_names(program, site)):
            if site.shape[axis] == size and name not in program.data.coords:
                yield site, axis, name


def _shares(program: Program, site: Site, axis: int, field: str) -> bool:
    """Whether a dimension is that of the probabilities of an observed field's categories."""
    if axis != len(site.shape) - 1:
        return False
    parents = [o.args.get(a) for o in program.observed if o.field == field for a in ("probs", "logits")]
    return any(p is not None and p.kind in ("site", "indexed") and site.name in p.sites for p in parents)


def _about(program: Program, values: Values, site: Site, axis: int, field: str) -> bool:
    """Whether each entry along a dimension moves the densities of the rows in one category, and only these."""
    data = program.data
    sites = [s for s in program.observed if program.row and program.row in s.plates]
    if data.dims[field] != (program.row,) or not sites or site.name not in values:
        return False
    codes = data.values[field]
    present = codes.unique()[:TRIED].tolist()

    def densities(at: Values) -> list[Tensor]:
        seen = program.log_probs(at)
        return [seen[s.name].movedim(seen[s.name].ndim + s.plate_dim(program.row), 0) for s in sites]

    with torch.no_grad():
        before = densities(values)
        for code in present:
            value = values[site.name].clone()
            value.select(axis, code).mul_(1.01).add_(0.01)
            pairs = zip(densities({**values, site.name: value}), before, strict=True)
            moved = torch.stack([(a != b).reshape(len(data), -1).any(1) for a, b in pairs]).any(0)
            if not bool(moved.any()) or bool((moved & (codes != code)).any()):
                return False
    return True
