"""The files of a saved fit: their names, their format, and whether they are what was saved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from inference.runtime.output_folder import FIT
from inference.runtime.sums import SUMS, check
from inference.runtime.whole import restore
from zoo.errors import DataError, short

FORMAT = 5
UNSEALED = 4  # of version 0.1.0, whose files have no sums but that of the trace
KINDS = {
    "converged": bool,
    "reason": str,
    "verdict": str,
    "text": str,
    "steps": int,
    "seed": int,
    "warnings": list,
    "diagnostics": dict,
    "objective": dict,
    "model": dict,
    "data": dict,
    "method": dict,
    "approximation": dict,
}
DESCRIBED, TABLE, TENSORS, TRACE, DRAWS = FIT[:5]


def opened(folder: Path, needed: Collection[str]) -> dict[str, Any]:
    """Return what a saved fit says of itself, after all its files have been held against their sums.

    Parameters
    ----------
    folder
        Where it is.
    needed
        Names of files that must be there besides.

    Raises
    ------
    DataError
        If the folder does not hold a saved fit, or a file in it is missing, damaged or of a format that is not known.
    """
    restore(folder)
    sealed = (folder / DESCRIBED).is_file() and os.path.lexists(folder / SUMS)
    if sealed:
        check(folder, [DESCRIBED, *needed], FIT)
    described = read(folder / DESCRIBED, lambda p: json.loads(p.read_text(encoding="utf-8")))
    known = described.get("format") if isinstance(described, dict) else None
    if known == FORMAT and not sealed:
        check(folder, [], FIT)  # says which file is missing
    elif known == UNSEALED and not sealed:
        if TRACE in needed and read(folder / TRACE, _sum) != described.get("trace_sha256"):
            raise DataError(f"{folder / TRACE} is not what was saved; is it truncated?")
    elif known != FORMAT:
        raise DataError(
            f"{folder / DESCRIBED} is of format {known!r}; this version reads {FORMAT}, and {UNSEALED} of 0.1.0"
        )
    for name, kind in KINDS.items():
        if not isinstance(described.get(name), kind) or (kind is not bool and isinstance(described.get(name), bool)):
            raise DataError(
                f"{folder / DESCRIBED} is damaged: {name!r} is {short(described.get(name))}, no {kind.__name__}"
            )
    return dict(described)


def read(path: Path, reader: Callable[[Path], Any]) -> Any:
    """Return what is in a file of a saved fit.

    Raises
    ------
    DataError
        If it is missing or cannot be read.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; {path.parent} does not hold a saved fit")
    try:
        return reader(path)
    except (OSError, ValueError, SafetensorError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise DataError(f"{path}: cannot be read ({first}); is it truncated?") from error


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
