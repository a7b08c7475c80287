"""Progress of a run: its trace, and a bar on a terminal."""

from __future__ import annotations

import time

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Monitor:
    """Keeps the trace of a run and shows its progress.

    Parameters
    ----------
    title
        What is running.
    total
        Most steps.
    show
        Whether to draw a progress bar (on a terminal only).
    """

    def __init__(self, title: str, total: int, *, show: bool) -> None:
        self.rows: list[tuple[int, float, float]] = []
        self.began = time.perf_counter()
        show = show and Console(stderr=True).is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[value]}"),
            TimeElapsedColumn(),
            transient=True,
            disable=not show,
            console=Console(stderr=True),
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

    def record(self, step: int, value: float) -> None:
        """Note the objective after `step` steps."""
        self.rows.append((step, time.perf_counter() - self.began, value))
        if not self._bar.disable:
            self._bar.update(self._task, completed=step, value=f"{value:.6g}")

    def resume(self, rows: list[tuple[int, float, float]]) -> None:
        """Go on from what an earlier run noted, its time included."""
        self.rows = rows
        self.began = time.perf_counter() - (rows[-1][1] if rows else 0.0)

    @property
    def trace(self) -> pd.DataFrame:
        """The objective by step: columns step, seconds, value."""
        return pd.DataFrame(self.rows, columns=["step", "seconds", "value"])
