"""Many simulations of a program at once: each at its own draw of the latents."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from zoo.errors import ModelError
from zoo.program.program import Program
from zoo.program.states import draw_states
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


def simulations(program: Program, values: Values, draws: Values, count: int, names: Sequence[str]) -> Values:
    """Draw the sites `names` from the model `count` times, in one vectorized call where the model allows it.

    Parameters
    ----------
    program
        The program.
    values
        What all simulations have in common: parameters, network weights.
    draws
        Values of latents, stacked along dimension 0, one for each simulation; what has none is drawn from the model.
    count
        How many.
    names
        Sites to return.

    Returns
    -------
    dict
        Site -> shape (count, ...).

    Raises
    ------
    ModelError
        If a site cannot be drawn from.
    """
    lead = torch.zeros(count, dtype=program.dtype, device=program.device)

    def one(own: Values) -> Values:
        latents = {n: v for n, v in own.items() if n}
        seen = program.simulate({**values, **latents}, lead=own[""])
        return {n: seen[n] for n in names}

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns of singular draws of a wide Wishart
        if not program.structure.in_turn:  # how often those are gone through, their entries say
            # Fails where the model's control flow depends on values, or torch cannot draw so.
            with suppress(RuntimeError, ModelError):
                vectorized = torch.vmap(one, randomness="different", chunk_size=min(count, chunk_for(program)))
                drawn: Values = vectorized({**draws, "": lead})
                return drawn
        parts = [program.simulate({**values, **{n: v[i] for n, v in draws.items()}}) for i in range(count)]
    return {n: torch.stack([p[n] for p in parts]) for n in names}


def with_states(program: Program, points: Values, draws: Values, count: int, *, local: bool) -> Values:
    """Add to draws of all latents the states of discrete ones that belong with them, each drawn given its draw.

    Parameters
    ----------
    program, points
        The fitted program, and values of parameters and network weights.
    draws
        Of all latents, stacked along dimension 0.
    count
        How many.
    local
        Whether rows are simulated with their own local latents, and so with their own states; else what rows share
        stays, and locals are left out.
    """
    wanted = program.entangled if local else program.shared
    kept = draws if local else {s.name: draws[s.name] for s in program.globals}
    if not wanted:
        return kept
    stacked = {**{n: v.expand(count, *v.shape) for n, v in points.items()}, **draws}
    drawn = draw_states(program, stacked, count, chunk_for(program))
    return {**kept, **{s.name: _states(s, drawn[s.name]) for s in wanted}}


def _states(site: Site, positions: Tensor) -> Tensor:
    """Values of the states at these positions (draws, *plates), laid out as the site's own: (draws, *batch, *event)."""
    assert site.states is not None
    event = site.states.shape[site.states.ndim - site.event_dim :] if site.event_dim else ()
    batch = [1] * max((-d for d in site.plate_dims), default=0)
    for dim, size in zip(site.plate_dims, positions.shape[1:], strict=True):
        batch[dim] = size
    return site.states.reshape(site.cardinality, *event)[positions.reshape(len(positions), *batch)]


def shapes(program: Program, some: Program, values: Values, names: Sequence[str]) -> dict[str, Tensor]:
    """Simulate once, for shapes and types, and to see that it can be done.

    Parameters
    ----------
    program
        All rows.
    some
        The program to simulate on: of all rows or some, whose first then stands for each.
    values
        Of latents there, parameters and weights.
    names
        Sites to return.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        seen = some.simulate(values)
    return {n: seen[n] if some is program else _for_all(program, program.sites[n], seen[n]) for n in names}


def _for_all(program: Program, site: Site, value: Tensor) -> Tensor:
    """A site's value with the first row for each of the program's."""
    if program.row not in site.plates:
        return value
    axis = value.ndim - site.event_dim + site.plate_dim(program.row)
    shape = list(value.shape)
    shape[axis] = len(program.data)
    return value.narrow(axis, 0, 1).expand(shape)
