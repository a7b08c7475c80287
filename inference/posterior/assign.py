"""Responsibilities: which state each row is in, as far as the posterior can tell."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from inference.approximations.rows import chunk_for, local_draws
from inference.posterior.answer import Answer, Stream
from inference.posterior.rows import row_chunks
from zoo.data.bind import Source
from zoo.errors import DataError, FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site


def assign(answer: Answer, new: Source | None = None) -> pd.DataFrame:
    """Responsibilities p(z_i = k | x_i), a row per row of data; of a latent that all rows share, one row.

    Raises
    ------
    FitError
        If the model has no discrete latent per row.
    """
    fitted = answer.program
    if not fitted.assigned:
        if any(not s.plates for s in fitted.shared):
            return _assign_shared(answer, new)
        raise FitError(
            f"{type(fitted.model).__name__} has no discrete latent per row to assign; `posterior` holds what it has"
        )
    program, site = answer.on(new), fitted.assigned[0]
    chunks = row_chunks(program, whole=bool(program.locals), draws=answer.draw_count if answer.has_draws else 1)
    values = torch.cat([_responsibilities(answer, c, site, fresh=program is not fitted) for c in chunks])
    columns = pd.RangeIndex(values.shape[1], name=site.name)
    return pd.DataFrame(values.cpu().numpy(), index=program.data.coords[program.row], columns=columns)


def assignable(probability: Tensor, program: Program) -> Tensor:
    """Return responsibilities (rows, states) as they are.

    Raises
    ------
    DataError
        If a row has none, because its density is zero in every state.
    """
    lost = ~probability.isfinite().all(-1) | ((probability.sum(-1) - 1).abs() > 1e-3)
    if bool(lost.any()):
        row = program.data.coords[program.row][int(lost.nonzero()[0])]
        raise DataError(
            f"row {row!r} cannot be assigned: it is so far from every state that its density is zero "
            f"({int(lost.sum())} such rows); leave it out or correct it"
        )
    return probability


def _responsibilities(answer: Answer, program: Program, site: Site, *, fresh: bool) -> Tensor:
    """Responsibilities of a site for the rows of a program, (rows, states), averaged over draws of the globals.

    `fresh` rows were not part of the fit: each draw counts by how well it explains them.
    """
    with answer.running(Stream.ASSIGN):
        known = answer.approximation.responsibilities(program, answer.points)
        if known is not None:
            return assignable(known[site.name], program)
        count = 1 if answer.is_point else answer.draw_count
        draws = answer.globals(count)
        log_q = torch.zeros(1, 1, dtype=program.dtype, device=program.device)
        # Draws of locals that belong to those of the globals; where rows are apart, each weighs fresh ones.
        together = answer.approximation.exact and answer.approximation.kept is not None and not fresh
        if program.locals and together:
            draws = answer.draws.values
        elif program.locals:
            if program.shared:
                raise FitError(
                    f"rows cannot be assigned one by one: they share the discrete latent {program.shared[0].name!r}; "
                    "fit with nuts, and they can"
                )
            if program.coupled:
                raise FitError(f"rows cannot be assigned one by one: {program.coupled}; fit with nuts, and they can")
            count = answer.draw_count
            draws = answer.globals(count)
            local, log_q = local_draws(program, answer.approximation, answer.points, draws, count)
            draws = {**draws, **local}

        def one(values: Values) -> tuple[Tensor, Tensor]:
            full = {**answer.points, **values}
            probability = program.responsibilities(full, vectorized=bool(draws))
            return probability[site.name], program.log_joint(full).rows

        if not draws:
            return assignable(one({})[0], program)
        probability, rows = many(one, draws, count, chunk_for(program))
        weighed = fresh or (program.locals and not together)
        weights = torch.softmax(rows - log_q, 0) if weighed else torch.full_like(rows, 1 / count)
        return assignable((weights[..., None] * probability).sum(0), program)


def _assign_shared(answer: Answer, new: Source | None) -> pd.DataFrame:
    """Posterior of a discrete latent that all rows share, averaged over draws of the globals: one row."""
    program = answer.program
    if new is not None:
        raise FitError(f"{program.shared[0].name!r} is shared by all fitted rows; call assign() without new rows")
    name = next(s.name for s in program.shared if not s.plates)
    with answer.running(Stream.ASSIGN):
        count = 1 if answer.is_point else answer.draw_count
        if program.locals:
            draws = answer.draws.values if not answer.is_point else answer.approximation.draw(program, 1)[0]
        else:
            draws = answer.globals(count)

        def one(values: Values) -> Tensor:
            return program.shared_marginals({**answer.points, **values}, vectorized=bool(draws))[name]

        probability = many(one, draws, count, chunk_for(program)).mean(0) if draws else one({})
    columns = pd.RangeIndex(probability.shape[1], name=name)
    return pd.DataFrame(probability.cpu().numpy(), index=[name], columns=columns)
