"""What one evaluation of a function takes, and whether compiling it saves more time than that takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from inference.compiled.small_graphs import LARGEST, written
from inference.compiled.small_matrices import WRITTEN_OUT

# What decides whether to compile, in seconds on one core. Fixed numbers and not times measured on the spot, because
# compiled and eager differ by rounding: the same seed has to give the same bytes whatever else the machine does.
SAVED_PER_OPERATION = 4e-6
SAVED_PER_BYTE = 0.125e-9
COST = 1.5
COST_PER_OPERATION = 11e-3
KERNELS = ("mm", "convolution")  # operations that a compiled program calls as they are
FEW = 0.3  # of a graph of few numbers, which becomes one C function
FEW_PER_OPERATION = 1e-3


class Work(TorchDispatchMode):
    """Counts operations, and the bytes that they write; `few`: one C function does.

    Matrix products and convolutions write the same bytes in the same time when they are compiled.
    """

    def __init__(self) -> None:
        cast(Any, super()).__init__()  # torch leaves it without types
        self.operations = self.bytes = 0
        self.few = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        view = any(r.alias_info is not None for r in func._schema.returns)  # which writes nothing
        if isinstance(result, Tensor) and not view and not func.__name__.split(".")[0].endswith(KERNELS):
            self.bytes += result.numel() * result.element_size()
        self.few = self.few and (view or func in WRITTEN_OUT or written(func)) and self.bytes <= 8 * LARGEST
        return result


def work(function: Callable[..., Any], inputs: Sequence[Any]) -> Work:
    """Count the work of one evaluation; randomness is left as it was."""
    counter = Work()
    with torch.random.fork_rng(devices=[]), counter:
        function(*inputs)
    return counter


def pays(work: Work, calls: int) -> bool:
    """Whether compiling a function saves more time over its calls than it takes."""
    saved = SAVED_PER_OPERATION * work.operations + SAVED_PER_BYTE * work.bytes
    if work.few:
        return saved * calls > FEW + FEW_PER_OPERATION * work.operations
    return saved * calls > COST + COST_PER_OPERATION * work.operations
