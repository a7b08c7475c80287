"""A summary as a frame of numbers that prints with all its columns, in as many digits as mean something."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pandas as pd

DIGITS = 2  # of standard deviations and Monte Carlo errors that are shown
LONG = 9  # characters of a number, beyond which it may have an exponent
WIDE = 80  # characters, where pandas has no width set


class Summary(pd.DataFrame):
    """A frame with ArviZ's columns of a summary, or the values of a point, whose numbers are rounded as it is printed.

    As ArviZ shows them: effective sizes as whole numbers, R-hat with two decimals, Monte Carlo errors in two digits.
    Means and ends of intervals have the decimals that the standard deviation has in two digits. The numbers themselves
    are not rounded, nor what is written to files.

    No line is longer than ``pandas.options.display.width``, 80 characters, and no column is left out: where they are
    too wide side by side, names of columns end above their numbers on one of two lines, and a row's name that leaves
    no room for its numbers stands above these.
    """

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return Summary

    def __repr__(self) -> str:
        """Return the table as text, of many rows the first and the last ones."""
        if not len(self) or not all(_is_known(c) and self.dtypes[c].kind == "f" for c in self.columns):
            return super().__repr__()
        names, cells = [str(i) for i in self.index], _cells(self)
        most, size = pd.get_option("display.max_rows"), ""
        if most and len(names) > most:
            half = (pd.get_option("display.min_rows") or most) // 2
            names = [*names[:half], "...", *names[-half:]]
            cells = [*cells[:half], ["..."] * len(self.columns), *cells[-half:]]
            size = f"\n\n[{len(self)} rows x {len(self.columns)} columns]"
        return _laid_out(names, list(self.columns), cells, pd.get_option("display.width") or WIDE) + size


def _is_known(column: object) -> bool:
    return isinstance(column, str) and (
        column in ("mean", "sd", "value", "se", "r_hat") or column.startswith(("eti", "hdi", "ess_", "mcse_"))
    )


def _cells(table: pd.DataFrame) -> list[list[str]]:
    """Numbers as text, row by row."""
    spread = next((c for c in ("sd", "se") if c in table), "")
    rows = [dict(zip(table.columns, row, strict=True)) for row in table.to_numpy()]
    return [[_number(c, v, row.get(spread, math.nan)) for c, v in row.items()] for row in rows]


def _number(column: str, value: float, spread: float) -> str:
    """Round a number, given the standard deviation that its row has."""
    if not math.isfinite(value):
        return str(float(value))
    if column.startswith("ess_"):
        return str(math.floor(value))
    if column == "r_hat":
        return f"{value:.2f}"
    if column.startswith("mcse_"):
        return f"{value:.{DIGITS}g}"
    if not math.isfinite(spread) or spread <= 0:
        return f"{value:.4g}"
    decimals = DIGITS - 1 - math.floor(math.log10(spread))
    text = f"{value:.{max(0, decimals)}f}"
    if len(text) <= LONG or not value:
        return text
    return f"{value:.{max(1, decimals + 1 + math.floor(math.log10(abs(value))))}g}"


def _laid_out(names: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[str]], width: int) -> str:
    """Set rows below the names of the columns, no line longer than a width if it can be."""
    longest, room = max(map(len, names)), 0
    narrow = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for place, gap in itertools.product((_side_by_side, _staggered), (2, 1)):
        widths, heads = place(columns, narrow, gap)
        room = width - sum(widths) - gap * len(widths)
        if longest <= room:
            break
    room = max(0, min(longest, room))
    lines = [" " * room + head for head in heads]
    for name, row in zip(names, cells, strict=True):
        numbers = "".join(" " * gap + text.rjust(w) for text, w in zip(row, widths, strict=True))
        lines += [name.ljust(room) + numbers] if len(name) <= room else [name, " " * room + numbers]
    return "\n".join(lines)


def _side_by_side(columns: Sequence[str], widths: Sequence[int], gap: int) -> tuple[list[int], list[str]]:
    """Return widths of columns, and their names on one line."""
    wide = [max(len(c), w) for c, w in zip(columns, widths, strict=True)]
    return wide, ["".join(" " * gap + c.rjust(w) for c, w in zip(columns, wide, strict=True))]


def _staggered(columns: Sequence[str], widths: Sequence[int], gap: int) -> tuple[list[int], list[str]]:
    """Return widths of columns, and names on two lines, each over its neighbour's column where that is narrower."""
    lines, wide, end = ["", ""], [], 0
    for name, width in zip(columns, widths, strict=True):
        # By how many characters a name lacks room on each line, with a space before it.
        lacking = [len(line) + 1 + len(name) - (end + gap + width) for line in lines]
        line = 1 if lacking[1] <= max(0, lacking[0]) else 0
        wide.append(width + max(0, lacking[line]))
        end += gap + wide[-1]
        lines[line] = lines[line].ljust(end - len(name)) + name
    return wide, lines
