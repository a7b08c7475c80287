"""Responsibilities: which state each row is in, as far as the posterior can tell."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from inference.approximations.adapted import proposals
from inference.approximations.rows import chunk_for
from inference.posterior.answer import Answer
from inference.posterior.local_moments import local_moments
from inference.posterior.new_rows import without
from inference.posterior.rows import row_chunks
from inference.posterior.smoothed import smoothed
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.errors import DataError, FitError, short, unknown
from zoo.program.configurations import state_chunks, state_posteriors, state_table
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many
from zoo.replay.sites import Site


def assign(answer: Answer, new: Source | None = None, site: str | None = None) -> pd.DataFrame:
    """Posterior probabilities of the states of discrete latents, a row for each entry of their plates.

    Of chains of continuous states mean and standard deviation of each state given all rows; of continuous latents of
    rows the same of each given its row.

    Raises
    ------
    FitError
        If the model has no discrete latent.
    """
    if not (site is None or isinstance(site, str)):
        raise FitError(f"site takes the name of a latent, not {short(site)}")
    fitted = answer.program
    if new is not None and not (fitted.enumerated or fitted.locals or fitted.integrated):  # labels may be asked for
        program = answer.on(without(new, observed_by_row(fitted), fitted.data))
    else:
        program = answer.on(new)
    chains = [s.name for s in program.integrated.chains] if program.integrated else []
    if chains and (site in chains or (site is None and not program.enumerated)):
        return smoothed(answer, program, fresh=program is not answer.program)
    continuous = [s for s in program.locals if site == s.name or (site is None and not program.enumerated)]
    if continuous:
        return local_moments(answer, program, continuous)
    sites = asked(program, site)
    if new is not None and (shared := next((s for s in sites if program.row not in s.plates), None)) is not None:
        raise FitError(f"{shared.name!r} is shared by all fitted rows; call assign() without new rows")
    found = _probabilities(answer, program, sites)
    tables = {s.name: _frame(program, s, found[s.name]) for s in sites}
    if len(tables) == 1:
        return tables[sites[0].name]
    if not sites[0].plates:
        tables = {n: t.set_axis(["all"]) for n, t in tables.items()}
    return pd.concat(tables, axis=1, names=["site", "state"])


def asked(program: Program, name: str | None) -> list[Site]:
    """The discrete latents that are asked for: one by name, or those of a vector; else those with one a row; else all.

    Raises
    ------
    FitError
        If there is none, or those there are do not fit in one table.
    """
    sites = program.enumerated
    if not sites:
        labels = observed_by_row(program)
        raise FitError(
            f"{type(program.model).__name__} has no discrete latent to assign, nor a continuous one of each row; "
            "`posterior` holds what it has"
            + (f", and predict(new) says what rows without {labels[0]!r} would have there" if labels else "")
        )
    if name is not None:
        found = [s for s in sites if s.name == name] or _entries(program, name)
        if not found:
            raise unknown("discrete latent", name, [s.name for s in sites])
        return found
    sites = program.assigned or sites
    if len({s.plates for s in sites}) > 1:
        where = ", ".join(f"{s.name!r} in {' and '.join(map(repr, s.plates)) or 'no plate'}" for s in sites)
        raise FitError(f"discrete latents are in different plates ({where}); say which, site={sites[0].name!r}")
    return sites


def observed_by_row(program: Program) -> list[str]:
    """Names of the fields of one entry a row that the model explains by others: labels and responses."""
    data = program.data
    return [
        s.field
        for s in program.observed
        if s.field in data.row_fields and len(data.dims[s.field]) == 1 and len(data.row_fields) > 1
    ]


def _entries(program: Program, name: str) -> list[Site]:
    """The discrete latents that a vector, or what else is made of them, is made of."""
    made = program.sites.get(name)
    of = made.args["value"].index if made is not None and made.role == "deterministic" and made.args else ()
    return [program.sites[n] for n in of]


def state_labels(program: Program, site: Site) -> Sequence[object]:
    """Labels of a site's states: those of the field that it observes in part, else 0, 1, ..."""
    levels = program.data.levels.get(program.structure.completed.get(site.name, ""), ())
    named = len(levels) == site.cardinality and list(levels) != list(range(len(levels)))
    return levels if named else range(site.cardinality)


def entry_index(program: Program, site: Site, shape: Sequence[int]) -> pd.Index:
    """Labels of the entries of a site: of its plate, of the combinations of its plates, or its name."""
    coords = [program.data.coords.get(p, pd.RangeIndex(n)) for p, n in zip(site.plates, shape, strict=True)]
    if not coords:
        return pd.Index([site.name])
    return coords[0] if len(coords) == 1 else pd.MultiIndex.from_product(coords, names=site.plates)


