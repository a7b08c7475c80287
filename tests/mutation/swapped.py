"""A function that is in memory given the changed code, wherever it is held: as a method, decorated, or imported."""

from __future__ import annotations

import gc
from collections import defaultdict
from pathlib import Path
from types import CodeType, FunctionType

from tests.mutation.mutants import Mutant, compiled

FUNCTIONS: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)


def functions_of(root: Path) -> None:
    """Remember all functions that were imported from below a folder."""
    for held in gc.get_objects():
        if type(held) is FunctionType and held.__code__.co_filename.startswith(str(root)):
            FUNCTIONS[_key(held.__code__)].append(held)


def put(mutant: Mutant) -> None:
    """Let the function of a change run its changed code."""
    found, waiting = 0, [compiled(mutant)]
    while waiting:
        code = waiting.pop()
        waiting += [c for c in code.co_consts if isinstance(c, CodeType)]
        if code.co_qualname == mutant.function:
            for function in FUNCTIONS.get(_key(code), []):
                function.__code__ = code
                found += 1
    if not found:
        raise LookupError(f"{mutant.function} of {mutant.path} is not in memory.")


def _key(code: CodeType) -> tuple[str, str, int]:
    return code.co_filename, code.co_qualname, code.co_firstlineno
