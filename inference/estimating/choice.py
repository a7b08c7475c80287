"""Which method an estimator takes, and what its rows may hold."""

from __future__ import annotations

import numpy as np

from guides.encoder import Encoder
from inference.method import Method, as_method
from inference.methods.svi import SVI
from inference.runtime.random import seeded
from zoo.declare.model import Model
from zoo.errors import ZooError
from zoo.program.prepare import prepare
from zoo.program.program import Program

IN_TURN = ("exact", "em", "laplace", SVI(guide=Encoder()), "svi")  # what `method="auto"` tries


def first_legal(program: Program) -> Method:
    """Return the first method of `IN_TURN` that is legal."""
    methods = [as_method(m) for m in IN_TURN]
    chosen = next((m for m in methods if m.why_not(program) is None), methods[-1])
    chosen.check(program)  # where none is, says why not
    return chosen


TAKE_MISSING: dict[str, bool] = {}  # by the text of a model: what a look at it on a few rows has shown


def takes_missing(model: Model) -> bool:
    """Tell whether a model of one real field sums over cells that are NaN."""
    text = repr(model)
    if text not in TAKE_MISSING:
        rows = np.sin(np.arange(40.0)).reshape(20, 2)[:, : len(next(iter(model.fields.values())).dims)]
        rows[0, 0] = np.nan
        try:
            with seeded(0, None):
                program = prepare(model, rows)
                program.log_joint(program.initial())
        except ZooError:
            TAKE_MISSING[text] = False
        else:
            TAKE_MISSING[text] = True
    return TAKE_MISSING[text]
