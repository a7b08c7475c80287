"""Where the starts of a climb stand: flat vectors, their averages and best places, and a state to go on from.

S starts climb in one program; C numbers of q and theta and W network weights are two leaves, (S, C) and (S, W), because
they climb at different rates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from inference.runtime.checkpoint import State
from inference.runtime.monitor import Monitor
from inference.runtime.tensor_folder import TensorFolder
from inference.variational.bound import Bound
from inference.variational.held_out import HeldOut
from inference.variational.position import Position
from inference.variational.schedule import Schedule

NETWORK_RATE = 0.1  # learning rate of network weights relative to coordinates in natural units
FAST = ("Adam", "AdamW", "SGD", "Adagrad")  # optimizers that torch has in one fused kernel
BETAS = (0.9, 0.99)  # Adam over coordinates forgets the way to the mode


class Standing:
    """How far several starts have come.

    Parameters
    ----------
    bound
        The bound.
    schedules
        One for each start.
    optimizer, options
        Class name in `torch.optim`, and its settings.
    held_out
        Rows that tell which place is the best; None: the bound that is climbed does.
    """

    def __init__(
        self,
        bound: Bound,
        schedules: list[Schedule],
        optimizer: str,
        options: Mapping[str, float],
        held_out: HeldOut | None = None,
    ) -> None:
        self.bound, self.schedules, self.held_out = bound, schedules, held_out
        start = bound.start
        self.leaves = [t.clone().requires_grad_() for t in (start.coordinates, start.weights)]
        self.at = [p.detach() for p in self.leaves]  # the same memory, without a gradient
        self.fixed = start.fixed
        self.means = [t.clone() for t in (start.coordinates, start.weights)]
        self.best = [t.clone() for t in (start.coordinates, start.weights)]
        self.running = bound.running(start.fixed)
        self.best_running = [t.clone() for t in self.running]
        self.beta = torch.ones((), dtype=start.coordinates.dtype, device=start.coordinates.device)
        self.monitors = [Monitor("svi", schedules[0].steps, show=False) for _ in schedules]
        self.averaged = [0] * len(schedules)
        self.broken = [0] * len(schedules)
        self.taken = 0
        # One optimizer steps all starts together. Where each start has a rate of its own, it takes a step of rate 1 and
        # `step` shortens it, which is the same: the steps of these optimizers are proportional to their rate.
        family = getattr(torch.optim, optimizer)
        extra = {"fused": True} if optimizer in FAST else {}
        adam = "betas" in family.__init__.__code__.co_varnames and "betas" not in options
        first, second = self.leaves
        groups = [{"params": [first], "relative": 1.0, **({"betas": BETAS} if adam else {})}]
        groups += [{"params": [second], "relative": NETWORK_RATE}] if second.numel() else []
        self.optimizer = family(groups, lr=1.0, **{**extra, **options})

    @property
    def position(self) -> Position:
        """Where everything is."""
        return Position(self.at[0], self.at[1], self.fixed)

    @property
    def finished(self) -> bool:
        """Whether all starts have come to their end."""
        return all(s.finished for s in self.schedules)

    def average(self) -> None:
        """Add the present state to the average of the last steps (Polyak and Juditsky 1992)."""
        for i, schedule in enumerate(self.schedules):
            if schedule.averaging and not schedule.finished:
                self.averaged[i] += 1
                for mean, leaf in zip(self.means, self.leaves, strict=True):
                    mean[i].lerp_(leaf.detach()[i], 1.0 / self.averaged[i])

    def note_best(self, index: int) -> None:
        """Remember the present place of one start as its best."""
        for best, leaf in zip(self.best, self.leaves, strict=True):
            best[index] = leaf.detach()[index]
        for kept, now in zip(self.best_running, self.running, strict=True):
            kept.copy_(now)

    def return_to_best(self, index: int) -> None:
        """Go back to the best place of one start."""
        self._put(self.best, index)
        for kept, now in zip(self.best_running, self.running, strict=True):
            now.copy_(kept)

    def conclude(self, index: int) -> None:
        """End one start: at the average of its last steps, or at its best place if that was better."""
        if self.held_out is not None:
            self._put(max([self.at, self.means], key=lambda at: self._held(at, index)), index)
            if self._held(self.at, index) < max(self.schedules[index].validations, default=-math.inf):
                self.return_to_best(index)
        elif self.schedules[index].worse_than_best:
            self.return_to_best(index)
        elif self.averaged[index]:
            self._put(self.means, index)

    def _held(self, place: list[Tensor], index: int) -> float:
        assert self.held_out is not None
        value = self.held_out(Position(place[0], place[1], self.fixed), index)
        return value if math.isfinite(value) else -math.inf

    def _put(self, tensors: list[Tensor], index: int) -> None:
        with torch.no_grad():
            for leaf, tensor in zip(self.leaves, tensors, strict=True):
                leaf[index] = tensor[index]

    def state(self) -> State:
        """All that the next step depends on."""
        tensors = TensorFolder()
        for name, places in self._places.items():
            tensors.add(name, {str(i): t for i, t in enumerate(places)})
        for i, leaf in enumerate(self.leaves):
            remembered = self.optimizer.state.get(leaf, {})
            tensors.add(f"optimizer.{i}", {n: torch.as_tensor(v) for n, v in remembered.items()})
        tensors["rng"] = torch.get_rng_state()
        if self.leaves[0].is_cuda:
            tensors["rng_of_cuda"] = torch.cuda.get_rng_state()
        numbers = {
            "schedules": [schedule.state() for schedule in self.schedules],
            "traces": [monitor.rows for monitor in self.monitors],
            "averaged": self.averaged,
            "broken": self.broken,
            "taken": self.taken,
        }
        return State(tensors, numbers)

    def restore(self, state: State) -> None:
        """Go on from a state, that of the random numbers included."""
        tensors, numbers = state.tensors, state.numbers
        with torch.no_grad():
            for name, places in self._places.items():
                for i, t in enumerate(places):
                    t.copy_(tensors.folder(name)[str(i)])
        for i, leaf in enumerate(self.leaves):
            remembered = tensors.folder(f"optimizer.{i}")
            if remembered:
                self.optimizer.state[leaf] = {n: v.to(leaf.device) for n, v in remembered.items()}
        torch.set_rng_state(tensors["rng"])
        if "rng_of_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["rng_of_cuda"])
        for schedule, saved in zip(self.schedules, numbers["schedules"], strict=True):
            schedule.restore(saved)
        for monitor, rows in zip(self.monitors, numbers["traces"], strict=True):
            monitor.resume([(int(step), float(seconds), float(value)) for step, seconds, value in rows])
        self.broken, self.taken = numbers["broken"], numbers["taken"]
        # A fit that goes on to more steps than before has its last steps still to come.
        pairs = zip(numbers["averaged"], self.schedules, strict=True)
        self.averaged = [count if schedule.averaging else 0 for count, schedule in pairs]

    @property
    def _places(self) -> dict[str, list[Tensor]]:
        found = {"leaves": self.leaves, "means": self.means, "best": self.best}
        return found | {"running": self.running, "best_running": self.best_running}
