"""One pass over the rows of a mixture of exponential families: log densities, responsibilities and expected statistics.

log p(x_i, z_i = k) = <eta_k, T(x_i)> + c_k + h(x_i), so both halves of an iteration of EM or CAVI are matrix products
with the statistics T: L = eta T + c before the log-sum-exp over the components, S = R T^T after it. T is made a block
of rows at a time that stays in cache, and no array of rows x components x features ever exists. Batched restarts are
more rows of eta.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ENTRIES = 1 << 18  # entries of statistics and log densities in a block of rows


class Features(ABC):
    """Sufficient statistics T of all rows, made a block of rows at a time.

    Attributes
    ----------
    width
        Number of statistics p of a row.
    rows
        Number of rows n.
    """

    width: int
    rows: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def block(self, start: int, stop: int) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start)."""


class Linear(Features):
    """T = x, from x of shape (n, d): Bernoulli, Poisson, indicators of categories, or any matrix of statistics."""

    def __init__(self, x: Tensor) -> None:
        self.rows, self.width = x.shape
        self.dtype, self.device = x.dtype, x.device
        self._columns = x.mT

    def block(self, start: int, stop: int) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start)."""
        return self._columns[:, start:stop]


class Squares(Linear):
    """T = [x, x^2], width 2d, from x of shape (n, d), centred: Normals with independent features."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(torch.cat([x, x.square()], 1))


class Norm(Linear):
    """T = [x, |x|^2], width d + 1, from x of shape (n, d), centred: spherical Normals."""

    def __init__(self, x: Tensor) -> None:
        super().__init__(torch.cat([x, x.square().sum(1, keepdim=True)], 1))


class Quadratic(Features):
    """T = [x, x_i x_j for i <= j], width d + d(d+1)/2, from x of shape (n, d), centred: Normals, linear regression.

    The monomials are ordered by i, then j. `pack` and `unpack` go between them and symmetric matrices.
    """

    def __init__(self, x: Tensor) -> None:
        self.rows, self.dimension = x.shape
        self.width = self.dimension * (self.dimension + 3) // 2
        self.dtype, self.device = x.dtype, x.device
        self._columns = x.mT.contiguous()

    def block(self, start: int, stop: int) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start)."""
        x = self._columns[:, start:stop]
        return torch.cat([x, *(x[i] * x[i:] for i in range(self.dimension))])


class Stack(Features):
    """Several features of the same rows side by side, the first one's statistics first."""

    def __init__(self, pieces: Sequence[Features]) -> None:
        self.pieces = tuple(pieces)
        self.rows, self.dtype, self.device = pieces[0].rows, pieces[0].dtype, pieces[0].device
        self.width = sum(piece.width for piece in pieces)

    def block(self, start: int, stop: int) -> Tensor:
        """Statistics of rows start to stop, shape (p, stop - start)."""
        return torch.cat([piece.block(start, stop) for piece in self.pieces])


def pack(matrix: Tensor) -> Tensor:
    """Coefficients (..., d(d+1)/2) of the monomials x_i x_j, i <= j, in x^T A x for symmetric A (..., d, d)."""
    d = matrix.shape[-1]
    i, j = torch.triu_indices(d, d, device=matrix.device)
    packed: Tensor = matrix[..., i, j] * (2.0 - (i == j).to(matrix.dtype))
    return packed


