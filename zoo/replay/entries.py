"""Events that are made of independent entries (`to_event`)."""

from __future__ import annotations

from typing import Any


def unwrapped(fn: Any) -> tuple[Any, int]:
    """Return the distribution of an entry, and how many of its batch dimensions are one event."""
    events = 0
    while type(fn).__name__ == "Independent":
        fn, events = fn.base_dist, events + fn.reinterpreted_batch_ndims
    return fn, events
