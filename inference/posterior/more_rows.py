"""A fit of more rows: the same model bound to them, and one trace for both."""

from __future__ import annotations

import copy
from dataclasses import replace

import pandas as pd

from zoo.data.bind import Source, bind
from zoo.errors import MethodError
from zoo.program.program import Program


def on_new_rows(program: Program, new_data: Source) -> Program:
    """Return a program of the same model on new rows, with a copy of the model of its own.

    Raises
    ------
    MethodError
        If rows depend on one another given the globals, or the priors depend on all rows.
    """
    if program.structure.ties:
        raise MethodError(f"a fit cannot go on with more rows: {program.structure.ties[0]}; fit all rows at once")
    data = bind(program.model, new_data, like=program.data).to(program.dtype, program.device)
    model = copy.deepcopy(program.model)
    model.coords, model.row_weights, model.missing = data.coords, None, data.missing
    other = Program(model, replace(data, weights=None), program.priors, program.structure)
    other.plans = program.plans
    return other


def joined(earlier: pd.DataFrame, later: pd.DataFrame) -> pd.DataFrame:
    """Return one trace of two, whose steps go on where the earlier one's ended."""
    gap = int(earlier["step"].iloc[-1]) + 1 - int(later["step"].iloc[0])
    return pd.concat([earlier, later.assign(step=later["step"] + gap)], ignore_index=True)
