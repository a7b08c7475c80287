"""Folders that runs are written to: a new run takes the place of an earlier one as a whole, and nothing else's."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from inference.runtime.sums import SUMS, seal
from inference.runtime.whole import is_passing, whole_folder
from zoo.errors import DataError

FIT = ("fit.json", "formula.parquet", "tensors.safetensors", "trace.csv", "posterior.nc", "report.html", SUMS)
COMPARISON = ("comparison.json", "table.csv", "traces.png", "mixtures.png", "report.html", SUMS)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Hand out an empty folder that takes the place of another, with what an earlier run wrote there, as a whole.

    Raises
    ------
    DataError
        As `check_free`, or if it cannot be written. What was there before is as it was then.
    """
    check_free(folder)
    with whole_folder(folder) as new:
        yield new
        seal(new)


def check_free(folder: Path) -> None:
    """Check that a run can be written to a folder, before it takes its time; nothing is made or removed.

    Raises
    ------
    DataError
        If it or what it is to be made in is a file, cannot be written to, or holds anything that no saved fit or
        comparison wrote.
    """
    check_writable(folder)
    if not folder.is_dir():
        return
    ours = _written(folder)
    other = sorted(str(path.relative_to(folder)) for path in _files(folder) if path not in ours)
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise DataError(
            f"{folder} is not empty: it holds {other[0]}{more}, which no saved fit or comparison of this version "
            "wrote. A new run replaces an earlier one only; give another folder, or empty this one"
        )


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, or that it can be made, by doing so and undoing it.

    Raises
    ------
    DataError
        If it or what it is to be made in is a file, or may not be written to.
    """
    if str(folder) == "-":
        raise DataError("- is standard output, which takes tables; give a folder to save to")
    # Where a parent cannot be searched, nothing is known to exist below it; it is refused itself.
    nearest = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not nearest.is_dir():
        raise DataError(f"{nearest} is a file; give a folder to save to")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise DataError(f"{nearest} cannot be written to: permission denied, or read-only; give another folder")
    lacking = [path for path in (folder.absolute(), *folder.absolute().parents) if not os.path.lexists(path)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{folder} cannot be written to: {reason}; give another folder") from None
    finally:
        for path in lacking:
            with suppress(OSError, ValueError):
                path.rmdir()


def _files(folder: Path) -> list[Path]:
    """Return all that is in a folder but for folders, and for what a killed run was writing."""
    found = (path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return [path for path in found if not any(is_passing(folder / part) for part in path.relative_to(folder).parts)]


def _written(folder: Path) -> set[Path]:
    """Return what a saved fit or comparison in this folder consists of."""
    paths = {folder / name for name in FIT} if (folder / "fit.json").is_file() else set()
    if (folder / "comparison.json").is_file():
        paths |= {folder / name for name in COMPARISON}
        try:
            places = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["fits"].values()
        except (ValueError, KeyError, AttributeError):
            return paths
        paths |= {folder / str(place) / name for place in places for name in FIT}
    return paths
