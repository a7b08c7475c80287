"""What was seen on a few rows, checked on all of them: masks, scales and functions that differ in a few rows only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Replay, Values, is_deterministic, is_plate
from zoo.replay.sites import Site, base_distribution, views

Predict = Callable[[Site, Values, Replay], Tensor | None]
STRETCH = 1.25  # a multiple of an unknown at which an argument has to be the same multiple


class _Weighing(Messenger):
    """Note the sites whose log density is scaled or masked."""

    def __init__(self) -> None:
        super().__init__()
        self.weighed: set[str] = set()

    def _pyro_post_sample(self, msg: Any) -> None:
        if is_plate(msg) or is_deterministic(msg):
            return
        fn, masks = msg["fn"], [msg["mask"]]
        while hasattr(fn, "base_dist"):
            masks.append(getattr(fn, "_mask", None))
            fn = fn.base_dist
        partial = any(m is not None and not bool(torch.as_tensor(m).all()) for m in masks)
        if partial or not bool((torch.as_tensor(msg["scale"]) == 1).all()):
            self.weighed.add(msg["name"])


def on_all_rows(program: Program, example: Values) -> Values:
    """Lay made-up values of a few rows out over all: the locals of those rows, again and again."""
    values = dict(example)
    for site in program.locals:
        axis = site.batch_dim + site.plate_dims[site.plates.index(program.row)]
        rows = torch.arange(len(program.data), device=program.device) % values[site.name].shape[axis]
        values[site.name] = values[site.name].index_select(axis, rows)
    return values


def made_values(program: Program, example: Values, replay: Replay) -> Values:
    """Observed values that are no field of the data itself, but made from it, on all rows.

    Parameters
    ----------
    program
        All rows.
    example, replay
        Made-up values, and the model run at them, of a few rows or of all.
    """
    made, rows = [], program.structure.example_rows
    for site in program.observed:
        field = None if site.field is None else program.data.values[site.field]
        if field is not None and rows is not None and program.row in site.plates:
            axis = field.ndim - site.event_dim + site.plate_dims[site.plates.index(program.row)]
            field = field.index_select(axis, rows.to(field.device)) if axis >= 0 else field
        if field is None or not _equal(field, replay.seen[site.name]):
            made.append(site.name)
    if not made:
        return {}
    seen = program.replay(on_all_rows(program, example), densities=False).seen
    return {name: seen[name] for name in made}


def _equal(value: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same, missing values included."""
    return value.shape == other.shape and bool(((value == other) | (value.isnan() & other.isnan())).all())


def in_values(program: Program, example: Values, made: Values) -> set[str]:
    """Unknowns that observed values depend on: what is seen is then no statistic of the data."""
    values, found = on_all_rows(program, example), set()
    for site in (*program.latents, *program.parameters) if made else ():
        to = bijection(site.support, site.name)
        other = to(to.inv(values[site.name]) + 0.5)
        after = program.replay({**values, site.name: other}, densities=False).seen
        if not all(_equal(before, after[name]) for name, before in made.items()):
            found.add(site.name)
    return found


def mistaken(program: Program, example: Values, predicted: Predict) -> set[str]:
    """Sites that are not on all rows what they were seen to be on a few.

    Parameters
    ----------
    program
        All rows.
    example
        Made-up values, of a few rows.
    predicted
        Location of a site at some values, as the columns of its linear predictor give it; None if it has none.
    """
    values, weighing = on_all_rows(program, example), _Weighing()
    with weighing:
        replay = program.replay(values, densities=False)
    found = set(weighing.weighed)
    for site in program.sites.values():
        if site.name not in replay.distributions:
            continue
        loc = predicted(site, values, replay)
        if loc is not None and not _close(base_distribution(replay.distributions[site.name]).loc, loc):
            found.add(site.name)
        for name, parent in site.args.items():
            if parent.entrywise and not _multiple(program, values, replay, site, name):
                found.add(site.name)
    return found


def _multiple(program: Program, values: Values, replay: Replay, site: Site, name: str) -> bool:
    """Whether an argument is a multiple of the unknown that feeds it, in every entry."""
    unknown = site.args[name].sites[0]
    stretched = program.replay({**values, unknown: STRETCH * values[unknown]}, densities=False)
    before, after = (views(r.distributions[site.name])[name] for r in (replay, stretched))
    return _close(after, STRETCH * before)


def _close(value: Tensor, other: Tensor) -> bool:
    """Whether two arguments are the same up to rounding."""
    rtol = 1e-7 if value.dtype == torch.float64 else 1e-3
    value, other = torch.broadcast_tensors(value, other)
    return bool(((value - other).abs() <= rtol * other.abs().max()).all())
