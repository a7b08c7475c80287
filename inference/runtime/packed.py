"""What a climb is made of as tensors and JSON, and back to the byte: no code is run to read it, as with pickle."""

from __future__ import annotations

import importlib
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from inference.runtime.tensor_folder import TensorFolder

KNOWN = ("inference.", "zoo.", "guides.", "torch.distributions.", "pyro.distributions.")  # whose objects are made
GROUPS: dict[str, type] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "size": torch.Size}
CACHES = ("_inv", "_cached_x_y")  # of transforms: weak references, and values that are worked out again


class Packer:
    """Takes objects apart, each once however often it occurs.

    Attributes
    ----------
    tensors
        All that were met, by number.
    """

    def __init__(self) -> None:
        self.tensors = TensorFolder()
        self._met: dict[int, tuple[int, Any]] = {}  # by identity, with the object itself, which keeps that its own

    def pack(self, value: Any) -> Any:
        """Return a value as JSON, in which tensors are numbers.

        Raises
        ------
        TypeError
            If it holds something that is not made of numbers, text, tensors and objects of this library.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if id(value) in self._met:
            return {"same": self._met[id(value)][0]}
        number = len(self._met)
        self._met[id(value)] = number, value
        if isinstance(value, Tensor):
            return {"tensor": number, **self._tensor(str(number), value.detach())}
        if isinstance(value, dict):
            return {"dict": number, "items": [[self.pack(k), self.pack(v)] for k, v in value.items()]}
        if isinstance(value, deque):
            return {"deque": number, "most": value.maxlen, "items": self._all(value)}
        if isinstance(value, slice):
            return {"slice": number, "items": self._all((value.start, value.stop, value.step))}
        for name, kind in GROUPS.items():
            if type(value) is kind:
                items: Any = value
                return {name: number, "items": self._all(items)}
        place = f"{type(value).__module__}:{type(value).__qualname__}"
        if not place.startswith(KNOWN) or not hasattr(value, "__dict__"):
            raise TypeError(f"{place} is not written to checkpoints")
        parts = {n: self.pack(v) for n, v in vars(value).items() if n not in CACHES}
        return {"object": number, "class": place, "parts": parts}

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.pack(v) for v in values]

    def _tensor(self, name: str, value: Tensor) -> dict[str, Any]:
        """Keep a tensor; say how it lies in memory where that is not row by row, as products round by that."""
        self.tensors[name] = value.clone(memory_format=torch.contiguous_format)  # not a view of what goes on
        device = {} if value.device.type == "cpu" else {"device": str(value.device)}
        return device if value.is_contiguous() else {**device, "strides": list(value.stride())}


class Unpacker:
    """Puts together what a `Packer` took apart.

    Parameters
    ----------
    tensors
        By number.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._made: dict[int, Any] = {}

    def unpack(self, packed: Any) -> Any:
        """Return the value of what `pack` returned.

        Raises
        ------
        TypeError
            If it asks for what is no class of this library.
        """
        if not isinstance(packed, dict):
            return packed
        kind = next(iter(packed))
        number = packed[kind]
        if kind != "same":
            self._made[number] = self._value(kind, number, packed)
        return self._made[number]

    def _value(self, kind: str, number: int, packed: dict[str, Any]) -> Any:
        if kind == "tensor":
            return self._tensor(packed)
        if kind == "object":
            return self._object(number, packed)
        if kind == "dict":
            return {self.unpack(k): self.unpack(v) for k, v in packed["items"]}
        items = [self.unpack(v) for v in packed["items"]]
        if kind == "slice":
            return slice(*items)
        return deque(items, packed["most"]) if kind == "deque" else GROUPS[kind](items)

    def _object(self, number: int, packed: dict[str, Any]) -> Any:
        module, _, name = packed["class"].partition(":")
        if not f"{module}:".startswith(KNOWN):
            raise TypeError(f"{module} is not read from checkpoints")
        cls: Any = importlib.import_module(module)
        for part in name.split("."):
            cls = getattr(cls, part)
        made = object.__new__(cls)
        self._made[number] = made
        for part, value in packed["parts"].items():
            object.__setattr__(made, part, self.unpack(value))
        if isinstance(made, torch.distributions.Transform):
            made._inv, made._cached_x_y = None, (None, None)
        return made

    def _tensor(self, packed: dict[str, Any]) -> Tensor:
        value = self.tensors[str(packed["tensor"])].to(packed.get("device", "cpu"))
        if "strides" not in packed:
            return value
        # Dimensions that were expanded have one entry in memory.
        sizes = [1 if stride == 0 else size for size, stride in zip(value.shape, packed["strides"], strict=True)]
        laid = torch.empty_strided(sizes, packed["strides"], dtype=value.dtype, device=value.device)
        for axis, size in enumerate(sizes):
            value = value.narrow(axis, 0, size)
        shape = self.tensors[str(packed["tensor"])].shape
        return laid.copy_(value).expand(shape)
