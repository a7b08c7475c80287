"""Dates in tables, the same whether they come as text or parsed: no numbers, and labels as ISO 8601 has them."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
# Besides ISO 8601: 31.12.2024, 12/31/24, 2024/12/31, 31 Dec 2024, Dec 31, 2024; a time of day may follow.
OTHER = re.compile(
    rf"\s*(?:\d{{1,2}}([./-])\d{{1,2}}\1(?:\d{{4}}|\d{{2}})|\d{{4}}([./])\d{{1,2}}\2\d{{1,2}}"
    rf"|\d{{1,2}}[ -]{MONTH}[ ,-]+\d{{2,4}}|{MONTH} \d{{1,2}},? \d{{4}})(?:[ T,]+\d{{1,2}}:\d\d.*)?\s*",
    re.IGNORECASE,
)
# What shorter or longer ones are made of, word by word: Jan 2020, Jan-20, 3rd of May, Mon 5 Jan 13:45 GMT 2020, 9 am,
# 1/2020, 2020Q1, 2020-W05, 1 days 02:00:00, P1DT2H. A word that is a whole date or time makes one of the entry, ...
CLOCK = r"[+-]?(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:[.,]\d+)?)?(?:z|[ap]\.?m\.?)?|(?:0?[1-9]|1[0-2])[ap]m"
SPAN = r"[+-]?\d+:[0-5]\d:[0-5]\d(?:\.\d+)?|-?p(?=[\dt])(?:\d+[ymwd])*(?:t(?:[\d.]+[hms])+)?"
WHOLE = re.compile(
    rf"{CLOCK}|{SPAN}|\d\d?/\d{{4}}|\d{{4}}[/-]\d\d?(?:[/-]\d\d?)?|\d\d?([./-])\d\d?\1(?:\d\d)?\d\d"
    r"|\d{4}-?q[1-4]|q[1-4]-?\d{4}|\d{4}-?w\d\d(?:-?[1-7])?"
)
# ... and so do a name and a number, where all other words may stand beside dates.
NAME = re.compile(
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?|am|pm|days?)\.?"
)
NUMBER = re.compile(r"[+-]?\d{1,4}(?:st|nd|rd|th|\.)?")
BESIDE = re.compile(
    r"(?:mon|tues?|wed(?:nes)?|thu(?:rs)?|fri|sat(?:ur)?|sun)(?:day)?\.?|of|at|z|gmt|utc|c?e[sd]?t|[+-]\d\d:?\d\d"
)
TIME = re.compile(rf"\s*(?:{CLOCK}|{SPAN}|[+-]?\d+ days?(?:,? .*)?|\d\d? [ap]m|(?:{CLOCK}) ?[ap]m)\s*")
FEW = 100  # entries that tell of nearly all columns of words that they hold no dates
YEARS = (1800, 2200)  # that whole numbers which are read as dates may name


def are_dates(column: pd.Series) -> bool:
    """Tell whether a column holds dates, times or spans of these and nothing else: parsed, as objects, or as text."""
    types, dtype = pd.api.types, column.dtype
    if types.is_datetime64_any_dtype(dtype) or types.is_timedelta64_dtype(dtype) or isinstance(dtype, pd.PeriodDtype):
        return True
    if not (types.is_object_dtype(dtype) or types.is_string_dtype(dtype)):
        return False
    present = column.dropna()
    return bool(len(present)) and _say_dates(present.head(FEW)) and _say_dates(present)


def _say_dates(entries: pd.Series) -> bool:
    """Whether every entry is a date, or text that says one and is no number (as 2020 and 20200101 are)."""
    objects = (str, datetime.date, datetime.time, datetime.timedelta, pd.Period)
    if not all(isinstance(v, objects) for v in entries):
        return False
    words = entries[[isinstance(v, str) for v in entries]]
    if all(OTHER.fullmatch(v) or _in_words(v) for v in words):
        return True
    parsed = pd.to_datetime(words, errors="coerce", format="ISO8601", utc=True)
    return bool(parsed.notna().all() and pd.to_numeric(words, errors="coerce").isna().all())


def _in_words(entry: str) -> bool:
    """Whether an entry is made of the words of a date or time; a lone month or weekday is a category."""
    words = re.sub(rf"(\d)[ -]?({NAME.pattern})(?=\W|$)|({NAME.pattern})-(?=\d)", r"\1 \2\3 ", entry.lower())
    kinds = {
        next((kind for kind in (WHOLE, NAME, NUMBER, BESIDE) if kind.fullmatch(word)), None)
        for word in re.split(r"[\s,]+", words.strip())
    }
    together = WHOLE.fullmatch(entry.lower().replace(" ", ""))  # Q1 2020
    return bool(together) or (None not in kinds and (WHOLE in kinds or {NAME, NUMBER} <= kinds))


def what_of(entry: str) -> str:
    """Return what an entry is that says a date or time: one of dates, or of times."""
    return "times" if TIME.fullmatch(entry.lower()) else "dates"


def dated_numbers(columns: Mapping[Any, np.ndarray | pd.Series]) -> tuple[str, ...]:
    """Say which columns of numbers hold days written as yyyymmdd, whose differences are no numbers of days."""
    return tuple(
        f"column {name!r}: all numbers read as days written as yyyymmdd, and are taken as the numbers they are, in "
        "which a month is 100 days long; if they are dates, give days since the first, or leave the column out"
        for name, numbers in ((name, np.asarray(column)) for name, column in columns.items())
        if _are_days(numbers[:FEW]) and _are_days(numbers) and np.nanmin(numbers) < np.nanmax(numbers)
    )


def _are_days(numbers: np.ndarray) -> bool:
    """Whether all numbers are days as 20240131 is one."""
    present = numbers[~np.isnan(numbers)]
    first, last = (10_000 * year for year in YEARS)
    if not len(present) or not ((present > first) & (present < last)).all() or (present % 1).any():
        return False
    words = pd.Series(np.unique(present)).astype("int64").astype(str)
    return bool(pd.to_datetime(words, format="%Y%m%d", errors="coerce").notna().all())


def as_words(column: pd.Series) -> pd.Series:
    """Write the dates of a column as text, days without a time of day; None where one is missing."""
    if pd.api.types.is_object_dtype(column.dtype) and all(isinstance(v, datetime.date) for v in column.dropna()):
        column = pd.to_datetime(column)
    words = column.astype(str).astype(object)
    words[column.isna()] = None
    return words
