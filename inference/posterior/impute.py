"""Missing cells of rows, from their posterior predictive given the observed cells of the same row."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from inference.approximations.adapted import proposals
from inference.approximations.rows import pointwise
from inference.posterior.answer import Answer
from inference.posterior.assign import assignable
from inference.posterior.rows import frame_of, row_chunks
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.patterns import MissingCells
from zoo.errors import DataError, FitError
from zoo.program.configurations import state_draws
from zoo.program.program import Program
from zoo.program.smoothing import chain_moments, draw_chains
from zoo.replay.evaluate import Values
from zoo.replay.incomplete_normals import by_row, filled
from zoo.replay.masked import OBSERVED, UNOBSERVED
from zoo.replay.normals import normal_rows
from zoo.replay.sites import Site, base_distribution

DRAWS = 200  # posterior draws that a conditional mean averages over, or that new rows choose from
ROWS = 100_000  # rows that are completed at a time: the densities of all their states are in memory together


Table = pd.DataFrame | dict[str, np.ndarray]


def impute(
    answer: Answer, new: Source | None = None, draws: int = 1, *, mean: bool = False, seed: int | None = None
) -> list[Table]:
    """Complete rows `draws` times by draws, or once by conditional means.

    Raises
    ------
    FitError
        If the data have no rows, or these cannot be completed each by itself.
    """
    program = answer.on(new)
    if program.rowless:
        raise FitError(f"impute needs a data plate: {program.rowless}")
    if program.shared:
        raise FitError(f"rows cannot be completed by themselves: they share the latent {program.shared[0].name!r}")
    if program.coupled and not answer.approximation.exact:
        raise FitError(f"rows cannot be completed by themselves: {program.coupled}; fit with nuts, and they can")
    if any(name not in program.data.row_fields for name in program.data.missing):
        raise FitError("impute completes rows, but a field with missing values has no rows")
    known, whole = program is answer.program, bool(program.locals) or program.chained
    with answer.running(Stream.IMPUTE, seed):
        parts = [program] if known else list(row_chunks(program, whole=whole, draws=DRAWS))
        done = [_means(answer, p, known=known) if mean else _draws(answer, p, draws, known=known) for p in parts]
    tables: list[Table] = []
    for pieces in zip(*done, strict=True):
        values = {n: torch.cat([p[n] for p in pieces]) for n in program.data.missing}
        table = frame_of(program, {**program.data.values, **values}, len(program.data), whole=not mean)
        if isinstance(table, pd.DataFrame):
            table.index = program.data.coords[program.row]
        tables.append(table)
    return tables


def _means(answer: Answer, program: Program, *, known: bool) -> list[Values]:
    """E[x | x_obs] of each row, averaged over the latents' posterior."""
    latents, share = _latents(answer, program, DRAWS, known=known)
    total = {n: torch.zeros_like(program.data.values[n]) for n in program.data.missing}
    everything = torch.arange(len(program.data), device=program.device)
    for s, weight in enumerate(share):
        for rows, values in _completed(answer, program, latents, s, everything, mean=True):
            for name, value in values.items():
                total[name][rows] += weight[rows].reshape([-1, *[1] * (value.ndim - 1)]) * value
    gone = {n: v[program.data.missing[n]] for n, v in total.items()}
    without_mean = [n for n, v in gone.items() if not bool(v.isfinite().all())]
    if without_mean:
        raise FitError(f"field {without_mean[0]!r} has missing values whose distribution has no mean; ask for draws")
    return [{n: torch.where(program.data.missing[n], v, program.data.values[n]) for n, v in total.items()}]


