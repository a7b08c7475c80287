"""How much a file becomes when it is read, looked at before memory is taken for it."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from zoo.errors import DataError

PLAIN = 1 << 28  # bytes that any file may become
TIMES = 100  # its own size that it may become beyond that: tables of numbers shrink 3 to 20 times


def most(size: int) -> int:
    """Return how many bytes a file of this size may become."""
    return max(PLAIN, TIMES * size)


class _Counted(io.RawIOBase):
    """What is unpacked from a file, as long as it is not too much."""

    def __init__(self, file: Any, limit: int) -> None:
        super().__init__()
        self.file, self.left, self.limit = file, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        part = self.file.read(len(buffer))
        self.left -= len(part)
        if self.left < 0:
            raise _bomb(self.limit)
        buffer[: len(part)] = part
        return len(part)


@contextmanager
def unpacked(file: Any, size: int) -> Iterator[io.TextIOWrapper]:
    """Hand out the text that a compressed file of so many bytes holds.

    Raises
    ------
    DataError
        While it is read, as soon as it is more than `most` allows.
    """
    buffered = io.BufferedReader(_Counted(file, most(size)), 1 << 18)
    with io.TextIOWrapper(buffered, encoding="utf-8-sig", newline="") as text:
        yield text


def check_parts(file: Path | io.BytesIO) -> None:
    """Check what the parts of a zip file say they become together.

    Raises
    ------
    DataError
        If it is more than `most` allows.
    """
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    with zipfile.ZipFile(file) as parts:
        if sum(part.file_size for part in parts.infolist()) > most(size):
            raise _bomb(most(size))


def check_array(file: IO[bytes], size: int) -> None:
    """Check that an NPY file of so many bytes holds the numbers that its header says; the file is read up to these.

    Raises
    ------
    DataError
        If it does not.
    """
    version = np.lib.format.read_magic(file)
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in headers:  # with names of columns; NumPy holds that against the file itself
        return
    shape, _, dtype = headers[version](file)
    if not dtype.hasobject and math.prod(shape) * dtype.itemsize > size - file.tell():
        raise DataError(
            f"its header says {' x '.join(map(str, shape))} of {dtype}, and the file is too short; is it truncated?"
        )


def check_rows(rows: int, columns: int) -> None:
    """Check that a table whose file says how large it is fits into the memory of this machine.

    Raises
    ------
    DataError
        If not, with what is needed.
    """
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    needed, there = 8 * rows * columns, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        raise DataError(
            f"{rows} rows of {columns} columns need {needed / 2**30:.0f} GiB, and this machine has "
            f"{there / 2**30:.0f}; read them in chunks: zoo.stream(path)"
        )


def check_batches(batches: Iterator[Any], size: int) -> list[Any]:
    """Return the batches of an Arrow file of so many bytes.

    Raises
    ------
    DataError
        As soon as they are more than `most` allows.
    """
    found, left = [], most(size)
    for batch in batches:
        left -= batch.nbytes
        if left < 0:
            raise _bomb(most(size))
        found.append(batch)
    return found


def _bomb(limit: int) -> DataError:
    return DataError(
        f"it becomes more than {limit / 2**20:.0f} MiB when it is unpacked, over {TIMES} times its size, which no "
        "table of measurements does; if that is meant, unpack it first, or write it without compression"
    )
