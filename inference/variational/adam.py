"""Adam as a function of tensors, so that a compiled program can take its step too."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-8


class Moments(NamedTuple):
    """What Adam remembers of one leaf, as `torch.optim.Adam` names it in its state, which it shares the memory of.

    Attributes
    ----------
    exp_avg, exp_avg_sq
        Moving averages of the gradient and of its square, in the shape of the leaf.
    step
        Number of steps taken, a scalar.
    """

    exp_avg: Tensor
    exp_avg_sq: Tensor
    step: Tensor


def descend(
    leaf: Tensor,
    gradient: Tensor,
    moments: Moments,
    rate: Tensor,
    betas: tuple[float, float],
) -> None:
    """x <- x - rate m / (sqrt(v) + eps) in place, m and v the averages without their bias (Kingma and Ba 2015).

    Parameters
    ----------
    leaf, gradient
        Shape (S, size), S starts.
    moments
        Moved along.
    rate
        Of each start, shape (S, 1). Starts with rate 0 stay, with all that is remembered of them.
    betas
        What the averages keep from one step to the next.
    """
    goes = rate > 0  # (S, 1)
    first = torch.lerp(moments.exp_avg, gradient, 1 - betas[0])
    second = torch.lerp(moments.exp_avg_sq, gradient.square(), 1 - betas[1])
    # One count for all starts, as torch has it for one leaf.
    step = moments.step + goes.any()
    a, b = (1 - torch.pow(beta, step.to(leaf.dtype)) for beta in betas)
    moved = leaf - rate / a * first / ((second / b).sqrt() + EPS)
    # In place, because the leaf's memory is also the optimizer's and the caller's; by `where` and not by index, because
    # a compiled program cannot branch on values.
    for old, new in ((leaf, moved), (moments.exp_avg, first), (moments.exp_avg_sq, second)):
        old.copy_(torch.where(goes, new, old))
    moments.step.copy_(step)
