"""Checks of what questions are asked with."""

from __future__ import annotations

import operator
from typing import Any

from zoo.errors import FitError


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
    if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
        raise FitError(f"{what} must be a whole number above 0, not {value!r}")
    return operator.index(value)
