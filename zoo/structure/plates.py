"""Checks of the plates of a model against the named dimensions of its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Delta, Unit
from torch import Tensor

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError
from zoo.replay.chain import MarkovChain
from zoo.replay.evaluate import is_deterministic
from zoo.replay.gaussian_chain import LinearGaussianChain
from zoo.replay.sites import base_distribution


def check_chain(data: Data, name: str, node: Any, *, masked: bool) -> None:
    """Check the plate of a chain, that it is not `masked`, and that rows are weighed by the sequence.

    Raises
    ------
    ModelError, DataError
        Naming the site, and what to do.
    """
    chain = base_distribution(node["fn"])
    if not isinstance(chain, MarkovChain | LinearGaussianChain):
        return
    plates = [f.name for f in node["cond_indep_stack"] if f.vectorized]
    if plates != [data.row]:
        raise ModelError(
            f"site {name!r}: a {type(chain).__name__} runs along the rows of the data, so it has to be in the plate "
            f"{data.row!r} and no other (its plates: {plates or 'none'}); write sequences below each other and mark "
            "where they begin with start="
        )
    if (
        chain is not node["fn"]
        or masked
        or node["mask"] is not None
        or not bool(torch.as_tensor(node["scale"] == 1).all())
    ):
        raise ModelError(
            f"site {name!r}: a {type(chain).__name__} cannot be masked, scaled or made part of an event; mask the "
            "sites that depend on its states instead"
        )
    if data.weights is not None:
        first = chain.first
        weights = data.weights.to(first.device)
        wrong = weights != weights[first][first.cumsum(0) - 1]
        if bool(wrong.any()):
            row = data.coords[data.row][int(wrong.nonzero()[0])]
            raise DataError(
                f"site {name!r}: the rows of a chain depend on each other, so a weight belongs to a whole sequence, "
                f"but row {row!r} and the first row of its sequence have different weights"
            )


def frames_of(node: Any) -> list[Any]:
    """Plates of a site, left to right."""
    return sorted((f for f in node["cond_indep_stack"] if f.vectorized), key=lambda f: f.dim)


def check_plates(model: Model, data: Data, name: str, node: Any) -> None:
    """Check a site's plates against its own shape and against the data's named dimensions."""
    frames = frames_of(node)
    for frame in frames:
        if frame.full_size != frame.size:
            raise ModelError(
                f"plate {frame.name!r} uses subsample_size; leave mini-batches to the method, for example "
                "SVI(batch_size=...)"
            )
        if frame.name in data.coords and frame.size != len(data.coords[frame.name]):
            raise ModelError(
                f"site {name!r}: plate {frame.name!r} has size {frame.size}, but the data have "
                f"{len(data.coords[frame.name])} along {frame.name!r}; write pyro.plate({frame.name!r}, "
                "len(data))"
            )
    if is_deterministic(node) or isinstance(node["fn"], Unit | Delta):
        return
    covered = {f.dim for f in frames}
    batch = node["fn"].batch_shape
    for dim in range(-len(batch), 0):
        if batch[dim] > 1 and dim not in covered:
            raise ModelError(
                f"site {name!r} has batch shape {tuple(batch)}, but its dimension {dim} of size {batch[dim]} is in no "
                f"plate (its plates: {[f.name for f in frames] or 'none'}); put the site inside "
                f"`with pyro.plate({data.row or 'row'!r}, {batch[dim]})`, or make the dimension part of the event "
                "with .to_event(1)"
            )
    if node["is_observed"]:
        field_name = next(iter(fields_of(data.values, name, node["value"])), name if name in data.values else None)
        dims = data.dims.get(field_name, ()) if field_name else ()
        names = {f.name for f in frames}
        whole = node["fn"].event_dim == node["value"].ndim  # all rows are one event, as those of a Gaussian process
        if dims and dims[0] == data.row and data.row not in names and not whole:
            other = next((f.name for f in frames if f.size == len(data)), None)
            remedy = f"put it inside `with pyro.plate({data.row!r}, ...)`"
            if other is not None:
                remedy = f"call that plate as the dimension is called, pyro.plate({data.row!r}, ...)"
            raise ModelError(
                f"{type(model).__name__}: field {field_name!r} has first dimension {data.row!r}, but site "
                f"{name!r} is in plates {sorted(names) or 'none'}; {remedy}"
            )


def fields_of(fields: Mapping[str, Tensor], name: str, value: Tensor) -> list[str]:
    """Name the data fields that an observed value is, as they are or as numbers of another type, the site's own first.

    Parameters
    ----------
    fields
        The data.
    name, value
        The site.
    """
    same = [n for n, v in fields.items() if v.shape == value.shape and bool((v == value).all())]
    return sorted(same, key=lambda n: n != name)
