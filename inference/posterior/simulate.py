"""Rows simulated from a fit: new rows from the posterior predictive, and replicates of given rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from inference.approximations.simulations import simulations, with_states
from inference.diagnostics.arviz import Group, tree
from inference.diagnostics.coordinates import decoded, event_names, labels_of
from inference.posterior.answer import Answer
from inference.posterior.rows import frame_of
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.data.missing import with_nan
from zoo.data.plain import as_numpy
from zoo.errors import DataError, FitError, unknown
from zoo.frames.table import opened
from zoo.program.program import Program
from zoo.program.smoothing import draw_chains
from zoo.replay.evaluate import Values
from zoo.replay.masked import OBSERVED


def generate(
    answer: Answer, n: int, seed: int | None = None, condition: Mapping[str, Any] | None = None
) -> pd.DataFrame | dict[str, np.ndarray]:
    """Draw `n` rows, each from its own draw of the globals; covariates come with replacement from the fitted rows.

    But for those that `condition` gives values of, as it may of labels that some fitted rows lack.

    The rows of a chain come from one draw, in the order of time, with the covariates of the fitted rows in theirs.

    Raises
    ------
    FitError
        If the data have no rows, or running the model draws none.
    """
    program = answer.program
    if program.rowless:
        raise FitError(f"generate needs a data plate: {program.rowless}")
    _check_drawn(answer, "generate")
    made = {f: s.name for s in program.observed for f in s.observes if f not in {o.field for o in program.observed}}
    for field, site in made.items():
        raise FitError(
            f"generate cannot draw field {field!r}: site {site!r} observes something made from it. Observe the field "
            "itself, transforming the distribution instead (LogNormal for the log of a value), or give what is "
            "observed as a field of its own; predict() draws what the site observes"
        )
    other = next((s for s in program.observed if s.field and s.field not in program.data.row_fields), None)
    if other is not None and program.data.dims[str(other.field)]:
        raise FitError(
            f"generate draws rows along {program.row!r}, and site {other.name!r} observes another table, along "
            f"{program.data.dims[str(other.field)][0]!r}; predict() draws both"
        )
    tie = next((t for t in program.structure.ties if t.kind == "data"), None)
    if tie is not None:
        raise FitError(
            f"generate draws each row by itself, and {tie}. predict() draws the fitted rows; or work out in `setup` "
            "what the model makes of several rows"
        )
    with answer.running(Stream.GENERATE, seed):
        return _generate(answer, n, condition)


def predict(answer: Answer, new: Source | None = None, draws: int = 200, seed: int | None = None) -> xr.DataTree:
    """Draw the observed sites of rows `draws` times; the fitted rows come with what was observed.

    Raises
    ------
    FitError
        If running the model draws no data.
    """
    _check_drawn(answer, "predict")
    program = answer.on(None if new is None else _with_observed_fields(answer, new), block=True)
    known = program is answer.program
    with answer.running(Stream.PREDICT, seed):
        values = replicated(answer, draws, fitted=known, rows=program)
        stacked = simulations(program, answer.points, values, draws, [s.name for s in program.observed])
    shown = {n: v.cpu().numpy()[None] for n, v in stacked.items()}
    dims = {s.name: event_names(program, s) for s in program.observed}
    fields = {s.name: s.field for s in program.observed if s.field}
    shown = {n: decoded(program.data, fields.get(n), v) for n, v in shown.items()}
    groups = {"posterior_predictive": Group(shown, dims)}
    if known:
        observed = with_nan(program.data)
        arrays = {n: decoded(program.data, f, observed[f].cpu().numpy()) for n, f in fields.items()}
        groups["observed_data"] = Group(arrays, dims)
    return tree(groups, labels_of(program, dims), {"model": repr(program.model)})


def _check_drawn(answer: Answer, question: str) -> None:
    """Raise if running the model draws no data."""
    if answer.program.not_drawn:
        raise FitError(f"{question} cannot draw data by running the model: {answer.program.not_drawn}")


def _generate(answer: Answer, n: int, condition: Mapping[str, Any] | None) -> pd.DataFrame | dict[str, np.ndarray]:
    program, count = answer.program, answer.draw_count
    size = len(program.data)
    donor = program.data.take(torch.arange(n) % size if program.chained else torch.randint(size, (n,)))
    told: dict[str, Tensor] = {}  # states of sites that some fitted rows lack
    if condition is not None:
        known = {**{f: as_given(donor, f) for f in conditions(program)}, **as_dict(program, condition)}
        asked = conditioned(answer, n, known, "generate").data.values
        donor = replace(donor, values={**donor.values, **{f: asked[f] for f in condition}})
        told = {site: asked[f] for site, f in program.structure.completed.items() if f in condition}
    spread = answer.has_draws and answer.fixed is None
    source = torch.randint(count, (1 if program.chained else n,)).sort().values if spread else torch.zeros(1)
    source = source.long().expand(n)  # which draw of the globals each row comes from
    draws = replicated(answer, count, fitted=False)
    collected: dict[str, list[Tensor]] = {s.field: [] for s in program.observed if s.field}
    for which in source.unique():
        rows = (source == which).nonzero()[:, 0]
        values = {**{name: v[int(which)] for name, v in draws.items()}, **{name: v[rows] for name, v in told.items()}}
        simulated = program.rebind(donor.take(rows)).simulate({**answer.points, **values})
        for site in program.observed:
            if site.field:
                # Of a site that is observed in some rows only, what is picked from both parts.
                whole = site.name.removesuffix(OBSERVED)
                collected[site.field].append(simulated[whole if whole in simulated else site.name])
    order = torch.arange(n) if program.chained else torch.randperm(n)  # rows of one draw do not stay together
    order = order.to(program.device)
    columns = {**donor.values, **{name: torch.cat(parts) for name, parts in collected.items()}}
    row_fields = set(program.data.row_fields)
    return frame_of(program, {name: v[order] if name in row_fields else v for name, v in columns.items()}, n)


def covariates(program: Program) -> list[str]:
    """Names of the fields with an entry per row that no site observes."""
    explained = {f for s in program.observed for f in (s.field, *s.observes)}
    return [f for f in program.data.row_fields if f not in explained]


def conditions(program: Program) -> list[str]:
    """Names of the fields that rows can be made for: covariates, and labels that some fitted rows lack."""
    return [*covariates(program), *program.structure.completed.values()]


def conditioned(answer: Answer, n: int, condition: Mapping[str, Any] | None, question: str) -> Program:
    """Return the program on `n` rows with these covariates and labels; one value is that of all rows.

    Raises
    ------
    DataError
        If one of them has no value, has another shape, or is none of the model's.
    """
    program, data, names = answer.program, answer.program.data, conditions(answer.program)
    given = check_condition(program, condition, question)
    if not names:
        return program.rebind(data.take(torch.zeros(n, dtype=torch.long)))
    arrays = {f: _each(f, given[f], n, len(data.dims[f]), question) for f in names}
    rest = {f: as_given(data, f) for f in data.values if f not in data.row_fields}
    return answer.on(_with_observed_fields(answer, {**arrays, **rest}))


def check_condition(program: Program, condition: Mapping[str, Any] | None, question: str) -> dict[str, Any]:
    """Return the value of each covariate and label that rows can be made for.

    Raises
    ------
    DataError
        If one of them has no value, or is none of the model's.
    """
    given, names = as_dict(program, condition), conditions(program)
    for name in given:
        if name not in names:
            raise unknown("covariate or label field" if program.structure.completed else "covariate field", name, names)
    missing = [f for f in names if f not in given]
    if missing:
        word = "covariate" if missing[0] in covariates(program) else "label"
        raise DataError(f"{question} needs the {word} {missing[0]!r} of each row: condition={{{missing[0]!r}: ...}}")
    return given


def as_dict(program: Program, condition: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what is asked for; DataError if that is no mapping."""
    if condition is None or hasattr(condition, "keys"):
        return dict({} if condition is None else condition)
    found, names = type(condition).__name__, conditions(program)
    if not names:
        raise DataError(f"condition: expected none, as the model has no covariates or labels, found {found}")
    example = repr(condition) if np.isscalar(condition) else "..."
    raise DataError(f"condition: expected a dict such as {{{names[0]!r}: {example}}}, found {found}")


