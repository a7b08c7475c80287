"""Many named tensors as one flat vector, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor


class Layout:
    """Where named tensors stand in a flat vector.

    Parameters
    ----------
    tensors
        Examples, in the order that they are laid out in.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.shapes = {n: tuple(t.shape) for n, t in tensors.items()}
        self.sizes = [math.prod(shape) for shape in self.shapes.values()]
        self.size = sum(self.sizes)

    def pack(self, tensors: Mapping[str, Tensor], like: Tensor) -> Tensor:
        """One vector (size,) of tensors, in the precision and on the device of `like`."""
        parts = [tensors[n].detach().reshape(-1).to(like) for n in self.shapes]
        return torch.cat(parts) if parts else like.new_zeros(0)

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of one vector by name."""
        parts = flat.split(self.sizes) if self.sizes else ()
        return {n: p.view(shape) for (n, shape), p in zip(self.shapes.items(), parts, strict=True)}
