"""Groups of named tensors as one flat vector, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Layout:
    """Where named tensors stand in a flat vector, group after group; a group has names of its own.

    Parameters
    ----------
    groups
        Examples, in the order that they are laid out in.

    Attributes
    ----------
    sizes
        How many numbers each group has.
    """

    def __init__(self, *groups: Mapping[str, Tensor]) -> None:
        self.shapes = [{n: tuple(t.shape) for n, t in group.items()} for group in groups]
        self.lengths = [math.prod(shape) for group in self.shapes for shape in group.values()]
        self.sizes = tuple(sum(math.prod(shape) for shape in group.values()) for group in self.shapes)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return sum(self.lengths)

    def pack(self, *groups: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """One vector (size,) of tensors, in the precision and on the device of `like`; it can be differentiated."""
        parts = [
            group[n].reshape(-1).to(like) for group, shapes in zip(groups, self.shapes, strict=True) for n in shapes
        ]
        return torch.cat(parts) if parts else like.new_zeros(0)

    def unpack(self, flat: Tensor) -> tuple[dict[str, Tensor], ...]:
        """Views of one vector (size,) by group and name: one split for all of them, which is cheap under `vmap`."""
        parts = iter(flat.split(self.lengths) if self.lengths else ())
        return tuple({n: next(parts).view(shape) for n, shape in group.items()} for group in self.shapes)
