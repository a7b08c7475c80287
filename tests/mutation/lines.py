"""Which tests run which functions of the files that are changed, and how long each takes."""

from __future__ import annotations

import ast
import builtins
import os
from collections import defaultdict
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from tests.mutation.mutants import functions

HITS: set[str] = set()


def marked(path: Path, root: Path) -> CodeType:
    """Compile a file with a note at the head of each function that it was run."""
    vars(builtins)["_mutation_hits"] = HITS
    tree = ast.parse(path.read_text())
    for qualified, function in functions(tree):
        name = repr(f"{path.relative_to(root)}:{qualified}")
        at = 1 if ast.get_docstring(function) is not None else 0
        function.body[at:at] = ast.parse(f"_mutation_hits.add({name})").body
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


def import_marked(paths: list[Path], root: Path) -> None:
    """Have what is imported from these files noted, function by function."""
    codes = {str(path): marked(path, root) for path in paths}
    plain = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        changed = codes.get(str(Path(self.path).resolve()))
        return plain(self, fullname) if changed is None else changed

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


class Lines:
    """A plugin of pytest that runs tests which are not known yet, and notes the functions that each passing one runs.

    Attributes
    ----------
    tests
        "file:qualified name" of a function -> tests.
    seconds
        Test -> how long it kept processors busy, with the processes that it started.
    """

    def __init__(self, tests: dict[str, list[str]], seconds: dict[str, float]) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set, {at: set(names) for at, names in tests.items()})
        self.seconds = dict(seconds)
        self._start = 0.0

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Forget tests that are gone, and leave those to run that are new."""
        there = {item.nodeid for item in items}
        self.seconds = {test: took for test, took in self.seconds.items() if test in there}
        for names in self.tests.values():
            names &= there
        items[:] = [item for item in items if item.nodeid not in self.seconds]

    def pytest_runtest_setup(self, item: Any) -> None:
        HITS.clear()
        self._start = _busy()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = _busy() - self._start
            for function in HITS:
                self.tests[function].add(report.nodeid)


def _busy() -> float:
    return sum(os.times()[:4])


def sources(rooms: list[str], root: Path) -> list[Path]:
    return [path for room in rooms for path in sorted((root / room).glob("*.py"))]
