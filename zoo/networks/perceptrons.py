"""Multilayer perceptrons, and those whose outputs see earlier inputs only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[], nn.Module]


class MLP(nn.Module):
    """f(x) = W_m a(... a(W_1 x + b_1) ...) + b_m: a multilayer perceptron.

    Parameters
    ----------
    inputs, outputs
        Sizes of the last dimension of x and f(x).
    hidden
        Width of each hidden layer; empty makes an affine map.
    activation
        Makes a: the class of a module, tanh if not given.

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import MLP
    >>> MLP(3, (16, 16), 2)(torch.zeros(5, 3)).shape
    torch.Size([5, 2])
    """

    def __init__(self, inputs: int, hidden: Sequence[int], outputs: int, activation: Activation = nn.Tanh) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), activation()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, outputs))

    @torch.no_grad()
    def start_at(self, bias: Tensor) -> None:
        """Set the output's bias, so that training starts from a sensible constant.

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import MLP
        >>> net = MLP(2, [], 1)
        >>> net.start_at(torch.tensor([0.5]))
        >>> net(torch.zeros(1, 2)).item()
        0.5
        """
        self.get_parameter(f"layers.{len(self.layers) - 1}.bias").copy_(bias.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs).

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import MLP
        >>> MLP(2, [8], 3)(torch.zeros(5, 4, 2)).shape
        torch.Size([5, 4, 3])
        """
        out: Tensor = self.layers(x)
        return out


class MaskedLinear(nn.Linear):
    """f(x) = (M * W) x + b: an affine map whose weights are zero where the mask is.

    Parameters
    ----------
    mask
        M, shape (outputs, inputs).
    bias
        Whether there is a b.

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import MaskedLinear
    >>> layer = MaskedLinear(torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    >>> a, b = layer(torch.tensor([[1.0, 2.0], [1.0, 3.0]]))
    >>> bool(a[0] == b[0]), bool(a[1] == b[1])
    (True, False)
    """

    mask: Tensor

    def __init__(self, mask: Tensor, bias: bool = True) -> None:
        super().__init__(mask.shape[1], mask.shape[0], bias)
        self.register_buffer("mask", mask.to(self.weight.dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., outputs).

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import MaskedLinear
        >>> mask = torch.tensor([[1.0, 0.0], [1.0, 1.0]])  # from input to output
        >>> MaskedLinear(mask)(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
        """
        return F.linear(x, self.mask * self.weight, self.bias)


class MaskedMLP(nn.Module):
    """A perceptron of which output j depends on inputs before j only: MADE (Germain et al. 2015, equations 8 to 10).

    The degrees of a layer's hidden units are spread evenly over 1 .. inputs - 1, however few or many there are; a unit
    sees those of its degree or below. Inputs are connected to outputs directly, too, by weights that start at 0: few
    hidden units then suffice, for what a logistic regression on the inputs before does not tell.

    Parameters
    ----------
    inputs
        Number of inputs, and of outputs.
    hidden
        Width of each hidden layer.
    each
        Numbers that make up one output: f has shape (..., inputs, each).

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import MaskedMLP
    >>> network = MaskedMLP(4, (16,))
    >>> seen = torch.autograd.functional.jacobian(lambda x: network(x)[:, 0], torch.zeros(4))
    >>> bool(seen.triu().any())  # no output sees its own input, or a later one
    False
    """

    def __init__(self, inputs: int, hidden: Sequence[int], each: int = 1) -> None:
        super().__init__()
        self.each = each
        degrees, layers = torch.arange(inputs), list[nn.Module]()
        for width in hidden:
            following = torch.arange(width) * max(1, inputs - 1) // width
            layers += [MaskedLinear(following[:, None] >= degrees), nn.ReLU()]
            degrees = following
        last = torch.arange(inputs).repeat_interleave(each)
        self.layers = nn.Sequential(*layers, MaskedLinear(last[:, None] > degrees))
        self.direct = MaskedLinear(last[:, None] > torch.arange(inputs), bias=False) if hidden else None
        if self.direct is not None:
            nn.init.zeros_(self.direct.weight)

    @torch.no_grad()
    def start_at(self, bias: Tensor) -> None:
        """Set the outputs' bias, (inputs, each), so that training starts from a sensible constant.

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import MaskedMLP
        >>> net = MaskedMLP(2, [8])
        >>> net.start_at(torch.tensor([[0.5], [-0.5]]))
        >>> net(torch.zeros(1, 2))[0, 0].item()  # of the first, which sees nothing, it is all there is
        0.5
        """
        self.get_parameter(f"layers.{len(self.layers) - 1}.bias").copy_(bias.reshape(-1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., inputs) to (..., inputs, each).

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import MaskedMLP
        >>> net = MaskedMLP(3, [8])
        >>> changed = torch.tensor([[0.0, 0.0, 1.0]])
        >>> net(changed).shape, torch.equal(net(changed), net(torch.zeros(1, 3)))  # nothing sees the last input
        (torch.Size([1, 3, 1]), True)
        """
        out: Tensor = self.layers(x) if self.direct is None else self.layers(x) + self.direct(x)
        return out.reshape(*x.shape, self.each)
