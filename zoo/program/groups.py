"""Groups that no row has been seen of: fields whose labels a prior knows more of, found by running the model."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, is_plate
from zoo.replay.sites import Site

FAILURES = (ZooError, RuntimeError, IndexError, ValueError)  # of a model with a label that it has nothing for
TOLERANCE = 1e-6  # of log densities, relative


class _Lengths(Messenger):
    """Note how long plates are."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, int] = {}

    def _pyro_sample(self, msg: Any) -> None:
        if is_plate(msg):
            self.found[msg["name"]] = msg["fn"].size


def open_plates(program: Program, points: Values, field: str) -> tuple[str, ...]:
    """Return the plates that have an entry for each label of a field, and for new labels too; empty if none has.

    That is where a new group has a distribution: its latents are drawn from their prior given the globals. The field
    must do nothing but say which entry a row has. It does if, with a row of a new label added,

    * the model runs, and some of its plates have become longer by one, or are the labels' where they are made longer:
      the new entry says something of the new row, and of no other;
    * other labels for the groups, with the latents of these plates in the same order, leave the density as it was;
    * rows of known labels have the density that they had without it.

    Parameters
    ----------
    program
        On the fitted rows.
    points
        Values of parameters and network weights.
    field
        A `Category` field.
    """
    if program.data.dims[field] != (program.row,) or any(field in (s.field, *s.observes) for s in program.observed):
        return ()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            return _open(program, points, field)
        except FAILURES:  # what has as many entries as there are labels
            return ()


def _open(program: Program, points: Values, field: str) -> tuple[str, ...]:
    data = _with_new_label(program.data, field)
    count = len(program.data.levels[field])
    free, lengths = program.rebind(data, {}), _Lengths()
    with lengths, suppress(*FAILURES):  # of plates of fixed length there may be no entry for the new label yet
        free.simulate(points)
    alike = {n: lengths.found.get(n) for n, size in program.sizes.items() if size == count and n != program.row}
    plates = tuple(
        n for n, now in alike.items() if now == count + 1 or (now == count and _says(program, points, data, n))
    )
    grown = [s for s in program.latents if set(plates).intersection(s.plates)]
    if not grown or any(set(plates).intersection(s.plates) for s in program.enumerated):
        return ()
    more = program.rebind(data, {**program.sizes, **dict.fromkeys(plates, count + 1)})
    values = {**points, **_latents(more, points)}
    terms = more.log_joint(values)
    turned = {**data.values, field: (data.values[field] + 1) % (count + 1)}
    moved = {s.name: _along(s, plates, values[s.name], lambda v, axis: v.roll(1, axis)) for s in grown}
    again = more.rebind(replace(data, values=turned)).log_joint({**values, **moved})
    known = {s.name: _along(s, plates, values[s.name], lambda v, axis: v.narrow(axis, 0, count)) for s in grown}
    fitted = program.log_joint({**values, **known, **_fewer_rows(program, values)})
    return plates if _same(terms.rows, again.rows) and _same(terms.rows[:-1], fitted.rows) else ()


def _says(program: Program, points: Values, data: Data, plate: str) -> bool:
    """Whether a plate of fixed length, made longer by one, has an entry for the new label: what the last row reads."""
    count = program.sizes[plate]
    try:
        more = program.rebind(data, {**program.sizes, plate: count + 1})
        values = {**points, **_latents(more, points)}
        other = _latents(more, points)
        inside = [s for s in more.latents if plate in s.plates]
        moved = {s.name: _last(values[s.name], other[s.name], axes(s, [plate])[0]) for s in inside}
        before, after = (more.log_joint(v).rows for v in (values, {**values, **moved}))
    except FAILURES:
        return False
    return bool(inside) and _same(before[:-1], after[:-1]) and not _same(before[-1:], after[-1:])


def _last(value: Tensor, other: Tensor, axis: int) -> Tensor:
    """A value with the last entry along a dimension from another."""
    return torch.cat([value.narrow(axis, 0, value.shape[axis] - 1), other.narrow(axis, -1, 1)], axis)


def _with_new_label(data: Data, field: str) -> Data:
    """Return the data with their first row once more, at the end, with a label of its own."""
    count = len(data.levels[field])
    rows = data.take(torch.cat([torch.arange(len(data)), torch.zeros(1, dtype=torch.long)]))
    codes = rows.values[field].clone()
    codes[-1] = count
    label: tuple[object, ...] = (*data.levels[field], object())
    return replace(rows, values={**rows.values, field: codes}, levels={**data.levels, field: label}, weights=None)


def _latents(program: Program, points: Values) -> Values:
    """Draw all latents from their prior."""
    seen = program.simulate(points, observed=False)
    return {s.name: seen[s.name] for s in program.latents}


def _fewer_rows(program: Program, values: Values) -> Values:
    """Local latents without their last row."""
    cut = {}
    for site in program.locals:
        axis = site.batch_dim + site.plate_dim(program.row)
        cut[site.name] = values[site.name].narrow(axis, 0, len(program.data))
    return cut


def axes(site: Site, plates: Collection[str]) -> list[int]:
    """Dimensions of a site's value that are these plates."""
    return [site.batch_dim + dim for plate, dim in zip(site.plates, site.plate_dims, strict=True) if plate in plates]


def _along(site: Site, plates: Collection[str], value: Tensor, change: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Change a value along each dimension that is one of the plates."""
    for axis in axes(site, plates):
        value = change(value, axis)
    return value


def _same(first: Tensor, second: Tensor) -> bool:
    return bool(((first - second).abs() <= TOLERANCE * (1 + second.abs())).all())


def with_new_groups(site: Site, sizes: tuple[dict[str, int], dict[str, int]], known: Tensor, drawn: Tensor) -> Tensor:
    """Put the known entries of a site into draws of all of its entries, old and new.

    Parameters
    ----------
    site
        In plates that have become longer.
    sizes
        Plate -> its length, as fitted and now.
    known
        Draws as fitted, shape (draws, ...).
    drawn
        Draws from the prior, shape (draws, ...) with the longer plates.
    """
    fitted, now = sizes
    where = [slice(None)] * drawn.ndim
    for plate in site.plates:
        if now.get(plate) != fitted.get(plate):
            where[1 + axes(site, [plate])[0]] = slice(0, fitted[plate])
    full = drawn.clone()
    full[tuple(where)] = known
    return full
