"""The distribution of a row given what a decoder says of its code: the likelihoods that models with decoders share."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, Literal

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional as F

from zoo.checks import check_range
from zoo.declare.model import Model
from zoo.errors import DataError, ModelError
from zoo.initial import column_moments, smoothed_logits
from zoo.networks import MLP, ConvDecoder
from zoo.replay.discretized import DiscretizedLogistic

Decoder = Literal["mlp", "conv", "resnet"] | nn.Module | Callable[[], nn.Module]
Likelihood = Literal["bernoulli", "binomial", "gaussian", "categorical", "logistic"]
Noise = Literal["pixel", "shared"]
GREY = ("binomial", "categorical", "logistic")  # of whole numbers from 0 to total_count
COLUMN_FLOOR, IMAGE_FLOOR = 1e-3, 1e-2  # of the unit of a column, or of an image's pixels: keeps densities bounded


class Pixels(nn.Module):
    """p(x_i | z_i): every entry of a row independent of the others, given one or more numbers that a decoder gives.

    Columns of a table have units of their own, pixels of an image one: that of all of them.

    Parameters
    ----------
    model
        Whose `likelihood`, `total_count` and `noise` say which, and which knows the weights of rows and missing cells.
    x
        Rows, shape (rows, *entry).

    Attributes
    ----------
    shape
        Of an entry.
    each
        How many numbers a pixel takes.
    """

    center: Tensor
    unit: Tensor

    def __init__(self, model: Model, x: Tensor) -> None:
        super().__init__()
        told: Any = model
        self.kind, self.noise = told.likelihood, told.noise
        self.shape = tuple(x.shape[1:])
        self.high = int(told.total_count or max(1, int(x.max())))
        self.each = {"categorical": self.high + 1, "logistic": 2}.get(self.kind, 1)
        missing = model.missing.get("x")
        flat, gone = x.flatten(1), None if missing is None else missing.flatten(1)
        center, variance = column_moments(flat, model.row_weights, gone)
        spread = variance.sqrt()
        whole = spread.square().mean().sqrt()
        if len(self.shape) > 1:
            spread = whole.expand_as(spread)
        # A column that does not vary takes the unit of the others; where none does, any serves.
        unit = torch.where(spread > 0, spread, whole if float(whole) > 0 else torch.ones_like(whole))
        self.register_buffer("center", center.reshape(self.shape))
        self.register_buffer("unit", unit.reshape(self.shape).clone())
        trials = 1.0 if self.kind == "bernoulli" else float(self.high)
        self.odds = smoothed_logits(x, model.row_weights, missing, trials)
        self.counts = F.one_hot(x.long(), self.each).double().mean(0) if self.kind == "categorical" else None
        self.floor = IMAGE_FLOOR if len(self.shape) > 1 else COLUMN_FLOOR

    def start(self) -> Tensor:
        """What a decoder should give at first, (*entry, each): the mean row."""
        if self.kind in ("bernoulli", "binomial"):
            return self.odds[..., None]
        if self.counts is not None:
            return (self.counts + 1 / (self.each * len(self.counts))).log()
        return torch.zeros(*self.shape, self.each)

    def forward(self, out: Tensor) -> Any:
        """Distribution of rows given (..., *entry, each) numbers, each row one event."""
        events = len(self.shape)
        alone = out.squeeze(-1)  # a view, whose gradient is one: that of a selected entry is a copy, zeros around it
        if self.kind == "bernoulli":
            return dist.Bernoulli(logits=alone).to_event(events)
        if self.kind == "binomial":
            return dist.Binomial(torch.tensor(float(self.high)), logits=alone).to_event(events)
        if self.kind == "categorical":
            return dist.Categorical(logits=out).to_event(events)
        if self.kind == "logistic":
            scale = self.unit * F.softplus(out[..., 1] + math.log(math.e - 1)) + self.floor
            levels: Any = DiscretizedLogistic(self.center + self.unit * out[..., 0], scale, self.high)
            return levels.to_event(events)
        return dist.Normal(self.center + self.unit * alone, self.unit * self._noise(out)).to_event(events)

    def _noise(self, out: Tensor) -> Tensor:
        """Standard deviation of the noise, in units of the column or image."""
        if not isinstance(self.noise, str):
            return torch.tensor(float(self.noise)).to(out)
        first = torch.full(self.shape if self.noise == "pixel" else (), 0.5)
        found: Tensor = pyro.param("noise", first, constraint=constraints.greater_than(self.floor))
        return found

    def decoder(self, given: Any, inputs: int, hidden: tuple[int, ...]) -> nn.Module:
        """Make the decoder of codes with so many numbers; one of the user's own is copied with the weights it has.

        Raises
        ------
        ModelError
            If what is given makes no module.
        """
        if isinstance(given, nn.Module):
            return copy.deepcopy(given)
        if given == "mlp":
            network: MLP | ConvDecoder = MLP(inputs, hidden, math.prod(self.shape) * self.each)
            network.start_at(self.start())
            return network
        if isinstance(given, str):
            channels, *sides = self.shape if len(self.shape) == 3 else (1, *self.shape)
            blocks = 2 if given == "resnet" else 0
            network = ConvDecoder(inputs, (channels * self.each, *sides), blocks=blocks)
            network.start_at(self.start().reshape(channels, *sides, self.each).movedim(-1, 1))
            return network
        made = given()
        if not isinstance(made, nn.Module):
            raise ModelError(f"decoder={given!r} gave {type(made).__name__}, and not a torch.nn.Module")
        return made

    def laid_out(self, out: Tensor, lead: int) -> Tensor:
        """What a decoder gave, `lead` dimensions of which stand for rows and states, as (..., *entry, each).

        Raises
        ------
        ModelError
            If it does not give that many numbers for a row.
        """
        front = out.shape[:lead]
        if out[(0,) * lead].numel() != math.prod(self.shape) * self.each:
            wanted = f"{self.shape}" if self.each == 1 else f"{(*self.shape, self.each)}, or as many channels"
            raise ModelError(
                f"the decoder gives {tuple(out.shape[lead:])} for a row, and likelihood={self.kind!r} takes {wanted}"
            )
        if self.each > 1 and out.ndim - lead == 3 and out.shape[-2:] == self.shape[-2:]:  # channels first
            channels = self.shape[0] if len(self.shape) == 3 else 1
            out = out.reshape(*front, channels, self.each, *self.shape[-2:]).movedim(-3, -1)
        return out.reshape(*front, *self.shape, self.each)


def check_pixels(model: Model, x: Tensor) -> None:
    """Raise if rows are outside the support of a model's likelihood, or are no images where it has convolutions.

    Raises
    ------
    DataError
        Naming the value, and the remedy.
    """
    told: Any = model
    kind, high, decoder = told.likelihood, told.total_count, model.settings["decoder"]
    seen = x if "x" not in model.missing else x[~model.missing["x"]]
    if decoder in ("conv", "resnet") and x.ndim == 2:
        raise DataError(
            f"field 'x': decoder={decoder!r} makes images, and rows are vectors of {x.shape[1]} numbers; "
            "give images, (rows, height, width) or (rows, channels, height, width): x.reshape(-1, height, width)"
        )
    if kind == "bernoulli" and bool(((seen != 0) & (seen != 1)).any()):
        wrong = float(seen[(seen != 0) & (seen != 1)][0])
        raise DataError(
            f"field 'x': likelihood='bernoulli' expects 0 or 1, found {wrong:g}; binarise the data or "
            "use 'binomial' or 'gaussian'"
        )
    if kind in GREY and bool(((seen < 0) | (seen != seen.round())).any()):
        raise DataError(
            f"field 'x': likelihood={kind!r} expects counts 0, 1, ..., found "
            f"{float(seen[(seen < 0) | (seen != seen.round())][0]):g}; use 'gaussian'"
        )
    if kind in GREY and high is not None and bool((seen > high).any()):
        raise DataError(f"field 'x': found {float(seen.max()):g}, above total_count={high}; raise total_count")
    if kind == "gaussian":
        if not bool((x != x[0]).any()):
            rows = "one row" if len(x) == 1 else "rows that are all the same"
            raise DataError(
                f"{rows} of data: the noise of likelihood='gaussian' cannot be estimated; give rows that vary"
            )
        columns = [model.coords[dim] for dim in model.data_dims["x"][1:]]
        names = columns[0] if len(columns) == 1 else pd.MultiIndex.from_product(columns).to_flat_index()
        check_range(x.flatten(1), names)
