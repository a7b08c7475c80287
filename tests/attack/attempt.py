"""One wrong input and what became of it."""

from __future__ import annotations

import math
import re
import resource
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from inference import Fit
from zoo.errors import ZooError

LIMIT = 60.0  # seconds after which an attempt hangs
MEMORY = 6 << 30  # bytes of address space that an attempt may add


@dataclass(frozen=True)
class Attempt:
    """Something a user might do that is wrong, or looks so.

    Attributes
    ----------
    kind, name
        What is attacked, and how.
    run
        Does it.
    words
        Patterns, one of which an error has to have: what names the thing.
    refuse
        Whether anything but an error is wrong; else a finite answer is right, too.
    """

    kind: str
    name: str
    run: Callable[[], Any]
    words: tuple[str, ...]
    refuse: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of an attempt: "right", "unclear" or "wrong", and why."""

    what: str
    why: str
    seconds: float


class HangError(BaseException):
    """Raised by the clock inside of an attempt; no library catches it."""


def judge(attempt: Attempt) -> Verdict:
    """Run an attempt and say what became of it.

    Right is an error of the zoo that names the thing, or a finite answer. Unclear is one that does not name it. Wrong
    is all else: an error of another library, an answer that is no number, silence where there is no right answer, more
    time or memory than any attempt needs.
    """
    began = time.perf_counter()

    def verdict(what: str, why: str) -> Verdict:
        return Verdict(what, why, time.perf_counter() - began)

    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = attempt.run()
            fault = unsound(found)
    except ZooError as error:
        text = str(error)
        if "\n" in text.strip() or len(text) > 2000:
            return verdict("unclear", f"long or of several lines: {text[:200]!r}")
        if not any(re.search(word, text, re.IGNORECASE) for word in attempt.words):
            return verdict("unclear", text)
        return verdict("right", text)
    except HangError:
        return verdict("wrong", f"more than {LIMIT:.0f} s")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return verdict("wrong", f"{type(error).__name__}: {str(error)[:200]}")
    if fault is not None:
        return verdict("wrong", fault)
    if attempt.refuse:
        return verdict("wrong", f"accepted: {str(found)[:100]!r}")
    return verdict("right", "a finite answer")


def unsound(found: Any) -> str | None:
    """Say which number of an answer is none; None if all are. A density may be zero, and its logarithm -inf."""
    match found:
        case Fit():
            return unsound(found.objective.value) or unsound(found.summary().iloc[:, 0])
        case xr.DataTree():
            return next((w for g in found.children.values() if (w := unsound(g.to_dataset()))), None)
        case xr.Dataset():
            return next((w for v in found.data_vars.values() if (w := unsound(v.to_numpy()))), None)
        case pd.DataFrame() | pd.Series():
            return unsound(
                found.select_dtypes("number").to_numpy() if isinstance(found, pd.DataFrame) else found.to_numpy()
            )
        case np.ndarray() if found.dtype.kind == "f":
            bad = np.isnan(found) | (found == np.inf)
            return f"{int(bad.sum())} of {bad.size} numbers of the answer are NaN or infinite" if bad.any() else None
        case float() if math.isnan(found) or found == math.inf:
            return f"the answer is {found}"
        case dict():
            return next((w for v in found.values() if (w := unsound(v))), None)
    return None


@contextmanager
def _limited() -> Iterator[None]:
    def late(*_: Any) -> None:
        raise HangError

    before = signal.signal(signal.SIGALRM, late)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    told = Path("/proc/self/statm")
    pages = int(told.read_text(encoding="ascii").split()[0]) if told.exists() else 0
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, LIMIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
