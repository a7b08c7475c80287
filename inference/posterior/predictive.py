"""Densities of rows under a fit, with continuous local latents integrated out by importance sampling."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from inference.approximations.rows import chunk_for, local_draws, log_mean_exp, pointwise
from zoo.errors import DataError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site

if TYPE_CHECKING:
    from inference.posterior.fit import Fit


def assign(fit: Fit, program: Program, site: Site, *, fresh: bool) -> Tensor:
    """Responsibilities of a site for the rows of a program, (rows, states), averaged over draws of the globals.

    `fresh` rows were not part of the fit: each draw counts by how well it explains them.
    """
    with fit.running(2):
        known = fit.approximation.responsibilities(program, fit.points)
        if known is not None:
            return certain(known[site.name], program)
        count = 1 if fit.is_point else fit.draw_count
        draws = fit.globals(count)
        log_q = torch.zeros(1, 1, dtype=program.dtype, device=program.device)
        together = fit.approximation.exact and not fresh  # draws of locals that belong to those of the globals
        if program.locals and together:
            draws = fit.draws[0]
        elif program.locals:
            count = fit.draw_count
            draws = {n: v.expand(count, *v.shape[1:]) if fit.is_point else v for n, v in fit.globals(count).items()}
            local, log_q = local_draws(program, fit.approximation, fit.points, draws, count)
            draws = {**draws, **local}

        def one(values: Values) -> tuple[Tensor, Tensor]:
            full = {**fit.points, **values}
            found = program.responsibilities(full, vectorized=bool(draws))
            return found[site.name], program.log_joint(full).rows

        if not draws:
            return certain(one({})[0], program)
        probability, rows = many(one, draws, count, chunk_for(program))
        weighed = fresh or (program.locals and not together)
        weights = torch.softmax(rows - log_q, 0) if weighed else torch.full_like(rows, 1 / count)
        return certain((weights[..., None] * probability).sum(0), program)


def certain(probability: Tensor, program: Program) -> Tensor:
    """Return responsibilities, or raise if a row has none because its density is zero in every state."""
    lost = ~probability.isfinite().all(-1) | ((probability.sum(-1) - 1).abs() > 1e-3)
    if bool(lost.any()):
        row = program.data.coords[program.row][int(lost.nonzero()[0])]
        raise DataError(
            f"row {row!r} cannot be assigned: it is so far from every state that its density is zero "
            f"({int(lost.sum())} such rows); leave it out or correct it"
        )
    return probability


def log_prob(fit: Fit, program: Program, draws: Values, count: int, repeats: int) -> tuple[Tensor, Tensor]:
    """Log density of a program's rows averaged over `count` draws of the globals, with its Monte Carlo error.

    It is one of `repeats` programs with rows of the same kind.
    """
    with fit.running(3):
        local = local_draws(program, fit.approximation, fit.points, draws, count) if program.locals else None
        return log_mean_exp(pointwise(program, fit.points, draws, local, repeats).double())
