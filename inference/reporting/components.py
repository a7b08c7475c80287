"""Components of a Normal mixture as its fitted parameters have them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from inference.approximations.rows import chunk_for
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site, base_distribution

NORMALS = ("Normal", "MultivariateNormal", "LowRankMultivariateNormal")


@dataclass(frozen=True)
class Components:
    """Normal densities, one per state, at some values of the parameters.

    Attributes
    ----------
    field
        The data field they are about.
    state
        The enumerated site whose states they are.
    means, covariances
        Shapes (values, states, columns) and (values, states, columns, columns).
    """

    field: str
    state: str
    means: Tensor
    covariances: Tensor


def mixed_site(program: Program) -> tuple[Site, Site] | None:
    """Return an observed site that is Normal given the state of its row, the same for all rows, and that state's site.

    None where there is none: the components vary from row to row, depend on latents of the rows or on several states.
    """
    inner = {s.name for s in program.locals}
    for site in program.observed:
        dims = program.data.dims.get(site.field or "", ())
        if site.family not in NORMALS or program.row not in site.plates or not 1 <= len(dims) <= 2:
            continue
        parents = site.args.values()
        states = {z for p in parents for z in p.index}
        apart = not any(p.data or inner & set(p.sites) for p in parents)
        if apart and len(states) == 1 and states <= {z.name for z in program.assigned}:
            return site, program.sites[states.pop()]
    return None


def components(program: Program, points: Values, draws: Values, count: int) -> Components | None:
    """Evaluate the components of a mixture of Normals at its parameters.

    Parameters
    ----------
    points
        Values of parameters and network weights.
    draws
        `count` values of each global latent along dimension 0; empty where the model has none.
    """
    found = mixed_site(program)
    if found is None:
        return None
    site, state = found
    row = program.rebind(program.data.take(torch.zeros(1, dtype=torch.long)))  # all rows have the same components

    def at(values: Values) -> tuple[Tensor, Tensor]:
        fn = row.replay({**points, **values}, densities=False).distributions[site.name]
        base, states = base_distribution(fn), state.cardinality
        axis = fn.mean.ndim - site.event_dim + state.enum_dim
        means = fn.mean.movedim(axis, 0).reshape(states, -1)  # (states, 1, columns) or (states, ..., 1)
        if hasattr(base, "covariance_matrix"):
            spread = base.covariance_matrix.expand(*fn.mean.shape, means.shape[1])
            return means, spread.movedim(axis, 0).reshape(states, means.shape[1], -1)
        return means, torch.diag_embed(fn.variance.movedim(axis, 0).reshape(states, -1))

    with torch.no_grad():
        means, covariances = many(at, draws, count, chunk_for(program)) if draws else (t[None] for t in at({}))
    return Components(site.field or "", state.name, means, covariances)
