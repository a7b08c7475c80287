"""Poisson densities whose gradient is a number where the rate is zero, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from zoo.replay.entries import unwrapped


def log_rate(rate: Tensor) -> Tensor:
    """log r, and -inf without a gradient at r = 0, where torch's gradient is infinite and 0 times it no number."""
    open_ = rate > 0
    return torch.where(open_, torch.where(open_, rate, 1.0).log(), -torch.inf)


def poisson_density(fn: Any, value: Tensor) -> Tensor | None:
    """log p(k | r) = k log r - r - log k!, and at r = 0: 0 for k = 0, -inf for k > 0; None for other distributions.

    A rate is zero where a gate is closed, Poisson(rate * (1 - z)), or where nothing is exposed. The derivative by r is
    k / r - 1; torch's is 0 / 0 at r = 0, which then is in every gradient, whatever the gate's other state says.

    Parameters
    ----------
    fn
        A distribution; Poisson entries may be one event (`to_event`).
    value
        Counts, in the shape of its values.

    Returns
    -------
    Tensor
        In the shape of fn.log_prob(value).
    """
    base, events = unwrapped(fn)
    if type(base).__name__ != "Poisson" or getattr(base, "is_sparse", False):
        return None
    rate = base.rate
    open_ = rate > 0
    fed = value.xlogy(torch.where(open_, rate, 1.0))
    closed = torch.where(value > 0, -torch.inf, 0.0)
    entries: Tensor = torch.where(open_, fed, closed) - rate - (value + 1).lgamma()
    return entries.sum(list(range(-events, 0))) if events else entries
