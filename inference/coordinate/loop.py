"""The loop of coordinate ascent: evaluate, judge, update. EM, CAVI and all their variants take their steps here."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from inference.conjugate import EStep
from inference.coordinate.acceleration import USELESS, Acceleration, either
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.convergence import StoppingRule, rounding
from inference.runtime.interruption import listening
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
    with listening() as stop:
        for step in range(way.first, rule.max_steps + 1):
            values = way.objective()
            going = []
            for row, (ascent, value) in enumerate(zip(climbing, values, strict=True)):
                if math.isnan(value):
                    ascent.failure = f"the objective is not a number after {step} {rule.unit}"
                    continue
                ascent.history.append(value)
                ascent.monitor.record(step, way.shown(row, value))
                known = way.left(row)
                left = rule.left(ascent.history) if known is None else known
                if step < rule.max_steps and not (stop() or rule.stops(ascent.history, left)):
                    going.append(row)
                    continue
                ascent.steps, (ascent.converged, ascent.reason) = step, rule.judge(ascent.history, step, left)
                if ascent.converged and way.obstacle:  # it stands still because it could not move
                    ascent.converged, ascent.reason = False, way.obstacle
                ascent.hastened = way.hastened(row)
                way.end(row, ascent)
            if not going:
                break
            if together is not None:
                together.record(step, max(values))
            climbing = [climbing[row] for row in going]
            way.step(going)
    return ascents


class Steps(Way):
    """A way up by steps of one map, which are extrapolated where many are left.

    Attributes
    ----------
    state
        Where it is; of several starts, values are stacked along a new dimension 0.
    acceleration
        What extrapolates; None for the plain map.
    """

    state: State
    acceleration: Acceleration | None = None
    stacked = False

    def __init__(self) -> None:
        self.values: list[float] = []  # the objective where it is
        self.held: State | None = None  # where that was
        self.sure: State | None = None  # where the plain map leads, if an extrapolation was followed

    @abstractmethod
    def evaluate(self, state: State) -> list[float]:
        """Evaluate the objective of each start; what `update` needs is kept."""

    @abstractmethod
    def update(self) -> State:
        """Return where the map leads from what was last evaluated."""

    @abstractmethod
    def keep(self, rows: list[int]) -> None:
        """Go on with some of the starts."""

    def objective(self) -> list[float]:
        """Evaluate it; where an extrapolation has led down, take the plain step instead."""
        values = self.evaluate(self.state)
        if self.acceleration is not None:
            if self.sure is not None:
                values, fell = self._instead(values, self.sure, 0.0)
                self.acceleration.failed(fell)
            if self.held is not None:
                # At a floor of a variance that coefficients can make up for even a plain step may lead down.
                values, _ = self._instead(values, self.held, self.acceleration.eps)
            self.acceleration.reached(values)
        self.sure, self.held, self.values = None, self.state, values
        return values

    def _instead(self, values: list[float], other: State, eps: float) -> tuple[list[float], list[bool]]:
        """Go elsewhere from where the objective is lower than it was, by more than rounding; say from where that is."""
        fell = [new < old - rounding([old], eps) for new, old in zip(values, self.values, strict=True)]
        if any(fell):
            self.state = either(fell, other, self.state, stacked=self.stacked)
            values = self.evaluate(self.state)
        return values, fell

    def left(self, row: int) -> float | None:
        """Tell it from the rates that have been seen."""
        return None if self.acceleration is None else self.acceleration.left(row)

    def hastened(self, row: int) -> bool:
        """Whether a course of the acceleration was a long one, and extrapolations have not been given up."""
        if self.acceleration is None:
            return False
        course = self.acceleration.courses[row]
        return course.hastened and course.useless <= USELESS

    def step(self, going: list[int]) -> None:
        """Update from the last evaluation, and if many steps are left from where they seem to lead."""
        self.keep(going)
        values = self.values = [self.values[row] for row in going]
        self.held = self.state
        plain = self.update()
        if self.acceleration is None:
            self.state = plain
            return
        self.acceleration.keep(going)
        self.acceleration.stepped(self.state, plain)
        self.state = plain
        far = self.acceleration.long()
        if not any(far):
            return
        with suppress(RuntimeError, ValueError):  # a place outside of what the model can evaluate is not followed
            place = either(far, self.acceleration.extrapolated(plain), plain, stacked=self.stacked)
            found = self.evaluate(place)
            least = [-math.inf if self.acceleration.blind else old for old in values]
            higher = [f and old <= new < math.inf for f, new, old in zip(far, found, least, strict=True)]
            if any(higher):
                led = self.update()
                self.acceleration.tried(place, led, found, far, higher)
                self.state, self.sure = either(higher, led, plain, stacked=self.stacked), plain
                return
        self.acceleration.failed(far)


class OneStart(Steps):
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
    acceleration
        What extrapolates its steps; None for the plain map.
    """

    def __init__(
        self,
        ascent: Coordinates,
        state: State,
        update: Callable[[EStep], State],
        obstacle: Callable[[], str] = str,
        first: int = 0,
        acceleration: Acceleration | None = None,
    ) -> None:
        super().__init__()
        self.ascent, self.state, self.map, self._obstacle, self.first = ascent, state, update, obstacle, first
        self.acceleration = acceleration
        self.expected: EStep | None = None

    def evaluate(self, state: State) -> list[float]:
        """Evaluate L by an E-step."""
        value, self.expected = self.ascent.expect(state)
        return [float(value)]

    def update(self) -> State:
        """Update from the last E-step."""
        assert self.expected is not None
        return self.map(self.expected)

    def keep(self, rows: list[int]) -> None:
        """Do nothing: there is one."""

    def end(self, row: int, ascent: Ascent) -> None:
        """Note where it is."""
        ascent.state, ascent.expected = self.state, self.expected

    @property
    def obstacle(self) -> str:
        """Say what kept the last step from being taken."""
        return self._obstacle()
