"""More memory than there is, said as an error that names the model, its settings and how much it was.

What is larger than all memory an allocator refuses by itself. Several that are not larger each it hands out, and the
system ends the process when they are used: these are refused before they are made.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from zoo.declare.model import Model
from zoo.errors import FitError, ModelError, short

REFUSED = re.compile(
    r"can't allocate memory|out of memory|Storage size calculation overflowed|integer multiplication overflow"
)
BYTES = re.compile(r"tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \w+)")

HELD = 3  # times that a fit holds an unknown at least: its value, and what moves it
SMALL = 2**24  # bytes, for which the system is not asked
GROUP = Path("/sys/fs/cgroup/memory.max")  # what a container may take, on Linux
REMEDY = (
    "take smaller settings (fewer components or factors, covariance='diag' where there is that), fewer columns, "
    "batch_size=... in a method that has it, or zoo.stream for files of many rows"
)


def there_is() -> float:
    """Bytes of memory of this machine, or that this container may take; infinite where the system does not say."""
    if not hasattr(os, "sysconf"):  # Windows
        return math.inf
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    said = GROUP.read_text(encoding="ascii").strip() if GROUP.is_file() else ""
    return min(whole, int(said)) if said.isdecimal() else whole


def check_size(name: str, shape: tuple[int, ...]) -> None:
    """Check that an unknown of a model may fit into memory, before it is made.

    Raises
    ------
    ModelError
        If not, with what it takes.
    """
    needed = math.prod(shape) * torch.get_default_dtype().itemsize
    if needed > SMALL and HELD * needed > (there := there_is()):
        raise ModelError(
            f"{name!r} of shape {shape} takes {needed / 2**30:.1f} GiB, of which a fit holds at least {HELD} copies, "
            f"and this machine has {there / 2**30:.1f} GiB; {REMEDY}"
        )


def too_much(error: BaseException) -> str | None:
    """How much memory an allocator has refused, in words; None where an error is another."""
    if not isinstance(error, MemoryError | OverflowError) and not REFUSED.search(str(error)):
        return None
    found = BYTES.search(str(error))
    if found is None:
        return f" ({short(str(error).partition(chr(10))[0], 120)})"
    return f" ({int(found[1]) / 2**30:.1f} GiB at once)" if found[1] else f" ({found[2]})"


@contextmanager
def within_memory(model: Model) -> Iterator[None]:
    """Turn what an allocator says into an error of the zoo.

    Raises
    ------
    FitError
        If something in the block asks for more memory than there is.
    """
    try:
        yield
    except (MemoryError, RuntimeError, OverflowError) as error:
        if (much := too_much(error)) is None:
            raise
        raise FitError(f"{short(model, 200)} needs more memory than there is on these data{much}; {REMEDY}") from error
