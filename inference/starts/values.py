"""Values that a method starts from: the model's own, improved by a clustering where it has none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from inference.conjugate import closed_form
from inference.conjugate.factor_posteriors import LocalNormal
from inference.coordinate.ascent import Coordinates, State
from inference.starts.guess import first_marginals, first_update, split_states
from zoo.errors import MethodError, ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

SPREAD = 1e-3  # of the locals' means between rows, below which they are the same in all


def start_state(
    program: Program,
    kind: str = "kmeans",
    *,
    given: Mapping[str, Any] | None = None,
    rounds: int = 1,
    improve: Callable[[Values, Values], Values] | None = None,
) -> State:
    """Where coordinate ascent starts: the model's own proposal, else updates from a guess of the enumerated sites.

    Parameters
    ----------
    kind
        "kmeans" or "random": how the guess is made.
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
        marginals = first_marginals(program, values, random=kind == "random")
        for _ in range(rounds if marginals is not None else 0):
            assert marginals is not None
            values = first_update(program, {**values, **chosen}, marginals)
            values = improve(values, marginals) if improve is not None else values
    values = {**values, **chosen}
    program.check(values)
    return State(values, {})


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


def apart(program: Program, end: State) -> list[State]:
    """Starts from where a climb has ended, at which states that are alike there are told apart; mostly none."""
    if program.locals and not program.enumerated and program.data.stream is None and not end.posteriors:
        return along_axes(program, end)
    if not program.assigned or len(program.assigned) < len(program.enumerated) or program.data.stream is not None:
        return []
    return [State(values, {}) for values in split_states(program, end.values)]


def along_axes(program: Program, end: State) -> list[State]:
    """Starts along principal axes, where locals are the same in all rows: their loadings are 0, a saddle.

    The guess of the locals is the scores of the rows, with half of the variance of a standard Normal.
    """
    ascent = Coordinates(program, averaged=True)
    _, expected = ascent.expect(end)
    q = expected.posteriors[program.locals[0].name]
    if len(program.locals) > 1 or not isinstance(q, LocalNormal) or bool(q.loc.std(0).max() > SPREAD):
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
    """Starting values for a method that climbs from a point: the model's own, improved by a clustering if it has none.

    For a mixture without an `initial` method, one closed-form update from a k-means++ clustering.
    """
    program = program.whole
    values = program.initial()
    if not program.enumerated or program.proposes:
        return values
    marginals = first_marginals(program, values)
    if marginals is None:
        return values
    better = first_update(program, values, marginals)
    try:
        program.check(better)
    except ZooError:
        return values
    return better
