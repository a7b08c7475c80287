"""Whether a model's unknowns have the shapes that they should, from one run that ends where they do not."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.evaluate import model_context
from zoo.structure.discover import Discover, run
from zoo.structure.few_rows import networks_on_few
from zoo.structure.stand_in import standing_for_all

Shape = tuple[int, ...]


class _Compare(Discover):
    """Gives values of the right shapes, and ends the run before it makes another."""

    def __init__(self, expected: Mapping[str, Shape]) -> None:
        super().__init__({})
        self.expected = expected
        self.other: tuple[str, Shape] | None = None

    def _value(self, name: str, support: Any, shape: Shape) -> Tensor:
        if self.expected.get(name, shape) != shape:
            self.other = name, tuple(shape)
            raise ModelError(f"{name!r} is of shape {shape}")
        return super()._value(name, support, shape)


def other_shape(model: Model, data: Data, expected: Mapping[str, Shape]) -> tuple[str, Shape] | None:
    """The first parameter or latent of another shape than expected, and its shape; None if there is none.

    None, too, where the run fails: learning the structure says why it does.
    """
    rows = standing_for_all(data)
    if rows is not None and _other_shape(model, data.take(rows), expected) is None:
        return None
    return _other_shape(model, data, expected)


def _other_shape(model: Model, data: Data, expected: Mapping[str, Shape]) -> tuple[str, Shape] | None:
    networks = {n: p.detach() for n, p in model.named_parameters() if not n.endswith("_unconstrained")}
    found = _Compare(expected)
    with (
        model_context(data.dtype, torch.device("cpu")),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        networks_on_few(model, len(data)),
        suppress(ModelError),
    ):
        run(model, data, networks, found, None)
    return found.other
