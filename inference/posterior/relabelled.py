"""A fit under other labels of its exchangeable states: its own best, or those of a reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.corrected import Corrected
from inference.approximations.permuted import Permuted
from inference.approximations.point import PointMass
from inference.approximations.sampled import Sampled
from inference.diagnostics.labelling import reflection_costs
from inference.diagnostics.relabelling import Relabelling, assignments, relabel, relabelled, rows_for
from inference.posterior.answer import Answer
from inference.runtime.threads import threads_for
from zoo.errors import FitError, short
from zoo.program.exchangeable import exchangeable
from zoo.program.program import Program
from zoo.replay.evaluate import Values


class Renamed(NamedTuple):
    """What has changed of an outcome with the labels of its states.

    Attributes
    ----------
    approximation, points, shifts
        As in `Outcome`.
    words
        Which states have other numbers in all draws alike; empty if none.
    """

    approximation: Approximation
    points: Values
    shifts: Mapping[str, Values]
    words: str


def with_labels(answer: Answer, shifts: Mapping[str, Values], reference: Answer | Mapping[str, Any] | None) -> Renamed:
    """Return q, the parameters and the shifts of an answer under other labels.

    Raises
    ------
    FitError
        If no states are exchangeable, or the reference is not one for this model.
    """
    program, q = answer.program, answer.approximation
    groups = exchangeable(program)
    if not groups:
        raise FitError(why_not(program))
    if not (reference is None or isinstance(reference, Answer | Mapping)):
        raise FitError(
            f"relabelled(reference) takes a fit, or a point as a dict of values by name, not {type(reference).__name__}"
        )
    with torch.no_grad(), threads_for(program):
        count = max(_count(answer), _count(reference) if isinstance(reference, Answer) else 1)
        rows = rows_for(program, count)
        labels = _matched(answer, _labels(answer, rows), reference, rows)
        most = Permuted(q, groups, tuple(each.most for each in labels))
        moved = {n: _shifted(most, n, by_site) for n, by_site in shifts.items()}
        points, words = most.forth(answer.points), _renamed(labels)
        if isinstance(q, PointMass):
            return Renamed(PointMass(most.forth(q.values)), points, moved, words)
        if not (isinstance(q, Sampled | Corrected) and _one_by_one(answer)):
            return Renamed(most, points, moved, words)
        values = relabelled({**q.values, **q.states}, labels)
        draws, states = {n: values[n] for n in q.values}, {n: values[n] for n in q.states}
        if isinstance(q, Corrected):
            before = replace(most, q=q.uncorrected)
            return Renamed(replace(q, values=draws, states=states, uncorrected=before), points, moved, words)
        return Renamed(replace(q, values=draws, states=states), points, moved, words)


def _one_by_one(answer: Answer) -> bool:
    """Whether draws get labels of their own: where q consists of them, and no parameter is indexed by the states."""
    indexed = {n for g in exchangeable(answer.program) for n in (*g.axes, *g.reflected)}
    return isinstance(answer.approximation, Sampled | Corrected) and not indexed.intersection(answer.points)


def _shifted(most: Permuted, statistic: str, by_site: Values) -> Values:
    """Numbers for each entry of some sites under other labels; a mean that is reflected moves the other way."""
    zero = 0.0 if statistic == "mean_shift" else None
    groups = tuple(
        replace(g, reflected=dict.fromkeys(g.reflected, zero) if zero is not None else {}) for g in most.groups
    )
    return replace(most, groups=groups).forth(by_site)


def why_not(program: Program) -> str:
    """Say why there is nothing to relabel."""
    name = type(program.model).__name__
    if not program.enumerated:
        return f"{name} has no enumerated site, so there are no labels of states that could be permuted"
    sites = ", ".join(repr(s.name) for s in program.enumerated)
    return (
        f"{name}: the states of {sites} are not exchangeable, so their labels mean something and stay: permuting "
        "states with all that they index changes the log joint"
    )


def _count(answer: Answer) -> int:
    return 1 if answer.is_point or not answer.program.latents else answer.draw_count


def _labels(answer: Answer, rows: Tensor | None) -> list[Relabelling]:
    """Labels of draws one by one where that can be; else the same for all, so that q can be drawn from as it was."""
    program = answer.program
    if not program.latents:
        return relabel(program, answer.points, {}, rows=rows)
    if answer.is_point:
        return relabel(program, {**answer.points, **_point(answer)}, {}, rows=rows)
    draws = answer.draws
    pivot = torch.from_numpy(answer.log_p)
    return relabel(program, answer.points, draws.values, rows=rows, pivot=pivot, together=not _one_by_one(answer))


def _point(answer: Answer) -> Values:
    return {n: v[0] for n, v in answer.approximation.draw(answer.program, 1)[0].items()}


def _matched(
    answer: Answer, labels: list[Relabelling], reference: Answer | Mapping[str, Any] | None, rows: Tensor | None
) -> list[Relabelling]:
    """Put the labels in order, or in that of a reference."""
    if reference is None:
        return [each.sorted() for each in labels]
    program = answer.program
    if isinstance(reference, Answer):
        _check_reference(program, reference.program)
        others = _labels(reference, rows)
    else:
        values = _values(program, reference)
        needed = {s.name for s in (*program.latents, *program.parameters)}
        if needed - values.keys():
            return [_nearest(answer, each, values) for each in labels]
        others = relabel(program, {**answer.points, **values}, {}, rows=rows)
    return [each.aligned(other.allocations) for each, other in zip(labels, others, strict=True)]


def _check_reference(program: Program, other: Program) -> None:
    """Raise if another program's states are not those of this one's rows."""
    mine, theirs = ([(g.count, g.states) for g in exchangeable(p)] for p in (program, other))
    if mine != theirs:
        raise FitError(
            f"the reference is a fit of {type(other.model).__name__} with exchangeable states {theirs}, and this one "
            f"of {type(program.model).__name__} with {mine}; give a fit of the same model"
        )
    if len(program.data) != len(other.data):
        raise FitError(
            f"the reference was fitted to {len(other.data)} rows and this fit to {len(program.data)}; labels are "
            "matched by the rows that states hold, so give a fit of the same rows"
        )


def _values(program: Program, reference: Mapping[str, Any]) -> Values:
    """Return a point's values as tensors, checked."""
    sites = {s.name: s for s in (*program.latents, *program.parameters)}
    values = {}
    for name, given in reference.items():
        if name not in sites:
            raise FitError(
                f"the reference point has {name!r}, which is no latent or parameter; there are {', '.join(sites)}"
            )
        try:
            value = given if isinstance(given, Tensor) else torch.tensor(np.array(given, dtype=float))
        except (TypeError, ValueError) as error:
            raise FitError(f"the reference point's {name!r} is not made of numbers: {short(given)}") from error
        value = value.to(program.device, program.dtype)
        shape = program.site_shape(sites[name])
        if tuple(value.shape) != tuple(shape):
            raise FitError(
                f"the reference point's {name!r} has shape {tuple(value.shape)}, where {tuple(shape)} is expected"
            )
        values[name] = value
    return values


