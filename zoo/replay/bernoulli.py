"""Log probabilities of yes and no that do not wake all threads for a handful of numbers.

torch's `logsigmoid`, which its Bernoulli density is made of, shares out tensors of any size among all threads. On a
busy machine each call then waits for the scheduler: 30 ms where `softplus` takes 5 microseconds.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn.functional import softplus

from zoo.replay.entries import unwrapped
from zoo.replay.repeated import argument_of, compact

LINEAR = 40.0  # log(1 + exp(x)) is x from here on, in double precision, too


def log_sigmoid(x: Tensor) -> Tensor:
    """log(1 / (1 + exp(-x)))."""
    return -softplus(-x, threshold=LINEAR)


def bernoulli_density(fn: Any, value: Tensor) -> Tensor | None:
    """log p(y | l) = y l - log(1 + exp(l)), with l the log odds; None for other distributions.

    Parameters
    ----------
    fn
        A distribution; Bernoulli entries may be one event (`to_event`).
    value
        0 or 1, in the shape of its values.

    Returns
    -------
    Tensor
        In the shape of fn.log_prob(value).
    """
    base, events = unwrapped(fn)
    if type(base).__name__ != "Bernoulli":
        return None
    logits: Tensor = base.logits
    entries = value * logits - softplus(logits, threshold=LINEAR)
    return entries.sum(list(range(-events, 0))) if events else entries


def rows_density(fn: Any, value: Tensor) -> Tensor | None:
    """sum_j x_ij l_kj - log(1 + exp l_kj), l the logits: shape (..., rows) of components by rows.

    That is a product of the rows with the logits; torch writes out components x rows x columns, which of a mixture of
    200 templates is 200 times the size of the data, several times over.

    Parameters
    ----------
    fn
        A distribution of batch shape (..., rows); Bernoulli entries are one event.
    value
        Zeros and ones, shape (rows, *event).

    Returns
    -------
    Tensor
        In the shape of fn.log_prob(value); None for other distributions, and where probabilities vary by row.
    """
    base, batch = getattr(fn, "base_dist", None), fn.batch_shape
    if type(base).__name__ != "Bernoulli" or not fn.event_dim or value.shape != (*batch[-1:], *fn.event_shape):
        return None
    logits = compact(argument_of(base, "logits"))
    if logits.shape[len(batch) - 1] != 1 or logits.shape[len(batch) :] != fn.event_shape:
        return None
    stacked = logits.flatten(len(batch) - 1)  # (..., entries)
    return (stacked @ value.flatten(1).mT - softplus(stacked, threshold=LINEAR).sum(-1, keepdim=True)).expand(batch)
