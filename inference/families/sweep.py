"""One pass over the rows of a mixture of exponential families: log densities, responsibilities and expected statistics.

log p(x_i, z_i = k) = <eta_k, T(x_i)> + c_k + h(x_i), so both halves of an iteration of EM or CAVI are matrix products
with the statistics T: L = eta T + c before the log-sum-exp over the components, S = R T^T after it. T is made a block
of rows at a time that stays in cache, and no array of rows x components x features ever exists. Batched restarts are
more rows of eta.

Statistics are laid out one after another, the rows of the data contiguous within each: (p, c) for a block of c rows.
Matrix products and sums over components run along the rows then.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from itertools import starmap

import torch
from torch import Tensor

ENTRIES = 1 << 19  # numbers in a block of rows, for each thread: what a core's share of the cache holds
ENTRIES_GPU = 1 << 25
LEAST = 64  # rows in a block, however wide
WHOLE = 1 << 21  # statistics that are kept, not made again in every sweep
NARROW = 128  # fewer columns than these are copied to be contiguous one by one
SPLIT = 4096  # entries below which a product over many rows is split by rows
FEW = 512  # rows that are not worth splitting
GPU_PIECES = 64
LOWEST = {torch.float64: -1e150, torch.float32: -1e30}  # stands for -inf
LN2 = math.log(2)


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


class Squares(Features):
    """T = [x, x^2], width 2d, from x of shape (n, d), centred: Normals with independent features."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.shape[0], 2 * x.shape[1], x.dtype, x.device)
        self._columns = x.mT.contiguous()

    def write(self, start: int, stop: int, out: Tensor) -> None:
        """Write the statistics of rows start to stop, shape (p, stop - start)."""
        x, d = self._columns[:, start:stop], self.width // 2
        out[:d] = x
        torch.mul(x, x, out=out[d:])


