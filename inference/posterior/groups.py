"""The ArviZ groups of a fit: draws or a point, densities, pointwise log likelihood, data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor

from inference.approximations.rows import chunk_for, log_likelihood
from inference.diagnostics.arviz import listed, tree
from inference.posterior.answer import Answer, Stream
from inference.posterior.rows import event_names, labels_of
from zoo.data.missing import with_nan
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

LARGEST = 200_000_000  # entries of the pointwise log likelihood beyond which it is left out: 1.6 GB
SHIFTS = ("mean_shift", "sd_ratio", "mean_error", "sd_error")
INTEGRATION_SAMPLES = 100  # draws of the locals per draw of the globals in the pointwise log likelihood


def arviz_groups(answer: Answer, attributes: Mapping[str, Any]) -> xr.DataTree:
    """Build posterior, point_estimate, sample_stats, log_likelihood, observed_data and constant_data, as they exist.

    `attributes` are noted on the tree.
    """
    with answer.running(Stream.GROUPS):
        groups = {**_latents(answer), **_data(answer.program)}
    program, name = answer.program, likelihood_name(answer.program)
    dims = {**{n: event_names(program, s) for n, s in program.sites.items()}, **program.data.dims}
    dims.setdefault(name, (program.row,))
    order = {n: i for i, n in enumerate(program.sites)}  # variables in the order of the story, whatever they came from
    groups = {g: dict(sorted(v.items(), key=lambda item: order.get(item[0], -1))) for g, v in groups.items()}
    return tree(groups, dims, labels_of(program, dims), attributes)


def sample(answer: Answer, n: int, seed: int | None = None) -> xr.Dataset:
    """Draw `n` fresh posterior draws of the latents, dims (chain, draw, ...); of Markov chains, some of theirs."""
    program = answer.program
    with answer.running(Stream.SAMPLE, seed):
        values, _ = answer.approximation.draw(program, n)
    dims = {s.name: event_names(program, s) for s in program.latents}
    arrays = {name: v.cpu().numpy()[None] for name, v in values.items()}
    return tree({"posterior": arrays}, dims, labels_of(program, dims), {})["posterior"].to_dataset()


def shift_table(program: Program, shifts: Mapping[str, Values]) -> pd.DataFrame:
    """Lay out numbers for each entry of some sites as columns of a table, rows labelled as ArviZ labels them."""
    dims = {n: event_names(program, s) for n, s in program.sites.items()}
    labels = labels_of(program, dims)
    columns = {
        statistic: listed(tree({"shifts": _numpy(by_site)}, dims, labels, {})["shifts"].to_dataset())["value"]
        for statistic, by_site in shifts.items()
    }
    return pd.DataFrame(columns, columns=[n for n in SHIFTS if n in columns])


def likelihood_name(program: Program) -> str:
    """Name of the pointwise log likelihood: the observed site in the data plate, or several joined by '+'."""
    names = [s.name for s in program.observed if program.row in s.plates]
    return "+".join(names) if names else "observed"


def _latents(answer: Answer) -> dict[str, dict[str, np.ndarray]]:
    """Groups of latents and parameters: a point, or draws with their densities and what is derived from them."""
    program, points = answer.program, answer.points
    parameters = _numpy({n: v for n, v in points.items() if n in program.sites})
    if answer.is_point:
        latents = {n: v[0] for n, v in answer.approximation.draw(program, 1)[0].items()}
        derived = program.deterministic({**points, **latents})
        return {"point_estimate": {**parameters, **_numpy({**latents, **derived})}}

    def deterministic(v: Values) -> Values:
        return program.deterministic({**points, **v})

    values, log_p, log_q = answer.draws
    if any(s.role == "deterministic" for s in program.sites.values()):
        values = {**values, **many(deterministic, values, len(log_p), chunk_for(program))}
    arrays = _numpy({**values, **answer.approximation.states})
    densities = {"log_p": _by_chain(answer, log_p), "log_q": _by_chain(answer, log_q)}
    groups = {
        "posterior": {n: _by_chain(answer, v) for n, v in arrays.items()},
        "sample_stats": {**densities, **answer.approximation.stats},
    }
    if parameters:
        groups["point_estimate"] = parameters
    if answer.has_draws and program.row and not program.shared and len(log_p) * len(program.data) <= LARGEST:
        groups["log_likelihood"] = {likelihood_name(program): _by_chain(answer, _log_likelihood(answer))}
    return groups


def _data(program: Program) -> dict[str, dict[str, np.ndarray]]:
    """Groups of data: fields that the model explains, and those that it takes as given."""
    explained = {s.field for s in program.observed}
    fields = _numpy(with_nan(program.data))
    groups = {
        "observed_data": {n: v for n, v in fields.items() if n in explained},
        "constant_data": {n: v for n, v in fields.items() if n not in explained},
    }
    return {group: variables for group, variables in groups.items() if variables}


def _log_likelihood(answer: Answer) -> np.ndarray:
    """Pointwise log likelihood of the fitted rows, (draws, rows), local latents summed or integrated out."""
    names = {s.name for s in answer.program.globals}
    globals_ = {n: v for n, v in answer.draws.values.items() if n in names}
    with answer.running(Stream.LOG_LIKELIHOOD):
        rows = log_likelihood(answer.program, answer.approximation, answer.points, globals_, INTEGRATION_SAMPLES)
    return rows.cpu().numpy()


def _by_chain(answer: Answer, draws: np.ndarray) -> np.ndarray:
    """Lay out draws as (chains, draws, ...)."""
    return draws.reshape(answer.approximation.chains, -1, *draws.shape[1:])


def _numpy(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {n: v.detach().cpu().numpy() for n, v in values.items()}
