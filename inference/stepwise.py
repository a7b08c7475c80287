"""Stepwise EM: expected statistics averaged over mini-batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from inference.coordinate import Coordinates, State
from inference.families import closed_form
from inference.families.expected import Statistics
from inference.families.plan import Plan
from inference.source import Rows
from zoo.declare.evaluate import Values
from zoo.declare.program import Program


class Memory:
    """Running averages of expected statistics per row: s <- (1 - g) s + g s(batch), g = (step + delay)^-forgetting.

    The M-step then maximizes from the averages, scaled to all rows (Cappe and Moulines 2009, section 2.2).

    Parameters
    ----------
    program
        The fit's program.
    hard
        Give each row to its most probable state.
    forgetting, delay
        Of the step size.
    """

    def __init__(self, program: Program, *, hard: bool, forgetting: float, delay: float) -> None:
        self.plan: Plan = closed_form(program)
        self.hard, self.forgetting, self.delay = hard, forgetting, delay
        self.steps = 0
        self.sums: dict[str, Statistics] = {}
        weights = program.data.weights
        self.size = float(len(program.data)) if weights is None else float(weights.sum())

    @staticmethod
    def why_not(program: Program, *, gradient: bool) -> str | None:
        """Say why statistics cannot be averaged over rows, None if they can."""
        plan = closed_form(program)
        if plan.rest or gradient:
            name = plan.rest[0] if plan.rest else plan.names[0]
            return f"batch_size needs closed-form updates, and {name!r} is climbed by gradient"
        if program.chained:
            return "batch_size breaks a chain of rows; leave it out"
        for site in program.sites.values():
            inside = program.row in site.plates and site.role in ("observed", "enumerated")
            if inside and (site.name not in plan.collapsible or program.shared):
                return f"batch_size needs arguments that do not vary by row, and those of {site.name!r} do"
        return None

    def batches(self, program: Program, size: int) -> Iterator[Program]:
        """Split the rows into random batches, each weighted to stand for all."""
        rows, weights = len(program.data), program.data.weights
        if weights is None:
            weights = torch.ones(rows, dtype=program.dtype, device=program.device)
        if program.data.stream is not None:
            for part in Rows(program).parts():
                yield self._scaled(part)
            return
        for at in torch.randperm(rows, device=program.device).split(min(size, rows)):
            share = weights[at] * (self.size / weights[at].sum())
            yield program.rebind(program.data.batch(at, share))

    def _scaled(self, part: Program) -> Program:
        """Weigh a chunk of a file to stand for all rows."""
        own = part.data.weights
        if own is None:
            own = torch.ones(len(part.data), dtype=part.dtype, device=part.device)
        return part.rebind(replace(part.data, weights=own * (self.size / own.sum())))

    def step(self, part: Program, values: Values) -> Values:
        """Blend in the statistics of one batch, weighted to stand for all rows, and maximize."""
        ascent = Coordinates(part, hard=self.hard, plan=self.plan)
        _, expected = ascent.expect(State(values, {}))
        rate = (self.steps + self.delay) ** -self.forgetting if self.sums else 1.0
        self.steps += 1
        for site in part.sites.values():
            if part.row in site.plates and site.name in self.plan.likelihoods and not site.latent:
                self.sums[site.name] = blend(self.sums.get(site.name), expected.statistics(site), rate)
        expected.sums = self.sums
        return ascent.maximize(expected)


def blend(before: Statistics | None, now: Statistics, rate: float) -> Statistics:
    """(1 - rate) before + rate now."""
    if before is None:
        return now
    count = (1 - rate) * before[0] + rate * now[0]
    return count, tuple((1 - rate) * a + rate * b for a, b in zip(before[1], now[1], strict=True))
