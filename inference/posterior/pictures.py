"""What the pictures of a fit show: components of a mixture and the rows beside them."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr

from inference.posterior.answer import Answer
from inference.posterior.assign import assign
from inference.reporting.components import Components, components, mixed_site
from inference.reporting.figures import Rows

DRAWN = 40  # draws of the parameters, each with contours of its own
LARGEST = 60  # numbers in a forest: with more it cannot be read


def mixture(answer: Answer) -> tuple[Components, Rows] | None:
    """Return the components of a mixture of Normals and the rows it was fitted to, None if the model is another."""
    program = answer.program
    found = mixed_site(program)
    if found is None:
        return None
    count = DRAWN if answer.has_draws else 1
    fitted = components(program, answer.points, answer.globals(count), count)
    if fitted is None:
        return None
    data, name = program.data, fitted.field
    x = data.values[name].double()
    if name in data.missing:
        x = torch.where(data.missing[name], torch.nan, x)
    x = x.reshape(len(data), -1)
    names = [str(c) for c in data.coords[data.dims[name][1]]] if len(data.dims[name]) == 2 else [name]
    return fitted, Rows(x.cpu().numpy(), names, assign(answer).to_numpy())


def globals_of(answer: Answer, posterior: xr.DataTree) -> xr.Dataset:
    """Draws of the globals and parameters, dims (chain, draw, ...); a point is repeated, for drawing only."""
    names = {s.name for s in (*answer.program.globals, *answer.program.parameters)}
    lead: dict[str, Any] = {"chain": [0], "draw": range(2)}
    if "posterior" in posterior.children:
        lead = {d: posterior["posterior"].coords[d].to_numpy() for d in ("chain", "draw")}
    groups = []
    for group in ("posterior", "point_estimate"):
        if group in posterior.children:
            data = posterior[group].to_dataset()
            data = data[[n for n in data.data_vars if n in names]]
            groups.append(data if group == "posterior" else data.expand_dims(lead))
    return xr.merge([g for g in groups if g.data_vars])


def small(data: xr.Dataset) -> bool:
    """Whether a forest of these draws can be read."""
    return sum(v[0, 0].size for v in data.data_vars.values()) <= LARGEST
