"""Data as a setting of a method: rows beside those that are fitted, such as a validation set."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from zoo.data.bind import bind
from zoo.errors import DataError, MethodError
from zoo.program.new_rows import check_new_rows
from zoo.program.program import Program


class OtherRows:
    """Data that a method takes as a setting: settings are compared and written, and these are one thing, by identity.

    Parameters
    ----------
    source
        Anything that `fit` takes as data.
    """

    def __init__(self, source: Any) -> None:
        self.source = source

    def __repr__(self) -> str:
        """Say what they are, and not all that is in them."""
        return repr(self.source) if isinstance(self.source, str) else f"({type(self.source).__name__})"

    def bound(self, program: Program) -> Program:
        """The program on these rows.

        Raises
        ------
        DataError
            If they are not like those fitted.
        """
        try:
            data = bind(program.model, self.source, like=program.data).to(program.dtype, program.device)
            check_new_rows(program, data)
        except DataError as error:
            raise DataError(f"validation: {error}") from error
        return program.rebind(data)


def held_of(asked: Any, name: str) -> float | OtherRows | None:
    """What `validation=` of a method of this name stands for: a share or number of its rows, or other rows.

    Raises
    ------
    MethodError
        If it is a number, and neither.
    """
    if asked is None or isinstance(asked, OtherRows):
        return asked
    if getattr(asked, "ndim", 0) or not isinstance(asked, int | float | np.number):
        return OtherRows(asked)
    if isinstance(asked, bool) or not 0 < asked < math.inf or (asked >= 1 and asked != int(asked)):
        raise MethodError(
            f"{name}: validation={asked} is neither a share of the rows, between 0 and 1, nor a number of rows, nor a "
            "data set"
        )
    return float(min(asked, 2**53))  # there are no more rows, and larger integers are beyond floats
