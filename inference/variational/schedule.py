"""When a noisy objective has stopped rising, and how the learning rate falls then."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch

Kind = Literal["plateau", "constant", "cosine", "exponential", "one_cycle"]

WINDOW = 50  # steps whose mean is one entry of the trace
SPAN = 5  # windows compared with as many before them
PATIENCE = 2  # comparisons without a gain beyond the noise before the rate falls
SMALLEST_GAIN = 1e-4  # nats between the two spans compared: less is no gain even without noise
FALL = 0.25  # steps with a falling rate, as a share of the steps before
SHORTEST_FALL = 500
SHORTEST_BATCH_FALL = 2000  # with mini-batches, whose noise takes longer to average out
EXACT_FALL = 100  # steps with a falling rate where the objective has no noise
LAST_RATE = 0.01  # rate at the end, as a share of the first


class Schedule:
    """A constant learning rate until the objective stops rising beyond its noise, then a cosine to almost zero.

    The objective is averaged over windows. The mean of the last `SPAN` windows is compared with that of the `SPAN`
    before; a gain of less than two standard errors (estimated from the scatter within windows) counts against it.

    Parameters
    ----------
    steps
        Most steps.
    rate
        Learning rate at the start.
    epoch
        Steps per pass over the data; a window holds at least one pass.
    exact
        Whether the objective has no noise, so that any rise left at the end is real.
    hold
        Steps at the start, while what is climbed still changes, that say nothing about where it stands.
    kind
        "plateau" as above, or the name of a schedule over all steps, after which the objective is judged.
    patience
        Windows without a rise of the bound on rows held back, after which the rate falls, or a schedule over all steps
        ends.
    """

    def __init__(
        self,
        steps: int,
        rate: float,
        *,
        epoch: int = 1,
        exact: bool = False,
        hold: int = 0,
        kind: Kind = "plateau",
        patience: int = 0,
    ) -> None:
        self.steps, self.first_rate, self.epoch, self.exact, self.hold = steps, rate, epoch, exact, hold
        self.patience = patience
        self.validations: list[float] = []
        self.kept = 0  # the step whose bound on rows held back is the highest
        self.stopped = False
        self.fixed = rates(kind, steps, rate)
        self.window = max(WINDOW, epoch)
        self.values: list[float] = []
        self.means: list[float] = []
        self.variances: list[float] = []
        self.step = 0
        self.best = -math.inf
        self.is_best = False
        self.converged = False
        self._fall_from = self._fall_to = 0
        self._against = 0
        self._held = 0  # windows before `hold`
        self._since = 0
        self._slowed = 1.0
        self.abandoned = False
        self._latest_start = max(1, int(steps * (1 - FALL)))
        self.reason = ""

    @property
    def rate(self) -> float:
        """Learning rate of the next step."""
        if self.fixed is not None:
            return self.fixed[min(self.step, self.steps - 1)] * self._slowed
        if not self._fall_to:
            return self.first_rate
        share = (self.step - self._fall_from) / max(1, self._fall_to - self._fall_from)
        return self.first_rate * (LAST_RATE + (1 - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))

    @property
    def fewest(self) -> int:
        """Least steps to its end: those to see that the objective stands still, and to fall then."""
        if self.fixed is not None:
            return self.steps
        if self.exact:
            return min(self.steps, self.hold + 2 * self.window + EXACT_FALL)
        seen = self.hold + (1 + PATIENCE) * SPAN * self.window
        return min(self.steps, seen + self._fall_length(seen))

    @property
    def latest(self) -> float:
        """Mean of the latest window."""
        return self.means[-1]

    @property
    def averaging(self) -> bool:
        """Whether the second half of the fall has begun, whose steps are worth averaging."""
        if self.fixed is not None:
            return self.step >= 0.9 * self.steps
        return bool(self._fall_to) and 2 * self.step >= self._fall_from + self._fall_to

    @property
    def finished(self) -> bool:
        """Whether the rate has fallen to its end."""
        if self.abandoned or self.stopped:
            return True
        if self.fixed is not None:
            return self.step >= self.steps
        return bool(self._fall_to) and self.step >= self._fall_to

    @property
    def worse_than_best(self) -> bool:
        """Whether the last window is below the best by more than noise explains."""
        if not self.means:
            return False
        return self.latest + 2 * self._error < self.best - 1e-9 * abs(self.best)

    @property
    def _error(self) -> float:
        """Standard error of the latest window's mean."""
        return math.sqrt(self.variances[-1] / self.window)

    def record(self, step: int, value: float) -> bool:
        """Note the objective of one step; return whether a window is complete."""
        self.step = step
        self.values.append(value)
        if step >= self._latest_start and not self._fall_to and self.fixed is None:
            self._fall(step, f"stopped at steps={self.steps} while the objective was still rising")
            self._fall_to = self.steps
        if len(self.values) < self.window and step < self.steps and not self.finished:
            return False
        mean = sum(self.values) / len(self.values)
        self.means.append(mean)
        # Differences of neighbours see the noise and not the trend.
        steps = [b - a for a, b in zip(self.values, self.values[1:], strict=False)]
        self.variances.append(sum(d * d for d in steps) / (2 * max(1, len(steps))))
        self.values = []
        if step <= self.hold:
            self._held = len(self.means)
            return True
        # A window counts for what it is worth at least: the highest of many noisy means is not the best.
        self.is_best = mean - 2 * self._error > self.best
        self.best = max(self.best, mean - 2 * self._error)
        self._since += 1
        if self.fixed is not None:
            if self.finished:
                self._judge(step)
            return True
        if self.exact and self.finished and self.converged and mean - self.means[-2] > SMALLEST_GAIN:
            self.converged = False
            self.reason = (
                f"still rising by {mean - self.means[-2]:.2g} in the last {self.window} steps although the learning "
                "rate had fallen; the maximum may be at infinity or on the boundary of a support"
            )
        count = len(self.means) - self._held
        if self.exact and not self._fall_to and count > 1 and self.variances[-1] < SMALLEST_GAIN**2:
            self._compare_exact(step)
        elif not self._fall_to and self._since >= SPAN and count >= 2 * SPAN:
            self._since = 0
            self._compare(step)
        return True

    def validate(self, value: float) -> bool:
        """Note the bound on rows held back at the end of a window, which tells from now on which place is the best.

        Returns
        -------
        bool
            Whether the rate falls from here on, after `patience` windows without a rise.
        """
        self.is_best = self.step > self.hold and value > max(self.validations, default=-math.inf)
        if self.step <= self.hold:
            return False
        self.validations.append(value)
        if self.is_best:
            self.kept = self.step
        if self.finished or (self.step - max(self.kept, self._fall_from)) // self.window < self.patience:
            return False
        self.converged = True
        reason = f"the bound on rows held back has not risen since step {self.kept}"
        if self.fixed is None and not self._fall_to:
            self._fall(self.step, reason, max(SHORTEST_FALL, int(FALL * self.step)))
            return True
        self.stopped, self.reason = True, reason
        return False

    def validation(self) -> list[float]:
        """The bound on rows held back for each window; no number for those that are not judged."""
        return [math.nan] * (len(self.means) - len(self.validations)) + self.validations

    def extend(self, steps: int) -> None:
        """Go on to more steps than were asked for at first: take back a fall that began because they were at an end."""
        if steps == self.steps:
            return
        if self.fixed is None and not self.converged and self._fall_to:
            self._fall_from = self._fall_to = 0
            self.reason = ""
        self.steps, self._latest_start = steps, max(1, int(steps * (1 - FALL)))

    def cut(self) -> bool:
        """Take what was seen of the first window for a whole one, where a climb ends before; return whether it did."""
        if self.means or not self.values:
            return False
        self.means, self.variances, self.values = [sum(self.values) / len(self.values)], [0.0], []
        return True

    def slow_down(self) -> None:
        """Halve the learning rate, after steps that broke down."""
        self.first_rate /= 2
        self._slowed /= 2

    def abandon(self) -> None:
        """Give this climb up."""
        self.abandoned, self.reason = True, "the objective was not finite in too many steps"

    def state(self) -> dict[str, Any]:
        """All that `restore` needs to go on."""
        return {n: v for n, v in vars(self).items() if n != "fixed"}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, to as many steps as are asked for now."""
        steps = self.steps
        vars(self).update(state)
        self.extend(steps)

    def _stands(self, span: int) -> bool:
        """Whether the mean of the last `span` windows exceeds that of those before by no more than noise."""
        late, early = self.means[-span:], self.means[-2 * span : -span]
        gain = (sum(late) - sum(early)) / span
        noise = math.sqrt(sum(self.variances[-2 * span :]) / self.window) / span
        return gain < max(2 * noise, SMALLEST_GAIN, 1e-9 * abs(late[-1]))

    def _judge(self, step: int) -> None:
        """Say at the end of a schedule over all steps whether the objective stood still."""
        span = min(SPAN, (len(self.means) - self._held) // 2)
        self.converged = span > 0 and self._stands(span)
        self.reason = (
            f"the objective rose by less than its noise over the last {2 * span * self.window} steps, at step {step}"
            if self.converged
            else f"stopped at steps={self.steps} while the objective was still rising"
        )

    def _compare(self, step: int) -> None:
        self._against = self._against + 1 if self._stands(SPAN) else 0
        if self._against >= PATIENCE:
            self.converged = True
            self._fall(step, "")

    def _compare_exact(self, step: int) -> None:
        """Compare two windows of an objective without noise."""
        if self.means[-1] - self.means[-2] < SMALLEST_GAIN:
            self.converged = True
            self._fall(
                step,
                f"the objective rose by less than {SMALLEST_GAIN:g} over {self.window} steps, at step {step}",
                length=EXACT_FALL,
            )

    def _fall_length(self, step: int) -> int:
        """Steps of a fall that begins after so many."""
        return max(SHORTEST_BATCH_FALL if self.epoch > 1 else SHORTEST_FALL, int(FALL * step))

    def _fall(self, step: int, reason: str, length: int | None = None) -> None:
        self._fall_from = step
        self._fall_to = min(self.steps, step + (self._fall_length(step) if length is None else length))
        self.reason = reason or (
            f"the objective rose by less than its noise over {2 * SPAN * self.window} steps, at step {step}"
        )


def rates(kind: Kind, steps: int, rate: float) -> list[float] | None:
    """Learning rate of each step of a schedule of `torch.optim.lr_scheduler`; None for the plateau."""
    if kind == "plateau":
        return None
    if kind == "constant":
        return [rate] * steps
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    family = torch.optim.lr_scheduler
    made: dict[str, Callable[[], Any]] = {
        "cosine": lambda: family.CosineAnnealingLR(optimizer, steps, eta_min=rate * LAST_RATE),
        "exponential": lambda: family.ExponentialLR(optimizer, LAST_RATE ** (1 / steps)),
        "one_cycle": lambda: family.OneCycleLR(optimizer, rate, total_steps=steps + 1),
    }
    scheduler = made[kind]()
    every = []
    for _ in range(steps):
        every.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return every
