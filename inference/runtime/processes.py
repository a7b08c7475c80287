"""Several processes of `torch.distributed` that fit together: sums over them, and what they must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as processes
from torch import Tensor

from inference.runtime.watch import SILENT, WATCH, Watch, over
from zoo.errors import FitError, MethodError


class Gone(FitError):
    """Another process has ended or cannot be reached: no other start will change that."""


@dataclass(frozen=True)
class Processes:
    """A group of processes, or one alone.

    Attributes
    ----------
    rank
        Which of them this is.
    world
        How many there are.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def running(cls) -> Processes:
        """The group that this process is in.

        Raises
        ------
        MethodError
            If no process group is running.
        """
        if not (processes.is_available() and processes.is_initialized()):
            raise MethodError(
                "distributed=True needs a process group: start the script with torchrun, and call "
                "torch.distributed.init_process_group() first"
            )
        return cls(processes.get_rank(), processes.get_world_size())

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Run a fit that these processes make together, so that one of them that is killed is named by the others."""
        if self.world == 1 or processes.get_backend() != "gloo":
            yield
            return
        watch = Watch(self.rank, self.world)
        token = WATCH.set(watch)
        try:
            yield
        finally:
            WATCH.reset(token)
            watch.end()

    def share(self, count: int) -> tuple[int, int]:
        """First and last, exclusive, of `count` things that are this process's."""
        return count * self.rank // self.world, count * (self.rank + 1) // self.world

    def add_up(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        """Sum each tensor over the processes.

        Raises
        ------
        FitError
            If another process is gone.
        """
        tensors = list(tensors)
        if self.world == 1:
            return tensors
        flat = torch.cat([t.reshape(-1).double() for t in tensors])
        watch = WATCH.get()
        try:
            work: Any = processes.all_reduce(flat, async_op=True)
            while watch is not None and not over(work):
                if gone := watch.silent(SILENT):
                    raise Gone(self._alone(gone, f"not heard of for {SILENT:.0f} s"))
            work.wait()
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0].partition(". ")[0]
            gone = [] if watch is None else watch.gone()
            raise Gone(self._alone(gone, reason)) from error
        sizes = [t.numel() for t in tensors]
        return [p.reshape(t.shape).to(t.dtype) for p, t in zip(flat.split(sizes), tensors, strict=True)]

    def _alone(self, gone: Sequence[int], reason: str) -> str:
        """Say which processes are gone, as far as that is known, and what to do."""
        names = " and ".join(f"process {rank}" for rank in gone) or "one"
        return (
            f"process {self.rank} of {self.world} waits for others, of which {names} has ended or cannot be reached "
            f"({reason}); see what was said there, and start them all again"
        )

    def any_says(self, wish: bool, device: torch.device) -> bool:
        """Whether any of the processes wishes something, which all of them do then."""
        if self.world == 1:
            return wish
        (wishes,) = self.add_up([torch.tensor(float(wish), dtype=torch.float64, device=device)])
        return bool(wishes > 0)

    def agree(self, text: str, what: str, device: torch.device) -> None:
        """Raise unless `text` is the same in all processes.

        Raises
        ------
        MethodError
            Saying that `what` has to be the same.
        """
        own = torch.tensor(int(hashlib.sha256(text.encode()).hexdigest()[:6], 16), dtype=torch.float64, device=device)
        total, squares = self.add_up([own, own.square()])
        if float(total) != self.world * float(own) or float(squares) != self.world * float(own.square()):
            raise MethodError(f"distributed=True: {what} differ between the {self.world} processes")


ALONE = Processes()
