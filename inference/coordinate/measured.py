"""How far it is from where an extrapolated climb has ended to its limit, from the Jacobian of its steps."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from inference.coordinate.ascent import SINGULAR, State
from inference.coordinate.chart import Chart
from inference.coordinate.convergence import StoppingRule, rounding, to_limit
from inference.coordinate.loop import Ascent, Way
from inference.coordinate.steps import Steps
from zoo.program.program import Program

MANY = 20  # steps of a climb, below which no mode is slow
DEEPEST = 20  # products with the Jacobian
SETTLED = 0.1  # relative change of 1 - l, l the largest Ritz value, at which it is known
PROBE = 10.0  # how far products look, in steps
NEAREST = 1e-8  # of 1 - l, below which nothing is resolved
STILL = 1e-3  # of the largest relative move, a unit for numbers that hardly move
LEAST = 60  # evaluations that may be spent
PLAIN = 5  # steps where the limit that is seen is none


@dataclass(frozen=True)
class Sight:
    """What is seen of the limit from a place.

    Attributes
    ----------
    there
        Where it seems to be, (1, p).
    hidden
        Share of the step's gain that may be left there, in modes that have not been resolved.
    """

    there: Tensor
    hidden: float


def finish(program: Program, rule: StoppingRule, way: Way, ascent: Ascent) -> None:
    """Take an ascent to its limit and measure how far that was, where steps lead from one place to the next."""
    local = any(s.name in way.state.posteriors for s in program.locals) if isinstance(way, Steps) else True
    if isinstance(way, Steps) and not local and ascent.steps >= MANY and program.data.stream is None:
        Measured(program, way, rule).finish(ascent)


class Measured:
    """Takes a climb that seems to be near its limit there, and says how much was left.

    Near a limit a step is u -> u + f, and the next ones are f, J f, J^2 f, ...: the limit is u + (I - J)^-1 f. Ritz
    values of extrapolated steps do not show a slow mode that is small beside others. The space of f, J f, ..., J^m f
    (Arnoldi 1951) shows the largest eigenvalue of J whatever share of f is along it, and the equation is solved there
    (Saad and Schultz 1986). Each product is one evaluation of the map, a little further along a direction.

    Parameters
    ----------
    program
        What climbs.
    way
        Its plain steps from where the climb has ended.
    rule
        By which it stopped.
    """

    def __init__(self, program: Program, way: Steps, rule: StoppingRule) -> None:
        self.program, self.way, self.rule = program, way, rule
        self.eps = torch.finfo(program.dtype).eps
        self.state = way.state
        self.chart = Chart(program, way.state)
        self.evaluations = 0

    def finish(self, ascent: Ascent) -> None:
        """Take an ascent to its limit, by half as many evaluations as it has taken or a few, and note where it is."""
        budget = max(ascent.steps // 2, LEAST)
        value = before = self._value(self.state)
        left = math.inf
        while self.evaluations < budget:
            led = self.way.update()
            plain = self._value(led)
            step = self.chart.vector(led) - self.chart.vector(self.state)
            gain = plain - value
            if gain <= rounding([plain], self.eps):
                left = 0.0
                break
            sight = self._look(step, gain)
            far, height = self._at(sight, led) if sight is not None else (led, -math.inf)
            if sight is None or height < plain:  # bent, or at an edge
                values = self._onwards(led)
                value, left = values[-1], to_limit(values, self.eps)
                if left <= self.rule.tolerance:
                    break
                continue
            left = max(height - value, gain * sight.hidden)
            self.state, value = far, height
            if left <= self.rule.tolerance:
                break
            self._value(self.state)
        if value >= before:
            ascent.state = self.state
            self._value(self.state)
            self.way.state = self.state
            self.way.end(0, ascent)
            ascent.steps += 1
            ascent.history.append(value)
            ascent.monitor.record(ascent.steps, value)
        _, from_, since = ascent.reason.partition(", from ")
        ascent.converged, ascent.reason = True, self.rule.reached(ascent.steps, left) + from_ + since
        if left > self.rule.tolerance:
            said = "no limit is in sight" if math.isinf(left) else f"by its slowest steps {left:.2g} nats are left"
            ascent.converged, ascent.reason = False, f"stopped after {ascent.steps} steps: {said}"

    def _value(self, state: State) -> float:
        self.evaluations += 1
        return self.way.evaluate(state)[0]

    def _onwards(self, state: State) -> list[float]:
        """Take a few plain steps, and return how high each has led."""
        values = [self._value(state)]
        for _ in range(PLAIN):
            state = self.way.update()
            values.append(self._value(state))
        self.state = state
        return values

    def _at(self, sight: Sight, like: State) -> tuple[State, float]:
        """Return where a plain step leads from the limit that is seen, and how high that is; like it if nowhere."""
        with suppress(RuntimeError, ValueError):
            self._value(self.chart.state(sight.there, like))
            led = self.way.update()
            return led, self._value(led)
        return like, -math.inf

    def _look(self, step: Tensor, gain: float) -> Sight | None:
        """Solve (I - J) x = f in the space of f, J f, J^2 f, ...; None where the map cannot be followed."""
        u, like = self.chart.vector(self.state), self.state
        # Coordinates in units of how far this step goes, or a part of the largest relative move if they hardly move.
        size_of = u.abs() + step.abs() + torch.finfo(u.dtype).tiny
        unit = step.abs() + STILL * (step.abs() / size_of).amax() * size_of
        f = step / unit
        size = float(f.norm())
        basis, columns, known = [f / size], torch.zeros(DEEPEST + 1, DEEPEST, dtype=f.dtype, device=f.device), math.inf
        probe = PROBE * size
        hidden, solution, settled = math.inf, torch.zeros(0), 0
        for m in range(DEEPEST):
            try:
                self._value(self.chart.state(u + probe * basis[m] * unit, like))
                led = self.chart.vector(self.way.update())
            except (RuntimeError, ValueError):
                return None
            w = (led - u - step) / unit / probe  # J v
            for _ in range(2):
                for i, v in enumerate(basis):
                    h = (v * w).sum()
                    columns[i, m] += h
                    w = w - h * v
            columns[m + 1, m] = w.norm()
            square = columns[: m + 1, : m + 1]
            if not bool(columns.isfinite().all()):
                return None
            slowest = 1 - float(torch.linalg.eigvals(square).real.max())
            eye = torch.eye(m + 2, m + 1).to(f)
            right = torch.zeros(m + 2, 1).to(f)
            right[0] = size
            try:
                solution = torch.linalg.lstsq(eye - columns[: m + 2, : m + 1], right).solution
            except SINGULAR:
                return None
            short = float((right - (eye - columns[: m + 2, : m + 1]) @ solution).norm()) / size
            hidden = short**2 / min(max(slowest, NEAREST), 1.0)
            settled = settled + 1 if abs(slowest - known) <= SETTLED * max(slowest, NEAREST) else 0
            known = slowest
            last = m + 1 >= min(DEEPEST, u.shape[1]) or float(columns[m + 1, m]) <= math.sqrt(self.eps)
            if last or (settled > 1 and gain * hidden <= self.rule.tolerance / 2):
                break
            basis.append(w / w.norm())
        x = torch.stack(basis[: len(solution)], -1) @ solution
        return Sight(u + x[..., 0] * unit, hidden)
