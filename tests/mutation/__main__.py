"""Change formulas one by one, and say which changes no test notices: `python -m tests.mutation --sample 60 --seed 0`.

First the quick tests are run once to see which functions each runs (kept in a file, `--lines`, to which new tests are
added: delete it when code has moved). Then each change is made in a forked process, which runs tests that run its
function until one fails. `--control` runs the same tests with nothing changed: a test that fails there has noticed
nothing.
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
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.mutation.lines import Lines, import_marked, sources
from tests.mutation.mutants import Mutant, mutants
from tests.mutation.swapped import functions_of, put

ROOT = Path(__file__).parents[2]
ROOMS = ["inference/conjugate", "inference/coordinate", "zoo/program"]
QUIET = ["-q", "-x", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
SECONDS = 20.0  # of tests that are run for a change, as they took when they were noted
LONGEST = 240  # seconds of the processor until a change is said to hang, which is noticed; a clock would tell of others
FIRST = ("zoo", "guides", "inference", "tests.conftest")


def noted(file: Path) -> tuple[dict[str, list[str]], dict[str, float]]:
    """Which tests run which function and what each took, from the file; tests that are new are run."""
    child = os.fork()  # which imports what is marked
    if child == 0:
        lines = Lines(*(json.loads(file.read_text()) if file.exists() else ({}, {})))
        import_marked(sources(ROOMS, ROOT), ROOT)
        pytest.main(["tests", *QUIET[2:], "-q", "-m", "not slow and not compiled"], plugins=[lines])
        file.write_text(json.dumps([{at: sorted(t) for at, t in lines.tests.items()}, lines.seconds]))
        os._exit(0)
    os.waitpid(child, 0)
    tests, seconds = json.loads(file.read_text())
    return tests, seconds


def chosen(mutant: Mutant, tests: dict[str, list[str]], seconds: dict[str, float]) -> list[str]:
    """Tests that run a function: those of its room first, the quickest of each file in turn, for so many seconds."""
    room = f"tests/{mutant.path.parent}/"
    run = sorted(tests.get(f"{mutant.path}:{mutant.function}", []), key=seconds.__getitem__)
    place = dict(zip(run, _counts(test.partition("::")[0] for test in run), strict=True))
    found, left = [], SECONDS
    for test in sorted(run, key=lambda t: (not t.startswith(room), place[t])):
        if seconds[test] <= left or not found:
            found.append(test)
            left -= seconds[test]
    return found


def _counts(files: Iterable[str]) -> Iterator[int]:
    """How often each has come before."""
    before: Counter[str] = Counter()
    for file in files:
        yield before[file]
        before[file] += 1


def tried(mutant: Mutant | None, tests: list[str]) -> str:
    """Run tests on a changed function in a forked process: "killed", "hangs" or "survives"."""
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST))
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        code = 9
        try:
            if mutant is not None:
                put(mutant)
            code = int(pytest.main([*tests, *QUIET, "-m", ""]))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code > 2:  # neither passed nor failed: tests that are gone, a function that is not in memory
        raise RuntimeError(f"{mutant}: pytest ended with {code} on {tests}")
    return "survives" if code == 0 else "hangs" if code in (-signal.SIGXCPU, -signal.SIGKILL) else "killed"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=60, help="how many changes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lines", type=Path, default=Path("/tmp/mutation-lines.json"))
    parser.add_argument("--out", type=Path, help="write each change and what became of it, line by line")
    parser.add_argument("--only", help="changes whose text holds this")
    parser.add_argument("--control", action="store_true", help="change nothing: all should survive")
    given = parser.parse_args()
    os.chdir(ROOT)
    os.nice(10)
    tests, seconds = noted(given.lines)
    files = {Path(test.partition("::")[0]) for test in seconds}
    for name in (*FIRST, *(".".join(path.with_suffix("").parts) for path in (*sources(ROOMS, Path()), *files))):
        importlib.import_module(name)  # once, before forking
    functions_of(ROOT)
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
        became = tried(None if given.control else mutant, listed) if listed else "not run"
        room = str(mutant.path.parent)
        counts.setdefault(room, {}).setdefault(became, 0)
        counts[room][became] += 1
        if became in ("survives", "not run"):
            survivors.append(f"{became}: {mutant}")
        if given.out is not None:
            with given.out.open("a") as file:
                file.write(f"{became}\t{len(listed)}\t{mutant}\n")
    print(f"{len(every)} changes, of which {len(some)} were tried (seed {given.seed})")
    counts["all"] = {kind: sum(by.get(kind, 0) for by in counts.values()) for by in counts.values() for kind in by}
    for room, by in counts.items():
        noticed, total = by.get("killed", 0) + by.get("hangs", 0), sum(by.values())
        print(f"{room}: {noticed} of {total} noticed ({noticed / total:.0%})", by)
    print("\n".join(survivors))


if __name__ == "__main__":
    sys.exit(main())