def _draws(answer: Answer, program: Program, draws: int, *, known: bool) -> list[Values]:
    """Draws of the missing cells: each table of fitted rows from one draw of the latents, each new row from its own."""
    latents, share = _latents(answer, program, draws if known else DRAWS, known=known)
    tables = []
    for t in range(draws):
        which = torch.multinomial(share.mT, 1)[:, 0]
        which = torch.full_like(which, min(t, len(share) - 1)) if known else which
        which = which[:1].expand(len(which)) if program.chained else which
        table = {n: program.data.values[n].clone() for n in program.data.missing}
        for s in which.unique().tolist():
            mine = (which == s).nonzero()[:, 0].to(program.device)
            for rows, values in _completed(answer, program, latents, s, mine, mean=False):
                for name, value in values.items():
                    table[name][rows] = value
        tables.append(table)
    return tables


def _latents(answer: Answer, program: Program, count: int, *, known: bool) -> tuple[Values, Tensor]:
    """Draws of the latents, stacked, and how much each counts for each row, shape (draws, rows).

    New rows weigh each draw by how well it explains what is observed of them.
    """
    drawn = program.locals or answer.has_new_groups(program)
    if not program.latents or (answer.is_point and (known or not drawn)):  # draws are all the same
        count = 1
    even = torch.full((count, len(program.data)), 1 / count, dtype=program.dtype, device=program.device)
    if known:
        return answer.approximation.draw(answer.program, count)[0], even
    globals_ = answer.globals(count, program)
    local = proposals(program, answer.approximation, answer.points, globals_, count) if program.locals else None
    rows = pointwise(program, answer.points, globals_, local)
    latents = {**globals_, **(local[0] if local is not None else {})}
    rows = rows.sum(1, keepdim=True).expand(rows.shape) if program.chained else rows
    share = torch.softmax(rows, 0).expand(even.shape)
    lost = ~share.isfinite().all(0)
    gone = [v.reshape(len(v), -1).any(1).to(lost.device) for v in program.data.missing.values()]
    if bool((hopeless := lost & torch.stack(gone).any(0)).any()) if gone else False:
        row = program.data.coords[program.row][int(hopeless.nonzero()[0])]
        raise DataError(
            f"row {row!r} cannot be completed: what is observed of it is so far from all that was fitted that its "
            f"density is zero ({int(hopeless.sum())} such rows); leave it out or correct it"
        )
    return latents, torch.where(lost, even, share)


def _completed(
    answer: Answer, program: Program, latents: Values, s: int, rows: Tensor, *, mean: bool
) -> Iterator[tuple[Tensor, Values]]:
    """Complete some rows at the latents' draw `s`, as many at a time as fit in memory."""
    everything = len(rows) == len(program.data)
    for some in rows.split(len(rows) if program.chained else ROWS):
        values = {**answer.points, **{n: v[s] for n, v in latents.items()}}
        whole = everything and len(some) == len(rows)
        for site in () if whole else program.locals:
            axis = site.batch_dim + site.plate_dims[site.plates.index(program.row)]
            values[site.name] = values[site.name].index_select(axis, some)
        part = replace(program.data if whole else program.data.take(some), weights=None)
        yield some, complete(program.rebind(part), values, mean=mean)


