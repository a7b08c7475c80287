"""Values that a method starts from: the model's own, improved by a clustering where it has none."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor

from inference.conjugate import closed_form
from inference.conjugate.factor_posteriors import LocalNormal
from inference.coordinate.ascent import SINGULAR, Coordinates, State
from inference.starts.guess import Guess, alike_states, first_marginals, first_update, guesses, risen, split_states
from inference.starts.naming import update_named
from zoo.errors import FitError, MethodError, ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.structure.structure import spread_rows

SCREENED = 5000  # rows by which one of several starts is chosen
WIDE = 100.0  # times the data, a scale of locals that says nothing of them
SPREAD = 1e-3  # of the locals' means between rows, below which they are the same in all


def start_state(
    program: Program,
    kind: Guess = "kmeans",
    *,
    given: Mapping[str, Any] | None = None,
    rounds: int = 1,
    improve: Callable[[Values, Values], Values] | None = None,
) -> State:
    """Where coordinate ascent starts: the model's own proposal, else updates from a guess of the enumerated sites.

    Parameters
    ----------
    kind
        How the guess is made.
    given
        Values that the user gives for some parameters or latents.
    rounds
        How many updates are made from the guess.
    improve
        What follows each update: a gradient step for what has no closed form.

    Raises
    ------
    MethodError
        If a given value is for no unknown, or has a wrong shape or is outside the support.
    """
    values = program.initial()
    chosen = {n: _given(program, n, v) for n, v in (given or {}).items()}
    if kind == "random" or not program.proposes:
        marginals = first_marginals(program, values, kind)
        for _ in range(rounds if marginals is not None else 0):
            assert marginals is not None
            update = first_update if kind == "random" else update_named
            values = update(program, {**values, **chosen}, marginals)
            values = improve(values, marginals) if improve is not None else values
    values = {**values, **chosen}
    program.check(values)
    return State(values, {})


def candidates(
    program: Program,
    *,
    given: Mapping[str, Any] | None = None,
    rounds: int = 1,
    improve: Callable[[Values, Values], Values] | None = None,
) -> Iterator[Callable[[], State]]:
    """Starts of several kinds, of which short climbs show the best; one where the model or the user says all of it.

    Guesses of the states by what they feed, the declared values where no two states are alike there, and for a factor
    model the principal axes.

    Parameters
    ----------
    given, rounds, improve
        As for `start_state`.
    """
    made = partial(start_state, program, given=given, rounds=rounds, improve=improve)
    yield made  # which has asked the model what it proposes
    said = {s.name for s in (*program.globals, *program.parameters)}
    if program.proposes or said <= set(given or {}) or program.data.stream is not None:
        return
    if not program.enumerated:
        yield from (partial(where, program, made) for where in (_on_axes, _row_by_row) if program.locals)
        return
    kinds = guesses(program) if improve is None or not closed_form(program).rest else dict.fromkeys(guesses(program))
    yield from (partial(made, kind) for kind in list(kinds)[1:])
    yield partial(_as_declared, program, given or {})


def _as_declared(program: Program, given: Mapping[str, Any]) -> State:
    """Declared values of parameters and the middle of priors.

    Raises
    ------
    FitError
        If states are alike there, which no step would change.
    """
    values = {**program.initial(), **{n: _given(program, n, v) for n, v in given.items()}}
    if alike_states(program, values):
        raise FitError("states are alike at the declared values")
    return State(values, {})


def _on_axes(program: Program, made: Callable[[], State]) -> State:
    """Principal axes for loadings.

    Raises
    ------
    FitError
        If the model has none, or its locals have no closed form there.
    """
    starts = along_axes(program, made(), anywhere=True)
    if not starts:
        raise FitError("there are no loadings")
    return starts[0]


def _row_by_row(program: Program, made: Callable[[], State]) -> State:
    """Moments of locals that each row says by itself: one update from where their prior is as wide as can be.

    A level far from the declared one is otherwise taken for noise, in which what rows have in common is lost.

    Raises
    ------
    FitError
        If no scale of locals is a parameter.
    """
    values = made().values
    wide = WIDE * float(program.data.features().abs().max().clamp_min(1.0))
    scales = [p.sites[0] for s in program.locals for n, p in s.args.items() if n == "scale" and p.kind == "site"]
    if not scales:
        raise FitError("no scale of locals is a parameter")
    ascent = Coordinates(program, averaged=True)
    _, expected = ascent.expect(State({**values, **{n: torch.full_like(values[n], wide) for n in scales}}, {}))
    return State(ascent.maximize(expected), {})


def settled_values(program: Program) -> Values:
    """Starting values, and where closed-form updates lead from there; for a program with nothing to sum out."""
    values = program.initial()
    if not closed_form(program).blocks:
        return values
    _, weights = program.marginals(program.log_probs(values))
    better = first_update(program, values, weights)
    try:
        program.check(better)
    except ZooError:
        return values
    return better


def apart(program: Program, end: State, improve: Callable[[Values, Values], Values] = lambda v, _: v) -> list[State]:
    """Starts from where a climb has ended, at which states that are alike there are told apart; mostly none.

    Parameters
    ----------
    improve
        Takes values, and marginals of the states that are told apart, to values of what has no closed form.
    """
    if program.locals and not program.enumerated and program.data.stream is None and not end.posteriors:
        return along_axes(program, end)
    if not program.assigned or len(program.assigned) < len(program.enumerated) or program.data.stream is not None:
        return []
    return [State(values, {}) for values in split_states(program, end.values, improve)]


def along_axes(program: Program, end: State, *, anywhere: bool = False) -> list[State]:
    """Starts along principal axes, where locals are the same in all rows (or anywhere): their loadings are 0, a saddle.

    The guess of the locals is the scores of the rows, with half of the variance of a standard Normal.
    """
    ascent = Coordinates(program, averaged=True)
    _, expected = ascent.expect(end)
    q = expected.posteriors[program.locals[0].name]
    if len(program.locals) > 1 or not isinstance(q, LocalNormal):
        return []
    if not anywhere and bool(q.loc.std(0).max() > SPREAD):
        return []
    x = program.data.features().to(q.loc)
    gaps = torch.where(x.isfinite(), x - x.nanmean(0), 0.0)
    gaps = gaps / gaps.std(0).clamp_min(torch.finfo(gaps.dtype).tiny)
    size = q.loc.shape[1]
    if size > min(gaps.shape):
        return []
    half = 0.5**0.5
    scores = torch.linalg.svd(gaps, full_matrices=False).U[:, :size] * len(gaps) ** 0.5
    guess = LocalNormal(q.names, half * torch.eye(size).to(q.loc), q.events, loc=half * scores)
    values = {**expected.values, **guess.mean()}
    return [State(ascent.maximize(expected.at(values, dict.fromkeys(q.names, guess))), {})]


def _given(program: Program, name: str, value: Any) -> Tensor:
    """Check one value that a start was given."""
    site = program.sites.get(name)
    known = [s.name for s in (*program.parameters, *program.latents)]
    if site is None or name not in known:
        raise MethodError(f"start: {name!r} is no parameter or latent; there are {', '.join(known)}")
    try:
        made = torch.as_tensor(value, dtype=program.dtype, device=program.device)
    except (TypeError, ValueError, RuntimeError):
        raise MethodError(f"start: {name!r} must be numbers, not {value!r}") from None
    shape = program.site_shape(site)
    if tuple(made.shape) != shape:
        raise MethodError(f"start: {name!r} must have shape {shape}, not {tuple(made.shape)}")
    if not bool(made.isfinite().all()) or not bool(site.support.check(made).all()):
        raise MethodError(f"start: {name!r} is outside its support, {site.support}")
    return made


def starting_values(program: Program) -> Values:
    """Starting values for a method that climbs from a point: the model's own, or the best of several guesses.

    For a mixture without an `initial` method, closed-form updates from guesses of the states and a few steps of EM;
    what has no closed form stays where it was declared.
    """
    program = program.whole
    values = program.initial()
    if not program.enumerated or program.proposes:
        return values
    spread = None if program.tied or not program.row else spread_rows(program.data, program.networks)
    closed_form(program)  # planned on the rows that were traced
    few, at = (few_rows(program), values) if spread is None else program.some(spread, values)
    found = [(-math.inf, at)]
    for kind in guesses(program):
        marginals = first_marginals(few, at, kind)
        if marginals is None:
            break
        with suppress(ZooError, SINGULAR):
            better = update_named(few, at, marginals)
            few.check(better)
            found.append(risen(few, better))
    _, best = max(found, key=lambda pair: pair[0])
    if spread is not None:  # what belongs to one row stays where it was
        best = {**best, **{s.name: values[s.name] for s in program.locals}}
    try:
        program.check(best)
    except ZooError:
        return values
    return best


def few_rows(program: Program) -> Program:
    """Return the same program on a random part of its rows, where these are many and each stands for itself."""
    rows = len(program.data)
    streamed = program.data.stream is not None
    if rows <= SCREENED or not program.row or streamed or program.tied or program.locals or program.shared:
        return program
    return program.rebind(program.data.take(torch.randperm(rows)[:SCREENED].sort().values))