def _frame(program: Program, site: Site, probability: Tensor) -> pd.DataFrame:
    """Lay out probabilities (*plates, states) as a table."""
    labels = state_labels(program, site)
    columns = pd.RangeIndex(len(labels)) if isinstance(labels, range) else pd.Index(list(labels))
    columns = columns.rename(site.name)
    index = entry_index(program, site, probability.shape[:-1])
    return pd.DataFrame(probability.reshape(-1, len(labels)).cpu().numpy(), index=index, columns=columns)


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


def _probabilities(answer: Answer, program: Program, sites: Sequence[Site]) -> Values:
    """Probabilities of the states of each site, (*plates, states), rows in as many goes as memory asks for."""
    shared = any(program.row not in s.plates for s in sites)
    draws = answer.draw_count if answer.has_draws else 1
    if len(program.enumerated) > 1 and not answer.has_draws and not program.locals:
        point = {n: v[0] for n, v in answer.globals(1, program).items()}
        chunks = list(state_chunks(program, {**answer.points, **point}))
    else:
        chunks = list(row_chunks(program, whole=bool(program.locals) or shared, draws=draws))
    parts = [_responsibilities(answer, c, sites, fresh=program is not answer.program) for c in chunks]
    if len(parts) == 1:
        return parts[0]
    return {s.name: torch.cat([p[s.name] for p in parts], s.plates.index(program.row)) for s in sites}


def _responsibilities(answer: Answer, program: Program, sites: Sequence[Site], *, fresh: bool) -> Values:
    """Probabilities of states given the rows of a program, (*plates, states), averaged over draws of the globals.

    `fresh` rows were not part of the fit: each draw counts by how well it explains them.
    """
    with answer.running(Stream.ASSIGN):
        known = answer.approximation.responsibilities(program, answer.points)
        fresh_groups = answer.has_new_groups(program)
        if known is not None and not fresh_groups and all(s.name in known for s in sites):
            return {s.name: _checked(known[s.name], program, s) for s in sites}
        count = 1 if answer.is_point and not fresh_groups else answer.draw_count
        draws = answer.globals(count, program)
        log_q = torch.zeros(1, 1, dtype=program.dtype, device=program.device)
        # Draws of locals that belong to those of the globals; where rows are apart, each weighs fresh ones.
        together = answer.approximation.exact and answer.approximation.kept is not None and not fresh
        if program.locals and (together or all(program.row not in s.plates for s in sites)):
            together = True
            draws = answer.approximation.draw(program, 1)[0] if answer.is_point else answer.draws.values
        elif program.locals:
            if program.shared:
                raise FitError(
                    f"rows cannot be assigned one by one: they share the discrete latent {program.shared[0].name!r}; "
                    "fit with nuts, and they can"
                )
            if program.coupled:
                raise FitError(f"rows cannot be assigned one by one: {program.coupled}; fit with nuts, and they can")
            count = answer.quick_count(program)
            draws = answer.globals(count, program)
            local, log_q = proposals(program, answer.approximation, answer.points, draws, count)
            draws = {**draws, **local}
        if not draws:
            found = state_posteriors(program, answer.points)
            return {s.name: _checked(found[s.name], program, s) for s in sites}

        def one(values: Values) -> tuple[Tensor, ...]:
            terms, marginals = program.expectations({**answer.points, **values}, vectorized=True)
            return terms.rows, *(state_table(program, marginals, s) for s in sites)

        rows, *tables = many(one, draws, count, chunk_for(program))
        weighed = fresh or (program.locals and not together)
        weights = torch.softmax(rows - log_q, 0) if weighed else torch.full_like(rows, 1 / count)
        return {
            s.name: _checked(_averaged(program, s, weights, table), program, s)
            for s, table in zip(sites, tables, strict=True)
        }


def _averaged(program: Program, site: Site, weights: Tensor, table: Tensor) -> Tensor:
    """Average probabilities (draws, *plates, states) by the weights of the draws for each row, (draws, rows)."""
    if program.row not in site.plates:
        return table.mean(0)
    shape = [len(weights), *[1] * (table.ndim - 1)]
    shape[1 + site.plates.index(program.row)] = weights.shape[1]
    return (weights.reshape(shape) * table).sum(0)


def _checked(probability: Tensor, program: Program, site: Site) -> Tensor:
    if site.plates == (program.row,):
        return assignable(probability, program)
    return probability
