"""Standard errors by refits: of the rows weighed at random, or of data drawn from the model at the estimate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from inference.conjugate import closed_form
from inference.coordinate.ascent import Coordinates, State
from inference.method import Method, Objective
from inference.posterior.answer import Answer
from inference.posterior.criteria import likelihood
from inference.posterior.streams import Stream
from inference.runtime.settings import settings_of
from zoo.data.data import Data
from zoo.errors import FitError, ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

STEPS = 1000  # most steps of a refit
STILL = 1e-9  # relative gain of a step at which all refits have come to an end
CELLS = 20_000_000  # numbers, one for each row, state and refit, in one vectorized call: 160 MB
FEWEST = 0.9  # share of refits that must not break down


def bootstrap(
    answer: Answer, method: Method, objective: Objective, kind: str, draws: int, seed: int | None
) -> Mapping[str, Tensor]:
    """Standard deviation over refits of each entry of the estimate.

    Refits begin at the estimate, so that labels stay where they are. Where every update has a closed form, all refits
    are one tensor program; else the method runs on one after the other.

    Parameters
    ----------
    answer, method, objective
        The fit.
    kind
        "bootstrap" for weights Dirichlet(1, ..., 1), n of them in all; "parametric" for simulated data.
    draws
        How many.
    seed
        None for one that follows from the fit's.

    Raises
    ------
    FitError
        If the fit is no point estimate, rows depend on each other, or refits break down.
    """
    program = answer.program
    likelihood(answer, method, objective)  # says why not, where there is no maximum of this density
    if kind == "bootstrap" and (program.chained or program.shared or not program.row):
        raise FitError('rows depend on one another, so they cannot be weighed one by one; use kind="parametric"')
    latents = {s.name for s in program.globals}
    point = {**answer.points}
    point |= {n: v[0] for n, v in answer.approximation.draw(program, 1)[0].items() if n in latents}
    with answer.running(Stream.BOOTSTRAP, seed):
        changed = _weights(program, draws) if kind == "bootstrap" else _simulated(program, point, draws)
        found = _together(program, point, changed, draws)
        if found is None:
            found = _each(program, method, point, changed, draws)
        derived = program.deterministic(point)
        if derived and found:
            found |= many(lambda v: program.deterministic({**point, **v}), found, len(next(iter(found.values()))), 64)
    return {n: v.double().cpu().std(0) for n, v in found.items() if n not in program.networks}


def _weights(program: Program, draws: int) -> Values:
    """Weights (draws, rows) with the total that the rows have: a row of weight w counts as w rows."""
    data = program.data
    own = torch.ones(len(data), dtype=data.dtype, device=program.device) if data.weights is None else data.weights
    drawn = torch.distributions.Gamma(own, torch.ones_like(own)).sample((draws,))
    return {"": own.sum() * drawn / drawn.sum(-1, keepdim=True)}


def _simulated(program: Program, point: Values, draws: int) -> Values:
    """Field -> data drawn at the point, (draws, ...)."""
    loose = next((s.name for s in program.observed if s.field is None), None)
    if loose is not None:
        raise FitError(
            f"site {loose!r} does not observe a data field itself, so that simulated values of it are no data; use "
            'kind="bootstrap"'
        )
    seen = [program.simulate(point) for _ in range(draws)]
    return {s.field: torch.stack([v[s.name] for v in seen]) for s in program.observed if s.field}


def _data(data: Data, changed: Values) -> Data:
    """Return the data with other weights or fields."""
    own = {n: v.to(data.values[n].dtype) for n, v in changed.items() if n}
    return replace(data, values={**data.values, **own}, weights=changed.get("", data.weights))


def _together(program: Program, point: Values, changed: Values, draws: int) -> Values | None:
    """EM on all data sets at once from the point, (draws, ...) of each unknown; None where there is no closed form."""
    plan = closed_form(program)
    if plan.rest or program.locals or program.networks:
        return None

    def step(at: tuple[Values, Values]) -> tuple[Values, Tensor]:
        values, own = at
        ascent = Coordinates(program.rebind(_data(program.data, own)), plan=plan)
        value, expected = ascent.expect(State(values, {}))
        return ascent.maximize(expected), value

    values = {n: v.expand(draws, *v.shape).clone() for n, v in point.items()}
    cells = len(program.data) * max([1, *(s.cardinality for s in program.enumerated)])
    vectorized = torch.vmap(step, chunk_size=max(1, min(draws, CELLS // cells)))
    before: Tensor | None = None
    try:
        for _ in range(STEPS):
            values, height = vectorized((values, changed))
            if not bool(height.isfinite().all()):
                return None
            if before is not None and bool(((height - before) <= STILL * (1 + height.abs())).all()):
                break
            before = height
    except RuntimeError:  # control flow that depends on values
        return None
    return values


def _each(program: Program, method: Method, point: Values, changed: Values, draws: int) -> Values:
    """Run the method on one data set after the other."""
    settings = settings_of(method)
    known: dict[str, Any] = {"start": {n: v for n, v in point.items() if n not in program.networks}, "restarts": 1}
    if "start" in settings:
        method = type(method)(**{**settings, **{n: v for n, v in known.items() if n in settings}})
    sets = [_data(program.data, {n: v[i] for n, v in changed.items()}) for i in range(draws)]
    outcomes = method.run_each([program.rebind(data) for data in sets])
    ends = [o for o in outcomes if not isinstance(o, ZooError)]
    if len(ends) < FEWEST * draws:
        why = next(o for o in outcomes if isinstance(o, ZooError))
        raise FitError(f"{draws - len(ends)} of {draws} refits broke down: {why}")
    latents = {s.name for s in program.globals}
    every = [
        {**o.points, **{n: v[0] for n, v in o.approximation.draw(program, 1)[0].items() if n in latents}} for o in ends
    ]
    return {n: torch.stack([v[n] for v in every]) for n in point}