def complete(program: Program, values: Values, *, mean: bool) -> Values:
    """Fill in the missing cells of each field at these values of everything but the enumerated sites.

    The states of a row are drawn from their posterior given what is observed of it, those of a chain each from its own;
    with `mean` they are averaged over.
    """
    if program.integrated is not None:  # given its states a row is complete by itself; means are affine in them
        states = chain_moments(program, values)[0] if mean else draw_chains(program, {}, values, 1)
        values = {**values, **(states if mean else {n: v[0] for n, v in states.items()})}
    replay = program.replay(values)
    log_probs = dict(replay.log_probs)
    labels = {} if mean or program.chains else _labels(program, values, log_probs)
    _, weights = program.marginals(log_probs)
    for site in () if mean or labels or program.chains else program.assigned:
        if site.cardinality > 1:  # what is drawn is evidence for the sites drawn after it
            probability = assignable(program.per_row(weights[site.name], site), program)
            drawn = torch.full_like(probability.mT, -math.inf)
            drawn.scatter_(0, torch.multinomial(probability, 1).mT, 0.0)
            shape = [1] * log_probs[site.name].ndim
            shape[site.enum_dim], shape[site.plate_dims[0]] = drawn.shape
            log_probs[site.name] = log_probs[site.name] + drawn.reshape(shape)
            _, weights = program.marginals(log_probs)
    completed = {
        field: torch.where(program.data.missing[field], values[site + UNOBSERVED], program.data.values[field])
        for site, field in program.structure.parted.items()
    }
    for site in program.observed:
        cells = program.missing(site)
        if cells is None or site.field in program.structure.parted.values():
            continue
        field = site.field if site.part is None else site.part.field
        assert field is not None
        if site.name in labels:
            completed[field] = torch.where(cells.missing, labels[site.name].to(cells.value.dtype), cells.value)
        elif site.family in ("Evidence", "Categorical") and mean:
            raise FitError(f"field {field!r} holds categories, which have no mean; use impute() without mean=True")
        elif site.family == "Evidence":
            raise FitError(f"missing labels of field {field!r} are not drawn beside a chain; see assign()")
        else:
            options = _options(site, replay.distributions[site.name], cells, mean=mean)
            filled_in = _chosen(site, cells, options, weights[site.name], mean=mean)
            whole = completed.get(field, program.data.values[field])
            completed[field] = filled_in if site.part is None else site.part.put(whole, filled_in)
    return completed


def _labels(program: Program, values: Values, log_probs: Values) -> Values:
    """Draw all discrete states jointly where some are labels of a field; return these, and let the draw be evidence."""
    completed = program.structure.completed
    if not completed:
        return {}
    drawn, labels = state_draws(program, values, 1), {}
    for site in program.enumerated:
        positions, factor = drawn[site.name][0], log_probs[site.name]
        if site.name in completed and site.states is not None:
            labels[site.name + OBSERVED] = site.states.reshape(-1)[positions]
        if site.cardinality > 1:
            one_hot = torch.nn.functional.one_hot(positions, site.cardinality).bool()  # (*plates, states)
            shape = [1] * max(factor.ndim, -site.enum_dim)
            for d, size in zip(site.plate_dims, positions.shape, strict=True):
                shape[d] = size
            shape[site.enum_dim] = site.cardinality
            log_probs[site.name] = torch.where(one_hot.movedim(-1, 0).reshape(shape), factor, -math.inf)
    return labels


def _options(site: Site, fn: Any, cells: MissingCells, *, mean: bool) -> Tensor:
    """Means or draws of the missing cells in every state, shape (states..., *cells)."""
    base = base_distribution(fn)
    full: Tensor = fn.mean if mean else fn.sample()
    if site.family != "MultivariateNormal":
        return full
    value = cells.value
    plates, d = value.shape[:-1], value.shape[-1]
    rows = filled(value.reshape(-1, d), by_row(full, plates, 1), normal_rows(base, plates)[1], cells)
    return rows.reshape(*rows.shape[:-2], *value.shape)


def _chosen(site: Site, cells: MissingCells, options: Tensor, weight: Tensor, *, mean: bool) -> Tensor:
    """Average over the states, or take the one that is drawn, entry by entry."""
    value, events = cells.value, site.event_dim
    plates = value.shape[: value.ndim - events]
    lead = weight.shape[: weight.ndim - len(plates)]
    options = options.expand(*lead, *value.shape).reshape(-1, *value.shape)
    weight = weight.expand(*lead, *plates).reshape(-1, *plates)
    if mean:
        share = weight[(..., *[None] * events)]
        filling = torch.where(share == 0, 0.0, share * options).sum(0)
    else:
        pick = torch.multinomial(weight.reshape(len(weight), -1).mT, 1).reshape(1, *plates, *[1] * events)
        filling = options.take_along_dim(pick, 0)[0]
    return torch.where(cells.missing, filling, value)
