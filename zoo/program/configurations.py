"""Posteriors, draws and the most probable configuration of all discrete latents, at given values of everything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from zoo.elimination.buckets import DRAW
from zoo.elimination.eliminate import Factor
from zoo.elimination.forward_backward import viterbi
from zoo.errors import DataError, ModelError
from zoo.program.program import Program
from zoo.program.states import draw_path
from zoo.program.terms import Terms
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

CELLS = 1 << 24  # of the largest factor of some rows, or draws of one site


def state_posteriors(program: Program, values: Values) -> Values:
    """p(z = k | data, values) of each enumerated site, shape (*plates, states); of a chain, given all its rows."""
    if program.chains:
        _, marginals = program.expectations(values)
        return {s.name: state_table(program, marginals, s) for s in program.enumerated}
    found = program.buckets(values).marginals()
    tables = {s.name: _laid_out(program, s, found.get(_symbol(s)), states=True) for s in program.enumerated}
    return {n: table / table.sum(-1, keepdim=True) for n, table in tables.items()}  # 1 at what was seen


def state_table(program: Program, marginals: Values, site: Site) -> Tensor:
    """p(z = k | data) of a site from the posterior weights of the entries of all log densities, (*plates, states)."""
    if site.name in program.chains:
        table = program.states_of(marginals, site)
    else:
        marginal = marginals[site.name]
        axes = [marginal.ndim + d for d in (*site.plate_dims, site.enum_dim)]
        marginal = marginal if min(axes) >= 0 else marginal[(None,) * -min(axes)]
        axes = [marginal.ndim + d for d in (*site.plate_dims, site.enum_dim)]
        others = [d for d in range(marginal.ndim) if d not in axes]
        moved = marginal.permute([*others, *axes])
        table = moved.flatten(0, len(others) - 1).sum(0) if others else moved
    # Weights of rows count these, and not the states of one.
    return table if program.data.weights is None else table / table.sum(-1, keepdim=True)


def state_draws(program: Program, values: Values, count: int) -> Values:
    """Draw all enumerated sites jointly from p(z | data, values): positions of states, shape (count, *plates).

    Raises
    ------
    ModelError
        If there are chains beside other discrete latents.
    """
    if not program.chains:
        found = program.buckets(values).draw(count)
        return {s.name: _laid_out(program, s, found.get(_symbol(s)), count=count) for s in program.enumerated}
    if len(program.enumerated) > len(program.chains):
        raise ModelError(f"site {next(iter(program.chains))!r} is a chain beside other discrete latents")
    table, evidence = program.chain_factors(program.log_probs(values))
    path = draw_path(table.expand(count, *table.shape), evidence.expand(count, *evidence.shape), program.first_rows)
    by_chain = torch.unravel_index(path, [s.cardinality for s in program.chains.values()])
    return dict(zip(program.chains, by_chain, strict=True))


def state_chunks(program: Program, values: Values, draws: int = 1) -> Iterator[Program]:
    """Split a program by rows, so that factors and draws of states fit in memory; one piece if rows are tied."""
    if not program.row or program.chained or program.shared:
        yield program
        return
    rows = len(program.data)
    size = max(1, CELLS // max(largest_factor(program, values), draws))
    if size >= rows:
        yield program
        return
    for start in range(0, rows, size):
        yield program.rebind(program.data.take(torch.arange(start, min(rows, start + size))))


def best_states(program: Program, values: Values) -> tuple[Terms, Values]:
    """Most probable configuration of all enumerated sites given the data and these values, and log p(x, z) there.

    argmax_z p(z | x, values), over all sites and rows jointly: max-product elimination; along chains, Viterbi (1967).

    Returns
    -------
    tuple
        log p(x, z; values), and positions of states, shape (*plates).

    Raises
    ------
    DataError
        If the data have probability 0.
    """
    log_probs = dict(program.replay(values, zeros=True).log_probs)
    terms = program.eliminate(log_probs, hard=True)
    check_possible(program, terms)
    positions: Values = {}
    if program.chains:
        table, evidence = program.chain_factors(log_probs, hard=True)
        path = viterbi(table, evidence, program.first_rows)
        chains = list(program.chains.values())
        by_chain = torch.unravel_index(path, [s.cardinality for s in chains])
        for site, states in zip(chains, by_chain, strict=True):
            positions[site.name] = states
            _fix(program, log_probs, site, states)
    found = program.elimination.buckets(log_probs, hard=True).best()
    for site in program.enumerated:
        if site.name not in positions:
            positions[site.name] = _laid_out(program, site, found.get(_symbol(site)), count=1)[0]
    return terms, positions


def _fix(program: Program, log_probs: Values, chain: Site, states: Tensor) -> None:
    """Let every site that depends on a chain have the density of these states, (rows,), as that of all states."""
    at = torch.nn.functional.one_hot(states, chain.cardinality).bool()  # (rows, states)
    for name, factor in log_probs.items():
        if program.depends_on(name, factor, chain):
            shape = [1] * factor.ndim
            shape[chain.enum_dim], shape[chain.plate_dims[0]] = at.shape[1], at.shape[0]
            log_probs[name] = torch.where(at.mT.reshape(shape), factor, 0.0).sum(chain.enum_dim, keepdim=True)


def check_possible(program: Program, terms: Terms) -> None:
    """Raise if the data have probability 0, so that nothing has a posterior given them.

    Raises
    ------
    DataError
        Naming the first row, if the data have rows.
    """
    lost = terms.rows.isneginf() | terms.rows.isnan()
    if bool(lost.any()) and program.row:
        row = program.data.coords[program.row][int(lost.nonzero()[0])]
        raise DataError(
            f"what is observed in row {row!r} has probability 0 under the model ({int(lost.sum())} such rows); correct "
            "the data, or give what is impossible a small probability"
        )
    if not bool(terms.total().isfinite()):
        raise DataError(
            "what is observed has probability 0 under the model; correct the data, or give what is impossible a small "
            "probability"
        )


def largest_factor(program: Program, values: Values) -> int:
    """How many cells the largest factor of the elimination has, for one row.

    Raises
    ------
    ModelError
        If it does not fit in memory.
    """
    if "largest factor" not in program.plans:
        apart = program.row and not program.chained and not program.shared
        one = program.rebind(replace(program.data.take(torch.tensor([0])), weights=None)) if apart else program
        program.plans["largest factor"] = one.buckets(values).largest
    found = program.plans["largest factor"]
    assert isinstance(found, int)
    return found


def _symbol(site: Site) -> str:
    return site.symbols.get(site.enum_dim, "")


def _laid_out(
    program: Program, site: Site, factor: Factor | None, *, count: int | None = None, states: bool = False
) -> Tensor:
    """Lay out what was found of a site along its plates, draws before and states behind them.

    A site of one state is in no factor: it is in that state.
    """
    plates = tuple(program.structure.plates[p] for p in site.plates)
    sizes = program.elimination.plate_sizes
    shape = [sizes[p] for p in plates]
    lead = () if count is None else (count,)
    if factor is None:
        like = program.device
        if states:
            return torch.ones(*shape, 1, dtype=program.dtype, device=like)
        return torch.zeros(*lead, *shape, dtype=torch.long, device=like)
    target = (*(() if count is None else (DRAW,)), *plates, *((_symbol(site),) if states else ()))
    found = factor.aligned(target)
    return found.expand(*lead, *shape, *((found.shape[-1],) if states else ()))
