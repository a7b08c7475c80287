"""Which of several processes of `torch.distributed` are alive."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from typing import Any

import torch.distributed as processes

BEAT = 0.5  # seconds between signs of life of a process
SILENT = 30.0  # seconds without one, after which it is gone, were its connections still open
GONE = 5.0  # seconds without one, after which it is the one that has closed its connections


class Watch:
    """Signs of life of the processes of a group: each counts up in the group's store, in a thread of its own.

    A process whose connections close ends those that wait for it, and then those that wait for these: who was the first
    is not to be seen from a connection.

    Parameters
    ----------
    rank, world
        Which process this is, of how many.
    """

    numbers = count()  # of the fits that processes have made together, in all of them alike

    def __init__(self, rank: int, world: int) -> None:
        distributed: Any = processes.distributed_c10d
        self.store, self.rank, self.world = distributed._get_default_store(), rank, world
        self.name = f"latentzoo/{next(self.numbers)}"
        self.over = threading.Event()
        self.seen: dict[int, tuple[int, float]] = {}  # count of each other process, and since when
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def _beat(self) -> None:
        with suppress(RuntimeError):  # who keeps the store is gone
            while not self.over.is_set():
                self.store.add(f"{self.name}/{self.rank}", 1)
                self.over.wait(BEAT)

    def end(self) -> None:
        """Give no more signs, and say so."""
        self.over.set()
        self.thread.join()
        with suppress(RuntimeError):
            self.store.add(f"{self.name}/{self.rank}/end", 1)

    def silent(self, seconds: float) -> list[int]:
        """Processes that have begun and given no sign for so long, those first that have not said that they end.

        Process 0, if the store is gone: as a rule it keeps that.
        """
        now = time.monotonic()
        try:
            for rank in range(self.world):
                made = self.store.add(f"{self.name}/{rank}", 0)
                if made != self.seen.get(rank, (0, 0.0))[0]:
                    self.seen[rank] = made, now
            found = [rank for rank, (_, since) in self.seen.items() if now - since > seconds]
            return [rank for rank in found if not self.store.add(f"{self.name}/{rank}/end", 0)] or found
        except RuntimeError:
            return [0]

    def gone(self) -> list[int]:
        """Processes that give no more signs, where a connection has been closed."""
        until = time.monotonic() + 2 * GONE
        while not (found := self.silent(GONE)) and time.monotonic() < until:
            time.sleep(BEAT)
        return found


WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


def over(work: Any) -> bool:
    """Wait a while for others, and say whether they have come; raise what has become of it."""
    try:
        work.wait(timedelta(seconds=BEAT))
    except RuntimeError:
        if work.is_completed():
            raise
        return False
    return True
