"""Stochastic gradient ascent from one or several starts at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from guides.variational import Noise
from inference.compiled.compile import Compile, Lowered, lower, worth
from inference.compiled.recording import FEWEST, played_back
from inference.runtime.checkpoint import Checkpoint
from inference.runtime.interruption import asked, asked_of_any, listening
from inference.runtime.monitor import Monitor
from inference.variational.adam import Moments, descend
from inference.variational.batches import Batches
from inference.variational.bound import Bound
from inference.variational.gathered import Gathered
from inference.variational.held_out import HeldOut
from inference.variational.position import Fixed
from inference.variational.schedule import Schedule
from inference.variational.standing import Standing
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.program.rows import Batch

MOST_BROKEN = 50  # steps that may fail before the fit does
RESTORE_EVERY = 5  # failed steps after which the best state so far is taken up again, at half the rate
BLOCK = 1 << 18  # numbers of noise that are drawn at a time


class Climb(Standing):
    """What climbs, and how it takes its steps.

    Parameters
    ----------
    bound
        The bound.
    schedules
        One for each start.
    optimizer, options
        Class name in `torch.optim`, and its settings.
    clip
        Largest norm of the gradient per row.
    gathered
        Where the gradients of a step come from.
    held_out
        Rows that tell which weights are best, and how long to go on.
    """

    def __init__(
        self,
        bound: Bound,
        schedules: list[Schedule],
        optimizer: str,
        options: Mapping[str, float],
        clip: float,
        gathered: Gathered | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        super().__init__(bound, schedules, optimizer, options, held_out)
        self.clip, self.gathered = clip, Gathered() if gathered is None else gathered
        self.plain_adam = optimizer == "Adam" and not options and self.gathered.alone
        self.inlined = False  # whether the compiled step takes Adam's step too
        self.rates = bound.start.coordinates.new_zeros(len(schedules), 1)
        self._last_rates: list[float] = []

    def slope(
        self, coordinates: Tensor, weights: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Evaluate `Bound.gradient` per row, turned downhill for optimizers and clipped: (S,), (S, C) and (S, W).

        Where the bound or its gradient is not finite, the bound is NaN (and, with several starts, its gradient 0).
        """
        return self._clipped(*self.bound.gradient(coordinates, weights, fixed, noise, beta, batch))

    def _clipped(self, value: Tensor, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        size = self.bound.size
        norm = torch.hypot(*(torch.linalg.vector_norm(g, dim=1) for g in gradients)) / size  # of each start, (S,)
        good = value.isfinite() & norm.isfinite()
        scale = ((self.clip / (norm + 1e-6)).clamp(max=1.0) / -size)[:, None]
        first, second = (g.mul_(scale) for g in gradients)  # in place: they are new, and may be of millions of weights
        if len(value) > 1:  # steps of a single start that are not finite are left out altogether
            first, second = (torch.where(good[:, None], g, 0.0) for g in (first, second))
        return torch.where(good, value, math.nan), first, second

    def advance(
        self,
        coordinates: Tensor,
        weights: Tensor,
        fixed: Fixed,
        noise: Noise,
        beta: Tensor,
        batch: Batch,
        rates: Tensor,
        moments: tuple[Moments, ...],
    ) -> Tensor:
        """Evaluate `slope` and move coordinates, weights and moments by Adam, in place; return the bound.

        Without a branch on values, so that it can be compiled: a start that must not move has rate 0, shape (S, 1).
        """
        value, *slopes = self.slope(coordinates, weights, fixed, noise, beta, batch)
        rates = torch.where(value.isfinite()[:, None], rates, 0.0)
        leaves = (coordinates, weights)[: len(moments)]  # without networks there are no weights to move
        for leaf, slope, remembered, group in zip(leaves, slopes, moments, self.optimizer.param_groups, strict=False):
            descend(leaf, slope, remembered, rates * group["relative"], group["betas"])
        return value

    @property
    def evaluated(self) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
        """What is evaluated for each mini-batch of a step: `slope`, or its gradient if there are several."""
        return self.slope if self.gathered.alone else self.bound.gradient

    def lower(self, program: Program, batches: Batches, draws: int, how: Compile, calls: int) -> Lowered:
        """Compile `slope`, with Adam's step if that is the optimizer, where that is asked for and possible."""
        before = [t.clone() for t in self.running]  # which trying it out moves
        lowered = self._lower(program, batches, draws, how, calls)
        for t, old in zip(self.running, before, strict=True):
            t.copy_(old)
        return lowered

    def _lower(self, program: Program, batches: Batches, draws: int, how: Compile, calls: int) -> Lowered:
        inputs, evaluated = self.inputs(batches, draws), self.evaluated
        calls *= self.gathered.parts
        if not worth(evaluated, inputs, how, calls):
            return self._played_back(program, batches, draws, how, calls)
        if not self.plain_adam:
            lowered = lower(evaluated, inputs, program, True, calls)
            return lowered if lowered.compiled else self._played_back(program, batches, draws, how, calls, lowered.note)
        for leaf in self._params():
            zeros = {n: torch.zeros_like(leaf.detach()) for n in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[leaf] = {**zeros, "step": torch.zeros((), device=leaf.device)}
        trial = tree_map(_cloned, (*inputs, self.rates, self._moments()))  # compiling takes a step, which moves it
        lowered = lower(self.advance, trial, program, True, calls)
        self.inlined = lowered.compiled
        return lowered if lowered.compiled else self._played_back(program, batches, draws, how, calls, lowered.note)

    def _played_back(
        self, program: Program, batches: Batches, draws: int, how: Compile, calls: int, note: str = ""
    ) -> Lowered:
        """The step as it is, or, unless compilation is switched off, its recording."""
        played = None
        if how is not False and calls >= FEWEST:
            some, others = self.inputs(batches, draws), self.inputs(batches, draws, last=True)
            played = played_back(self.evaluated, some, others, program)
        return Lowered(self.evaluated if played is None else played, False, note)

    def _params(self) -> list[Tensor]:
        return [group["params"][0] for group in self.optimizer.param_groups]

    def _moments(self) -> tuple[Moments, ...]:
        return tuple(Moments(**self.optimizer.state[leaf]) for leaf in self._params())

    def _set_rates(self) -> None:
        rates = [0.0 if s.finished else s.rate for s in self.schedules]
        if rates != self._last_rates:
            self._last_rates = rates
            self.rates.copy_(torch.tensor(rates)[:, None])

    def step(self, slope: Lowered, parts: Sequence[tuple[Noise, Batch]]) -> list[float] | None:
        """Take one step; return the bound at each start before it, NaN where not finite; None if it broke down."""
        self.taken += 1
        each = [(*self.at, self.fixed, noise, self.beta, batch) for noise, batch in parts]
        try:
            if self.inlined:
                self._set_rates()
                reached: list[float] = slope(*each[0], self.rates, self._moments()).tolist()
                return reached
            if self.gathered.alone:
                value, *slopes = slope(*each[0])
            else:
                value, *slopes = self._clipped(*self.gathered.mean(slope, each, self.at))
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return None
        values: list[float] = value.tolist()
        for leaf, gradient in zip(self.leaves, slopes, strict=True):
            leaf.grad = gradient if gradient.numel() else None  # which the optimizer passes over
        if len(values) == 1:
            if math.isfinite(values[0]):
                self._descend(self.schedules[0].rate)
            return values
        rates = [
            s.rate if math.isfinite(v) and not s.finished else 0.0 for s, v in zip(self.schedules, values, strict=True)
        ]
        before = [p.clone() for p in self.at]
        self._descend(1.0)
        rate = torch.tensor(rates, dtype=value.dtype, device=value.device)[:, None]
        for at, old in zip(self.at, before, strict=True):
            at.copy_(torch.where(rate > 0, torch.lerp(old, at, rate), old))
        return values

    def _descend(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["relative"]
        self.optimizer.step()

    # -- the way up --------------------------------------------------------------------------------------------

    def inputs(self, batches: Batches, draws: int, *, last: bool = False) -> tuple[Any, ...]:
        """An example of the inputs of one step, of the first rows or the last."""
        noise = self.bound.noise(batches.rows, len(self.schedules), draws)
        noise, batch = self.gathered.own(self.bound, noise, batches.example(last=last))
        return *self.at, self.fixed, noise, self.beta, batch

    def run(
        self,
        slope: Lowered,
        batches: Batches,
        draws: int,
        shown: Monitor,
        *,
        beta: float,
        warm_up: int,
        file: Checkpoint | None,
    ) -> None:
        """Take steps until all schedules have come to their end, going on from a file if there is one.

        `beta` is the factor of the latents' log p - log q, after as many steps as `warm_up` says.
        """
        window, steps = self.schedules[0].window, self.schedules[0].steps
        if file is not None and (saved := file.load()) is not None:
            self.restore(saved)
        parts = self.gathered.parts
        stream = batches.stream(self.taken * parts)
        noise = self._noise(batches.rows, draws, window * parts)
        self.beta.fill_(beta)
        # A file is written at the ends of windows only, and processes agree there.
        anywhere = file is None and self.gathered.processes.world == 1
        with listening():
            while not self.finished and self.taken < steps:
                if warm_up:
                    self.beta.fill_(beta * min(1.0, (self.taken + 1) / (warm_up + 1)))
                each = [self.gathered.own(self.bound, next(noise), next(stream)) for _ in range(parts)]
                self._record(self.step(slope, each))
                self.average()
                whole = self.taken % window == 0
                if whole:
                    shown.record(self.taken, max((s.latest for s in self.schedules if s.means), default=math.nan))
                    if file is not None and file.due(self.taken, window):
                        file.save(self.state())
                if asked_of_any(self.gathered.processes, self.beta.device) if whole else anywhere and asked():
                    self._cut()
                    break
        if file is not None:
            file.save(self.state())

    def _cut(self) -> None:
        """End all starts where they are."""
        for schedule, monitor in zip(self.schedules, self.monitors, strict=True):
            if schedule.cut():
                monitor.record(self.taken, schedule.latest)

    def _noise(self, rows: int, draws: int, window: int) -> Iterator[Noise]:
        """Yield the noise of one step after the other; blocks begin where windows do, so that a fit can be resumed."""
        sizes = len(self.schedules), draws
        each = sum(math.prod(s) for s in self.bound.q.noise_shapes(rows)) * math.prod(sizes)
        block = window if each * window <= BLOCK else 1
        while True:
            yield from zip(*self.bound.noise(rows, block, *sizes), strict=True)

    def _record(self, values: list[float] | None) -> None:
        """Tell the schedules what the bound was at each start before a step."""
        for i, schedule in enumerate(self.schedules):
            if schedule.finished:
                continue
            value = math.nan if values is None else values[i]
            if not math.isfinite(value):
                self._broken(i)
            elif schedule.record(self.taken, value):
                self.monitors[i].record(self.taken, schedule.latest)
                falls = self.held_out is not None and schedule.validate(self.held_out(self.position, i))
                if schedule.is_best:
                    self.note_best(i)
                if falls:
                    self.return_to_best(i)

    def _broken(self, index: int) -> None:
        """Note a step whose bound or gradient is not finite; go back, or give up."""
        self.broken[index] += 1
        schedule = self.schedules[index]
        if self.broken[index] > MOST_BROKEN:
            schedule.abandon()
            if all(s.abandoned for s in self.schedules):
                if self.bound.scored:
                    raise FitError(
                        f"svi: the ELBO or its gradient was not finite in {self.broken[index]} of {self.taken} steps. "
                        "A count that is drawn makes it -inf where q gives mass to one that some row makes impossible, "
                        "as n < x does in Binomial(n, p): make what is left over the latent (x ~ Poisson(rate p) seen "
                        "and n - x ~ Poisson(rate (1 - p)) not), sum over the first counts, "
                        "dist.Categorical(logits=dist.Poisson(...).log_prob(torch.arange(50.0))), or give a Custom "
                        "guide on the possible counts"
                    )
                raise FitError(
                    f"svi: the ELBO or its gradient was not finite in {self.broken[index]} of {self.taken} steps; the "
                    "density may be unbounded (a component that closes in on one row) or not a number somewhere. Try a "
                    f"prior, fewer components, a smaller learning_rate than {schedule.first_rate:g}, or better "
                    "starting values"
                )
        elif self.broken[index] % RESTORE_EVERY == 0:
            self.return_to_best(index)
            schedule.slow_down()


def _cloned(leaf: Any) -> Any:
    return leaf.clone() if isinstance(leaf, Tensor) else leaf
