"""Arithmetic for sums over paths, in plain numbers or in logarithms, and products along a line of matrices or maps.

A sum over the paths of a chain is a product of matrices in a semiring (Goodman 1999): (+, *) for probabilities,
(log-sum-exp, +) for the same in logarithms, (max, +) for the best path. Algorithms are written once, in the words of
`Scaled`, and take the semiring as an argument. Plain numbers are matrix products, many times faster than logarithms,
but underflow; `arithmetic` says when they may be used.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LONGEST = 48  # matrices in a row that are multiplied before they are brought back to size
CELLS = 1 << 20  # numbers that one product of logarithms may hold at once


class Scaled:
    """Sums of products in plain numbers, brought back to size every so often.

    Parameters
    ----------
    longest
        How many matrices in a row may be multiplied before they have to be brought back to size.
    """

    one, zero = 1.0, 0.0

    def __init__(self, longest: int = LONGEST) -> None:
        self.longest = longest

    def of(self, logs: Tensor) -> Tensor:
        """Take numbers that are given by their logarithms."""
        return logs.exp()

    def log(self, x: Tensor) -> Tensor:
        """Give the logarithm back."""
        return x.log()

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Matrix product over the last two dimensions."""
        return torch.matmul(x.contiguous(), y.contiguous(), out=out)

    def times(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Product entry by entry."""
        return torch.mul(x, y, out=out)

    def over(self, x: Tensor, y: Tensor) -> Tensor:
        """Quotient entry by entry, in place of the first."""
        return x.div_(y)

    def total(self, x: Tensor, dim: int = -2) -> Tensor:
        """Sum over a dimension, that of the states, which is kept."""
        return x.sum(dim, keepdim=True)

    def unit(self, x: Tensor) -> Tensor:
        """Divide matrices by their largest entry, which is not differentiated: only their directions matter."""
        return x / x.detach().amax((-2, -1), keepdim=True)

    def plain(self, x: Tensor) -> Tensor:
        """Give plain numbers."""
        return x

    def pairs(self, before: Tensor, step: Tensor, after: Tensor) -> Tensor:
        """sum_t before_t(j) A_jk after_t(k), with `step` the transpose of A and t the last dimension."""
        return step.mT * (before @ after.mT)


class Logs(Scaled):
    """The same in logarithms: slower, and nothing is ever lost, whatever is impossible."""

    one, zero = 0.0, -math.inf

    def of(self, logs: Tensor) -> Tensor:
        """Keep logarithms."""
        return logs

    def log(self, x: Tensor) -> Tensor:
        """Keep logarithms."""
        return x

    def product(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """log sum_j exp(x_ij + y_jk), some columns k at a time: (..., i, j, columns) numbers are in memory at once."""
        width = max(1, CELLS // max(1, x.numel()))
        parts = [self.total(x[..., None] + p[..., None, :, :]).squeeze(-2) for p in y.split(width, -1)]
        return torch.cat(parts, -1, out=out)

    def times(self, x: Tensor, y: Tensor, out: Tensor | None = None) -> Tensor:
        """Sum of the logarithms."""
        return torch.add(x, y, out=out)

    def over(self, x: Tensor, y: Tensor) -> Tensor:
        """Difference of the logarithms."""
        return x.sub_(y)

    def total(self, x: Tensor, dim: int = -2) -> Tensor:
        """log sum exp over the states."""
        return x.logsumexp(dim, keepdim=True)

    def unit(self, x: Tensor) -> Tensor:
        """Subtract the largest entry."""
        return x - x.amax((-2, -1), keepdim=True)

    def plain(self, x: Tensor) -> Tensor:
        """Exponentiate."""
        return x.exp_()

    def pairs(self, before: Tensor, step: Tensor, after: Tensor) -> Tensor:
        """sum_t exp(before_t(j) + log A_jk + after_t(k)), one state j at a time: no (j, k, t) array in memory."""
        rows = [(before[..., j, None, :] + step[..., j, None] + after).exp_().sum(-1) for j in range(step.shape[-1])]
        return torch.stack(rows, -2)


class Best(Logs):
    """Maxima in place of sums, in logarithms: the most probable path."""

    def total(self, x: Tensor, dim: int = -2) -> Tensor:
        """Maximum over the states."""
        return x.amax(dim, keepdim=True)


def arithmetic(transition: Tensor) -> Scaled:
    """Choose plain numbers where every transition is possible enough, logarithms elsewhere.

    Let a be the smallest transition probability relative to the largest. A state whose weight is lost to underflow is
    refilled by the next row with a share of at least a, so over m rows what is lost stays below rounding if
    a^(m + 1) > tiny / eps.
    """
    kind = torch.finfo(transition.dtype)
    depth = float(transition.amax() - transition.amin())  # -log a
    room = math.log(kind.eps / kind.tiny)
    # Two rows at least have to fit. The depth is bounded from below for matrices whose entries are all alike.
    return Scaled(int(min(LONGEST, room / max(depth, 1e-3) - 1))) if 2 * depth < room else Logs()


def before_each(ring: Scaled, vector: Tensor, matrices: Tensor) -> Tensor:
    """Row vector times the first 0, 1, 2, ... matrices along dimension -3, each up to a factor, in log2(length) rounds.

    Pairs of neighbours are multiplied until one is left; on the way back the vectors in between are filled in
    (Blelloch 1990).

    Parameters
    ----------
    ring
        Arithmetic.
    vector
        Shape (..., states).
    matrices
        Shape (..., count, states, states).

    Returns
    -------
    Tensor
        Shape (..., count + 1, states).
    """
    count = matrices.shape[-3]
    if count == 0:
        return vector[..., None, :]
    even = matrices[..., 0::2, :, :]
    pairs = ring.unit(ring.product(even[..., : count // 2, :, :], matrices[..., 1::2, :, :]))
    at_even = before_each(ring, vector, pairs)  # the vector times the first 0, 2, 4, ... matrices
    half = at_even[..., : (count + 1) // 2, None, :]
    at_odd = ring.unit(ring.product(half, even))[..., 0, :]  # one matrix further: 1, 3, 5, ...
    woven = torch.stack([half[..., 0, :], at_odd], -2).flatten(-3, -2)
    return woven if count % 2 else torch.cat([woven, at_even[..., -1:, :]], -2)


def compose(maps: Tensor) -> Tensor:
    """f_t(f_{t-1}(... f_1(0))) for each t, from maps of states, shape (batch, rows, states), in log2(rows) rounds.

    Pointer doubling: after each round maps[:, t] is the composition of twice as many maps up to t. Draws of paths and
    the way back of Viterbi's algorithm are such compositions, with no arithmetic at all.
    """
    step = 1
    while step < maps.shape[1]:
        maps = torch.cat([maps[:, :step], maps[:, step:].gather(2, maps[:, :-step])], 1)
        step *= 2
    return maps[..., 0]
