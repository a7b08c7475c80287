"""A run of a model with gradients on: latents and parameters must reach its densities through torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.data.data import Data
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.replay.evaluate import Values
from zoo.structure.discover import Discover, run
from zoo.structure.failures import through_numpy


class _Leaves(Discover):
    """Made-up values of which gradients are taken, as methods do."""

    def _value(self, name: str, support: Any, shape: tuple[int, ...]) -> Tensor:
        return _leaf(super()._value(name, support, shape))


def _leaf(value: Tensor) -> Tensor:
    return value.detach().requires_grad_() if value.is_floating_point() else value


def check_torch(model: Model, data: Data, networks: Values, priors: dict[str, Any]) -> None:
    """Raise if the model hands a latent, a parameter or what is made of them to NumPy.

    Raises
    ------
    ModelError
        That names the site after which it does. Whatever else goes wrong is left to the runs that learn the structure.
    """
    leaves = {n: _leaf(v) for n, v in networks.items()}
    try:
        with torch.inference_mode(mode=False), torch.enable_grad():
            run(model, data, leaves, _Leaves(priors), None)
    except ModelError as error:
        if error.__cause__ is not None and through_numpy(error.__cause__):
            raise
