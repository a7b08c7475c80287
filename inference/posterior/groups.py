"""The ArviZ groups of a fit: draws or a point, densities, predictions, priors, data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from torch import Tensor

from inference.approximations.rows import chunk_for
from inference.diagnostics.arviz import Group, listed, tree
from inference.diagnostics.coordinates import all_dims, decoded, group_labels, labels_of
from inference.diagnostics.deferred import Deferred
from inference.posterior.answer import LARGEST as LARGEST_LOCALS
from inference.posterior.answer import Answer
from inference.posterior.densities import density_groups
from inference.posterior.observed import Observed
from inference.posterior.replicates import predictive_groups
from inference.posterior.streams import Stream
from zoo.data.missing import with_nan
from zoo.program.program import Program
from zoo.program.smoothing import draw_chains
from zoo.replay.evaluate import Values, many

LARGEST = 50_000_000  # numbers of all draws of the states of chains, beyond which they are left out: 400 MB
SHIFTS = ("mean_shift", "sd_ratio", "mean_error", "sd_error", "khat")


def arviz_groups(answer: Answer, attributes: Mapping[str, Any], *, whole: bool = False) -> xr.DataTree:
    """Build all groups that exist; densities and simulations are worked out when they are looked at.

    posterior or point_estimate, sample_stats, log_likelihood, log_prior, posterior_predictive, prior,
    prior_predictive, observed_data, constant_data.

    Parameters
    ----------
    answer
        The fit.
    attributes
        Noted on the tree.
    whole
        Whether draws of locals are there however many numbers they are; else they are left out beyond 20 million, or
        where networks take long to weigh them.
    """
    program = answer.program
    without = answer.many_locals and not whole
    with answer.running(Stream.GROUPS):
        latents = _latents(answer, without=without)
        observed = Observed(program, answer.one)
        labels = labels_of(program, all_dims(program)) | group_labels(*answer.some())
    left_out: list[str] = []
    if without:
        names = ", ".join(s.name for s in program.locals)
        left_out.append(
            f"draws of {names}: they would be more than {LARGEST_LOCALS} numbers, or take long to weigh; encode() has "
            "their moments, "
            "sample(n) draws them, and save(folder, local=True) keeps them"
        )
    for site in program.integrated.chains if program.integrated else ():
        if site.name not in latents.get("posterior", {}):
            left_out.append(
                f"draws of {site.name}: they would be more than {LARGEST} numbers; `assign` has their moments"
            )
    dims = all_dims(program)
    groups = {name: Group(_ordered(program, variables), dims) for name, variables in latents.items()}
    if answer.approximation.exact and "sample_stats" in groups:
        groups["sample_stats"] = groups["sample_stats"]._replace(attrs={"corrected": 1})
    if not answer.is_point:
        groups |= density_groups(answer, observed, left_out)
        groups |= predictive_groups(answer, observed, dims, left_out, replicated=not (without and answer.apart))
    groups |= _data(program, observed)
    notes = {"left_out": "; ".join(left_out)} if left_out else {}
    return tree(groups, labels, {**attributes, **notes})


def sample(answer: Answer, n: int, seed: int | None = None) -> xr.Dataset:
    """Draw `n` fresh posterior draws of the latents, dims (chain, draw, ...); of Markov chains, some of theirs."""
    program = answer.program
    with answer.running(Stream.SAMPLE, seed):
        values, _ = answer.approximation.draw(program, n)
    dims = all_dims(program)
    labels = labels_of(program, dims) | group_labels(*answer.some())
    arrays = {name: v.cpu().numpy()[None] for name, v in values.items()}
    return tree({"posterior": Group(arrays, dims)}, labels, {})["posterior"].to_dataset()


def shift_table(answer: Answer, shifts: Mapping[str, Values]) -> pd.DataFrame:
    """Lay out numbers for each entry of some sites as columns of a table, rows labelled as ArviZ labels them."""
    dims = all_dims(answer.program)
    labels = labels_of(answer.program, dims) | group_labels(*answer.some())
    groups = {
        statistic: tree({"shifts": Group(_numpy(v), dims)}, labels, {})["shifts"] for statistic, v in shifts.items()
    }
    columns = {statistic: listed(group.to_dataset())["value"] for statistic, group in groups.items()}
    return pd.DataFrame(columns, columns=[n for n in SHIFTS if n in columns])


def _ordered(program: Program, variables: Mapping[str, np.ndarray | Deferred]) -> dict[str, np.ndarray | Deferred]:
    """Variables in the order of the story, whatever they came from."""
    order = {n: i for i, n in enumerate(program.sites)}
    return dict(sorted(variables.items(), key=lambda item: order.get(item[0], -1)))


def _latents(answer: Answer, *, without: bool) -> Mapping[str, Mapping[str, np.ndarray | Deferred]]:
    """Groups of latents and parameters: a point, or draws with their densities and what is derived from them.

    `without` locals, and what is derived from them.
    """
    program, points = answer.program, answer.points
    parameters = _numpy({n: v for n, v in points.items() if n in program.sites})
    if answer.is_point:
        latents = {n: v[0] for n, v in answer.approximation.draw(program, 1)[0].items()}
        derived = program.deterministic({**points, **latents})
        groups = {"point_estimate": {**parameters, **_numpy({**latents, **derived})}}
        states = _states(answer, {}, {**points, **latents})
        return {**groups, "posterior": {n: v[None] for n, v in states.items()}} if states else groups

    if without and answer.apart:
        parameters |= _numpy(answer.fixed or {})
        return {"point_estimate": parameters} if parameters else {}

    def deterministic(v: Values) -> Values:
        return program.deterministic({**points, **v})

    values, log_q, _ = answer.draws
    if without:
        values = {s.name: values[s.name] for s in program.globals}
    elif any(s.role == "deterministic" for s in program.sites.values()):
        values = {**values, **many(deterministic, values, len(log_q), chunk_for(program))}
    arrays = {**_numpy({**values, **answer.approximation.states}), **_states(answer, answer.draws.values, points)}
    of_q = answer.by_chain(log_q)
    log_p = Deferred(of_q.shape, of_q.dtype, lambda: answer.by_chain(answer.log_p))
    drawn: dict[str, Mapping[str, np.ndarray | Deferred]] = {
        "posterior": {n: answer.by_chain(v) for n, v in arrays.items()},
        "sample_stats": {"log_p": log_p, "log_q": of_q, **answer.approximation.stats},
    }
    return {**drawn, "point_estimate": parameters} if parameters else drawn


def _states(answer: Answer, values: Values, shared: Values) -> dict[str, np.ndarray]:
    """Draws of the chains that were integrated out, given each draw of the latents, and what follows from them."""
    program, count = answer.program, answer.draw_count
    numbers = count * len(program.data) * sum(program.integrated.sizes) if program.integrated else 0
    if not 0 < numbers <= LARGEST:
        return {}
    states = draw_chains(program, values, shared, count)
    names = program.derived_from(states)
    if names:

        def derived(v: Values) -> Values:
            return {n: program.replay({**shared, **v}, densities=False).seen[n] for n in names}

        states = {**states, **many(derived, {**values, **states}, count, chunk_for(program))}
    return _numpy(states)


def _data(program: Program, observed: Observed) -> dict[str, Group]:
    """Groups of data: what sites observe, and the fields that the model takes as given."""
    explained = {s.field for s in program.observed}
    given = {n: v for n, v in _numpy(with_nan(program.data)).items() if n not in explained}
    given = {n: decoded(program.data, n, v) for n, v in given.items()}
    groups = {"observed_data": observed.group(), "constant_data": Group(given, program.data.dims)}
    return {name: group for name, group in groups.items() if group.variables}


def _numpy(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {n: v.detach().cpu().numpy() for n, v in values.items()}
