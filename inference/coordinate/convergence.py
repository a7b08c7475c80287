"""When coordinate ascent stops, and what is said of where it ends: stopping rules as values."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

ROUNDING = 8  # rounding errors of the objective that two steps may differ by and still be level
PASSES = 5  # passes over mini-batches that are compared with their noise
COARSE = 1000.0  # how many times the tolerance a pass over mini-batches has to gain


@dataclass(frozen=True)
class StoppingRule(ABC):
    """Stops a climb when its objective stands still, or after `max_steps` steps.

    With `tolerance` 0 all steps are taken, whether the objective stands still or not.

    Parameters
    ----------
    tolerance
        What may still be gained, in nats, or 0 for all steps.
    max_steps
        Most steps.
    """

    tolerance: float
    max_steps: int

    unit: ClassVar[str] = "steps"

    @abstractmethod
    def stands(self, history: list[float], left: float) -> bool:
        """Whether the objective stands still, from its values so far and what is left to its limit."""

    def level(self, history: list[float], left: float) -> bool:
        """Whether the last steps changed the objective by no more than its errors."""
        return self.stands(history, left)

    def left(self, history: list[float]) -> float:
        """Nats that are left to the limit, from the values so far; infinite if that cannot be told."""
        return math.inf

    @abstractmethod
    def reached(self, steps: int, left: float) -> str:
        """Say that the objective stands still after so many steps."""

    def missed(self, left: float) -> str:
        """Say that the steps did not suffice."""
        said = f"stopped at max_steps={self.max_steps} before reaching tolerance={self.tolerance:g}"
        return said if math.isinf(left) else f"{said}: by its rate {left:.2g} nats are left to the limit"

    def stops(self, history: list[float], left: float) -> bool:
        """Whether to stop before all steps are taken."""
        return self.tolerance > 0 and self.stands(history, left)

    def judge(self, history: list[float], steps: int, left: float) -> tuple[bool, str]:
        """Return whether a climb that has ended converged, and why it ended, in words."""
        if self.tolerance > 0:
            stands = self.stands(history, left)
            return stands, self.reached(steps, left) if stands else self.missed(left)
        took = f"took all {steps} {self.unit}, as tolerance=0 asks"
        if self.level(history, left):
            return True, f"{took}; the objective stands still"
        if len(history) < 2:
            return False, f"{took}, too few to see whether the objective stands still"
        return False, f"{took}; the last one still changed the objective by {history[-1] - history[-2]:.3g}"


@dataclass(frozen=True)
class WithinTolerance(StoppingRule):
    """Stops within `tolerance` nats of the limit (McLachlan and Krishnan 2008, section 4.9).

    How much is left a way up tells from the rates that it has seen (`Anderson`), or this rule from the objective alone
    (`to_limit`). A step that does not rise, by no more than rounding, ends it too: what is left is below what numbers
    resolve.

    Parameters
    ----------
    eps
        Machine epsilon of the numbers that the objective is summed from.
    """

    eps: float

    def stands(self, history: list[float], left: float) -> bool:
        """Whether the limit is near."""
        return left <= self.tolerance

    def level(self, history: list[float], left: float) -> bool:
        """Whether the last step changed the objective by no more than rounding."""
        # Where sums over rows have come to rest, they may go to and fro between a few neighbouring numbers.
        return len(history) > 1 and abs(history[-1] - history[-2]) <= 8 * rounding(history, self.eps)

    def left(self, history: list[float]) -> float:
        """Extrapolate the values."""
        return to_limit(history, self.eps)

    def reached(self, steps: int, left: float) -> str:
        """Say how near."""
        return f"within {self.tolerance:g} of the limit after {steps} steps"


@dataclass(frozen=True)
class ByRate(WithinTolerance):
    """Stops where the rate says so, which is not all: steps by gradient stop short of what they maximize."""

    def reached(self, steps: int, left: float) -> str:
        """Say how near it is by its rate, and why it may not be."""
        return (
            f"by its rate within {self.tolerance:g} of the limit after {steps} steps; steps by gradient may leave "
            "more, next to edges such as probabilities of 0"
        )


@dataclass(frozen=True)
class UntilLevel(WithinTolerance):
    """Stops when a step gains nothing: in classification one row may be what many others wait for."""

    def stands(self, history: list[float], left: float) -> bool:
        """Whether the last step gained nothing."""
        return left <= 0.0

    def reached(self, steps: int, left: float) -> str:
        """Say what no step changes any more."""
        return f"rows keep their states after {steps} steps"

    def missed(self, left: float) -> str:
        """Say that the steps did not suffice."""
        return f"stopped at max_steps={self.max_steps} while rows still change their states"


@dataclass(frozen=True)
class WithinNoise(StoppingRule):
    """Stops when passes over mini-batches gain less than `COARSE` tolerances each, or than their noise."""

    unit: ClassVar[str] = "passes"

    def stands(self, history: list[float], left: float = math.inf) -> bool:
        """Whether the mean gain of the last passes is small, or a small part of how much gains vary."""
        if len(history) <= PASSES:
            return False
        gains = torch.tensor(history[-PASSES - 1 :], dtype=torch.float64).diff()
        return float(gains.mean()) < max(COARSE * self.tolerance, 0.1 * float(gains.std()))

    def reached(self, steps: int, left: float) -> str:
        """Say how still it stands."""
        return f"the objective stands still within its noise after {steps} passes"


def to_limit(history: list[float], eps: float) -> float:
    """Nats from the last value of a sequence to its limit, by Aitken extrapolation; infinite if there is none in sight.

    The error of a linearly converging sequence with last gain d and rate r is d r / (1 - r). It is 0 where the last
    step does not rise, by no more than rounding.
    """
    if len(history) < 3:
        return math.inf
    before, now = history[-2] - history[-3], history[-1] - history[-2]
    if now <= 0 and -now <= rounding(history, eps):
        return 0.0
    return remaining(now, now / before if before > 0 else 1.0)


def remaining(gain: float, rate: float) -> float:
    """Sum of all gains to come after a last one, each `rate` times the one before; infinite if that has no limit."""
    return gain * rate / (1 - rate) if gain >= 0 and 0 <= rate < 1 else math.inf


def rounding(history: list[float], eps: float) -> float:
    """Difference between two steps that rounding can make."""
    return ROUNDING * eps * abs(history[-1])
