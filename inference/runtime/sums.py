"""SHA-256 sums of the files of a folder, as ``sha256sum --check SHA256SUMS`` reads them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from pathlib import Path

from zoo.errors import DataError

SUMS = "SHA256SUMS"
REPORT = "report.html"
LINE = re.compile(r"([0-9a-f]{64})  ([^/\\\x00-\x1f\x7f]+)")


def seal(folder: Path) -> None:
    """Write the sums of all files of a folder beside them, but for a report, which may be written anew."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.name not in (SUMS, REPORT))
    text = "".join(f"{_sum(path)}  {path.name}\n" for path in files)
    (folder / SUMS).write_text(text, encoding="utf-8")


def check(folder: Path, needed: Collection[str], ours: Collection[str]) -> None:
    """Check that the files of a sealed folder are what was written.

    Parameters
    ----------
    folder
        Where they are.
    needed
        Names of files that must be there; others may be gone, but not be different.
    ours
        Names of all files that may have been written; what else is there is somebody else's.

    Raises
    ------
    DataError
        Naming the file that is missing or another.
    """
    path = folder / SUMS
    if not path.is_file():
        raise DataError(f"{path}: no such file; without it nobody knows whether the others are what was saved")
    sums = {}
    *lines, end = path.read_bytes().decode("utf-8", "replace").split("\n")
    for number, line in enumerate([*lines, *([end] if end else [])], 1):
        found = LINE.fullmatch(line)
        if found is None:
            raise DataError(f"{path} is damaged in line {number}: {line[:80]!r} is no sum with a name")
        sums[found[2]] = found[1]
    for name in needed:
        if not (folder / name).is_file():
            raise DataError(f"{folder / name}: no such file; {folder} does not hold all of what was saved")
    for name in ours:
        if name not in (SUMS, REPORT) and name not in sums and (folder / name).is_file():
            raise DataError(f"{path} is damaged: it has no sum of {name}")
    for name, then in sums.items():
        if (folder / name).is_file() and _sum(folder / name) != then:
            raise DataError(
                f"{folder / name} is not what was saved: its SHA-256 sum is not the one in {SUMS}; is it damaged, "
                "truncated or edited? Take the folder from a backup, or fit and save again"
            )


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
