"""Torch's operations on arrays of named numbers by their names, and what all of them need."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from inference.compiled.numbers import Number, UnsupportedError

Operation = Callable[..., Any]
OPERATIONS: dict[str, Operation] = {"<built-in function getitem>": lambda _, parts, at: parts[at]}


def named(*names: str) -> Callable[[Operation], Operation]:
    """Note an operation under these names."""

    def note(operation: Operation) -> Operation:
        OPERATIONS.update({f"aten.{name}": operation for name in names})
        return operation

    return note


def objects(x: Any) -> np.ndarray:
    """An array of numbers from one, or from a number."""
    if isinstance(x, np.ndarray):
        return x
    made = np.empty((), dtype=object)
    made[()] = x
    return made


def each(function: Callable[..., Number], *arrays: Any) -> np.ndarray:
    """A function of numbers entry by entry."""
    found = np.frompyfunc(function, len(arrays), 1)(*map(objects, arrays))
    return objects(found)


def full(shape: Sequence[int], value: Any) -> np.ndarray:
    """An array of one number."""
    made = np.empty(tuple(shape), dtype=object)
    made[...] = value
    return made


def typed(value: Any, kwargs: dict[str, Any]) -> Any:
    """A number of the type that an operation is told to make."""
    dtype = kwargs.get("dtype")
    if dtype not in (None, torch.float64, torch.bool):
        raise UnsupportedError
    return bool(value) if dtype is torch.bool else float(value)


def put(made: np.ndarray, where: Any, values: np.ndarray) -> None:
    """Write into an array; NumPy would make an array of no dimension an entry of it."""
    made[where] = values if values.ndim else values[()]
