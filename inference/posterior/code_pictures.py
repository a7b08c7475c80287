"""What pictures of codes show: images beside what they are decoded to, and the plane in which codes differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inference.posterior.answer import Answer
from inference.posterior.bound_parts import active_units
from inference.posterior.codes import coded, encode, some_rows
from inference.posterior.decoded import reconstruct
from inference.posterior.simulate import generate
from inference.reporting.images import image_grid, latent_map
from zoo.data.bind import Source
from zoo.data.plain import as_numpy
from zoo.errors import DataError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictured(answer: Answer, new: Source | None, n: int) -> Figure:
    """Draw some rows, their reconstructions and as many generated ones, a line each."""
    program = answer.on(new)
    first = program.data.take(torch.linspace(0, len(program.data) - 1, min(n, len(program.data))).long())
    again = reconstruct(answer, first)
    site = next(s for s in program.observed if s.name in again and s.field is not None)
    field = str(site.field)
    made = generate(answer, min(n, len(program.data)))
    drawn = made[field] if field in made else np.asarray(made)
    lines = {
        "data": first.values[field].cpu().numpy(),
        "decoded": again[site.name].to_numpy(),
        "generated": np.asarray(drawn),
    }
    return image_grid({name: rows.astype(float) for name, rows in lines.items()})


def mapped(answer: Answer, new: Source | None, labels: Any) -> Figure:
    """Draw the two coordinates of the codes that differ most between rows."""
    codes, site = encode(answer, some_rows(answer) if new is None else new), coded(answer)[0]
    row = answer.program.row
    table = active_units(answer, new)
    table = table[: codes[site.name].size // codes.sizes[row]]  # those of the first latent
    if len(table) < 2:
        raise DataError(f"a map needs two coordinates, and {site.name!r} has one")
    at = sorted(np.argsort(-table["variance"].to_numpy())[:2])
    means = codes[site.name].transpose(row, ...).to_numpy().reshape(codes.sizes[row], -1)
    given = None if labels is None else as_numpy(labels)
    if given is not None and len(given) != len(means):
        raise DataError(f"labels has {len(given)} entries for {len(means)} rows")
    return latent_map(means[:, at], (table.index[at[0]], table.index[at[1]]), given)
