"""When steps of coordinate ascent are extrapolated, how far that leads, and what is left to the limit."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from inference.coordinate.anderson import DEPTH, Anderson
from inference.coordinate.ascent import State
from inference.coordinate.chart import Chart
from inference.coordinate.convergence import ROUNDING, remaining
from zoo.program.program import Program

STEADY = 0.1  # change of the rate from step to step, below which the limit is being approached
LONG = 10.0  # further steps, by the rate, from which on a course is a long one
REACH, FURTHEST = 4.0, 4096.0  # how many steps ahead a parabola is followed, at first and at most
SHORT = 2.0  # times as much may be left as the slowest mode that has been seen says
RECENT = 3  # judgements of the slowest mode, of which the slowest counts
CERTAIN = 2  # plain steps that have to say so before the limit is said to be near
USELESS = 3  # extrapolations in a row that gain too little, after which there are plain steps between them
LONGEST_WAIT = 16  # plain steps between extrapolations that fail


@dataclass
class Course:
    """How one start has come to where it is.

    Attributes
    ----------
    values
        Its objective after each step.
    before
        The objective from which the last step of the plain map rose to the last value.
    gain
        What that step of the plain map gained.
    ratio
        Of that to what the step of the plain map before it gained.
    leapt
        Whether that step was from an extrapolated place.
    plain
        How many steps have been plain since.
    rates
        Of the slowest mode seen in the course, as it was last judged: the gain of each step is as many times that of
        the one before.
    hastened
        Whether its steps are extrapolated.
    judged
        Whether the last rate is that of now.
    growing
        Whether it gained more than the one before.
    ahead
        Whether they are by the parabola through the last steps, and not by Anderson's method.
    reach
        How many steps ahead that may be.
    failures
        How many extrapolations in a row were no good.
    useless
        How many in a row gained no more than plain steps would have.
    wait
        How many plain steps come before the next one.
    """

    values: list[float]
    before: float = -math.inf
    gain: float = math.inf
    ratio: float = 1.0
    leapt: bool = False
    plain: int = 0
    rates: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    hastened: bool = False
    judged: bool = False
    growing: bool = False
    ahead: bool = False
    reach: float = REACH
    failures: int = 0
    useless: int = 0
    wait: int = 0

    def weigh(self, gained: float) -> None:
        """Wait where extrapolations gain no more than the two plain steps that they cost."""
        self.useless = 0 if gained > 2 * self.gain else self.useless + 1
        if self.useless > USELESS:
            self.wait = max(self.wait, min(2 ** (self.useless - USELESS), LONGEST_WAIT))

    def learn(self, *, higher: bool) -> None:
        """Choose how the next step is extrapolated, from whether this one was well: the same way, the other, or not."""
        self.failures = 0 if higher else self.failures + 1
        if higher:
            self.reach = min(4 * self.reach, FURTHEST) if self.ahead else self.reach
            return
        if self.ahead:
            self.reach = max(self.reach / 8, REACH)
        self.ahead = not self.ahead or (self.growing and self.reach > REACH)
        self.wait = min(2 ** (self.failures // 2), LONGEST_WAIT) - 1


class Acceleration:
    """Extrapolates steps of coordinate ascent where they are many, and tells how much is left.

    A course that approaches its limit, and has far to go, is taken on from where Anderson's method sees that limit: the
    place is tried, and one step of the plain map from there is what is kept. So every place is one that the plain
    map leads to, floors of variances included, and the gain of that step is known.

    What is left is the gain of a plain step times r / (1 - r), where r = l^2 is the rate at which gains fall along the
    slowest mode that has been seen, l a Ritz value of the map's Jacobian. Aitken's formula has the ratio of the last
    two gains for r, in which the slowest mode does not show as long as others are larger: it ends short of the limit.

    Parameters
    ----------
    program
        What climbs.
    tolerance
        Of the stopping rule.
    starts
        How many starts climb; None for one, whose values are not stacked.
    extrapolates
        False for plain steps, of which no more than what is left is told.

    Attributes
    ----------
    blind
        Whether the objective of a place does not count, as the posterior of local latents there is that of another one.
    """

    def __init__(
        self, program: Program, tolerance: float, starts: int | None = None, *, extrapolates: bool = True
    ) -> None:
        self.program, self.tolerance, self.stacked = program, tolerance, starts is not None
        self.extrapolates = extrapolates
        self.eps = torch.finfo(program.dtype).eps
        self.courses = [Course([]) for _ in range(starts or 1)]
        self.recent: deque[tuple[State, State]] = deque(maxlen=DEPTH)  # steps of the plain map, not yet charted
        self.blind = False
        self.chart: Chart | None = None
        self.charted: State | None = None  # the state that it was made of
        self.anderson = Anderson(starts or 1)

    def standing(self) -> dict[str, Any]:
        """All that it has seen and learned, but what follows from the program."""
        return {n: v for n, v in vars(self).items() if n not in ("program", "chart")}

    def restore(self, standing: Mapping[str, Any]) -> None:
        """Go on from what `standing` returned."""
        vars(self).update(standing)
        self.chart = None if self.charted is None else Chart(self.program, self.charted, stacked=self.stacked)

    def reached(self, values: list[float]) -> None:
        """Note the objective at the places that the last steps have led to."""
        for course, value in zip(self.courses, values, strict=True):
            course.leapt = course.before > -math.inf
            course.plain = 0 if course.leapt else course.plain + 1
            if course.values and not course.leapt:
                course.before = course.values[-1]
            if course.leapt:
                course.weigh(value - course.values[-1])
            course.values.append(value)
            course.judged = False
            gain = value - course.before
            course.growing, course.ratio = gain > course.gain, gain / course.gain if course.gain > 0 else 1.0
            course.ahead = course.ahead and (course.failures > 0 or course.growing)
            course.gain = gain

    def keep(self, rows: list[int]) -> None:
        """Go on with some of the starts."""
        if len(rows) == len(self.courses):
            return
        self.courses = [self.courses[row] for row in rows]
        self.anderson.keep(rows)
        self.recent = deque(((_rows(a, rows), _rows(b, rows)) for a, b in self.recent), maxlen=DEPTH)

    def stepped(self, place: State, led: State) -> None:
        """Note where the plain map leads from the places that have been reached."""
        for course in self.courses:
            course.before = -math.inf
        self.blind = any(s.name in led.posteriors for s in self.program.locals)
        self.recent.append((place, led))
        if self.chart is not None:
            self._chart()

    def long(self) -> list[bool]:
        """Whether the next step of each start is to be extrapolated."""
        for course in self.courses:
            course.hastened = course.hastened or (self.extrapolates and self._far(course))
            course.wait = max(course.wait - 1, 0)
        return [course.hastened and not course.wait for course in self.courses]

    def extrapolated(self, led: State) -> State:
        """Return the place that each start seems to be heading for; all that has no numbers is as in `led`."""
        if self.chart is None:
            self._chart()
        assert self.chart is not None
        place = self.anderson.extrapolated()
        if any(course.ahead for course in self.courses):
            ahead = torch.tensor([course.ahead for course in self.courses], device=place.device)[:, None]
            place = torch.where(ahead, self.anderson.ahead([course.reach for course in self.courses]), place)
        return self.chart.state(place, led)

    def tried(self, place: State, led: State, values: list[float], far: list[bool], higher: list[bool]) -> None:
        """Note where the plain map leads from places that were tried, their objective, and which are to be kept."""
        assert self.chart is not None
        keep = torch.tensor(higher, device=self.program.device)[:, None]
        u, g = self.chart.vector(place), self.chart.vector(led)
        known = self.anderson.pairs[-1]
        self.anderson.add(torch.where(keep, u, known[0]), torch.where(keep, g, known[1]))
        for row, (course, value, good) in enumerate(zip(self.courses, values, higher, strict=True)):
            if good:
                course.before = value
            if far[row]:
                course.learn(higher=good)
                self.anderson.judge(row, higher=good)

    def failed(self, rows: list[bool]) -> None:
        """Note which of the starts are no higher, or lower, where their extrapolation has led."""
        for row, (course, fell) in enumerate(zip(self.courses, rows, strict=True)):
            if fell:
                course.learn(higher=False)
                self.anderson.judge(row, higher=False)
                course.before = -math.inf

    def left(self, row: int) -> float:
        """Nats that are left to the limit of a start; infinite if none is in sight."""
        course = self.courses[row]
        values, gain = course.values, course.gain
        if len(values) < 3:
            return math.inf
        level = ROUNDING * self.eps * abs(values[-1])
        if gain <= 0:  # what is left is below what numbers resolve, unless a floor was met
            return 0.0 if gain >= -level and values[-1] - values[-2] <= level else math.inf
        left = gain if course.leapt else remaining(gain, course.ratio)
        if left > self.tolerance:
            return math.inf if course.leapt else left
        if not course.judged:
            self._judge()
            course.hastened = course.hastened or (self.extrapolates and self._slow(course, gain))
        # Ritz values are below the eigenvalue that they stand for, and go up and down where the map bends.
        left = SHORT * remaining(gain, max(0.0 if course.leapt else course.ratio, *course.rates))
        if course.hastened:
            left = max(left, values[-1] - values[-2])
        if course.hastened and course.plain < CERTAIN and left <= self.tolerance:  # see what plain steps say
            course.wait = 2
            return math.inf
        return left

    def _judge(self) -> None:
        """Find the slowest mode of each start's last steps."""
        if self.chart is None:
            self._chart()
        for course, rate in zip(self.courses, self.anderson.rates(), strict=True):
            course.rates.append(rate**2 if rate > 0 else 0.0)
            course.judged = True

    def _slow(self, course: Course, gain: float) -> bool:
        return remaining(gain, course.rates[-1]) > self.tolerance

    def _far(self, course: Course) -> bool:
        """Whether a course goes on at a steady rate, to a limit that is many steps away or off a saddle."""
        if len(course.values) < 4:
            return False
        rate, earlier = _ratio(course.values), _ratio(course.values[:-1])
        gain = course.values[-1] - course.values[-2]
        if rate <= 0 or abs(rate - earlier) > STEADY or gain <= self.tolerance:
            return False
        if rate >= 1:
            course.ahead = True
            return True
        return math.log(self.tolerance / remaining(gain, rate)) / math.log(rate) > LONG

    def _chart(self) -> None:
        """Give the vectors of the steps so far to Anderson's method."""
        if self.chart is None:
            self.charted = self.recent[-1][1]
            self.chart = Chart(self.program, self.charted, stacked=self.stacked)
        while self.recent:
            place, led = self.recent.popleft()
            self.anderson.add(self.chart.vector(place), self.chart.vector(led))


def _ratio(values: list[float]) -> float:
    """Ratio of the last two gains."""
    before, now = values[-2] - values[-3], values[-1] - values[-2]
    return now / before if before > 0 else 1.0


def _rows(state: State, rows: list[int]) -> State:
    return State({n: v[rows] for n, v in state.values.items()}, {})


def either(first: list[bool], a: State, b: State, *, stacked: bool) -> State:
    """Return the values of `a` for the starts that `first` tells of, else those of `b`."""
    if not stacked:
        return a if first[0] else b
    if all(first):
        return a
    where = torch.tensor(first)
    values = {}
    for name, value in a.values.items():
        own: Tensor = where.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
        values[name] = torch.where(own, value, b.values[name])
    return State(values, {})
