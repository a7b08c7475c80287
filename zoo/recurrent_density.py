"""Autoregressive density of sequences by a recurrent network."""

from __future__ import annotations

from typing import Literal

import pyro
import pyro.distributions as dist
import torch
from pydantic import PositiveInt
from torch import Tensor

from zoo.checks import check_symbols
from zoo.declare.fields import Category
from zoo.declare.model import Model
from zoo.networks import Depth, Recurrent


class RecurrentDensity(Model):
    """Recurrent density: each symbol is drawn given those before it, which a recurrent cell keeps in mind.

    Generative story::

        x_it | x_i1, ..., x_i,t-1     ~ Categorical(logits = f(h_it))     h_it = cell(h_i,t-1, x_i,t-1), h_i0 = 0

    for rows i and times t; symbols enter the cell as indicators. Images are read line by line.

    ===========  ===========  =============================================
    symbol       site         shape
    ===========  ===========  =============================================
    x_i          ``x``        (row, time), or (row, image ...)
    f, cell      ``network``  network weights, maximum likelihood
    ===========  ===========  =============================================

    Methods: ``svi`` and ``map``, which are the same here: gradient ascent of the likelihood. `log_prob` is exact;
    `generate` draws symbol after symbol.

    Limits: rows of one length, so fill the shorter ones up with one further symbol, which the density then knows to be
    followed by itself only; steps are taken one after the other, which is slow for long rows; no latents, so nothing to
    encode.

    Parameters
    ----------
    hidden
        Width of the cell's state.
    layers
        How many cells, one above the other.
    cell
        "gru" (Cho et al. 2014) or "lstm" (Hochreiter and Schmidhuber 1997).

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> from inference import SVI, fit
    >>> words = np.array([[0, 1, 2, 3] * 4, [1, 2, 3, 0] * 4] * 10)
    >>> result = fit(zoo.RecurrentDensity(hidden=8), words, method=SVI(steps=60), seed=0)
    >>> bool(result.log_prob(words[:1]).iloc[0] > result.log_prob(words[:1, ::-1].copy()).iloc[0])
    True
    """

    x = Category("row", "time", ...)
    hidden: PositiveInt = 64
    layers: Depth = 1
    cell: Literal["gru", "lstm"] = "gru"

    def check(self, x: Tensor) -> None:
        # Refuse codes that can be no symbols
        check_symbols(x)

    def setup(self, x: Tensor) -> None:
        # Make the network for this many symbols
        self.symbols = max(2, int(x.max()) + 1)
        self.network = Recurrent(self.symbols, self.symbols, self.hidden, self.layers, self.cell)

    def forward(self, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            seen = torch.nn.functional.one_hot(x.flatten(1), self.symbols).to(torch.get_default_dtype())
            logits = self.network(seen).reshape(*x.shape, self.symbols)
            pyro.sample("x", dist.Categorical(logits=logits).to_event(x.ndim - 1), obs=x)
