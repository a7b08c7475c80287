"""Networks for models and guides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class MLP(nn.Module):
    """f(x) = W_m a(... a(W_1 x + b_1) ...) + b_m: a multilayer perceptron with a = tanh between the layers.

    Parameters
    ----------
    inputs, outputs
        Sizes of the last dimension of x and f(x).
    hidden
        Width of each hidden layer; empty makes an affine map.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.Tanh()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))

    @torch.no_grad()
    def start_at(self, bias: Tensor) -> None:
        """Set the output's bias, so that training starts from a sensible constant."""
        self.get_parameter(f"layers.{len(self.layers) - 1}.bias").copy_(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs)."""
        out: Tensor = self.layers(x)
        return out
