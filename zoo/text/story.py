"""The generative story of a text: sites and plates in their order, their arguments worked out of what is above them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import Buffer

from zoo.declare.fields import Field
from zoo.declare.model import Model
from zoo.text.expressions import Expression

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
        """Work out the constants, which the model keeps."""
        values, sizes = {**data, **model.settings}, self._dimensions(data)
        for name, constant in self.constants.items():
            values[name] = value = constant.value(values, sizes)
            setattr(model, KEPT + name, Buffer(value) if isinstance(value, Tensor) else value)

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
                values[name] = pyro.sample(name, entry.value(values, values.sizes), obs=data.get(name))
            else:
                with pyro.plate(name, values.sizes[name]):
                    self._run(entry, data, values)

    def _dimensions(self, data: Mapping[str, Tensor]) -> dict[str, int]:
        return {d: n for name in self.fields for d, n in zip(self.fields[name].dims, data[name].shape, strict=True)}


class _Values(dict[str, Any]):
    """Values by name; a definition is worked out where it is named, of what is known there."""

    def __init__(self, values: Mapping[str, Any], definitions: Mapping[str, Expression], sizes: dict[str, int]) -> None:
        super().__init__(values)
        self.definitions, self.sizes = definitions, sizes

    def __missing__(self, name: str) -> Any:
        return self.definitions[name].value(self, self.sizes)
