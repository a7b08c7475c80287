"""Fields whose labels name entries of the same latent: home and away teams, winners and losers, either end of an edge.

Labels are coded field by field. Where a team has never played at home, codes of the two fields differ, and one entry
would be about two teams; so labels of such fields are coded together.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.errors import ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

FAILURES = (ZooError, RuntimeError, IndexError, ValueError)  # of a model on a row with other labels


def with_shared_labels(program: Program, data: Data) -> Data:
    """Return the data with the labels of such fields coded together; as they are where there is no such field."""
    fields = [n for n in data.levels if data.dims[n] == (program.row,) and len(data.levels[n]) > 1]
    pairs = [(a, b) for a, b in combinations(fields, 2) if _clash(data.levels[a], data.levels[b])]
    if not pairs or program.coupled or data.stream is not None:
        return data
    for a, b in pairs:
        name = _shared(program, a, b) if _clash(data.levels[a], data.levels[b]) else ""
        if name:
            labels = _together(data.levels[a], data.levels[b])
            note = f"fields {a!r} and {b!r} name entries of {name!r}, so their labels are coded together: {len(labels)}"
            data = replace(_recoded(_recoded(data, a, labels), b, labels), notes=(*data.notes, note))
    return data


def _clash(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    """Whether a code means one label in one field and another in the other."""
    return any(a != b for a, b in zip(first, second, strict=False))


def _together(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """All labels, in the order of the field that has all of them, else sorted."""
    for one, other in ((first, second), (second, first)):
        if set(other) <= set(one):
            return one
    labels = {*first, *second}
    try:
        return tuple(sorted(labels))
    except TypeError:  # numbers and text
        return tuple(sorted(labels, key=str))


def _recoded(data: Data, field: str, labels: tuple[Any, ...]) -> Data:
    code = {label: i for i, label in enumerate(labels)}
    value = data.values[field]
    to = torch.tensor([code[label] for label in data.levels[field]], dtype=value.dtype, device=value.device)
    return replace(data, values={**data.values, field: to[value]}, levels={**data.levels, field: labels})


def _shared(program: Program, a: str, b: str) -> str:
    """The latent or parameter of which the same code of two fields names the same entries; empty if there is none."""
    read = [
        {n for p in s.args.values() if f in p.data for n in p.sites} for f in (a, b) for s in program.sites.values()
    ]
    half = len(read) // 2
    both = set[str]().union(*read[:half]) & set[str]().union(*read[half:])
    values = dict(program.structure.example)
    names = [n for n in values if n in both and values[n].is_floating_point() and values[n].ndim]
    if not names:
        return ""
    rows = program.structure.example_rows
    data = program.data if rows is None else program.data.take(rows)
    last = min(len(program.data.levels[f]) for f in (a, b)) - 1
    try:
        of_a, of_b = (
            _used(program, data, values, names, {f: 0, o: last}, {f: 1, o: last}) for f, o in ((a, b), (b, a))
        )
    except FAILURES:
        return ""
    return next((n for n in names if bool(of_a[n].any()) and torch.equal(of_a[n], of_b[n])), "")


def _used(
    program: Program, data: Data, values: Values, names: list[str], here: dict[str, int], there: dict[str, int]
) -> dict[str, Tensor]:
    """Which entries move the density of the first row under some codes, and not under others."""
    with torch.random.fork_rng(devices=[]):
        first, second = (_moving(program, _coded(data, codes), values, names) for codes in (here, there))
    return {n: first[n] & ~second[n] for n in names}


def _coded(data: Data, codes: dict[str, int]) -> Data:
    changed = {n: data.values[n].clone() for n in codes}
    for name, code in codes.items():
        changed[name][0] = code
    return replace(data, values={**data.values, **changed})


def _moving(program: Program, data: Data, values: Values, names: list[str]) -> dict[str, Tensor]:
    leaves = {n: values[n].detach().clone().requires_grad_() for n in names}
    with torch.enable_grad():
        density = program.rebind(data).log_joint({**values, **leaves}).rows[0]
        found = torch.autograd.grad(density, list(leaves.values()), materialize_grads=True)
    return {n: g != 0 for n, g in zip(names, found, strict=True)}
