"""Rows of data as a network takes them: fields side by side in units of their own, images, or as a module asks."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from zoo.data.data import Data
from zoo.errors import DataError, MethodError, ZooError, unknown
from zoo.networks import MLP, ConvEncoder

Built = Literal["mlp", "conv", "resnet"]
FEATURES = 256  # of images, which the last affine map sees
CHANNELS = (32, 64)
LARGEST = 6.0  # a value of the training rows in units of its column, beyond which the unit is larger than one sd
PROBED = 2  # rows on which a network is tried, for the size of what it gives


class RowsIn(nn.Module):
    """Features of each row: the data fields through a network.

    Parameters
    ----------
    data
        Rows that it will be trained on.
    network
        Which network.
    hidden
        Widths of the hidden layers of "mlp"; the last of them is the number of features.

    Attributes
    ----------
    outputs
        How many features a row has.
    """

    shift: Tensor
    inverse: Tensor
    outputs: int

    def __init__(
        self, data: Data, network: Built | nn.Module | Callable[[], nn.Module], hidden: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.fields: tuple[str, ...] = ()
        self.image = ""
        features = data.features()
        self.columns = features.shape[1]
        if isinstance(network, str):
            self._standardize(features)
            if network != "mlp":
                self.image, self.shape = self._image(data, network)
            self.network = self._made(network, hidden)
        else:
            self.network = copy.deepcopy(network) if isinstance(network, nn.Module) else self._called(network)
            self.fields = self._asked(data)
        self.network.to(features.device, features.dtype)
        some = data.take(torch.arange(min(PROBED, len(data)), device=features.device))
        training = self.network.training
        with torch.no_grad():
            self.network.eval()
            self.outputs = int(self._tried(some).shape[1])
        self.network.train(training)

    def _standardize(self, features: Tensor) -> None:
        """Units of the columns: a standard deviation, or more where few rows are far from the mean.

        A pixel that is on in one row of a thousand would stand 30 sds out there, and drive the network out of its
        range.
        """
        centre = features.mean(0)
        off = features - centre
        unit = torch.maximum(off.square().mean(0).sqrt(), off.abs().amax(0) / LARGEST)
        self.register_buffer("inverse", 1 / torch.where(unit > 0, unit, torch.ones_like(unit)))
        self.register_buffer("shift", -centre * self.inverse)

    @staticmethod
    def _image(data: Data, network: str) -> tuple[str, tuple[int, ...]]:
        """The one field of images, and their shape (channels, height, width)."""
        shapes = {n: tuple(data.values[n].shape[1:]) for n in data.row_fields}
        images = {n: s for n, s in shapes.items() if len(s) in (2, 3)}
        if len(images) != 1:
            found = ", ".join(f"{n!r} of shape {s}" for n, s in shapes.items())
            raise MethodError(
                f'Encoder(network="{network}") encodes one field of images, (rows, height, width) or (rows, channels, '
                f'height, width), and a row has {found}; use network="mlp", or a network of your own'
            )
        name, shape = next(iter(images.items()))
        return name, shape if len(shape) == 3 else (1, *shape)

    def _made(self, network: str, hidden: tuple[int, ...]) -> nn.Module:
        if network == "mlp":
            # The last affine map is q's, so that these are the layers before it.
            layers = MLP(self.columns, hidden[:-1], hidden[-1]) if hidden else nn.Identity()
            return nn.Sequential(layers, nn.Tanh()) if hidden else layers
        encoder = ConvEncoder(self.shape, FEATURES, CHANNELS, blocks=2 if network == "resnet" else 0)
        return nn.Sequential(encoder, nn.SiLU())

    @staticmethod
    def _called(make: Callable[[], nn.Module]) -> nn.Module:
        made = make()
        if not isinstance(made, nn.Module):
            name = getattr(make, "__name__", repr(make))
            raise MethodError(f"Encoder(network={name}) gave {type(made).__name__}, and not a torch.nn.Module")
        return made

    def _asked(self, data: Data) -> tuple[str, ...]:
        """Which fields a network of the user's own is called with, by the names in its `forward`."""
        taken = inspect.signature(self.network.forward).parameters
        named = tuple(n for n in taken if n in data.row_fields)
        needed = [n for n, p in taken.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        others = [n for n in needed if n not in data.row_fields]
        if others and len(needed) > 1:
            wrong = unknown("data field", others[0], data.row_fields)
            raise MethodError(f"Encoder(network={type(self.network).__name__}): its `forward` asks for an {wrong}")
        return named or (data.row_fields[0],)

    def _tried(self, data: Data) -> Tensor:
        """Features of some rows; what goes wrong in a network of the user's own is told with what it was given."""
        given = ", ".join(f"{n} of shape {tuple(data.values[n].shape)}" for n in self.fields)
        name = f"Encoder(network={type(self.network).__name__})"
        try:
            found: Tensor = self(data)
        except ZooError:
            raise
        except Exception as error:
            if not self.fields:
                raise
            first = str(error).partition("\n")[0]
            raise MethodError(f"{name} failed on {given}: {type(error).__name__}: {first}") from error
        if self.fields and not bool(found.isfinite().all()):
            raise MethodError(
                f"{name} gave {found.flatten()[~found.isfinite().flatten()][0].item()} on {given}; features must be "
                "finite: look for a log or root of zero, or a division by it, in its `forward`"
            )
        return found

    def forward(self, data: Data) -> Tensor:
        """Features of the rows of `data`, shape (rows, outputs)."""
        if self.fields:
            values = [data.values[n] for n in self.fields]
            out: Tensor = self.network(*(v.to(data.dtype) if v.is_floating_point() else v for v in values))
            if not isinstance(out, Tensor) or out.ndim == 0 or len(out) != len(data):
                shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
                raise MethodError(
                    f"Encoder(network={type(self.network).__name__}) gave {shape} for {len(data)} rows; its `forward` "
                    "must give a tensor with a row for each"
                )
            return out.reshape(len(data), -1)
        features = data.features()
        if features.shape[-1] != self.columns:
            raise DataError(
                f"the rows have {features.shape[-1]} features, and the encoder was trained on {self.columns}: a "
                "category is missing, or one has appeared that was not there before"
            )
        scaled = torch.addcmul(self.shift, features, self.inverse)
        if not self.image:
            found: Tensor = self.network(scaled)
            return found
        widths = data.feature_widths()
        parts = dict(zip(widths, scaled.split(list(widths.values()), -1), strict=True))
        seen = self.network(parts.pop(self.image).reshape(len(data), *self.shape))
        return torch.cat([seen, *parts.values()], -1)
