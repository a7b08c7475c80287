"""One pass over the rows of a mixture of exponential families: log densities, responsibilities and expected statistics.

log p(x_i, z_i = k) = <eta_k, T(x_i)> + c_k + h(x_i), so both halves of an iteration of EM or CAVI are matrix products
with the statistics T: L = eta T + c before the log-sum-exp over the components, S = R T^T after it. T is made a block
of rows at a time that stays in cache, and no array of rows x components x features ever exists. Batched restarts are
more rows of eta.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import starmap

import torch
from torch import Tensor

from inference.coordinate.features import Features

SPLIT = 4096  # entries below which a product over many rows is split by rows
FEW = 512  # rows that are not worth splitting
GPU_PIECES = 64  # into how many products one is split on a GPU
LOWEST = {torch.float64: -1e150, torch.float32: -1e30}  # stands for -inf
LN2 = math.log(2)


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
    """

    value: Tensor
    counts: Tensor
    sums: Tensor


@torch.no_grad()
def sweep(
    features: Features,
    natural: Tensor,
    constant: Tensor,
    *,
    weights: Tensor | None = None,
    hard: bool = False,
) -> Swept:
    """L_ik = <eta_k, T(x_i)> + c_k; R = softmax_k L; add up log-sum-exp, R and R T over the rows.

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
    """
    r, k, _ = natural.shape
    eta, shift = _coefficients(natural, constant, 1 / LN2)  # base 2: exp2 takes a third of the time of exp
    limits = torch.finfo(features.dtype)
    nothing = math.log2(limits.tiny / limits.eps)

    def add_up(start: int, stop: int, t: Tensor) -> tuple[Tensor, ...]:
        share = torch.addmm(shift, eta, t).view(r, k, -1)
        if hard:
            density, where = share.max(1, keepdim=True)
            share.zero_().scatter_(1, where, 1.0)
            scale = None
        else:
            best = share.amax(1, keepdim=True)
            # What is next to nothing is nothing: products of denormal numbers take forty times as long.
            share = torch.threshold_(share.sub_(best), nothing, -math.inf)
            scale = share.exp2_().sum(1, keepdim=True)
            density = scale.log2().add_(best)
            scale.reciprocal_()
        density = _impossible(density).mul_(LN2).squeeze_(1)
        if weights is not None:
            w = weights[start:stop]
            density.mul_(w).masked_fill_(w == 0, 0.0)  # a row of weight 0 may have density 0
            scale = w if scale is None else scale.mul_(w)
        if scale is not None:
            share.mul_(scale)
        return density.sum(-1, dtype=torch.float64), *_statistics(share, t)

    value, counts, sums = reduce(_add, starmap(add_up, features.blocks(r * k)))
    return Swept(value, counts, sums)


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


def _coefficients(natural: Tensor, constant: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    """Scaled coefficients (r k, p) and constants (r k, 1), with a finite stand-in for -inf so that no NaN arises."""
    table = torch.cat([natural, constant[..., None]], -1).mul_(scale).clamp_min_(LOWEST[natural.dtype]).flatten(0, 1)
    return table[:, :-1], table[:, -1:]


def _impossible(density: Tensor) -> Tensor:
    """Put -inf, in place, where the stand-in for it was added."""
    return torch.threshold_(density, 0.5 * LOWEST[density.dtype], -math.inf)


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
