"""Locals of rows that were not fitted: proposals from their conjugate posteriors given some draws of the globals."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from inference.approximations.conjugate import Conjugate, row_density
from inference.conjugate import closed_form
from inference.conjugate.posteriors import Posterior
from zoo.program.program import Program
from zoo.replay.evaluate import Values

PLACES = 8  # draws of the globals, at most, that locals get a posterior for


def folded(program: Program, points: Values, globals_: Values, count: int) -> list[list[Posterior]]:
    """Return q(locals) given each of a few draws of the globals; none where that has no closed form.

    Parameters
    ----------
    program
        On the rows asked about.
    points, globals_
        Values of parameters; draws of the globals, stacked.
    count
        How many draws of the globals there are.
    """
    known = program.plans.get("folded")
    if isinstance(known, Folded) and known.of(points, globals_):
        return known.parts
    local = {s.name for s in program.locals}
    with torch.no_grad():
        blocks = [b for b in closed_form(program).blocks if local.intersection(b.unknowns)]
    parts = []
    if {n for b in blocks for n in b.unknowns} == local and not program.shared and not program.coupled:
        for i in range(0, count, -(-count // PLACES)) if globals_ else range(1):
            found = Conjugate([]).of_rows(program, {**points, **{n: v[i] for n, v in globals_.items()}})
            parts += [found] if found is not None else []
    program.plans["folded"] = Folded([*points.values(), *globals_.values()], parts)
    return parts


class Folded:
    """What was folded in at some values, which are compared by identity."""

    def __init__(self, at: list[Tensor], parts: list[list[Posterior]]) -> None:
        self.at, self.parts = at, parts

    def of(self, points: Values, globals_: Values) -> bool:
        """Whether it was at these."""
        asked = [*points.values(), *globals_.values()]
        return len(asked) == len(self.at) and all(a is b for a, b in zip(asked, self.at, strict=True))


def mixed_in(program: Program, parts: list[list[Posterior]], prior: Values, count: int) -> tuple[Values, Tensor]:
    """Put draws of the parts in the places of half of the draws of the prior, at random.

    Returns
    -------
    tuple
        Draws of the locals, and log of the mean density of the parts at all of them, (count, rows).
    """
    values = {n: v.clone() for n, v in prior.items()}
    order = torch.randperm(count, device=program.device)  # each draw of the globals may meet any of the mixture
    for k, part in enumerate(parts):
        at = order[2 * k :: 2 * len(parts)]
        for q in part if len(at) else ():
            for name, drawn in q.sample(len(at)).items():
                values[name][at] = drawn
    densities = torch.stack([row_density(program, part, values, count) for part in parts])
    return values, densities.logsumexp(0) - math.log(len(parts))
