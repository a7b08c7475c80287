"""Change formulas one by one, and say which changes no test notices: `python -m tests.mutation --sample 250 --seed 0`.

First the quick tests below are run once, to see which functions each runs (kept in a file, `--lines`). Then each change
is made in a forked process, which runs the quickest of the tests that run its function until one fails.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import signal
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from tests.mutation.lines import Lines, marked, sources
from tests.mutation.mutants import Mutant, compiled, mutants

ROOT = Path(__file__).parents[2]
ROOMS = ["inference/conjugate", "inference/coordinate", "zoo/program"]
TESTS = [
    "tests/inference/conjugate", "tests/inference/coordinate", "tests/zoo/program", "tests/user_models",
    "tests/inference/test_exact_evidence.py", "tests/inference/methods/test_exact.py",
    "tests/inference/methods/test_em.py", "tests/inference/methods/test_cavi.py", "tests/test_conditional.py",
    "tests/test_invariants.py",
    "tests/inference/test_update.py", "tests/inference/test_state_space.py", "tests/test_random_models.py",
]  # fmt: skip
QUIET = ["-q", "-x", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist"]
SECONDS = 8.0  # of tests that are run for a change, as they took when they were noted
LONGEST = 60  # seconds of the processor until a change is said to hang, which is noticed; a clock would tell of others
CODES: dict[str, CodeType] = {}  # file -> what is run in its place
FIRST = ("torch", "pyro", "pyro.distributions", "numpy", "pandas", "scipy.stats", "xarray", "arviz_base", "pydantic")


def noted(file: Path) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Which tests run which function, from the file or by running them."""
    if not file.exists():
        lines = Lines()
        for path in sources(ROOMS, ROOT):
            CODES[str(path)] = marked(path, ROOT)
        there = [t for t in TESTS if (ROOT / t).exists()]
        pytest.main([*there, *QUIET[2:], "-q", "-m", "not slow and not compiled"], plugins=[lines])
        file.write_text(json.dumps([{at: sorted(t) for at, t in lines.tests.items()}, lines.seconds]))
    tests, seconds = json.loads(file.read_text())
    return tests, seconds


def chosen(mutant: Mutant, tests: dict[str, list[str]], seconds: dict[str, float]) -> list[str]:
    """The quickest tests that run a function, of several files first: one of each in turn."""
    by_file: dict[str, list[str]] = {}
    for test in sorted(tests.get(f"{mutant.path}:{mutant.function}", []), key=lambda t: seconds[t]):
        by_file.setdefault(test.partition("::")[0], []).append(test)
    turns = [test for turn in range(max(map(len, by_file.values()), default=0)) for test in
             (of[turn] for of in by_file.values() if turn < len(of))]  # fmt: skip
    found, left = [], SECONDS
    for test in turns:
        if seconds[test] <= left:
            found.append(test)
            left -= seconds[test]
    return found


def tried(mutant: Mutant, tests: list[str]) -> str:
    """Run tests on a changed file in a forked process: "killed", "hangs" or "survives"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        CODES[str((ROOT / mutant.path).resolve())] = compiled(mutant)
        code = 9
        try:
            code = int(pytest.main([*tests, *QUIET, "-m", ""]))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "survives" if code == 0 else "hangs" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "killed"


def _install() -> None:
    """Have what is in `CODES` imported in place of what is in these files."""
    plain = SourceFileLoader.get_code

    def get_code(self: SourceFileLoader, fullname: str) -> Any:
        changed = CODES.get(str(Path(self.path).resolve()))
        return plain(self, fullname) if changed is None else changed

    SourceFileLoader.get_code = get_code  # type: ignore[method-assign]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=250, help="how many changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=Path("/tmp/mutation-lines.json"))
    parser.add_argument("--out", type=Path, help="write each change and what became of it, line by line")
    parser.add_argument("--only", help="changes whose text holds this")
    given = parser.parse_args()
    os.chdir(ROOT)
    os.nice(10)
    _install()
    for name in FIRST:  # once, before forking; what is changed is imported in each process anew
        importlib.import_module(name)
    child = os.fork()  # which imports what is to be changed
    if child == 0:
        noted(given.lines)
        os._exit(0)
    os.waitpid(child, 0)
    tests, seconds = noted(given.lines)
    every = [m for path in sources(ROOMS, Path()) for m in mutants(path)]
    some = (
        [m for m in every if given.only in str(m)]
        if given.only
        else random.Random(given.seed).sample(every, given.sample)
    )
    counts: dict[str, dict[str, int]] = {}
    survivors = []
    for mutant in some:
        listed = chosen(mutant, tests, seconds)
        became = tried(mutant, listed) if listed else "not run"
        room = str(mutant.path.parent)
        counts.setdefault(room, {}).setdefault(became, 0)
        counts[room][became] += 1
        if became in ("survives", "not run"):
            survivors.append(f"{became}: {mutant}")
        if given.out is not None:
            with given.out.open("a") as file:
                file.write(f"{became}\t{len(listed)}\t{mutant}\n")
    print(f"{len(every)} changes, of which {len(some)} were tried (seed {given.seed})")
    for room, by in sorted(counts.items()):
        noticed, total = by.get("killed", 0) + by.get("hangs", 0), sum(by.values())
        print(f"{room}: {noticed} of {total} noticed ({noticed / total:.0%})", by)
    print("\n".join(survivors))


if __name__ == "__main__":
    sys.exit(main())
