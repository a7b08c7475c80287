"""The rooms of the house: each imports only what is below it, and no two files import each other in a circle."""

from __future__ import annotations

import graphlib
import re
from functools import cache
from pathlib import Path

import pytest

from tests.cases.sources import FILES, MODULES, PACKAGES, ROOT, imports


@cache
def rooms() -> list[str]:
    """Rooms from top to bottom, as the tree in docs/architecture.md has them: "inference/cli.py", "zoo/program/".

    Several names in one line of it are several rooms, the left one on top.
    """
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found, package = [], ""
    for line in text.partition("\n## Rooms\n")[2].split("```")[1].splitlines()[1:]:
        names = re.match(r"\s*((?:[\w*/]+(?:/|\.py)\s*)+)", line)
        assert names, f"docs/architecture.md: a room is a folder/ or a file.py, not {line!r}"
        if line[0] != " ":
            package = names[1].split()[0]
        found += [package + name for name in names[1].split()] if line[0] == " " else [package]
    return [r for r in found if not any(other.startswith(r) and other.count("/") == 1 for other in found if other != r)]


@cache
def room_of(path: Path) -> str | None:
    """The room a file is in; None for a package's own ``__init__.py``, which hands out names of all its rooms."""
    name = path.relative_to(ROOT).as_posix()
    if name.count("/") == 1 and name.endswith("/__init__.py"):
        return None
    inside = [r for r in rooms() if name == r or (r.endswith("/") and name.startswith(r))]
    inside += [r for r in rooms() if r.endswith("/*.py") and name.count("/") == 1 and name.startswith(r[:-4])]
    assert inside, f"{name} is in no room of the tree in docs/architecture.md"
    return max(inside, key=lambda r: (not r.endswith("*.py"), len(r)))


def test_every_room_has_files():
    there = {room_of(path) for path in FILES}
    assert [r for r in rooms() if r not in there] == []


def test_a_room_imports_only_rooms_below_it():
    order, lines, uses = rooms(), dict.fromkeys(rooms(), 0), {r: set() for r in rooms()}
    up = []
    for path in FILES:
        room = room_of(path)
        if room is None:
            continue
        lines[room] += len(path.read_text(encoding="utf-8").splitlines())
        for line, target in imports(path):
            other = room_of(MODULES[target]) if target in MODULES else room
            if target in PACKAGES:
                up.append(f"{path.relative_to(ROOT)}:{line}: {target}, which hands out names of all its rooms")
            elif other not in (None, room):
                uses[room].add(other)
                if order.index(other) < order.index(room):
                    up.append(f"{path.relative_to(ROOT)}:{line}: {target} is above, in {other}")
    for room in order:
        print(f"{room:32} {lines[room]:6} lines   {' '.join(r for r in order if r in uses[room])}")
    assert not up, "arrows upward:\n" + "\n".join(up)


def test_no_two_files_import_in_a_circle():
    arrows = {
        name: {target for _, target in imports(path) if target in MODULES and target != name}
        for name, path in MODULES.items()
    }
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))
