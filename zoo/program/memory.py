"""More memory than there is, said as an error that names the model, its settings and how much it was."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from zoo.declare.model import Model
from zoo.errors import FitError, short

REFUSED = re.compile(
    r"can't allocate memory|out of memory|Storage size calculation overflowed|integer multiplication overflow"
)
BYTES = re.compile(r"tried to allocate (\d+) bytes|Tried to allocate ([\d.]+ \w+)")


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
        if not isinstance(error, MemoryError | OverflowError) and not REFUSED.search(str(error)):
            raise
        found = BYTES.search(str(error))
        much = (
            f" ({short(str(error).partition(chr(10))[0], 120)})"
            if found is None
            else f" ({int(found[1]) / 2**30:.1f} GiB at once)"
            if found[1]
            else f" ({found[2]})"
        )
        raise FitError(
            f"{short(model, 200)} needs more memory than there is on these data{much}; take smaller settings, "
            "batch_size=... in a method that has it, or zoo.stream for files of many rows"
        ) from error
