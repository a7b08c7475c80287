"""Log densities of single sites under draws of q: what each observed site says of each row, and each prior."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.rows import by_row, chunk_for, local_draws, log_likelihood
from zoo.program.program import Program
from zoo.program.terms import sum_of
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site


def row_sites(program: Program) -> list[Site]:
    """Observed sites that say something of each row."""
    return [s for s in program.observed if program.row and program.row in s.plates]


def shares_latents(program: Program) -> bool:
    """Whether a row has latents of its own, which its observed sites share."""
    return bool(program.locals or program.enumerated)


def joined(program: Program) -> bool:
    """Whether the observed sites of a row are taken together: in a chain, where a row's density is given those before.

    The terms of several sites cannot be told apart then.
    """
    return program.chained or len(row_sites(program)) == 1


def site_likelihoods(
    program: Program, approximation: Approximation, points: Values, globals_: Values, samples: int
) -> Tensor:
    """log p(site k of row i | earlier sites of the row, globals_s), shape (sites, draws, rows).

    A row's own latents are summed out, or integrated out by `samples` draws. Where it has none the sites are
    independent given the globals; else the terms are those of the chain rule, in the order of the story. Either way
    they add up to the log density of the row.
    """
    if joined(program):
        return log_likelihood(program, approximation, points, globals_, samples)[None]
    names = [s.name for s in row_sites(program)]
    count = next(iter(globals_.values())).shape[0] if globals_ else 1
    chunk = chunk_for(program)

    def cumulative(values: Values) -> Tensor:
        """log p(sites 1 ... k of row i, the row's locals | globals), shape (sites, rows)."""
        log_probs = program.log_probs({**points, **values})
        if not shares_latents(program):
            return torch.stack([by_row(program, n, log_probs[n]) for n in names]).cumsum(0)
        upto = ({n: v for n, v in log_probs.items() if n not in names[k + 1 :]} for k in range(len(names)))
        return torch.stack([program.eliminate(some).rows for some in upto])

    with torch.no_grad():
        if not program.locals:
            total = many(cumulative, globals_, count, chunk)
        else:
            weights = []
            for _ in range(samples):
                local, log_q = local_draws(program, approximation, points, globals_, count)
                weights.append(many(cumulative, {**globals_, **local}, count, chunk) - log_q[:, None])
                weights = [torch.stack(weights).logsumexp(0)]
            total = weights[0] - math.log(samples)
    by_site: Tensor = total.movedim(1, 0)
    return torch.cat([by_site[:1], by_site.diff(dim=0)])


def by_entry(program: Program, site: Site) -> bool:
    """Whether each entry of a latent has a prior of its own: discrete latents that it depends on are in its plates."""
    return all(program.sites[n].plates == site.plates for n in program.behind(site))


def _by_entry(program: Program, site: Site, log_probs: Values) -> Tensor:
    """Log prior of each entry of a latent, states summed out, shape (*batch)."""
    size = program.site_shape(site)[: site.batch_dim]
    if not site.by_state:
        return log_probs[site.name].expand(size)
    joint = sum_of(log_probs[n] for n in (site.name, *program.behind(site)))  # (states ..., *batch)
    return joint.reshape(-1, *joint.shape[joint.ndim - len(size) :]).logsumexp(0).expand(size)


def entry_densities(program: Program, points: Values, draws: Values, count: int, sites: Sequence[Site]) -> list[Tensor]:
    """Log density of each of `sites` entry by entry of its plates, shape (draws, *batch) each.

    Discrete latents that the prior of an entry depends on, which are in the same plates, are summed out.
    """

    def one(values: Values) -> tuple[Tensor, ...]:
        log_probs = program.log_probs({**points, **values})
        return tuple(_by_entry(program, s, log_probs) for s in sites)

    with torch.no_grad():
        return list(many(one, draws, count, chunk_for(program)))