def _each(name: str, value: Any, n: int, ndim: int, question: str) -> np.ndarray:
    """A covariate's entries in each of `n` rows."""
    array = as_numpy(value)
    if array.ndim == ndim - 1:
        return np.broadcast_to(array, (n, *array.shape))
    if array.ndim != ndim or len(array) != n:
        raise DataError(
            f"{question}: condition[{name!r}] has shape {array.shape}, expected one value, or one for each of {n} rows"
        )
    return array


def _with_observed_fields(answer: Answer, new: Any) -> Any:
    """Fill in observed fields that new rows leave out; their values are never looked at."""
    fitted, fields = answer.program.data, answer.program.model.fields
    observed = {s.field for s in answer.program.observed if s.field}
    named = bool(fitted.columns) and isinstance(new, Mapping) and not set(new) <= set(fields)
    new = opened(new, columns=named)
    if isinstance(new, pd.DataFrame):
        columns = {n: fitted.columns.get(n, (n,))[0] for n in observed if len(fields[n].dims) == 1}
        left_out = {c: as_given(fitted, n).flat[0] for n, c in columns.items() if c not in new.columns}
        new = new.copy(deep=False)
        for column, value in left_out.items():
            new[column] = value
        return new
    if isinstance(new, dict) and new:
        rows = np.zeros(len(next(iter(new.values()))), dtype=np.int64)
        filled = {n: as_given(fitted, n)[rows] for n in observed if n not in new}
        return {**new, **filled}
    return new


def as_given(data: Data, name: str) -> np.ndarray:
    """Entries of a field as a user gives them: labels of categories, not their codes."""
    values: np.ndarray = data.values[name].cpu().numpy()
    if name not in data.levels:
        return values
    labels = np.empty(len(data.levels[name]), dtype=object)
    labels[:] = data.levels[name]
    return np.asarray(labels[values])


def replicated(answer: Answer, count: int, *, fitted: bool, rows: Program | None = None) -> Values:
    """Return `count` draws that data are simulated from, with the states that belong with them.

    Of the `fitted` rows locals, and states of theirs and of chains of continuous states, have their posterior; else
    they are new ones, as of new `rows`, which may have groups of their own.
    """
    program = answer.program
    local = fitted and bool(program.locals)
    if not (program.entangled if local else program.shared):
        draws = answer.approximation.draw(program, count)[0] if local else answer.globals(count, rows)
    else:
        draws = answer.approximation.draw(program, count)[0] if program.latents else {}
        draws = with_states(program, answer.points, draws, count, local=local)
    return {**draws, **(draw_chains(program, draws, answer.points, count) if fitted else {})}
