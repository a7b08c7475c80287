"""Stochastic gradient ascent from one or several starts at once: averages, a best state, and files to go on from."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.guide import Noise
from inference.batches import Batches
from inference.bound import Bound, Position
from inference.compile import Lowered
from inference.method import Monitor
from inference.schedule import Schedule
from zoo.declare.evaluate import Values
from zoo.errors import FitError

if TYPE_CHECKING:
    from inference.checkpoint import Keeper

NETWORK_RATE = 0.25  # learning rate of network weights relative to coordinates in natural units
FAST = ("Adam", "AdamW", "SGD", "Adagrad")  # optimizers that torch has in one fused kernel
BETAS = (0.9, 0.99)  # Adam over coordinates forgets the way to the mode
MOST_BROKEN = 50  # steps that may fail before the fit does
RESTORE_EVERY = 5  # failed steps after which the best state so far is taken up again, at half the rate
BLOCK = 1 << 18  # numbers of noise that are drawn at a time


class Climb:
    """What climbs, how, and how far it has come.

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
    """

    def __init__(
        self, bound: Bound, schedules: list[Schedule], optimizer: str, options: Mapping[str, float], clip: float
    ) -> None:
        self.bound, self.schedules, self.clip = bound, schedules, clip
        start = bound.start
        self.leaves = [t.clone().requires_grad_() for t in (start.coordinates, start.weights)]
        self.fixed = start.fixed
        self.means = [t.clone() for t in (start.coordinates, start.weights)]
        self.best = [t.clone() for t in (start.coordinates, start.weights)]
        self.beta = torch.ones((), dtype=start.coordinates.dtype, device=start.coordinates.device)
        self.monitors = [Monitor("svi", schedules[0].steps, show=False) for _ in schedules]
        self.averaged = [0] * len(schedules)
        self.broken = [0] * len(schedules)
        self.taken = 0
        family = getattr(torch.optim, optimizer)
        extra = {"fused": True} if optimizer in FAST else {}
        adam = "betas" in family.__init__.__code__.co_varnames and "betas" not in options
        groups = [
            {"params": [self.leaves[0]], **({"betas": BETAS} if adam else {})},
            {"params": [self.leaves[1]]},
        ]
        self.optimizer = family(groups, lr=1.0, **{**extra, **options})
        self.relative = (1.0, NETWORK_RATE)

    @property
    def position(self) -> Position:
        """Where everything is."""
        return Position(self.leaves[0].detach(), self.leaves[1].detach(), self.fixed)

    @property
    def finished(self) -> bool:
        """Whether all starts have come to their end."""
        return all(s.finished for s in self.schedules)

    def step(self, gradient: Lowered, noise: Noise, beta: Tensor, batch: Values) -> list[float] | None:
        """Take one step; return the bound at each start before it, or None where nothing could be evaluated."""
        self.taken += 1
        try:
            value, *slopes = gradient(*(p.detach() for p in self.leaves), self.fixed, noise, beta, batch)
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return None
        norm = torch.sqrt(sum((g.square().sum(1) for g in slopes), start=value.new_zeros(len(value))))
        good = value.isfinite() & norm.isfinite()
        scale = -(self.clip / (norm + 1e-6)).clamp(max=1.0)  # optimizers go down
        for leaf, slope in zip(self.leaves, slopes, strict=True):
            leaf.grad = torch.where(good[:, None], slope * scale[:, None], 0.0)
        rates = [0.0 if s.finished else s.rate for s in self.schedules]
        single = len(rates) == 1
        if not single:
            before = [p.detach().clone() for p in self.leaves]
        elif not bool(good):
            return [math.nan]
        for group, relative in zip(self.optimizer.param_groups, self.relative, strict=True):
            group["lr"] = relative * (rates[0] if single else 1.0)
        self.optimizer.step()
        if not single:  # the step of these optimizers is proportional to the rate, and each start has its own
            rate = torch.tensor(rates, dtype=value.dtype, device=value.device)
            rate = torch.where(good, rate, 0.0)[:, None]
            with torch.no_grad():
                for leaf, old in zip(self.leaves, before, strict=True):
                    leaf.copy_(torch.where(rate > 0, torch.lerp(old, leaf, rate), old))
        values: list[float] = torch.where(good, value, math.nan).tolist()
        return values

    # -- the way up --------------------------------------------------------------------------------------------

    def inputs(self, batches: Batches, draws: int) -> tuple[Any, ...]:
        """An example of the inputs of one step."""
        noise = self.bound.noise(batches.rows, len(self.schedules), draws)
        return *(p.detach() for p in self.leaves), self.fixed, noise, self.beta, batches.example()

    def run(
        self, gradient: Lowered, batches: Batches, draws: int, shown: Monitor, *, warm_up: int, keeper: Keeper | None
    ) -> None:
        """Take steps until all schedules have come to their end, going on from a file if there is one."""
        window, steps = self.schedules[0].window, self.schedules[0].steps
        if keeper is not None:
            keeper.load(self)
        stream = batches.stream(self.taken)
        noise = self._noise(batches.rows, draws, window)
        while not self.finished and self.taken < steps:
            if warm_up:
                self.beta.fill_(min(1.0, (self.taken + 1) / (warm_up + 1)))
            self._record(self.step(gradient, next(noise), self.beta, next(stream)))
            self.average()
            if self.taken % window == 0:
                shown.record(self.taken, max((s.latest for s in self.schedules if s.means), default=math.nan))
                if keeper is not None:
                    keeper.save(self, window)

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
                if schedule.is_best:
                    self.keep(i)

    def _broken(self, index: int) -> None:
        """Note a step whose bound or gradient is not finite; go back, or give up."""
        self.broken[index] += 1
        schedule = self.schedules[index]
        if self.broken[index] > MOST_BROKEN:
            schedule.abandon()
            if all(s.abandoned for s in self.schedules):
                raise FitError(
                    f"svi: the ELBO or its gradient was not finite in {self.broken[index]} of {self.taken} steps; the "
                    "density may be unbounded (a component that closes in on one row) or not a number somewhere. Try a "
                    f"prior, fewer components, a smaller learning_rate than {schedule.first_rate:g}, or better "
                    "starting values"
                )
        elif self.broken[index] % RESTORE_EVERY == 0:
            self.restore(index)
            schedule.slow_down()

    def average(self) -> None:
        """Add the present state to the average of the last steps (Polyak and Juditsky 1992)."""
        for i, schedule in enumerate(self.schedules):
            if schedule.settling and not schedule.finished:
                self.averaged[i] += 1
                for mean, leaf in zip(self.means, self.leaves, strict=True):
                    mean[i].lerp_(leaf.detach()[i], 1.0 / self.averaged[i])

    def keep(self, index: int) -> None:
        """Remember the present state of one start as its best."""
        for best, leaf in zip(self.best, self.leaves, strict=True):
            best[index] = leaf.detach()[index]

    def restore(self, index: int) -> None:
        """Go back to the best state of one start."""
        self._put(self.best, index)

    def settle(self, index: int) -> None:
        """End one start: at the average of its last steps, or at its best state if that was better."""
        if self.schedules[index].worse_than_best:
            self.restore(index)
        elif self.averaged[index]:
            self._put(self.means, index)

    def _put(self, tensors: list[Tensor], index: int) -> None:
        with torch.no_grad():
            for leaf, tensor in zip(self.leaves, tensors, strict=True):
                leaf[index] = tensor[index]
