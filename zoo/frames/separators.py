"""What stands between the columns of a text file, told by its first lines."""

from __future__ import annotations

import re

SEPARATORS = ("\t", ";", ",", "|")
WRITTEN = {"\\t": "\t", "tab": "\t", "space": r"\s+", " ": r"\s+"}  # separators that shells make hard to write
SAMPLE = 1 << 16  # characters of a file that show its separator
LINES = 20  # of these, at most
QUOTED = re.compile(r'"(?:[^"]|"")*"')
WORD = re.compile(rf"{QUOTED.pattern}|\S+")
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|NA|NaN|nan|\.")
# What R's write.table leaves without quotes, also with a decimal comma, between spaces.
ENTRY = re.compile(rf"{QUOTED.pattern}|{NUMBER.pattern}|[+-]?\d*,\d+|-?Inf|TRUE|FALSE")


def separator_of(text: str) -> str:
    """Tell the separator of a table from its first lines: the one that is there as often in each of them.

    Of several the one that is there most often; where none is, spaces if they stand between numbers or quoted words,
    or a comma.
    """
    lines = [line for line in text.splitlines()[:LINES] if line.strip()]
    bare = [QUOTED.sub("", line) for line in lines]

    def fits(separator: str) -> tuple[int, int]:
        counts = [line.count(separator) for line in bare]
        return sum(c == counts[0] for c in counts), counts[0]

    there = [s for s in SEPARATORS if bare and s in bare[0]]
    if there:
        return max(there, key=fits)
    return r"\s+" if _spaced([WORD.findall(line) for line in lines]) else ","


def _spaced(lines: list[list[str]]) -> bool:
    """Whether lines are as many words each, below the first numbers or quoted: spaces stand between columns.

    Where the first line is a word short, as R writes it, the first words of the others are the names of rows, which may
    be of any kind if columns enough tell that these are a table.
    """
    if len(lines) < 2 or len({len(line) for line in lines[1:]}) > 1:
        return False
    count, short = len(lines[1]), len(lines[1]) - len(lines[0])
    names = [line[0] for line in lines[1:]]
    named = short == 1 and (count > 2 or all(QUOTED.fullmatch(n) for n in names))
    counted = short == 1 and names == [str(i) for i in range(1, len(names) + 1)]
    if count < 2 or not (short == 0 or named or counted):
        return False
    return all(ENTRY.fullmatch(word) for line in lines[1:] for word in line[short:])
