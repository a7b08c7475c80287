"""Ways up by steps of one map, which are extrapolated where many are left."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from inference.conjugate import EStep
from inference.coordinate.acceleration import USELESS, Acceleration, either
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.convergence import rounding
from inference.coordinate.loop import Ascent, Way


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

    def standing(self) -> dict[str, Any]:
        """Where it is and was, and what extrapolates."""
        told = {n: getattr(self, n) for n in ("state", "values", "held", "sure")}
        return told | ({} if self.acceleration is None else {"acceleration": self.acceleration.standing()})

    def restore(self, standing: Mapping[str, Any]) -> None:
        """Go on from there."""
        super().restore({n: v for n, v in standing.items() if n != "acceleration"})
        if self.acceleration is not None:
            self.acceleration.restore(standing["acceleration"])

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
        self.processes, self.device = ascent.rows.processes, ascent.program.device
        self.acceleration = acceleration
        self.expected: EStep | None = None
        self.stuck = ""  # what kept the last update from moving

    def evaluate(self, state: State) -> list[float]:
        """Evaluate L by an E-step."""
        value, self.expected = self.ascent.expect(state)
        return [float(value)]

    def update(self) -> State:
        """Update from the last E-step."""
        assert self.expected is not None
        led, self.stuck = self.map(self.expected), self._obstacle()
        return led

    def standing(self) -> dict[str, Any]:
        """Where it is and was, what extrapolates, and what kept the last step from being taken."""
        return {**super().standing(), "stuck": self.stuck}

    def seen_at(self, state: State) -> EStep:
        """Return the E-step there."""
        return self.ascent.expect(state)[1]

    def keep(self, rows: list[int]) -> None:
        """Do nothing: there is one."""

    def end(self, row: int, ascent: Ascent) -> None:
        """Note where it is."""
        ascent.state, ascent.expected = self.state, self.expected

    @property
    def obstacle(self) -> str:
        """Say what kept the last step from being taken."""
        return self.stuck
