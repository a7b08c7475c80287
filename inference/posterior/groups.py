"""The ArviZ groups of a fit: draws or a point, densities, pointwise log likelihood, data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from torch import Tensor

from inference.approximations.rows import chunk_for, log_likelihood
from inference.diagnostics.arviz import tree
from inference.posterior.rows import event_names, labels_of
from zoo.data.missing import with_nan
from zoo.replay.evaluate import Values, many

if TYPE_CHECKING:
    from inference.posterior.fit import Fit

LARGEST = 200_000_000  # entries of the pointwise log likelihood beyond which it is left out
INTEGRATION_SAMPLES = 100  # draws of the locals per draw of the globals in the pointwise log likelihood


def arviz_groups(fit: Fit) -> xr.DataTree:
    """Build posterior, point_estimate, sample_stats, log_likelihood, observed_data and constant_data, as they exist."""
    program, sites = fit.program, fit.program.sites
    groups: dict[str, dict[str, np.ndarray]] = {}
    points = {n: v for n, v in fit.points.items() if n in sites}
    if fit.is_point:
        latents = {n: v[0] for n, v in fit.approximation.draw(program, 1)[0].items()}
        groups["point_estimate"] = _numpy({**points, **latents, **program.deterministic({**fit.points, **latents})})
    else:
        values, log_p, log_q = fit.draws

        def derived(v: Values) -> Values:
            return program.deterministic({**fit.points, **v})

        if any(s.role == "deterministic" for s in sites.values()):
            values = {**values, **many(derived, values, len(log_p), chunk_for(program))}
        arrays = _numpy({**values, **fit.approximation.states})
        groups["posterior"] = {n: _by_chain(fit, v) for n, v in arrays.items()}
        groups["sample_stats"] = {"log_p": _by_chain(fit, log_p), "log_q": _by_chain(fit, log_q)}
        groups["sample_stats"].update(fit.approximation.stats)
        if points:
            groups["point_estimate"] = _numpy(points)
        if fit.has_draws and program.row and not program.shared and len(log_p) * len(program.data) <= LARGEST:
            groups["log_likelihood"] = {likelihood_name(fit): _by_chain(fit, _log_likelihood(fit))}
    observed = {s.field for s in program.observed}
    for group, wanted in (("observed_data", True), ("constant_data", False)):
        fields = {n: v for n, v in with_nan(program.data).items() if (n in observed) is wanted}
        if fields:
            groups[group] = _numpy(fields)
    dims = {**{n: event_names(program, s) for n, s in sites.items()}, **program.data.dims}
    dims.setdefault(likelihood_name(fit), (program.row,))
    attributes = {
        "created_by": "latentzoo",
        "model": repr(fit.model),
        "method": repr(fit.method),
        "seed": fit.seed,
        "objective": fit.objective.value,
        "objective_kind": fit.objective.kind,
        "converged": int(fit.converged),
        "reason": fit.reason,
    }
    order = {name: i for i, name in enumerate(sites)}  # variables in the order of the story, whatever they came from
    groups = {g: dict(sorted(v.items(), key=lambda item: order.get(item[0], -1))) for g, v in groups.items()}
    return tree(groups, dims, labels_of(program, dims), attributes)


def likelihood_name(fit: Fit) -> str:
    """Name of the pointwise log likelihood: the observed site in the data plate, or several joined by '+'."""
    names = [s.name for s in fit.program.observed if fit.program.row in s.plates]
    return "+".join(names) if names else "observed"


def _log_likelihood(fit: Fit) -> np.ndarray:
    """Pointwise log likelihood of the fitted rows, (draws, rows), local latents summed or integrated out."""
    names = {s.name for s in fit.program.globals}
    globals_ = {n: v for n, v in fit.draws[0].items() if n in names}
    with fit.running(1):
        rows = log_likelihood(fit.program, fit.approximation, fit.points, globals_, INTEGRATION_SAMPLES)
    return rows.cpu().numpy()


def _by_chain(fit: Fit, draws: np.ndarray) -> np.ndarray:
    """Lay out draws as (chains, draws, ...)."""
    return draws.reshape(fit.approximation.chains, -1, *draws.shape[1:])


def _numpy(values: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {n: v.detach().cpu().numpy() for n, v in values.items()}
