"""New rows as the program of a fit sees them: bound like the fitted ones, with groups and without labels of theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from zoo.data.bind import Source, bind
from zoo.data.data import Data
from zoo.errors import DataError, FitError, UnseenLevelError
from zoo.program.groups import open_plates
from zoo.program.new_rows import check_new_rows
from zoo.program.program import Program
from zoo.replay.evaluate import Values


def rebound(program: Program, points: Values, new: Source | Data, *, block: bool) -> Program:
    """Return a program on new rows, or itself if they are the same; with `block` locals of theirs may be tied.

    Raises
    ------
    FitError
        If rows depend on each other, so that new ones cannot be looked at by themselves.
    """
    fitted = program.data
    bound, plates = _bound(program, points, new)
    data = bound.to(program.dtype, program.device)
    same = data.missing.keys() == fitted.missing.keys() and all(
        torch.equal(v, fitted.values[n]) for n, v in data.values.items() if v.shape == fitted.values[n].shape
    )
    same = same and all(torch.equal(gone, fitted.missing[n]) for n, gone in data.missing.items())
    if same and len(data) == len(fitted):
        return program
    check_new_rows(program, data)
    gone = program.integrated.names if program.integrated else ()  # whose rows are one sequence anyway
    ties = (t for t in program.structure.ties if t.kind == "data" or (t.kind == "local" and not block))
    ties = (t for t in ties if t.kind != "data" or t.site not in gone)
    tie = next(ties, None)
    if tie is not None:
        raise FitError(
            f"new rows cannot be looked at by themselves: {tie}. Fit all rows together; what the model makes of "
            "several rows (a mean, a lagged value) can be given as a field or worked out in `setup`"
        )
    event = next((s for s in program.observed if s.field in data.row_fields and not s.plates), None)
    if event is not None:
        raise FitError(
            f"new rows cannot be looked at by themselves: site {event.name!r} is one event of all rows, and new "
            f"ones depend on those fitted. Fit all rows together, with {event.field!r} missing (NaN) in the new "
            "ones; or declare what rows have in common as a latent"
        )
    sizes = {plate: len(data.levels[field]) for field, found in plates.items() for plate in found}
    return program.rebind(data, {**program.sizes, **sizes})


def _bound(program: Program, points: Values, new: Source | Data) -> tuple[Data, dict[str, tuple[str, ...]]]:
    """Bind new rows; return them, and the plates of fields that have labels which no fitted row has."""
    like, plates = program.data, dict[str, tuple[str, ...]]()
    new = without(new, program.structure.completed.values(), like)
    while True:
        try:
            return bind(program.model, new, like=like), plates
        except UnseenLevelError as error:
            found = open_plates(program, points, error.field)
            if not found or error.field in plates:
                raise DataError(
                    f"{error}. A new one could be predicted if the model had a prior for it: latents in a plate "
                    f"with an entry for each category of {error.field!r}, which nothing else is made of"
                ) from error
            plates[error.field] = found
            labels = (*like.levels[error.field], *error.labels)
            like = replace(like, levels={**like.levels, error.field: labels})


def without(new: Source | Data, fields: Iterable[str], like: Data) -> Source | Data:
    """Fill in as missing the fields that new rows, a table or a dict of arrays, have not at all.

    In a table the column has the name that it had in the data that were fitted.
    """
    for field in fields:
        (column,) = like.columns.get(field, (field,))
        if isinstance(new, pd.DataFrame) and column not in new.columns:
            new = new.assign(**{column: np.nan})
        elif isinstance(new, dict) and new and field not in new:
            new = {**new, field: np.full(len(next(iter(new.values()))), np.nan)}
    return new