class Norm(Features):
    """T = [x, |x|^2], width d + 1, from x of shape (n, d), centred: spherical Normals."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(x.shape[0], x.shape[1] + 1, x.dtype, x.device)
        self._columns = torch.cat([x.mT, x.square().sum(1)[None]])

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
    """T = [x, x_i x_j], width d + d(d+1)/2, from x of shape (n, d), centred: Normals, linear regression."""

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


@dataclass(frozen=True)
class Swept:
    """What a sweep adds up over n rows, for r restarts with k components and p statistics; sums are in float64.

    Attributes
    ----------
    value
        sum_i w_i log sum_k exp L_ik, shape (r,); with `hard`, sum_i w_i max_k L_ik.
    counts
        sum_i w_i R_ik, shape (r, k).
    sums
        sum_i w_i R_ik T(x_i), shape (r, k, p).
    rows
        log sum_k exp L_ik (with `hard`: the maximum), shape (r, n), if asked for.
    posterior
        The responsibilities R, without the weights, shape (r, k, n), if asked for.
    """

    value: Tensor
    counts: Tensor
    sums: Tensor
    rows: Tensor | None = None
    posterior: Tensor | None = None


@torch.no_grad()
def sweep(
    features: Features,
    natural: Tensor,
    constant: Tensor,
    *,
    weights: Tensor | None = None,
    hard: bool = False,
    offsets: Tensor | None = None,
    return_rows: bool = False,
    posterior: bool = False,
) -> Swept:
    """L_ik = <eta_k, T(x_i)> + c_k + h_i; R = softmax_k L; add up log-sum-exp, R and R T over the rows.

    Parameters
    ----------
    features
        Statistics T of n rows, width p.
    natural
        Natural parameters eta, shape (r, k, p). -inf is allowed where a statistic is never negative: the log of a
        probability that is zero.
    constant
        Constants c, the log mixture weights among them, shape (r, k). -inf gives a component no responsibility.
    weights
        Weight of each row, shape (n,).
    hard
        Give each row to its best component (classification EM).
    offsets
        Log base measure h of each row, shape (n,).
    return_rows, posterior
        Return the log density of each row, and the responsibilities.
    """
    r, k, p = natural.shape
    # Base 2: exp2 takes a third of the time of exp. A finite stand-in for -inf lets no NaN arise.
    lowest = LOWEST[natural.dtype]
    table = torch.cat([natural, constant[..., None]], -1).mul_(1 / LN2).clamp_min_(lowest).view(r * k, p + 1)
    eta, shift = table[:, :-1], table[:, -1:]
    rows = natural.new_empty(r, features.rows) if return_rows else None
    kept = natural.new_empty(r, k, features.rows) if posterior else None

    def add_up(start: int, stop: int, t: Tensor) -> tuple[Tensor, ...]:
        share = torch.addmm(shift, eta, t).view(r, k, -1)
        if hard:
            density, where = share.max(1, keepdim=True)
            share.zero_().scatter_(1, where, 1.0)
            scale = None
        else:
            best = share.amax(1, keepdim=True)
            scale = share.sub_(best).exp2_().sum(1, keepdim=True)
            density = scale.log2().add_(best)
            scale.reciprocal_()
        density = torch.threshold_(density, 0.5 * lowest, -math.inf).mul_(LN2).squeeze_(1)
        if offsets is not None:
            density += offsets[start:stop]
        if rows is not None:
            rows[:, start:stop] = density
        if kept is not None:
            kept[:, :, start:stop] = share if scale is None else share * scale
        if weights is not None:
            w = weights[start:stop]
            density.mul_(w).masked_fill_(w == 0, 0.0)  # a row of weight 0 may have density 0
            scale = w if scale is None else scale.mul_(w)
        if scale is not None:
            share.mul_(scale)
        return density.sum(-1, dtype=torch.float64), *_statistics(share, t)

    value, counts, sums = reduce(_add, starmap(add_up, features.blocks(r * k)))
    return Swept(value, counts, sums, rows, kept)


@torch.no_grad()
def logits(features: Features, natural: Tensor, constant: Tensor, *, offsets: Tensor | None = None) -> Tensor:
    """L_ik = <eta_k, T(x_i)> + c_k + h_i, shape (r, k, n)."""
    r, k, p = natural.shape
    found = natural.new_empty(r * k, features.rows)
    for start, stop, t in features.blocks(r * k):
        found[:, start:stop] = torch.addmm(constant.reshape(-1, 1), natural.reshape(-1, p), t)
    if offsets is not None:
        found += offsets
    return found.view(r, k, -1)


@torch.no_grad()
def accumulate(features: Features, posterior: Tensor, *, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Counts sum_i w_i R_ik, (r, k), and sums sum_i w_i R_ik T(x_i), (r, k, p), of responsibilities R (r, k, n)."""

    def add_up(start: int, stop: int, t: Tensor) -> tuple[Tensor, ...]:
        share = posterior[:, :, start:stop]
        return _statistics(share if weights is None else share * weights[start:stop], t)

    counts, sums = reduce(_add, starmap(add_up, features.blocks(posterior.shape[0] * posterior.shape[1])))
    return counts, sums


def total(features: Features, weights: Tensor | None = None) -> Tensor:
    """sum_i w_i T(x_i), shape (p,), float64.

    Statistics whose coefficients are the same in all components cancel in the responsibilities: they are left out of
    the sweep, and add <coefficients, total> to its value. This total depends on the data only.
    """
    ones = torch.ones(features.rows, dtype=features.dtype, device=features.device) if weights is None else weights
    return accumulate(features, ones.view(1, 1, -1))[1][0, 0]


def _add(found: tuple[Tensor, ...], parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Add the sums over one block of rows to those over the blocks before it."""
    return tuple(a.add_(b) for a, b in zip(found, parts, strict=True))


def _statistics(share: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Counts sum_i R_i, (r, k), and sums R T^T, (r, k, p), in float64, from (r, k, c) and (p, c).

    Libraries split a product over threads by its entries, not along the sum: a small one is split by rows here.
    """
    r, k, c = share.shape
    rows = share.reshape(r * k, c)
    pieces = torch.get_num_threads() if t.device.type == "cpu" else GPU_PIECES
    size = c // pieces
    if pieces == 1 or r * k * len(t) > SPLIT or size < FEW:
        sums = rows @ t.mT
    else:
        left, right = (q[:, : pieces * size].unflatten(1, (pieces, size)).movedim(1, 0) for q in (rows, t))
        sums = (left @ right.mT).sum(0, dtype=torch.float64)
        sums += rows[:, pieces * size :] @ t[:, pieces * size :].mT
    return share.sum(-1, dtype=torch.float64), sums.double().view(r, k, -1)
