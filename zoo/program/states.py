"""Draws of enumerated sites given everything else: what was summed out, recovered exactly."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.masked import IMPOSSIBLE
from zoo.replay.sites import Site


def draw_states(program: Program, values: Values, count: int, chunk: int) -> dict[str, Tensor]:
    """Draw every enumerated site from p(states | data, values), once for each of `count` values.

    One site after the other, from its distribution given those drawn before: p(z_1 | x) p(z_2 | z_1, x) ..., where the
    later ones are summed out. Sites outside plates come first; given these, the entries of a site in a plate are
    independent. Paths of a chain are drawn by forward filtering and backward sampling.

    Parameters
    ----------
    program
        The program.
    values
        Latents, parameters and network weights, stacked along dimension 0.
    count, chunk
        How many values there are, and how many to look at together.

    Returns
    -------
    dict
        Site -> positions of the states drawn, shape (count, *plates).
    """
    parts = []
    for start in range(0, count, chunk):
        some = {n: v[start : start + chunk] for n, v in values.items()}
        parts.append(_draw(program, some, min(chunk, count - start)))
    return {s.name: torch.cat([p[s.name] for p in parts]) for s in program.enumerated}


def _draw(program: Program, values: Values, count: int) -> dict[str, Tensor]:
    names = list(program.log_probs({n: v[0] for n, v in values.items()}))

    def densities(v: Values) -> tuple[Tensor, ...]:
        by_site = program.log_probs(v)
        return tuple(by_site[n] for n in names)

    log_probs = dict(zip(names, many(densities, values, count, count), strict=True))
    drawn: dict[str, Tensor] = {}
    # Weights repeat rows. That matters to what rows share, and not to what a row is given that.
    each = program if program.data.weights is None else program.rebind(replace(program.data, weights=None))
    each.replay({n: v[0] for n, v in values.items()}, densities=False)  # which notes where sequences begin
    if program.chains:
        table, evidence = many(each.chain_factors, log_probs, count, count)
        drawn |= _paths(each, log_probs, table, evidence)
    for site in sorted(program.enumerated, key=lambda s: len(s.plates)):
        if site.name not in drawn:
            mine = each if program.row in site.plates else program
            drawn[site.name] = _entries(mine, site, log_probs, count)
    return drawn


def _entries(program: Program, site: Site, log_probs: Values, count: int) -> Tensor:
    """Draw one site given those that are fixed already, and fix it."""

    def weight(factors: Values) -> Tensor:
        return program.marginals(factors, vectorized=True)[1][site.name]

    marginal = many(weight, log_probs, count, count)  # (count, dimensions of the site's log density)
    enum = marginal.ndim + site.enum_dim
    # A log density may have dimensions of other enumerated sites: what is left of these is summed over.
    keep = {marginal.ndim + d for d in site.plate_dims} | {0, enum}
    others = [d for d in range(1, marginal.ndim) if d not in keep]
    total = marginal.sum(others, keepdim=True) if others else marginal
    probability = total.movedim(enum, -1)
    flat = torch.multinomial(probability.reshape(-1, probability.shape[-1]).clamp_min(0.0), 1)
    states = flat.reshape(probability.shape[:-1])
    # Fixed by making every other state impossible: later sites are then drawn given this one by the same elimination.
    one_hot = torch.zeros_like(total).scatter_(enum, states.unsqueeze(enum), 1.0)
    log_probs[site.name] = log_probs[site.name] + IMPOSSIBLE * (1.0 - one_hot)
    return states.reshape(count, *[total.shape[total.ndim + d] for d in site.plate_dims])


def _paths(program: Program, log_probs: Values, table: Tensor, evidence: Tensor) -> dict[str, Tensor]:
    """Draw the path of each chain, and fix it in a site that depends on its states."""
    sites = list(program.chains.values())
    path = draw_path(table, evidence, program.first_rows)
    by_chain = torch.unravel_index(path, [s.cardinality for s in sites])  # (count, rows) each
    drawn = {}
    for site, states in zip(sites, by_chain, strict=True):
        drawn[site.name] = states
        for name, factor in log_probs.items():
            if program.depends_on(name, factor, site):
                axis, row = factor.ndim + site.enum_dim, factor.ndim + site.plate_dims[0]
                one_hot = torch.nn.functional.one_hot(states, site.cardinality).to(factor)  # (count, rows, states)
                shape = [1] * factor.ndim
                shape[0], shape[axis], shape[row] = len(states), site.cardinality, states.shape[1]
                log_probs[name] = factor + IMPOSSIBLE * (1.0 - one_hot.mT.reshape(shape))
                break
    return drawn


def draw_path(table: Tensor, evidence: Tensor, first: Tensor) -> Tensor:
    """Draw paths of chains by forward filtering and backward sampling (Chib 1996).

    Parameters
    ----------
    table
        log initial probabilities, then log transition probabilities, shape (draws, states + 1, states).
    evidence
        log p(x_t | z_t = k), shape (draws, states, rows).
    first
        Which rows begin a sequence, shape (rows,).

    Returns
    -------
    Tensor
        One path per draw, shape (draws, rows).
    """
    begins, moves = first.tolist(), table[:, 1:]  # moves: (draws, from, to)
    filtered: list[Tensor] = []  # log p(z_t | x_1 .. x_t), (draws, states) for each row
    for t, begin in enumerate(begins):
        before = table[:, 0] if begin else (filtered[-1][:, :, None] + moves).logsumexp(1)
        filtered.append((before + evidence[..., t]).log_softmax(-1))
    path = torch.zeros(len(table), len(begins), dtype=torch.long, device=table.device)
    draws = torch.arange(len(table), device=table.device)
    for t in reversed(range(len(begins))):
        # p(z_t | z_{t+1}, x) is proportional to p(z_t | x_1 .. x_t) A[z_t, z_{t+1}].
        last = t + 1 == len(begins) or begins[t + 1]
        log_p = filtered[t] if last else filtered[t] + moves[draws, :, path[:, t + 1]]
        path[:, t] = torch.multinomial(log_p.softmax(-1), 1)[:, 0]
    return path
