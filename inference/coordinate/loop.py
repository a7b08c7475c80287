"""The loop of coordinate ascent: evaluate, judge, update. EM, CAVI and all their variants take their steps here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from inference.conjugate import EStep
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.convergence import StoppingRule
from inference.runtime.monitor import Monitor


class Way(ABC):
    """A way up from one start, or from several in one tensor program: an objective, and a step that raises it.

    Starts that are still climbing are counted by their `row`, 0 .. number - 1; rows close up when some have ended.

    Attributes
    ----------
    first
        How many steps it has taken before its first evaluation.
    """

    first = 0

    @abstractmethod
    def objective(self) -> list[float]:
        """Evaluate the objective of each start that is still climbing; what the next step needs is kept."""

    @abstractmethod
    def step(self, going: list[int]) -> None:
        """Take one step from the rows `going`, ascending; the other ones have ended."""

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
    state, expected
        Where it ended, and what updates see there if that was kept; None where it broke down.
    converged, reason
        Whether its stopping rule was met, and in words.
    failure
        Why it broke down; empty if it did not.
    """

    monitor: Monitor
    history: list[float] = field(default_factory=list)
    steps: int = 0
    state: State | None = None
    expected: EStep | None = None
    converged: bool = False
    reason: str = ""
    failure: str = ""

    @property
    def value(self) -> float:
        """The objective at the end, as the trace shows it."""
        return self.monitor.rows[-1][2]


def ascend(
    way: Way, rule: StoppingRule, monitors: Sequence[Monitor], *, together: Monitor | None = None
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
    """
    ascents = [Ascent(monitor) for monitor in monitors]
    climbing = list(ascents)
    for step in range(way.first, rule.max_steps + 1):
        values = way.objective()
        going = []
        for row, (ascent, value) in enumerate(zip(climbing, values, strict=True)):
            if math.isnan(value):
                ascent.failure = f"the objective is not a number after {step} {rule.unit}"
                continue
            ascent.history.append(value)
            ascent.monitor.record(step, way.shown(row, value))
            if step < rule.max_steps and not rule.stops(ascent.history):
                going.append(row)
                continue
            ascent.steps, (ascent.converged, ascent.reason) = step, rule.judge(ascent.history, step)
            if ascent.converged and way.obstacle:  # it stands still because it could not move
                ascent.converged, ascent.reason = False, way.obstacle
            way.end(row, ascent)
        if not going:
            break
        if together is not None:
            together.record(step, max(values))
        climbing = [climbing[row] for row in going]
        way.step(going)
    return ascents


class OneStart(Way):
    """The way up of one program from one start.

    Parameters
    ----------
    ascent
        Its E-steps.
    state
        Where it is.
    update
        What an E-step leads to: an M-step, or conjugate updates.
    obstacle
        Says what kept the last update from moving; empty if nothing did.
    first
        How many steps have been taken before.
    """

    def __init__(
        self,
        ascent: Coordinates,
        state: State,
        update: Callable[[EStep], State],
        obstacle: Callable[[], str] = str,
        first: int = 0,
    ) -> None:
        self.ascent, self.state, self.update, self._obstacle, self.first = ascent, state, update, obstacle, first
        self.expected: EStep | None = None

    def objective(self) -> list[float]:
        """Evaluate L by an E-step."""
        value, self.expected = self.ascent.expect(self.state)
        return [float(value)]

    def step(self, going: list[int]) -> None:
        """Update from the last E-step."""
        assert self.expected is not None
        self.state = self.update(self.expected)

    def end(self, row: int, ascent: Ascent) -> None:
        """Note where it is."""
        ascent.state, ascent.expected = self.state, self.expected

    @property
    def obstacle(self) -> str:
        """Say what kept the last step from being taken."""
        return self._obstacle()
