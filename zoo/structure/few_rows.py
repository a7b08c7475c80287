"""Networks that see few rows in a run of a model on all of them, which is looked at for its sites and their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

FEW = 64  # rows that a network sees


class _Asked(Exception):
    """A network asks Pyro for something."""


class _Alone(Messenger):
    """End a call that asks Pyro for something: a plate inside of it has as many rows as the data have."""

    def _process_message(self, msg: Any) -> None:
        raise _Asked


@contextmanager
def networks_on_few(model: nn.Module, rows: int) -> Iterator[None]:
    """Let a model's networks see the first of so many rows only, and repeat what these give for the others.

    A network that asks Pyro for something, or whose results have no row for each that it is given, sees all.
    """
    networks = list(dict.fromkeys(_networks(model))) if rows > FEW else []
    for network in networks:
        vars(network)["forward"] = _on_few(network.forward, rows)  # not an attribute, which modules look over
    try:
        yield
    finally:
        for network in networks:
            vars(network).pop("forward", None)


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules with weights."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _networks(child)
        elif "forward" not in vars(child) and any(True for _ in child.parameters()):
            yield child


def _on_few(forward: Callable[..., Any], rows: int) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        inputs, shape = tree_flatten((args, kwargs))
        if not any(_of_rows(v, rows) for v in inputs):
            return forward(*args, **kwargs)
        few, named = tree_unflatten([v[:FEW] if _of_rows(v, rows) else v for v in inputs], shape)
        try:
            with _Alone():
                found = forward(*few, **named)
        except Exception:  # of a network that takes all rows or none, too: it fails again, and is told of, on all
            return forward(*args, **kwargs)
        outputs = [v for v in tree_flatten(found)[0] if isinstance(v, Tensor)]
        if not all(_of_rows(v, FEW) for v in outputs):
            return forward(*args, **kwargs)
        return tree_map_only(Tensor, lambda v: v[torch.arange(rows, device=v.device) % FEW], found)

    return call


def _of_rows(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows
