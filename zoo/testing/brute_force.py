"""log p(x, z) of every assignment of the discrete latents, by running the model once for each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.evaluate import Values, model_context

MOST = 300  # assignments


def traced(program: Program, values: Values, data: Mapping[str, Tensor]) -> Any:
    """Run the model by Pyro alone, latents and parameters at given values, and return its trace."""
    params = {n: v for n, v in values.items() if n in {s.name for s in program.parameters}}
    given = {n: v for n, v in values.items() if n not in params}

    def run() -> Any:
        return program.model(**data)

    with pyro.get_param_store().scope(), torch.no_grad():
        return poutine.trace(poutine.substitute(poutine.condition(run, data=given), data=params)).get_trace()


def log_joint(trace: Any) -> Tensor:
    """Sum of the log densities of all sites of a trace."""
    total: Tensor = trace.log_prob_sum()
    return total


def count(program: Program, rows: int) -> int:
    """How many assignments of the discrete latents there are on so many rows."""
    cells = 0.0
    for site in program.enumerated:
        per_row = program.row in site.plates
        entries = torch.Size(site.shape[: len(site.shape) - site.event_dim]).numel()
        cells += math.log(max(site.cardinality, 1)) * (entries * rows / len(program.data) if per_row else entries)
    return round(math.exp(min(cells, 50)))


def assignments(program: Program, values: Values, data: Mapping[str, Tensor]) -> tuple[list[Values], Tensor]:
    """Return every assignment of the discrete latents and the log joint of each.

    Parameters
    ----------
    program
        Whose model is run; nothing else of it is used.
    values
        Values of continuous latents and parameters; networks have the model's own.
    data
        Rows, by field.
    """
    with model_context(program.dtype, program.device):
        first = traced(program, values, data)
        free = {
            n: node["fn"]
            for n, node in first.nodes.items()
            if node["type"] == "sample" and not node["is_observed"] and n not in values
            if n not in program.structure.plates and node["fn"].has_enumerate_support
        }
        states = {n: fn.enumerate_support(expand=False).reshape(-1, *fn.event_shape) for n, fn in free.items()}
        each: list[Values] = []
        for combination in itertools.product(*(states[n] for n, fn in free.items() for _ in range(_cells(fn)))):
            flat, one = list(combination), {}
            for n, fn in free.items():
                here, flat = flat[: _cells(fn)], flat[_cells(fn) :]
                one[n] = torch.stack(here).reshape(fn.batch_shape + fn.event_shape)
            each.append(one)
        joint = [log_joint(traced(program, {**values, **one}, data)) for one in each]
    return each, torch.stack([torch.as_tensor(j, dtype=program.dtype) for j in joint])


def _cells(fn: Any) -> int:
    return int(torch.Size(fn.batch_shape).numel())
