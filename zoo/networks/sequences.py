"""Sequences whose outputs see earlier times only: recurrent cells and attention."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.networks.perceptrons import MLP

Depth = Annotated[int, Field(ge=1, le=1000)]  # layers above each other: more take minutes only to be made


class Recurrent(nn.Module):
    """From a sequence to one number, or several, for each time, made of the entries before it.

    A gated recurrent unit (Cho et al. 2014) or long short-term memory (Hochreiter and Schmidhuber 1997), whose first
    input is zero.

    Parameters
    ----------
    inputs, outputs
        Numbers for each time.
    hidden
        Width of the state.
    layers
        How many, one above the other.
    cell
        "gru" or "lstm".

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import Recurrent
    >>> Recurrent(3, 2, hidden=8, cell="lstm")(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(
        self, inputs: int, outputs: int, hidden: int = 64, layers: int = 1, cell: Literal["gru", "lstm"] = "gru"
    ) -> None:
        super().__init__()
        self.cell = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](inputs, hidden, layers, batch_first=True)
        self.last = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., time, inputs) to (..., time, outputs).

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import Recurrent
        >>> Recurrent(3, 2, hidden=8)(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
        """
        # cuDNN has no gradient in evaluation mode, and warns of weights that are not laid out side by side.
        with torch.backends.cudnn.flags(enabled=False) if x.is_cuda else nullcontext():
            state, _ = self.cell(delayed(x).reshape(-1, *x.shape[-2:]))
        out: Tensor = self.last(state)
        return out.reshape(*x.shape[:-1], -1)


class CausalAttention(nn.Module):
    """From a sequence to numbers for each time, made of the entries before it: a Transformer (Vaswani et al. 2017).

    Self-attention that sees no later time, with sinusoidal positions (section 3.5 there) and layer norms before each
    part (Xiong et al. 2020); the first input is zero.

    Parameters
    ----------
    inputs, outputs
        Numbers for each time.
    width
        Of the sequence inside, a multiple of `heads`, even.
    heads, layers
        Of the attention; how many layers, one above the other.

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import CausalAttention
    >>> CausalAttention(3, 2, width=16, heads=2)(torch.zeros(5, 7, 3)).shape
    torch.Size([5, 7, 2])
    """

    def __init__(self, inputs: int, outputs: int, width: int = 64, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.layers = nn.ModuleList(AttentionBlock(width, heads) for _ in range(layers))
        self.last = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., time, inputs) to (..., time, outputs).

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import CausalAttention
        >>> CausalAttention(3, 2, width=8, heads=2, layers=1)(torch.zeros(5, 7, 3)).shape
        torch.Size([5, 7, 2])
        """
        h = self.first(delayed(x))
        h = h + positions(x.shape[-2], h.shape[-1]).to(h)
        for layer in self.layers:
            h = layer(h)
        out: Tensor = self.last(h)
        return out


class AttentionBlock(nn.Module):
    """x + attention(norm(x)), then y + MLP(norm(y)); no time sees a later one.

    Parameters
    ----------
    width
        Of the sequence, a multiple of `heads`.
    heads
        Of the attention.

    Examples
    --------
    >>> import torch
    >>> from zoo.networks import AttentionBlock
    >>> AttentionBlock(16, heads=4)(torch.zeros(5, 7, 16)).shape
    torch.Size([5, 7, 16])
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(width)])
        self.inward, self.outward = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = MLP(width, (4 * width,), width, nn.GELU)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., time, width) to the same shape.

        Examples
        --------
        >>> import torch
        >>> from zoo.networks import AttentionBlock
        >>> AttentionBlock(8, heads=2)(torch.zeros(5, 7, 8)).shape
        torch.Size([5, 7, 8])
        """
        split = self.inward(self.norms[0](x)).unflatten(-1, (3, self.heads, -1))  # (..., time, 3, heads, width / heads)
        query, key, value = (part.transpose(-2, -3) for part in split.unbind(-3))
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.outward(seen.transpose(-2, -3).flatten(-2))
        out: Tensor = x + self.mlp(self.norms[1](x))
        return out


def delayed(x: Tensor) -> Tensor:
    """Shift a sequence (..., time, inputs) by one, zeros first, so that a time sees what came before it."""
    return torch.cat([torch.zeros_like(x[..., :1, :]), x[..., :-1, :]], -2)


def positions(times: int, width: int) -> Tensor:
    """Return sin and cos of t / 10000^(2i / width), shape (times, width) (Vaswani et al. 2017, section 3.5)."""
    angle = torch.arange(times)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)[:, :width]
