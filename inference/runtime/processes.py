"""Several processes of `torch.distributed` that fit together: sums over them, and what they must have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as processes
from torch import Tensor

from zoo.errors import FitError, MethodError


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
        try:
            processes.all_reduce(flat)
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise FitError(
                f"process {self.rank} of {self.world} waits for others, of which one has ended or cannot be reached "
                f"({reason}); see what that one said, and start them all again"
            ) from error
        sizes = [t.numel() for t in tensors]
        return [p.reshape(t.shape).to(t.dtype) for p, t in zip(flat.split(sizes), tensors, strict=True)]

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
