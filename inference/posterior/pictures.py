"""What the pictures of a fit show: components of a mixture and the rows beside them."""

from __future__ import annotations

import torch

from inference.posterior.answer import Answer
from inference.posterior.assign import assign
from inference.reporting.components import Components, components, mixed_site
from inference.reporting.figures import Rows

DRAWN = 40  # draws of the parameters, each with contours of its own


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
