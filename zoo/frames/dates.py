"""Dates in tables, the same whether they come as text or parsed: no numbers, and labels as ISO 8601 has them."""

from __future__ import annotations

import datetime
import re

import pandas as pd

MONTH = r"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
# Besides ISO 8601: 31.12.2024, 12/31/24, 2024/12/31, 31 Dec 2024, Dec 31, 2024; a time of day may follow.
OTHER = re.compile(
    rf"\s*(?:\d{{1,2}}([./-])\d{{1,2}}\1(?:\d{{4}}|\d{{2}})|\d{{4}}([./])\d{{1,2}}\2\d{{1,2}}"
    rf"|\d{{1,2}}[ -]{MONTH}[ ,-]+\d{{2,4}}|{MONTH} \d{{1,2}},? \d{{4}})(?:[ T,]+\d{{1,2}}:\d\d.*)?\s*",
    re.IGNORECASE,
)
FEW = 100  # entries that tell of nearly all columns of words that they hold no dates


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
    if not all(isinstance(v, str | datetime.date | datetime.time | datetime.timedelta) for v in entries):
        return False
    words = entries[[isinstance(v, str) for v in entries]]
    if all(OTHER.fullmatch(v) for v in words):
        return True
    parsed = pd.to_datetime(words, errors="coerce", format="ISO8601", utc=True)
    return bool(parsed.notna().all() and pd.to_numeric(words, errors="coerce").isna().all())


def as_words(column: pd.Series) -> pd.Series:
    """Write the dates of a column as text, days without a time of day; None where one is missing."""
    if pd.api.types.is_object_dtype(column.dtype) and all(isinstance(v, datetime.date) for v in column.dropna()):
        column = pd.to_datetime(column)
    words = column.astype(str).astype(object)
    words[column.isna()] = None
    return words
