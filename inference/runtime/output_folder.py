"""Folders that runs are written to: a new run takes the place of an earlier one as a whole, and nothing else's."""

from __future__ import annotations

import json
from pathlib import Path

from zoo.errors import DataError

FIT = ("fit.json", "tensors.safetensors", "trace.csv", "posterior.nc", "report.html")
COMPARISON = ("comparison.json", "table.csv", "traces.png", "mixtures.png", "report.html")


def claim(folder: Path) -> None:
    """Make a folder ready for a run: made if need be, what an earlier run wrote there removed.

    Raises
    ------
    DataError
        If it is a file, or holds anything that no saved fit or comparison wrote. Nothing is removed then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise DataError(f"{folder} is a file; give a folder to save to") from None
    there = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    ours = _written(folder)
    other = sorted(str(path.relative_to(folder)) for path in there if path not in ours)
    if other:
        more = f" and {len(other) - 1} more" if len(other) > 1 else ""
        raise DataError(
            f"{folder} is not empty: it holds {other[0]}{more}, which no saved fit or comparison of this version "
            "wrote. A new run replaces an earlier one only; give another folder, or empty this one"
        )
    for path in there:
        path.unlink()
    for path in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        path.rmdir()


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