def _nearest(answer: Answer, labels: Relabelling, values: Values) -> Relabelling:
    """Permute all draws alike so that their means are nearest to some values, in standard deviations of the draws."""
    group = labels.group
    sites = {s.name for s in (*answer.program.latents, *answer.program.parameters)}
    able = [n for n, axes in group.axes.items() if len(axes) == 1 and n in sites]
    able += [n for n in group.reflected if n in sites]
    known = {n: v for n, v in values.items() if n in able}
    if not known:
        raise FitError(
            f"the reference point has no site that the states of {', '.join(group.sites)} index; give one of "
            f"{', '.join(able)}"
        )
    draws = (
        {n: v[None] for n, v in {**answer.points, **_point(answer)}.items()}
        if answer.is_point
        else {**{n: v[None] for n, v in answer.points.items()}, **answer.draws.values}
    )
    cost = labels.allocations.new_zeros(group.count, group.count)  # (new label, old label)
    moved = group.permute({n: draws[n] for n in known}, labels.permutations)
    for name, value in known.items():
        if name in group.reflected:
            spread = moved[name].std(0, correction=0)
            spread = torch.where(spread > 0, spread, torch.ones_like(spread))  # of a point
            cost = cost + reflection_costs(moved[name], group.reflected[name], value, spread).mean(0)
            continue
        axis = group.axes[name][0]
        by_state = moved[name].movedim(axis, 1).reshape(len(moved[name]), group.count, -1)  # (draws, states, entries)
        wanted = value.movedim(axis, 0).reshape(group.count, -1)
        spread = by_state.flatten(0, 1).std(0, correction=0).clamp_min(torch.finfo(value.dtype).tiny)
        cost = cost + ((by_state.mean(0)[None] - wanted[:, None]) / spread).square().sum(-1)
    return labels.after(assignments(cost[None], group)[0])


def _renamed(labels: list[Relabelling]) -> str:
    """Say which states have other names now."""
    parts = []
    for each in labels:
        order = each.most.tolist()
        moved = ", ".join(
            f"{old} is now {new}" for new, old in sorted(enumerate(order), key=lambda p: p[1]) if old != new
        )
        if moved:
            parts.append(f"state {moved} of {', '.join(each.group.sites)}")
    return "; ".join(parts)
