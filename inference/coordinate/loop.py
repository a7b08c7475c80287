"""The loop of coordinate ascent: evaluate, judge, update. EM, CAVI and all their variants take their steps here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from inference.conjugate import EStep
from inference.coordinate.ascent import State
from inference.coordinate.convergence import StoppingRule
from inference.runtime.interruption import asked_of_any, listening
from inference.runtime.monitor import Monitor
from inference.runtime.processes import ALONE

UNBOUNDED = "infinite (a prior with a concentration or shape below 1 has a pole at its edge: average over it instead)"


class Way(ABC):
    """A way up from one start, or from several in one tensor program: an objective, and a step that raises it.

    Starts that are still climbing are counted by their `row`, 0 .. number - 1; rows close up when some have ended.

    Attributes
    ----------
    first
        How many steps it has taken before its first evaluation.
    processes, device
        Those that climb together, and where their numbers are.
    """

    first = 0
    processes = ALONE
    device = torch.device("cpu")

    @abstractmethod
    def objective(self) -> list[float]:
        """Evaluate the objective of each start that is still climbing; what the next step needs is kept."""

    @abstractmethod
    def step(self, going: list[int]) -> None:
        """Take one step from the rows `going`, ascending; the other ones have ended."""

    def left(self, row: int) -> float | None:
        """Nats that are left to the limit of a start, None for a stopping rule to tell from the objective alone."""
        return None

    def hastened(self, row: int) -> bool:
        """Whether steps of a start were extrapolated."""
        return False

    @abstractmethod
    def end(self, row: int, ascent: Ascent) -> None:
        """Note where a start has ended, and what its updates see there if that is kept."""

    def shown(self, row: int, value: float) -> float:
        """Return what the trace shows of an objective."""
        return value

    @property
    def obstacle(self) -> str:
        """Say what kept the last step from being taken; empty if nothing did."""
        return ""

    @abstractmethod
    def standing(self) -> dict[str, Any]:
        """Return all that the evaluations and steps to come depend on, between a step and the next evaluation."""

    def restore(self, standing: Mapping[str, Any]) -> None:
        """Go on from what `standing` returned."""
        vars(self).update(standing)

    def seen_at(self, state: State) -> EStep | None:
        """Return what updates see where a climb has ended; None if that is not kept."""
        return None


@dataclass
class Ascent:
    """How one start climbed.

    Attributes
    ----------
    monitor
        Its trace.
    history
        The objective after each step.
    steps
        How many it took.
    begun
        Where it started, if that was noted.
    state, expected
        Where it ended, and what updates see there if that was kept; None where it broke down.
    hastened
        Whether its steps were extrapolated.
    converged, reason
        Whether its stopping rule was met, and in words.
    failure
        Why it broke down; empty if it did not.
    """

    monitor: Monitor
    history: list[float] = field(default_factory=list)
    steps: int = 0
    begun: State | None = None
    state: State | None = None
    expected: EStep | None = None
    hastened: bool = False
    converged: bool = False
    reason: str = ""
    failure: str = ""

    @property
    def value(self) -> float:
        """The objective at the end, as the trace shows it."""
        return self.monitor.rows[-1][2]

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, or broken down."""
        return bool(self.reason or self.failure)


class Journal(ABC):
    """Notes where climbs are, so that they can be taken up again."""

    @abstractmethod
    def begin(self, way: Way, ascents: Sequence[Ascent]) -> int:
        """Go to the next climb, and take it up where it was left; return how many steps it has taken."""

    @abstractmethod
    def due(self, step: int, *, last: bool) -> bool:
        """Whether a climb is to be noted where it is, before a step."""

    @abstractmethod
    def note(self, step: int, ascents: Sequence[Ascent], way: Way | None) -> None:
        """Note where a climb is; without its way, that it has come to its end."""


def ascend(
    way: Way,
    rule: StoppingRule,
    monitors: Sequence[Monitor],
    *,
    together: Monitor | None = None,
    journal: Journal | None = None,
) -> list[Ascent]:
    """Climb from all starts of a way until the rule stops them.

    Parameters
    ----------
    way
        What climbs.
    rule
        When to stop.
    monitors
        One for each start.
    together
        A monitor that shows the highest of several starts.
    journal
        Notes where it is, and takes it up from there.
    """
    ascents = [Ascent(monitor) for monitor in monitors]
    begun = way.first if journal is None else journal.begin(way, ascents)
    climbing = [ascent for ascent in ascents if not ascent.ended]
    with listening():
        for step in range(begun, rule.max_steps + 1) if climbing else ():
            if journal is not None and journal.due(step, last=step == rule.max_steps):
                journal.note(step, ascents, way)
            values = way.objective()
            stop = asked_of_any(way.processes, way.device)
            going = []
            for row, (ascent, value) in enumerate(zip(climbing, values, strict=True)):
                if math.isnan(value) or value == math.inf:
                    what = "not a number" if math.isnan(value) else UNBOUNDED
                    ascent.failure = f"the objective is {what} after {step} {rule.unit}"
                    continue
                ascent.history.append(value)
                ascent.monitor.record(step, way.shown(row, value))
                known = way.left(row)
                left = rule.left(ascent.history) if known is None else known
                if step < rule.max_steps and not (stop or rule.stops(ascent.history, left)):
                    going.append(row)
                    continue
                ascent.steps, (ascent.converged, ascent.reason) = step, rule.judge(ascent.history, step, left)
                if ascent.converged and way.obstacle:  # it stands still because it could not move
                    ascent.converged, ascent.reason = False, way.obstacle
                ascent.hastened = way.hastened(row)
                way.end(row, ascent)
            if not going:
                if journal is not None and step < rule.max_steps:
                    journal.note(step, ascents, None)
                break
            if together is not None:
                together.record(step, max(values))
            climbing = [climbing[row] for row in going]
            way.step(going)
    return ascents
