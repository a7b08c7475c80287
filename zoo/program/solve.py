"""Constraint satisfaction over a few yes-or-no variables, by propagation and backtracking."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Relation:
    """What some variables may be together.

    Attributes
    ----------
    variables
        The variables.
    rows
        Each a set of variables that may be true while the others are false.
    """

    variables: tuple[Any, ...]
    rows: Sequence[set[Any]]


def solve(relations: Sequence[Relation], true: Hashable) -> set[Any] | None:
    """Return the variables that are true in a solution in which `true` is, as few as can be; None without solution."""
    return _extend(relations, {true: True})


def _extend(relations: Sequence[Relation], known: dict[Any, bool]) -> set[Any] | None:
    propagated = _propagate(relations, known)
    if propagated is None:
        return None
    unknown = next((v for r in relations for v in r.variables if v not in propagated), None)
    if unknown is None:
        return {v for v, value in propagated.items() if value}
    for value in (False, True):
        solution = _extend(relations, {**propagated, unknown: value})
        if solution is not None:
            return solution
    return None


def _propagate(relations: Sequence[Relation], known: dict[Any, bool]) -> dict[Any, bool] | None:
    """Add what follows from what is known; None on a contradiction."""
    known, changed = dict(known), True
    while changed:
        changed = False
        for relation in relations:
            variables = relation.variables
            left = [r for r in relation.rows if all((v in r) == known[v] for v in variables if v in known)]
            if not left:
                return None
            for variable in variables:
                if variable not in known and len({variable in r for r in left}) == 1:
                    known[variable] = variable in left[0]
                    changed = True
    return known
