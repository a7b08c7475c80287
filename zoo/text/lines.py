"""The line of a TOML file that gives a key."""

from __future__ import annotations

import re

HEADER = re.compile(r"\s*\[+\s*([\w.\s-]+?)\s*\]")
KEY = re.compile(r"\s*([\w.\s-]+?)\s*=")


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the number of the line that gives these keys, from 1 on; else that of the innermost table they are in."""
    best, depth = 1, 0
    header: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := HEADER.match(line):
            path = header = _parts(found[1])
        elif found := KEY.match(line):
            path = (*header, *_parts(found[1]))
        else:
            continue
        if len(path) > depth and path == keys[: len(path)]:
            best, depth = number, len(path)
    return best


def _parts(path: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in path.split("."))
