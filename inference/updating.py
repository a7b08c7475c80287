"""Continuing a fit with more data: yesterday's posterior is today's prior, yesterday's statistics are kept."""

from __future__ import annotations

import copy
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from inference.approximations.conjugate import Conjugate
from inference.approximations.point import PointMass
from inference.conjugate import closed_form
from inference.conjugate.e_step import Statistics
from inference.conjugate.plan import log_density_of
from inference.coordinate.ascent import Coordinates, State, added
from inference.coordinate.convergence import arrived
from inference.coordinate.memory import Memory
from inference.coordinate.source import RowSource
from inference.coordinate.stepwise import RunningAverages
from inference.method import Method, Objective, Outcome
from inference.runtime.monitor import Monitor
from inference.runtime.random import seeded
from inference.runtime.threads import threads_for
from zoo.data.bind import Source, bind
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

if TYPE_CHECKING:
    from inference.methods.em import EM
    from inference.posterior.fit import Fit


def conditioned(method: Method, fit: Fit, new_data: Source) -> Fit:
    """Fit the same model to new rows, with the posteriors of a fit for priors.

    Raises
    ------
    MethodError
        If the fit has no conjugate posterior, or a latent belongs to the earlier rows.
    """
    from inference.posterior.fit import Fit

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
    model.coords, model.row_weights, model.missing = data.coords, None, data.missing
    program = Program(model, replace(data, weights=None), priors, before.structure)
    program.plans = before.plans
    with seeded(fit.seed, before.device), threads_for(program):
        method.check(program)
        outcome = method.run(program)
    last = int(fit.trace["step"].iloc[-1])
    trace = pd.concat([fit.trace, outcome.trace.assign(step=outcome.trace["step"] + last)], ignore_index=True)
    return Fit(program, method, replace(outcome, trace=trace), fit.seed, 0.0)


def continued(method: EM, fit: Fit, new_data: Source) -> Fit:
    """Fit the same model to new rows, with the expected statistics of the rows before added to theirs.

    Incremental EM (Neal and Hinton 1998): the statistics of the earlier rows stay as they were; those of the new rows
    are averaged anew in each step. What climbs is the log likelihood of the new rows plus E[log p] of the earlier ones.

    Raises
    ------
    MethodError
        If the fit was not made by EM, or statistics are no sums over rows.
    """
    from inference.posterior.fit import Fit

    before = fit.program
    if not isinstance(fit.approximation, PointMass):
        raise MethodError(
            f"EM().update continues a fit of EM(); this one was made by {type(fit.method).__name__}, or averages over "
            "local latents"
        )
    reason = RunningAverages.why_not(before, gradient=method.gradient)
    if reason is not None:
        raise MethodError(f"EM().update cannot continue this fit: {reason}")
    plan, values = closed_form(before), {**fit.points, **fit.approximation.values}
    sites = plan.summed(before)
    if fit.memory is not None:
        plan.set_frame(fit.memory.frame)
        kept = {s.name: fit.memory.sums[s.name] for s in sites}
    else:
        ascent = Coordinates(before, hard=method.hard, rows=RowSource(before))
        _, expected = ascent.expect(State(values, {}))
        kept = {s.name: expected.statistics(s) for s in sites}
    data = bind(before.model, new_data, like=before.data).to(before.dtype, before.device)
    model = copy.deepcopy(before.model)
    model.coords, model.row_weights, model.missing = data.coords, None, data.missing
    program = Program(model, replace(data, weights=None), before.priors, before.structure)
    program.plans = before.plans
    began = time.perf_counter()
    with seeded(fit.seed, before.device), threads_for(program), torch.no_grad():
        outcome = _incremental(method, program, values, kept)
    last = int(fit.trace["step"].iloc[-1]) + 1
    trace = pd.concat([fit.trace, outcome.trace.assign(step=outcome.trace["step"] + last)], ignore_index=True)
    return Fit(program, method, replace(outcome, trace=trace), fit.seed, time.perf_counter() - began)


def _incremental(method: EM, program: Program, values: Values, kept: dict[str, Statistics]) -> Outcome:
    """Climb from the new rows, with the statistics that are kept."""
    plan = closed_form(program)
    ascent = Coordinates(program, hard=method.hard)
    ascent.prepare(State(values, {}))
    history: list[float] = []
    with Monitor("em", method.max_steps, show=False) as monitor:
        for step in range(method.max_steps + 1):
            value, expected = ascent.expect(State(values, {}))
            earlier = sum(log_density_of(expected, s, kept[s.name]) for s in plan.summed(program))
            history.append(float(value + earlier))
            monitor.record(step, float(value))
            sums = {s.name: added(kept[s.name], expected.statistics(s)) for s in plan.summed(program)}
            converged = arrived(history, method.tolerance, torch.finfo(program.dtype).eps)
            if converged or step == method.max_steps:
                break
            expected.sums = sums
            values = ascent.maximize(expected)
    latents = {s.name: values[s.name] for s in program.latents}
    reason = f"within {method.tolerance:g} of the limit after {step} steps"
    if not converged:
        reason = f"stopped at max_steps={method.max_steps} before reaching tolerance={method.tolerance:g}"
    return Outcome(
        approximation=PointMass(latents),
        points={n: v for n, v in values.items() if n not in latents},
        objective=Objective(float(value), "log_posterior" if latents or method.hard else "log_likelihood"),
        trace=monitor.trace,
        steps=step,
        converged=converged,
        reason=reason,
        warnings=[] if converged else [reason],
        memory=Memory(sums, plan.frame()),
    )
