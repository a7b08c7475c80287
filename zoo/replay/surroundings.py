"""What the caller of this library has switched on, kept out of what happens inside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK

from zoo.replay.autocast import autocast_of_layers

_CPU = torch.device("cpu")
ONE_AT_A_TIME = threading.RLock()  # whoever runs a model: Pyro's handlers and parameters belong to the process


@contextmanager
def undisturbed() -> Iterator[None]:
    """Run as in a fresh process, whatever was switched on around it, and put that back.

    Pyro's handlers (a `poutine.mask` would take rows out of every density, a `pyro.plate` add a dimension), torch's
    default precision and device, its inference mode, its autocast but for layers of networks, and how NumPy tells of
    underflow. All of that belongs to the process, so threads take turns.
    """
    with ONE_AT_A_TIME:
        stacks: tuple[list[Any], ...] = (_PYRO_STACK, _DIM_ALLOCATOR._stack)  # who handles a site; dimensions of plates
        before = [list(stack) for stack in stacks]
        precision = torch.get_default_dtype()
        elsewhere = torch.get_default_device() != _CPU
        for stack in stacks:
            stack.clear()
        torch.set_default_dtype(torch.float32)
        try:
            with (
                np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"),
                torch.inference_mode(mode=False),  # of which tensors that are kept would take no gradient later
                _CPU if elsewhere else nullcontext(),
                autocast_of_layers(),
            ):
                yield
        finally:
            torch.set_default_dtype(precision)
            for stack, items in zip(stacks, before, strict=True):
                stack[:] = items
