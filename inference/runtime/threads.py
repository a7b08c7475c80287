"""One thread for small work: on a few thousand numbers, handing work to other threads costs more than it saves.

On a busy machine it costs far more: threads that wait for one another spin. The global setting is put back when the
last piece of small work is done, whichever thread it runs in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from zoo.program.program import Program

SMALL = 200_000  # entries of data times states that one evaluation of a small program touches

_lock = threading.Lock()
_running = 0
_before = 1


def threads_for(program: Program) -> AbstractContextManager[None]:
    """Run with one thread if the program is small, else with as many as torch is set to."""
    states = max([1, *(s.cardinality for s in program.enumerated)])
    return threads_for_cells(states * sum(v.numel() for v in program.data.values.values()))


def threads_for_data(source: Any) -> AbstractContextManager[None]:
    """Run with one thread if a table, array or dict of arrays is small; other sources with all."""
    parts = source.values() if isinstance(source, dict) else [source]
    sizes = [p.numel() if isinstance(p, torch.Tensor) else getattr(p, "size", None) for p in parts]
    known = [size for size in sizes if isinstance(size, int)]
    return threads_for_cells(sum(known) if len(known) == len(sizes) else SMALL + 1)


@contextmanager
def threads_for_cells(cells: int) -> Iterator[None]:
    """Run with one thread if evaluations touch few numbers."""
    if cells > SMALL:
        yield
        return
    global _running, _before
    with _lock:
        if _running == 0:
            _before = torch.get_num_threads()
            torch.set_num_threads(1)
        _running += 1
    try:
        yield
    finally:
        with _lock:
            _running -= 1
            if _running == 0:
                torch.set_num_threads(_before)
