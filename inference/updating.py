"""Continuing a fit with more data: yesterday's posterior is today's prior."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from inference.approximation import Conjugate
from inference.method import Method
from inference.random import seeded
from inference.threads import threads_for
from zoo.declare.data import Source, bind
from zoo.declare.program import Program
from zoo.errors import MethodError

if TYPE_CHECKING:
    from inference.result import Fit


def conditioned(method: Method, fit: Fit, new_data: Source) -> Fit:
    """Fit the same model to new rows, with the posteriors of a fit for priors.

    Raises
    ------
    MethodError
        If the fit has no conjugate posterior, or a latent belongs to the earlier rows.
    """
    from inference.result import Fit

    name, before = type(method).__name__, fit.program
    if not isinstance(fit.approximation, Conjugate):
        raise MethodError(
            f"{name}().update continues a fit with a conjugate posterior, made by Exact() or CAVI(); this one was made "
            f"by {type(fit.method).__name__}"
        )
    if before.locals:
        raise MethodError(
            f"site {before.locals[0].name!r} is local: new rows have latents of their own, so the old posterior is no "
            "prior for them"
        )
    data = bind(before.model, new_data, like=before.data).to(before.dtype, before.device)
    priors = {n: q for q in fit.approximation.posteriors for n in q.names}
    model = copy.deepcopy(before.model)
    model.coords, model.row_weights = data.coords, None
    program = Program(model, replace(data, weights=None), priors, before.structure)
    program.plans = before.plans
    with seeded(fit.seed, before.device), threads_for(program):
        method.check(program)
        outcome = method.run(program)
    last = int(fit.trace["step"].iloc[-1])
    trace = pd.concat([fit.trace, outcome.trace.assign(step=outcome.trace["step"] + last)], ignore_index=True)
    return Fit(program, method, replace(outcome, trace=trace), fit.seed, 0.0)
