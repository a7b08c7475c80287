"""Checks of what questions are asked with."""

from __future__ import annotations

import operator
from typing import Any

from zoo.errors import FitError, short


def positive(what: str, value: Any) -> int:
    """Return a whole number above 0.

    Parameters
    ----------
    what
        The argument as it is written: "generate(n)".
    value
        What was given.

    Raises
    ------
    FitError
        If it is anything else.
    """
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):  # as tensors of no integer, or of several, say it
        number = 0
    if number < 1:
        raise FitError(f"{what} must be a whole number above 0, not {short(value)}")
    return number
