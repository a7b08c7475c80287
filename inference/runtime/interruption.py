"""Ctrl-C: a climb ends where it is, and the fit is made of that; a second one raises KeyboardInterrupt."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType


class Interruption:
    """Whether somebody has asked for a run to end.

    Attributes
    ----------
    asked
        Set by the first Ctrl-C.
    """

    asked = False

    def ask(self) -> None:
        """Note it, and say what happens."""
        self.asked = True
        sys.stderr.write("\nCtrl-C: ending with the best so far; once more to stop at once\n")


_NOW: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Run something whose climbs end at Ctrl-C."""
    interruption = Interruption()
    token = _NOW.set(interruption)
    try:
        yield interruption
    finally:
        _NOW.reset(token)


@contextmanager
def listening() -> Iterator[Callable[[], bool]]:
    """Take Ctrl-C as a wish to end, for as long as a climb lasts, and hand out a function that tells of it.

    Only in the main thread, which signals go to, where nobody has a handler of their own, and within `interruptible`.
    """
    now = _NOW.get()
    if now is None:
        yield lambda: False
        return
    main = threading.current_thread() is threading.main_thread()
    if not main or now.asked or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: now.asked
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        now.ask()

    signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: now.asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def ask() -> bool:
    """Note a KeyboardInterrupt that was caught as a wish to end; False where nobody would make a fit of it."""
    now = _NOW.get()
    if now is None or now.asked:
        return False
    now.ask()
    return True


def asked() -> bool:
    """Tell whether the run is to end."""
    now = _NOW.get()
    return now is not None and now.asked
