"""Ctrl-C: a run ends where it is, and the fit is made of the best so far; a second one raises KeyboardInterrupt.

Where there is nothing yet that a fit could be made of, the first one raises, too.
"""

from __future__ import annotations

import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import FrameType
from typing import Any, cast

import torch

from inference.runtime.processes import Processes


class Interruption:
    """What has become of Ctrl-C in one run.

    Attributes
    ----------
    presses
        How often it was pressed.
    open
        Whether the run's own code is at work, and not what sets global state and puts it back: that is never cut short.
    noting
        How many regions have been entered in which a press is noted, and nothing raised.
    """

    def __init__(self) -> None:
        self.presses, self.open, self.noting = 0, False, 0

    def press(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        """Note a press, as a handler of signals does; raise where that is not the first, or nothing is there yet."""
        self.presses += 1
        if not self.open:
            return
        if self.presses > 1 or not self.noting:
            raise KeyboardInterrupt
        sys.stderr.write("\nCtrl-C: ending with the best so far; once more to stop at once\n")


_NOW: ContextVar[Interruption | None] = ContextVar("interruption", default=None)


@contextmanager
def interruptible() -> Iterator[None]:
    """Run something that ends with the best so far at Ctrl-C; the outermost context of a fit, or its decorator.

    Signals go to the main thread, and a handler of the user's own stays: elsewhere nothing is changed. A fit that is
    one of several ends together with these.
    """
    outer, filters = _NOW.get(), list(warnings.filters)
    if outer is not None:
        before, outer.open = outer.open, False
        try:
            yield
        finally:
            outer.open = before
        return
    now = Interruption()
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    token = _NOW.set(now)
    if ours:
        signal.signal(signal.SIGINT, now.press)
    try:
        yield
        if now.presses > 1:  # while global state was put back
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        cast("list[Any]", warnings.filters)[:] = (
            filters  # which `warnings.catch_warnings` may not have come to put back
        )
        raise
    except Exception as error:
        if now.presses:  # what was there so far is nothing that a fit can be made of
            raise KeyboardInterrupt("before there was anything to make a fit of") from error
        raise
    finally:
        _NOW.reset(token)
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def open_to_interruption() -> Iterator[None]:
    """Run what may be cut short within `interruptible`; what is around it puts global state back undisturbed."""
    now = _NOW.get()
    if now is None:
        yield
        return
    before, now.open = now.open, True
    try:
        if now.presses > 1 or (now.presses and not now.noting):
            raise KeyboardInterrupt
        yield
    finally:
        now.open = before


@contextmanager
def listening() -> Iterator[None]:
    """Take Ctrl-C as a wish to end, of which `asked` tells, from where there is something to make a fit of."""
    now = _NOW.get()
    if now is None:
        yield
        return
    now.noting += 1
    try:
        yield
    finally:
        now.noting -= 1


def keep() -> None:
    """Take Ctrl-C as a wish to end from here on: there is something to hand out, as the first of several fits."""
    now = _NOW.get()
    if now is not None:
        now.noting += 1


def asked() -> bool:
    """Tell whether the run is to end."""
    now = _NOW.get()
    return now is not None and now.presses > 0


def asked_of_any(processes: Processes, device: torch.device) -> bool:
    """Tell whether a run that several processes make together is to end in one of them, and so in all."""
    wish, now = processes.any_says(asked(), device), _NOW.get()
    if wish and now is not None:
        now.presses = max(now.presses, 1)
    return wish


def asked_once() -> bool:
    """Tell whether the run is to end, and not at once: then a KeyboardInterrupt is the end of one of several fits."""
    now = _NOW.get()
    return now is not None and now.presses == 1
