"""Autoregressive density of sequences by attention."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.checks import check_symbols
from zoo.declare.fields import Category
from zoo.declare.model import Model
from zoo.errors import ModelError
from zoo.networks import CausalAttention, Depth


class CausalTransformer(Model):
    """Causal Transformer: each symbol is drawn given those before it, to which it attends (Vaswani et al. 2017).

    Generative story::

        x_it | x_i1, ..., x_i,t-1     ~ Categorical(logits = f_t(x_i1, ..., x_i,t-1))

    for rows i and times t, where f is a Transformer whose attention sees no later time, with sinusoidal positions.
    Images are read line by line.

    ===========  ===========  =============================================
    symbol       site         shape
    ===========  ===========  =============================================
    x_i          ``x``        (row, time), or (row, image ...)
    f            ``network``  network weights, maximum likelihood
    ===========  ===========  =============================================

    Methods: ``svi`` and ``map``, which are the same here: gradient ascent of the likelihood. `log_prob` is exact;
    `generate` draws symbol after symbol.

    Limits: rows of one length, so fill the shorter ones up with one further symbol, which the density then knows to be
    followed by itself only; time and memory grow with the square of the length; no latents, so nothing to encode.

    Parameters
    ----------
    width
        Of the sequence inside, an even multiple of `heads`.
    heads, layers
        Of the attention; how many layers, one above the other.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import SVI, fit
    >>> words = np.array([[0, 1, 2, 3] * 4, [1, 2, 3, 0] * 4] * 10)
    >>> result = fit(zoo.CausalTransformer(width=16, heads=2, layers=1), words, method=SVI(steps=100), seed=0)
    >>> bool(result.log_prob(words[:1]).iloc[0] > result.log_prob(words[:1, ::-1].copy()).iloc[0])
    True
    """

    x = Category("row", "time", ...)
    width: PositiveInt = 64
    heads: PositiveInt = 4
    layers: Depth = 2

    def check(self, x: Tensor) -> None:
        # Refuse codes that can be no symbols, and a width that cannot be split
        if self.width % self.heads or self.width % 2:
            raise ModelError(
                f"CausalTransformer: width={self.width} must be even and a multiple of heads={self.heads}; "
                f"give width={2 * self.heads * max(1, self.width // (2 * self.heads))}"
            )
        check_symbols(x)

    def setup(self, x: Tensor) -> None:
        # Make the network for this many symbols
        self.symbols = max(2, int(x.max()) + 1)
        self.network = CausalAttention(self.symbols, self.symbols, self.width, self.heads, self.layers)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            seen = torch.nn.functional.one_hot(x.flatten(1), self.symbols).to(torch.get_default_dtype())
            logits = self.network(seen).reshape(*x.shape, self.symbols)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(x.ndim - 1), obs=x)
