"""Stepwise EM and stochastic coordinate ascent: expected statistics averaged over mini-batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inference.conjugate import EStep, closed_form
from inference.conjugate.exponential_family import Statistics
from inference.conjugate.plan import Plan
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.loop import Ascent, Way
from inference.coordinate.source import RowSource
from zoo.data.data import Data
from zoo.program.program import Program


class Averages(ABC):
    """What passes over mini-batches carry along, a little of it replaced by each batch.

    Parameters
    ----------
    forgetting, delay
        Of the step size, (step + delay)^-forgetting.
    """

    def __init__(self, *, forgetting: float, delay: float) -> None:
        self.forgetting, self.delay, self.steps = forgetting, delay, 0

    def rate(self) -> float:
        """Size of the next step."""
        self.steps += 1
        return float((self.steps - 1 + self.delay) ** -self.forgetting)

    @abstractmethod
    def over_all(self, state: State, size: int) -> State:
        """Take a step for each batch of this many rows."""

    def at_rows(self, whole: Coordinates, state: State) -> State:
        """Return the state with what belongs to single rows at its best, before the objective of all is evaluated."""
        return state

    @abstractmethod
    def update(self, whole: Coordinates, expected: EStep) -> State:
        """Update all blocks once."""

    def standing(self) -> dict[str, Any]:
        """What it carries along."""
        return {"steps": self.steps}


class RunningAverages(Averages):
    """Running averages of expected statistics of all rows: s <- (1 - g) s + g s(batch), g = (step + delay)^-forgetting.

    The updates that follow see the averages in place of sums over all rows. The M-step's is stepwise EM (Cappe and
    Moulines 2009, section 2.2). The conjugate posterior's is a natural-gradient step, as its natural parameters are
    those of the prior plus the statistics (Hoffman et al. 2013, section 2.5).

    Parameters
    ----------
    program
        The fit's program.
    forgetting, delay
        Of the step size.
    hard
        Give each row to its most probable state.
    posteriors
        Update latents to their posterior, instead of its mode.
    """

    def __init__(
        self, program: Program, *, forgetting: float, delay: float, hard: bool = False, posteriors: bool = False
    ) -> None:
        super().__init__(forgetting=forgetting, delay=delay)
        self.plan: Plan = closed_form(program)
        self.hard, self.posteriors = hard, posteriors
        self.sums: dict[str, Statistics] = {}
        self.rows = RowSource(program)
        self.size = sum(float(weights_of(part.data).sum()) for part in self.rows.parts())

    @staticmethod
    def why_not(program: Program, *, gradient: bool = False) -> str | None:
        """Say why statistics cannot be averaged over rows, None if they can."""
        plan = closed_form(program)
        if plan.rest or gradient:
            name = plan.rest[0] if plan.rest else plan.names[0]
            return f"batch_size needs closed-form updates, and {name!r} is climbed by gradient"
        if (why := together(program)) is not None:
            return why
        if program.locals:
            return f"batch_size needs a model without local latents; {program.locals[0].name!r} has one for every row"
        for site in program.sites.values():
            inside = program.row in site.plates and site.role in ("observed", "enumerated")
            if inside and site.name not in plan.collapsible:
                return f"batch_size needs {plan.lacks(site)}"
        return None

    def batches(self, size: int) -> Iterator[Program]:
        """Random batches of rows, or the chunks of a file, each weighted to stand for all rows."""
        program = self.rows.program
        if self.rows.stream is not None:
            for part in self.rows.parts():
                own = weights_of(part.data)
                yield part.rebind(replace(part.data, weights=own * (self.size / own.sum())))
            return
        weights, size = weights_of(program.data), min(size, len(program.data))
        for at in torch.randperm(len(program.data), device=program.device).split(size):
            if len(at) == size:  # a few rows left over would count as much as a whole batch; they have later passes
                yield program.rebind(program.data.batch(at, weights[at] * (self.size / weights[at].sum())))

    def step(self, part: Program, state: State) -> State:
        """Blend in the statistics of one batch, weighted to stand for all rows, and update from the averages."""
        ascent = Coordinates(part, hard=self.hard, plan=self.plan)
        _, expected = ascent.expect(state)
        rate = self.rate()
        for site in part.sites.values():
            if part.row in site.plates and site.name in self.plan.likelihoods and not site.latent:
                self.sums[site.name] = blend(self.sums.get(site.name), expected.statistics(site), rate)
        expected.sums = self.sums
        return self.update(ascent, expected)

    def over_all(self, state: State, size: int) -> State:
        """Take a step for each batch of this many rows."""
        for part in self.batches(size):
            state = self.step(part, state)
        return state

    def update(self, whole: Coordinates, expected: EStep) -> State:
        """Update all blocks once."""
        return whole.condition(expected) if self.posteriors else State(whole.maximize(expected), {})

    def standing(self) -> dict[str, Any]:
        """Count of the steps, and the averages."""
        return {**super().standing(), "sums": self.sums}


class Passes(Way):
    """Passes over mini-batches; the objective after each is that of all rows.

    It rises and falls with the batches, so the end is the best of all passes, and one update from all rows after it.

    Parameters
    ----------
    averages
        Of the statistics.
    whole
        E-steps of all rows.
    state
        Where to start.
    size
        Rows in a batch.
    """

    first = 1

    def __init__(self, averages: Averages, whole: Coordinates, state: State, size: int) -> None:
        self.averages, self.whole, self.state, self.size = averages, whole, state, size
        self.best: tuple[float, State, EStep] | None = None
        whole.prepare(state)
        self.step([0])

    def objective(self) -> list[float]:
        """Evaluate L of all rows, and note where it is highest."""
        self.state = self.averages.at_rows(self.whole, self.state)
        value, expected = self.whole.expect(self.state)
        if self.best is None or float(value) > self.best[0]:
            self.best = float(value), self.state, expected
        return [float(value)]

    def step(self, going: list[int]) -> None:
        """Pass over all batches once."""
        self.state = self.averages.over_all(self.state, self.size)

    def end(self, row: int, ascent: Ascent) -> None:
        """Update once from all rows where L was highest, which takes out the noise of the last batches."""
        assert self.best is not None
        best, state, expected = self.best
        last = self.averages.update(self.whole, expected)
        value, seen = self.whole.expect(last)
        if float(value) >= best:  # it does not rise where L stood at its limit, for rounding
            best, state, expected = float(value), last, seen
        ascent.state, ascent.expected = state, expected
        ascent.monitor.record(ascent.steps + 1, best)

    def standing(self) -> dict[str, Any]:
        """Where it is, what it carries along, and where L was highest."""
        best = None if self.best is None else self.best[:2]
        return {"state": self.state, "averages": self.averages.standing(), "best": best}

    def restore(self, standing: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.state, best = standing["state"], standing["best"]
        vars(self.averages).update(standing["averages"])
        self.best = None if best is None else (*best, self.seen_at(best[1]))

    def seen_at(self, state: State) -> EStep:
        """Return the E-step of all rows there."""
        return self.whole.expect(state)[1]


def together(program: Program) -> str | None:
    """Say what keeps rows from being taken in batches, whatever the averages; None if nothing does."""
    if program.tied:
        return f"batch_size takes rows apart, and {program.tied}; leave it out"
    if program.shared:
        return f"batch_size needs rows that are independent; they share the discrete latent {program.shared[0].name!r}"
    return None


def weights_of(data: Data) -> Tensor:
    """Weight of each row."""
    if data.weights is not None:
        return data.weights
    first = next(iter(data.values.values()))
    return torch.ones(len(data), dtype=data.dtype, device=first.device)


def blend(before: Statistics | None, now: Statistics, rate: float) -> Statistics:
    """(1 - rate) before + rate now."""
    if before is None:
        return now
    count = (1 - rate) * before[0] + rate * now[0]
    return count, tuple((1 - rate) * a + rate * b for a, b in zip(before[1], now[1], strict=True))
