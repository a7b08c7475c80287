"""Which cluster of a first guess is which state, where a model tells its states apart."""

from __future__ import annotations

from itertools import combinations

import torch

from inference.starts.guess import first_update
from zoo.errors import ZooError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

MOST = 6  # states that are tried in each other's places: 15 pairs
ROWS = 5000  # beyond which clusters keep the names that they have
GAIN = 1e-6  # relative gain below which two states are exchangeable


def update_named(program: Program, values: Values, marginals: Values) -> Values:
    """`first_update` from a guess, its clusters named by the states under which the log joint is highest.

    A clustering says nothing of which cluster is which state. That matters where priors, or what is known, differ
    between states: pairs of them are taken for each other where that leads higher.
    """
    best = first_update(program, values, marginals)
    if program.chains or len(program.assigned) != 1 or program.assigned[0].cardinality > MOST:
        return best
    if len(program.data) > ROWS:  # as many more updates would take longer than a climb: other starts compete there
        return best
    site, height, apart = program.assigned[0], _height(program, best), False
    states = range(site.cardinality)
    neighbours = [pair for pair in combinations(states, 2) if pair[1] == pair[0] + 1]
    others = [pair for pair in combinations(states, 2) if pair not in neighbours]
    for pair in (*neighbours, *others, *neighbours):
        if pair in others and not apart:  # every neighbour can stand for the next: all are exchangeable
            break
        swapped = _swapped(marginals, site, pair)
        updated = first_update(program, values, swapped)
        reached = _height(program, updated)
        apart = apart or abs(reached - height) > GAIN * (1 + abs(height))
        if reached > height + GAIN * (1 + abs(height)):
            best, height, marginals = updated, reached, swapped
    return best


def _height(program: Program, values: Values) -> float:
    try:
        program.check(values)
    except ZooError:
        return -torch.inf
    with torch.no_grad():
        return float(program.log_joint(values).total(program.data.weights))


def _swapped(marginals: Values, site: Site, pair: tuple[int, int]) -> Values:
    """The same guess with two states in each other's places."""
    order = torch.arange(site.cardinality)
    order[list(pair)] = torch.tensor(pair[::-1])

    def along(v: torch.Tensor) -> torch.Tensor:
        laid_out = v.ndim >= -site.enum_dim and v.shape[site.enum_dim] == site.cardinality
        return v.index_select(site.enum_dim, order.to(v.device)) if laid_out else v

    return {n: along(v) for n, v in marginals.items()}
