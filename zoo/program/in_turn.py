"""Rows of autoregressive densities: entries drawn each given those before it, in whatever order the model has.

With its random numbers u held fixed, a draw x = F(x, u) of a model that reads its own entries is a triangular system:
the first entry does not depend on x, and each further one on those before it. Running the model again and again at what
it has drawn last solves it exactly after as many runs as there are entries one after the other, and as a rule after far
fewer (Song et al. 2021, "Accelerating feedforward computation via parallel nonlinear equation solving", algorithm 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from zoo.data.data import Data
from zoo.errors import ModelError
from zoo.replay.evaluate import Values
from zoo.replay.sites import Structure


def drawn_in_turn(structure: Structure, data: Data, run: Callable[[Data], Values]) -> Values:
    """Return the sites of a simulation whose observed entries were drawn given the entries drawn before them.

    Parameters
    ----------
    structure
        Says which fields are drawn so, and which sites explain them.
    data
        The rows that are drawn; what the fields hold counts for nothing.
    run
        Draws all sites given data.

    Raises
    ------
    ModelError
        If draws change on and on: entries depend on each other in a circle.
    """
    site_of = {s.field: n for n, s in structure.sites.items() if s.field in structure.in_turn}
    begin = _generators(data)
    entries = sum(data.values[f][0].numel() for f in site_of)
    for _ in range(entries + 1):
        _restore(begin)
        drawn = run(data)
        values = {f: drawn[n].to(data.values[f].dtype) for f, n in site_of.items()}
        if all(torch.equal(v, data.values[f]) for f, v in values.items()):
            return drawn
        data = replace(data, values={**data.values, **values})
    raise ModelError(
        f"site {next(iter(site_of.values()))!r} cannot be drawn from: its entries depend on each other in a circle, so "
        "that the product of their densities is none of a row; let each read only entries before it"
    )


def _generators(data: Data) -> list[tuple[torch.device, torch.Tensor]]:
    """State of the generators that draws come from."""
    gpus = {v.device for v in data.values.values() if v.device.type == "cuda"}
    return [(torch.device("cpu"), torch.get_rng_state()), *((gpu, torch.cuda.get_rng_state(gpu)) for gpu in gpus)]


def _restore(states: list[tuple[torch.device, torch.Tensor]]) -> None:
    for device, state in states:
        if device.type == "cuda":
            torch.cuda.set_rng_state(state, device)
        else:
            torch.set_rng_state(state)
