"""Sufficient statistics of all rows of a data set, made a block of rows at a time.

They are laid out one after another, the rows of the data contiguous within each: (p, c) for a block of c rows. Matrix
products and sums over components run along the rows then.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor

ENTRIES = 1 << 19  # numbers in a block of rows, for each thread: what a core's share of the cache holds
ENTRIES_GPU = 1 << 25  # the same on a GPU, where large blocks keep it busy
LEAST = 64  # rows in a block, however wide
WHOLE = 1 << 21  # statistics that are kept, not made again in every sweep
NARROW = 128  # fewer columns than these are copied to be contiguous one by one


class Features(ABC):
    """Sufficient statistics T of all rows, made a block of rows at a time.

    Attributes
    ----------
    width
        Number of statistics p of a row.
    rows
        Number of rows n.
    """

    def __init__(self, rows: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
        self.rows, self.width, self.dtype, self.device = rows, width, dtype, device
        self._whole: Tensor | None = None

    @abstractmethod
    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""

    def block(self, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start), in `room` of shape (p, at least so many rows)."""
        if self._whole is None and self.rows * self.width <= WHOLE:
            self._whole = torch.empty(self.width, self.rows, dtype=self.dtype, device=self.device)
            self.write(0, self.rows, self._whole)
        if self._whole is not None:
            return self._whole[:, start:stop]
        if room is None:
            room = torch.empty(self.width, stop - start, dtype=self.dtype, device=self.device)
        out = room[:, : stop - start]
        self.write(start, stop, out)
        return out

    def blocks(self, height: int) -> Iterator[tuple[int, int, Tensor]]:
        """Blocks of rows that stay in cache beside `height` more numbers for each row: start, stop, statistics."""
        size = block_size(self.rows, self.width + height, self.device)
        room = None
        if size < self.rows and self.rows * self.width > WHOLE:
            room = torch.empty(self.width, size, dtype=self.dtype, device=self.device)
        for start in range(0, max(self.rows, 1), max(size, 1)):
            stop = min(start + size, self.rows)
            yield start, stop, self.block(start, stop, room)


class Linear(Features):
    """T = x, from x of shape (n, d): Bernoulli, Poisson, indicators of categories, or any matrix of statistics."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.shape[0], x.shape[1], x.dtype, x.device)
        self._columns = x.mT.contiguous() if self.width < NARROW else x.mT

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""
        out.copy_(self._columns[:, start:stop])

    def block(self, start: int, stop: int, room: Tensor | None = None) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start), as a view."""
        return self._columns[:, start:stop]


class Products(Features):
    """T = x_i x_j, each pair once, width d(d+1)/2, from x of shape (n, d).

    The products are ordered by s, then i, of x_i x_{(i+s) mod d}, s = 0, ..., d/2: with x repeated below itself they
    are one product of two views. `pack` and `unpack` go between them and symmetric matrices.
    """

    def __init__(self, x: Tensor) -> None:
        n, self.dimension = x.shape
        super().__init__(n, self.dimension * (self.dimension + 1) // 2, x.dtype, x.device)
        self._columns = torch.cat([x.mT, x.mT[: self.dimension // 2]])

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""
        x, d = self._columns[:, start:stop], self.dimension
        whole = (d + 1) // 2
        shifted = x.unfold(0, d, 1).mT
        torch.mul(x[:d], shifted[:whole], out=out[: whole * d].unflatten(0, (whole, d)))
        if d % 2 == 0:  # half of the last shift is the other half again
            torch.mul(x[: d // 2], x[d // 2 : d], out=out[whole * d :])


class Quadratic(Products):
    """T = [x, x_i x_j], width d + d(d+1)/2, from x of shape (n, d), centred: Normals, linear regression.

    An expanded square loses digits where a component is far tighter than its distance from zero: the error of a log
    density is about eps |P| |x|^2 with precision matrix P.
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__(x)
        self.width += self.dimension

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""
        out[: self.dimension] = self._columns[: self.dimension, start:stop]
        super().write(start, stop, out[self.dimension :])


class Stack(Features):
    """Several features of the same rows side by side, the first one's statistics first."""

    def __init__(self, pieces: Sequence[Features]) -> None:
        self.pieces = tuple(pieces)
        super().__init__(pieces[0].rows, sum(q.width for q in pieces), pieces[0].dtype, pieces[0].device)

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""
        for piece, part in zip(self.pieces, out.split([q.width for q in self.pieces]), strict=True):
            piece.write(start, stop, part)


def block_size(n: int, height: int, device: torch.device) -> int:
    """Rows to a block, `height` numbers to a row: never a power of two, whose strides collide in cache."""
    entries = ENTRIES * torch.get_num_threads() if device.type == "cpu" else ENTRIES_GPU
    blocks = -(-n // max(entries // height, LEAST))
    return n if blocks <= 1 else (-(-n // (32 * blocks)) | 1) * 32


@lru_cache(maxsize=64)
def _pairs(d: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Features i and j of every monomial, and the monomial of every i and j."""
    order = torch.arange(d * (d + 1) // 2, device=device)
    i = order % d
    j = (i + order // d) % d
    where = torch.empty(d, d, dtype=torch.long, device=device)
    where[i, j] = where[j, i] = order
    return i, j, where


def pack(matrix: Tensor) -> Tensor:
    """Coefficients (..., d(d+1)/2) of the products x_i x_j in x^T A x, for symmetric A (..., d, d)."""
    i, j, _ = _pairs(matrix.shape[-1], matrix.device)
    return matrix[..., i, j] + torch.where(i == j, 0.0, matrix[..., j, i])


def unpack(products: Tensor) -> Tensor:
    """Symmetric matrices (..., d, d) of the entries x_i x_j from the products (..., d(d+1)/2), each pair once."""
    d = (math.isqrt(8 * products.shape[-1] + 1) - 1) // 2
    return products[..., _pairs(d, products.device)[2]]
