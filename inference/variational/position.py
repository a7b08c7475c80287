"""Where a climb is: flat vectors of what climbs, and what they are relative to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from zoo.replay.evaluate import Values


class Fixed(NamedTuple):
    """What does not climb. A named tuple, so that it can be vectorized and compiled over.

    Attributes
    ----------
    buffers
        Of q, by name.
    origin, unit
        Where the model's parameters start in unconstrained space, and the size of a natural step there, (T,) each.
    fields
        Of the data, by name, where each start has data of its own.
    """

    buffers: Values
    origin: Tensor
    unit: Tensor
    fields: Values

    def map(self, function: Callable[[Tensor], Tensor]) -> Fixed:
        """Apply a function to every tensor."""
        buffers, fields = ({n: function(v) for n, v in part.items()} for part in (self.buffers, self.fields))
        return Fixed(buffers, function(self.origin), function(self.unit), fields)


class Named(NamedTuple):
    """What climbs at one start, by name.

    Attributes
    ----------
    q
        Parameters of q, weights of its networks among them.
    shift
        Of the model's parameters, in natural units from their origin: theta(origin + unit * shift), shape (T,).
    networks
        Weights of the model's networks.
    """

    q: Values
    shift: Tensor
    networks: Values


@dataclass
class Position:
    """What climbs, and what it is relative to; one row for each start.

    Attributes
    ----------
    coordinates
        Of q and of the model's parameters, shape (S, C).
    weights
        Of networks in the guide and in the model, shape (S, W).
    fixed
        Buffers of q and starting values, each with one row for each start.
    """

    coordinates: Tensor
    weights: Tensor
    fixed: Fixed

    def only(self, index: int) -> Position:
        """One of the starts."""
        at = slice(index, index + 1)
        return Position(self.coordinates[at], self.weights[at], self.fixed.map(lambda v: v[at]))