def unpack(monomials: Tensor, d: int) -> Tensor:
    """Symmetric matrices (..., d, d) of second moments from the monomials x_i x_j, i <= j, (..., d(d+1)/2)."""
    i, j = torch.triu_indices(d, d, device=monomials.device)
    where = torch.empty(d, d, dtype=torch.long, device=monomials.device)
    where[i, j] = where[j, i] = torch.arange(len(i), device=monomials.device)
    return monomials[..., where]


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
        Natural parameters eta, shape (r, k, p), finite.
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
    n = features.rows
    value = torch.zeros(r, dtype=torch.float64, device=natural.device)
    counts = torch.zeros(r, k, dtype=torch.float64, device=natural.device)
    sums = torch.zeros(r, k, p, dtype=torch.float64, device=natural.device)
    rows = natural.new_empty(r, n) if return_rows else None
    kept = natural.new_empty(r, k, n) if posterior else None
    for start, stop in _blocks(n, r * k + p):
        t = features.block(start, stop)
        logits = torch.addmm(constant.reshape(-1, 1), natural.reshape(-1, p), t).view(r, k, -1)
        density, share = _assign(logits, hard=hard)
        w = None if weights is None else weights[start:stop]
        if offsets is not None:
            density = density + offsets[start:stop]
        if rows is not None:
            rows[:, start:stop] = density
        if kept is not None:
            kept[:, :, start:stop] = share
        if w is not None:
            density = torch.where(w == 0, 0.0, density * w)
            share = share * w
        value += density.sum(-1, dtype=torch.float64)
        counts += share.sum(-1, dtype=torch.float64)
        sums += (share.view(r * k, -1) @ t.mT).view(r, k, p)
    return Swept(value, counts, sums, rows, kept)


def logits(features: Features, natural: Tensor, constant: Tensor, *, offsets: Tensor | None = None) -> Tensor:
    """L_ik = <eta_k, T(x_i)> + c_k + h_i, shape (r, k, n)."""
    r, k, p = natural.shape
    found = natural.new_empty(r * k, features.rows)
    for start, stop in _blocks(features.rows, r * k + p):
        t = features.block(start, stop)
        found[:, start:stop] = torch.addmm(constant.reshape(-1, 1), natural.reshape(-1, p), t)
    if offsets is not None:
        found += offsets
    return found.view(r, k, -1)


def accumulate(features: Features, posterior: Tensor, *, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Counts sum_i w_i R_ik, (r, k), and sums sum_i w_i R_ik T(x_i), (r, k, p), of responsibilities R (r, k, n)."""
    r, k, n = posterior.shape
    counts = torch.zeros(r, k, dtype=torch.float64, device=posterior.device)
    sums = torch.zeros(r, k, features.width, dtype=torch.float64, device=posterior.device)
    for start, stop in _blocks(n, r * k + features.width):
        share = posterior[:, :, start:stop]
        if weights is not None:
            share = share * weights[start:stop]
        counts += share.sum(-1, dtype=torch.float64)
        sums += (share.reshape(r * k, -1) @ features.block(start, stop).mT).view(r, k, -1)
    return counts, sums


def total(features: Features, weights: Tensor | None = None) -> Tensor:
    """sum_i w_i T(x_i), shape (p,), float64.

    Statistics whose coefficients are the same in all components cancel in the responsibilities: they are left out of
    the sweep, and add <coefficients, total> to its value. This total depends on the data only.
    """
    ones = torch.ones(features.rows, dtype=features.dtype, device=features.device) if weights is None else weights
    return accumulate(features, ones.view(1, 1, -1))[1][0, 0]


def _blocks(n: int, height: int) -> Iterator[tuple[int, int]]:
    """Bounds of blocks of rows, `height` numbers to a row, that stay in cache."""
    size = max(256, ENTRIES // height)
    return ((start, min(start + size, n)) for start in range(0, n, size))


def _assign(logits: Tensor, *, hard: bool) -> tuple[Tensor, Tensor]:
    """Log density of each row, (r, c), and its responsibilities, (r, k, c)."""
    if hard:
        best, where = logits.max(1, keepdim=True)
        return best.squeeze(1), torch.zeros_like(logits).scatter_(1, where, 1.0)
    # A row that no component can have made has maximum -inf; a finite stand-in gives it density 0, not NaN.
    best = logits.amax(1, keepdim=True).clamp_min_(torch.finfo(logits.dtype).min)
    share = logits.sub_(best).exp_()
    norm = share.sum(1, keepdim=True)
    density = norm.log().add_(best).squeeze(1)
    return density, share.div_(norm.clamp_min_(1.0))
