"""Formulas and the fields of a model that they fill."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from zoo.declare.fields import Field
from zoo.errors import DataError, ModelError
from zoo.frames.formula import Design


class Formula:
    """A design for the fields of a model.

    Attributes
    ----------
    design
        What makes columns of predictors and the response.
    columns
        Field -> the columns of it that fill the field.
    """

    def __init__(self, owner: str, fields: Mapping[str, Field], design: Design) -> None:
        x, y, group = roles(owner, fields)
        self.design = design
        self.columns: dict[str, tuple[Any, ...]] = {x: design.predictors, y: (design.response,)}
        formula = f"formula {design.formula!r}"
        if not design.predictors:
            raise DataError(f"{formula}: no predictors; give at least one")
        if design.group is None and group is not None:
            raise DataError(f"{formula}: {owner} has groups, and the formula says none; add (1 | group)")
        if design.group is not None:
            if group is None:
                raise DataError(f"{formula}: {owner} has no groups; fit HierarchicalRegression")
            self.columns[group] = (design.group,)
        frame = design.frame
        if not fields[y].integer and design.response in frame and _is_text(frame[design.response]):
            level = str(frame[design.response].dropna().iloc[-1])
            raise DataError(
                f"{formula}: the response is text; say what counts as 1: {design.response}['{level}'] ~ ..."
            )

    def __deepcopy__(self, memo: Any) -> Formula:
        """Return itself: nothing changes it."""
        return self

    def __str__(self) -> str:
        """Show the formula as it was written."""
        return self.design.formula


def roles(owner: str, fields: Mapping[str, Field]) -> tuple[str, str, str | None]:
    """Return the fields of predictors, response and groups.

    Raises
    ------
    ModelError
        If the class is no regression: one matrix of predictors beside a response.
    """
    matrices = [n for n, f in fields.items() if len(f.dims) == 2 and not f.integer]
    vectors = [n for n, f in fields.items() if len(f.dims) == 1 and f.default is None]
    plain = [n for n in vectors if n == "y"] or [n for n in vectors if not fields[n].integer]
    if len(matrices) != 1 or len(plain) != 1:
        raise ModelError(
            f"{owner} has the fields {', '.join(f'{n}={f!r}' for n, f in fields.items())}; a formula is for a "
            "matrix of predictors beside a vector of responses, which is called y where there are several"
        )
    groups = [n for n in vectors if fields[n].integer and n not in plain]
    return matrices[0], plain[0], groups[0] if len(groups) == 1 else None


def _is_text(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column) and any(isinstance(v, str) for v in column)
