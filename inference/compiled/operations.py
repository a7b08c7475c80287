"""What an operation of torch is on arrays of named numbers, for `straight_line`."""

from __future__ import annotations

from typing import Any

from inference.compiled import arithmetic, moves
from inference.compiled.registry import OPERATIONS, Operation

ROOMS = (arithmetic, moves)  # which note theirs when they are imported


def operation_of(target: Any) -> Operation | None:
    """What an operation of torch is here, by its full name or without its overload; None if it is not known."""
    name = str(target)
    return OPERATIONS.get(name) or OPERATIONS.get(name.rpartition(".")[0])
