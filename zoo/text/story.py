"""The generative story of a text: sites and plates in their order, their arguments worked out of what is above them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import Buffer

from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.errors import ModelError, ZooError
from zoo.text.expressions import MOST, Expression

KEPT = "constant_"  # what the attributes of constants begin with


@dataclass(frozen=True)
class Story:
    """What a text says, checked.

    Attributes
    ----------
    fields
        The data.
    constants
        Worked out once, of the data that are fitted.
    plates
        Sizes of plates that are no dimension of a field.
    parameters
        Starts and constraints.
    definitions
        Worked out wherever they are named.
    sites
        Site -> its distribution; plate -> what is in it.
    """

    fields: Mapping[str, Field]
    constants: Mapping[str, Expression]
    plates: Mapping[str, Expression]
    parameters: Mapping[str, tuple[Expression, Constraint]]
    definitions: Mapping[str, Expression]
    sites: Mapping[str, Any]

    def set_up(self, model: Model, data: Mapping[str, Tensor]) -> None:
        """Work out the constants, which the model keeps, and check the starts of parameters.

        Raises
        ------
        ModelError
            With the line and the key of what cannot be worked out, or of a start that its constraint does not allow.
        """
        values, sizes = {**data, **model.settings}, self._dimensions(data)
        for name, constant in self.constants.items():
            values[name] = value = _checked(constant, values, sizes)
            setattr(model, KEPT + name, Buffer(value) if isinstance(value, Tensor) else value)
        sizes |= {name: _checked(size, values, sizes, _size) for name, size in self.plates.items()}
        for name, (start, constraint) in self.parameters.items():
            values[name] = value = _checked(start, values, sizes, torch.as_tensor)
            if value.dim() < constraint.event_dim or not bool(constraint.check(value.double()).all()):
                within = str(constraint).removesuffix("()")
                raise ModelError(
                    f"{start.place}: the start {start.text!r} is {_shown(value)}, which is not in {within}; "
                    "give another start, or another constraint"
                )

    def tell(self, model: Model, data: Mapping[str, Tensor]) -> None:
        """Run parameters and sites."""
        sizes = self._dimensions(data)
        kept = {name: getattr(model, KEPT + name) for name in self.constants}
        values = _Values({**data, **model.settings, **kept}, self.definitions, sizes)
        sizes |= {name: int(size.value(values, sizes)) for name, size in self.plates.items()}
        for name, (start, constraint) in self.parameters.items():
            values[name] = pyro.param(name, torch.as_tensor(start.value(values, sizes)), constraint=constraint)
        self._run(self.sites, data, values)

    def _run(self, sites: Mapping[str, Any], data: Mapping[str, Tensor], values: _Values) -> None:
        for name, entry in sites.items():
            if isinstance(entry, Expression):
                drawn = entry.value(values, values.sizes)
                with entry.located():
                    values[name] = pyro.sample(name, drawn, obs=data.get(name))
            else:
                with pyro.plate(name, values.sizes[name]):
                    self._run(entry, data, values)

    def _dimensions(self, data: Mapping[str, Tensor]) -> dict[str, int]:
        return {d: n for name in self.fields for d, n in zip(self.fields[name].dims, data[name].shape, strict=True)}


def _checked(
    expression: Expression,
    values: Mapping[str, Any],
    sizes: Mapping[str, int],
    made: Callable[[Any], Any] = lambda value: value,
) -> Any:
    """Work out an expression and what is made of it; say where it stands if that fails."""
    try:
        return made(expression.value(values, sizes))
    except ZooError:
        raise
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ModelError(f"{expression.place}: {expression.text!r} failed: {type(error).__name__}: {first}") from error


def _size(value: Any) -> int:
    size = int(value)
    if not 1 <= size <= MOST:
        raise ValueError(f"a plate has 1 to {MOST} entries, not {size}")
    return size


def _shown(value: Tensor) -> str:
    """Write a tensor, a long one by its first entries."""
    first = ", ".join(f"{v:.4g}" for v in value.flatten()[:4].tolist())
    return f"[{first}{', ...' if value.numel() > 4 else ''}] of shape {tuple(value.shape)}"


class _Values(dict[str, Any]):
    """Values by name; a definition is worked out where it is named, of what is known there."""

    def __init__(self, values: Mapping[str, Any], definitions: Mapping[str, Expression], sizes: dict[str, int]) -> None:
        super().__init__(values)
        self.definitions, self.sizes = definitions, sizes

    def __missing__(self, name: str) -> Any:
        return self.definitions[name].value(self, self.sizes)
