"""Which tests run which functions of the files that are changed, and how long each takes."""

from __future__ import annotations

import ast
import builtins
import time
from collections import defaultdict
from pathlib import Path
from types import CodeType
from typing import Any

from tests.mutation.mutants import functions

HITS: set[str] = set()


def marked(path: Path, root: Path) -> CodeType:
    """Compile a file with a note at the head of each function that it was run."""
    vars(builtins)["_mutation_hits"] = HITS
    tree = ast.parse(path.read_text())
    for function in functions(tree):
        name = repr(f"{path.relative_to(root)}:{function.lineno}")
        at = 1 if ast.get_docstring(function) is not None else 0
        function.body[at:at] = ast.parse(f"_mutation_hits.add({name})").body
    return compile(ast.fix_missing_locations(tree), str(path), "exec")


class Lines:
    """A plugin of pytest that notes the functions that each passing test runs.

    Attributes
    ----------
    tests
        "file:line" of a function -> tests.
    seconds
        Test -> how long it took.
    """

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = defaultdict(set)
        self.seconds: dict[str, float] = {}
        self._start = 0.0

    def pytest_runtest_setup(self, item: Any) -> None:
        HITS.clear()
        self._start = time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = time.process_time() - self._start
            for function in HITS:
                self.tests[function].add(report.nodeid)


def sources(rooms: list[str], root: Path) -> list[Path]:
    return [path for room in rooms for path in sorted((root / room).glob("*.py"))]
