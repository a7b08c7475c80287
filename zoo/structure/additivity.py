"""Runs that tell affine functions of real sites from others."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributions.transforms import identity_transform

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.replay.bijections import bijection
from zoo.replay.evaluate import Values
from zoo.structure.discover import Discover, made_up
from zoo.structure.runner import FAR, Runner, Source

Quadruple = tuple[Any, Any, Any, Any]


@dataclass(frozen=True)
class AdditivityRuns:
    """Runs that tell affine functions from others: f is affine if and only if f(a + b) - f(a) - f(b) + f(0) = 0.

    Attributes
    ----------
    moved
        The real sites that are moved.
    runs
        With all of them at 0, at a, at b and at a + b; for several b: near, far out, and far out on the other side.
    first_entry
        Site -> a run in which only its first entry is changed, where there are states that may pick entries.
    local
        Local latents of the model. Where some are among `moved`, `apart` has such runs with the local ones moved alone,
        the others staying at a, and with the others moved alone.
    apart
        Those runs.
    """

    moved: tuple[str, ...]
    runs: tuple[Quadruple, ...]
    first_entry: dict[str, Any]
    local: frozenset[str]
    apart: tuple[tuple[Quadruple, ...], ...]


def additivity_runs(
    runner: Runner,
    part: Data,
    messenger: Discover,
    sources: dict[tuple[str, str], set[Source]],
    local: frozenset[str],
) -> AdditivityRuns | None:
    """Move the real sites that a location depends on, if it depends on any with others or data, or on a local one."""
    values, supports = messenger.values, messenger.supports
    locations = [{s.name for s in on if s.kind == "site"} for (_, key), on in sources.items() if _mixes(key, on, local)]
    parents = set().union(*locations)
    moved = tuple(n for n in values if n in parents and bijection(supports[n], n) is identity_transform)
    if not moved:
        return None
    zero = {n: torch.zeros_like(values[n]) for n in moved}
    a = {n: values[n] for n in moved}
    near = {n: made_up(supports[n], tuple(values[n].shape), n) for n in moved}
    moved_locals = local.intersection(moved)
    groups = (frozenset(moved), *((moved_locals, frozenset(moved) - local) if moved_locals else ()))
    found: list[list[Quadruple]] = [[] for _ in groups]
    first_entry = {}

    def at(group: frozenset[str], values_of: Values) -> Any:
        """A run with a group of sites moved, the others at a."""
        return runner(part, {**values, **{n: values_of[n] for n in group}})[0]

    try:
        for group, quadruples in zip(groups, found, strict=True):
            ends = at(group, zero), at(group, a)
            quadruples.append((*ends, at(group, near), at(group, {n: a[n] + near[n] for n in moved})))
            for times in (sign * far for far, _ in FAR for sign in (1.0, -1.0)):
                b = {n: times * (v + v.sign()) for n, v in near.items()}
                with suppress(ModelError):
                    quadruples.append((*ends, at(group, b), at(group, {n: a[n] + b[n] for n in moved})))
        for name in moved:
            if values[name].ndim and messenger.enumerated:
                other = values[name].clone()
                other[0] = near[name][0]
                first_entry[name] = runner(part, {**values, name: other})[0]
    except ModelError:  # no values there: then nothing is claimed
        return None
    together, *apart = (tuple(quadruples) for quadruples in found)
    return AdditivityRuns(moved, together, first_entry, local, tuple(apart))


def _mixes(key: str, sources: set[Source], local: frozenset[str]) -> bool:
    """Whether an argument is a location that depends on several things, or on a local latent."""
    return key == "loc" and (len(sources) > 1 or any(s.kind == "site" and s.name in local for s in sources))
