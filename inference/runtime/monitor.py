"""Progress of a run: its trace, and a bar, lines or a function of the user's that tell of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from inference.runtime.notebook import Line
from zoo.errors import MethodError, short

Told = Callable[[int, float, Mapping[str, str | int | float]], None]  # step, value, further numbers
SECONDS = 10.0  # between lines where a bar cannot be drawn


class Monitor:
    """Keeps the trace of a run and shows its progress.

    On a terminal and in a notebook as a bar; elsewhere, as in log files, as a line to standard error each ten seconds.

    Parameters
    ----------
    title
        What is running.
    total
        Most steps.
    show
        Whether to show progress, or a function to tell it to: ``show(step, value, metrics)`` with "title", "total" and
        "seconds" among the metrics.
    """

    def __init__(self, title: str, total: int, *, show: bool | Told) -> None:
        check_progress(show)
        self.rows: list[tuple[int, float, float]] = []
        self.title, self.total = title, total
        self.began = self._said = time.perf_counter()
        console = Console(stderr=True)
        self._line = Line(title, total) if show is True and console.is_jupyter else None
        drawn = console.is_terminal and self._line is None
        self._tell = show if callable(show) else self._say if show and not drawn else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[value]}"),
            TimeElapsedColumn(),
            transient=True,
            disable=not show or self._tell is not None,
            console=console,
        )
        self._task = self._bar.add_task(title, total=total, value="")

    def __enter__(self) -> Monitor:
        """Start the bar."""
        if not self._bar.disable:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the bar."""
        if not self._bar.disable:
            self._bar.stop()
        if self._line is not None:
            self._line.end()

    def record(self, step: int, value: float) -> None:
        """Note the objective after `step` steps."""
        seconds = time.perf_counter() - self.began
        self.rows.append((step, seconds, value))
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, value=f"{value:.6g}")
        elif self._tell is not None:
            self._tell(step, value, {"title": self.title, "total": self.total, "seconds": seconds})

    def _say(self, step: int, value: float, metrics: Mapping[str, str | int | float]) -> None:
        """Write a line, unless the last one is fresh."""
        if self._line is not None:
            self._line.tell(step, value, float(metrics["seconds"]))
            return
        now = time.perf_counter()
        if now - self._said >= SECONDS:
            self._said = now
            line = f"{self.title}: {step}/{self.total}, {value:.6g}, {metrics['seconds']:.0f} s"
            self._bar.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def resume(self, rows: list[tuple[int, float, float]]) -> None:
        """Go on from what an earlier run noted, its time included."""
        self.rows = rows
        self.began = time.perf_counter() - (rows[-1][1] if rows else 0.0)

    @property
    def trace(self) -> pd.DataFrame:
        """The objective by step: columns step, seconds, value."""
        return pd.DataFrame(self.rows, columns=["step", "seconds", "value"])


def check_progress(show: Any) -> None:
    """Raise `MethodError` for what progress can neither be shown by nor told to."""
    wanted = "progress: expected True, False, or a function that is called as progress(step, value, metrics)"
    if not (isinstance(show, bool) or callable(show)):
        raise MethodError(f"{wanted}; found {short(show)}")
    if callable(show):
        try:
            signature = inspect.signature(show)
        except ValueError:  # some that are built in have none
            return
        try:
            signature.bind(0, 0.0, {})
        except TypeError as error:
            raise MethodError(f"{wanted}; found {short(show)}: {error}") from None
