"""Rows simulated from a fit: new rows from the posterior predictive, and replicates of given rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from inference.diagnostics.arviz import tree
from inference.posterior.rows import event_names, frame_of, labels_of
from zoo.data.missing import with_nan
from zoo.program.program import Program

if TYPE_CHECKING:
    from inference.posterior.fit import Fit


def generate(fit: Fit, n: int) -> pd.DataFrame | dict[str, np.ndarray]:
    """Draw `n` rows, each from its own draw of the globals; covariates come with replacement from the fitted rows.

    The rows of a chain come from one draw, in the order of time, with the covariates of the fitted rows in theirs.
    """
    program, count = fit.program, fit.draw_count
    size = len(program.data)
    donor = program.data.take(torch.arange(n) % size if program.chained else torch.randint(size, (n,)))
    source = torch.randint(count, (1 if program.chained else n,)).sort().values if fit.has_draws else torch.zeros(1)
    source = source.long().expand(n)
    draws = fit.globals(count)
    collected: dict[str, list[Tensor]] = {s.field: [] for s in program.observed if s.field}
    for which in source.unique():
        rows = (source == which).nonzero()[:, 0]
        values = {name: v[int(which)] for name, v in draws.items()}
        seen = program.rebind(donor.take(rows)).simulate({**fit.points, **values})
        for site in program.observed:
            if site.field:
                collected[site.field].append(seen[site.name])
    order = torch.arange(n) if program.chained else torch.randperm(n)  # rows of one draw do not stay together
    order = order.to(program.device)
    columns = {**donor.values, **{name: torch.cat(parts) for name, parts in collected.items()}}
    rows_of = set(program.data.row_fields)
    return frame_of(program, {name: v[order] if name in rows_of else v for name, v in columns.items()}, n)


def predict(fit: Fit, program: Program, draws: int, *, known: bool) -> xr.DataTree:
    """Draw the observed sites of a program's rows `draws` times; `known` rows come with what was observed."""
    if program.locals and program is fit.program:
        values = fit.approximation.draw(program, draws)[0]
    else:
        values = fit.globals(draws)
    parts = [program.simulate({**fit.points, **{n: v[i] for n, v in values.items()}}) for i in range(draws)]
    stacked = {s.name: torch.stack([p[s.name] for p in parts]).cpu().numpy()[None] for s in program.observed}
    dims = {s.name: event_names(program, s) for s in program.observed}
    groups = {"posterior_predictive": stacked}
    if known:
        observed = with_nan(program.data)
        groups["observed_data"] = {s.name: observed[s.field].cpu().numpy() for s in program.observed if s.field}
    return tree(groups, dims, labels_of(program, dims), {"model": repr(fit.model)})


def complete(fit: Fit, new: Any) -> Any:
    """Fill in observed fields that new rows leave out; their values are never looked at."""
    fitted, fields = fit.program.data, fit.model.fields
    observed = {s.field for s in fit.program.observed if s.field}
    if isinstance(new, pd.DataFrame):
        missing = [n for n in observed if n not in new.columns and len(fields[n].dims) == 1]
        return new.assign(**{n: float(fitted.values[n].flatten()[0]) for n in missing})
    if isinstance(new, dict) and new:
        rows = torch.zeros(len(next(iter(new.values())))).long()
        return {**new, **{n: fitted.values[n][rows] for n in observed if n not in new}}
    return new
