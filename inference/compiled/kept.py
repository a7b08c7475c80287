"""Where compiled programs are kept between processes: a folder with a limit, of which the oldest go first."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = "TORCHINDUCTOR_CACHE_DIR"  # what Inductor reads whenever it compiles
LIMIT = 2**30  # bytes
LEFT = 0.75  # of the limit, after the oldest programs went
EVERY = 3600.0  # seconds between two looks at the size, by whatever process
LOOKED = "looked"  # a file that is as old as the last look


def folder() -> Path:
    """Where they are kept: `zoo` within Inductor's own folder, so that nothing of other programs is ever removed."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    return Path(os.environ.get(FOLDER) or default_cache_dir()) / "zoo"


def size() -> int:
    """Bytes of all files."""
    return sum(length for _, length, _ in _told())


def clear() -> int:
    """Remove all; return how many bytes they had."""
    before = size()
    shutil.rmtree(folder(), ignore_errors=True)
    return before


@contextmanager
def keeping() -> Iterator[None]:
    """Let Inductor write there, and remove the oldest programs where that came to more than the limit.

    Raises
    ------
    OSError
        If nothing can be written there.
    """
    place = folder()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=place):
        pass
    with _written_to(place):
        yield
    looked = place / LOOKED
    if not looked.exists() or time.time() - looked.stat().st_mtime > EVERY:
        looked.touch()
        _trim()


@contextmanager
def passing() -> Iterator[Path]:
    """Let Inductor write into a folder that is removed when the process ends."""
    place = Path(tempfile.mkdtemp(prefix="zoo_compiled_"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    with _written_to(place):
        yield place


@contextmanager
def _written_to(place: Path) -> Iterator[None]:
    before = os.environ.get(FOLDER)
    os.environ[FOLDER] = str(place)
    try:
        yield
    finally:
        if before is None:
            del os.environ[FOLDER]
        else:
            os.environ[FOLDER] = before


def _told() -> list[tuple[float, int, Path]]:
    """When each file was last used, and its size."""
    found = []
    for file in _files():
        try:
            told = file.stat()
        except OSError:  # another process has removed it
            continue
        found.append((max(told.st_atime, told.st_mtime), told.st_size, file))
    return found


def _files() -> Iterator[Path]:
    for at, _, names in os.walk(folder()):
        yield from (Path(at) / name for name in names if name != LOOKED)


def _trim() -> None:
    """Remove what was used longest ago. Another process that needs it compiles it again."""
    found = _told()
    total = sum(length for _, length, _ in found)
    if total <= LIMIT:
        return
    for _, length, file in sorted(found):
        if total <= LEFT * LIMIT:
            return
        file.unlink(missing_ok=True)
        total -= length
