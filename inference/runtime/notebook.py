"""Progress in a notebook: one line with a bar, which is written anew and stays as it ends; it needs no widgets."""

from __future__ import annotations

import html
import sys
import time
from typing import Any

SOONEST = 0.5  # seconds; what ends before leaves nothing in the notebook
BETWEEN = 0.2  # seconds between two states of a line


class Line:
    """The line of one run, in the output of the cell that runs it.

    Parameters
    ----------
    title
        What is running.
    total
        Most steps.
    """

    def __init__(self, title: str, total: int) -> None:
        self.title, self.total = title, total
        self._handle: Any = None
        self._due = time.perf_counter() + SOONEST
        self._last: tuple[int, float, float] | None = None

    def tell(self, step: int, value: float, seconds: float) -> None:
        """Note a state, and show it unless the last one is fresh."""
        self._last = step, value, seconds
        if time.perf_counter() >= self._due:
            self._due = time.perf_counter() + BETWEEN
            self._draw("")

    def end(self) -> None:
        """Leave the last state, if any was shown."""
        if self._handle is not None:
            self._draw(", ended")

    def _draw(self, end: str) -> None:
        assert self._last is not None
        step, value, seconds = self._last
        total = max(self.total, step)
        said = f"{self.title}: {step}/{total}, {value:.6g}, {seconds:.0f} s{end}"
        drawn = total if end else step  # a run may be over before its last step
        bar = f'<progress value="{drawn}" max="{total}" style="width: 20em; vertical-align: middle"></progress>'
        data = {"text/plain": said, "text/html": f"{bar} <code>{html.escape(said)}</code>"}
        if self._handle is None:
            display = sys.modules["IPython"].display.display  # which every notebook has imported
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
