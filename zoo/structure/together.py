"""Many sources moved in one run, where no two of them can move the same thing.

A loop of sites has as many sources as steps, and a run of it takes as long as it has steps, so that moving one source
at a time takes the square of their number. First blocks of sources are moved: what stays where it is depends on none of
a block. Sources that have nothing left in common are then moved in the same run, in which all that moves is the one's
or the other's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence, Set
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)

FEW = 16  # sources that are moved one at a time


def moved_by_each(names: Sequence[str], moves: Callable[[Sequence[str]], Set[Key]]) -> dict[str, set[Key]] | None:
    """Find what each source moves; None where that cannot be told from sources moved together.

    Parameters
    ----------
    names
        The sources.
    moves
        What moves with some sources, given other values all at once.
    """
    size = math.isqrt(len(names))
    near: dict[str, Set[Key]] = {}
    for start in range(0, len(names), size):
        block = names[start : start + size]
        near.update(dict.fromkeys(block, moves(block)))
    found: dict[str, set[Key]] = {name: set() for name in names}
    for group in apart(near):
        for key in moves(group):
            owners = [name for name in group if key in near[name]]
            if len(owners) != 1:  # blocks have not shown it
                return None
            found[owners[0]].add(key)
    return found


def apart(touched: Mapping[str, Collection[Key]]) -> list[list[str]]:
    """Put sources into as few groups as is easily found, in which no two touch the same."""
    groups: list[tuple[list[str], set[Key]]] = []
    for name in sorted(touched, key=lambda n: -len(touched[n])):  # those that touch most first
        own = set(touched[name])
        group = next((g for g in groups if g[1].isdisjoint(own)), None)
        if group is None:
            groups.append(([name], own))
        else:
            group[0].append(name)
            group[1].update(own)
    return [names for names, _ in groups]
