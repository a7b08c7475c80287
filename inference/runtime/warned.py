"""Warnings of what is run many times, such as a model's own code: each is shown once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO


@contextmanager
def warned_once() -> Iterator[None]:
    """Show each warning at most once inside.

    Python's own filter does so per line of code, but forgets what it has shown whenever anybody changes the filters, as
    torch and pandas do time and again.
    """
    before, shown, inside = warnings.showwarning, set[tuple[Any, ...]](), True

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        key = (category, str(message), filename, lineno)
        if not (inside and key in shown):
            shown.add(key)
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    try:
        yield
    finally:
        inside = False  # should another thread go on calling it
        if warnings.showwarning is show:
            warnings.showwarning = before
