"""The Rényi bound of K log weights, and what each of them counts in its gradient (Li and Turner 2016)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shares = tuple[Tensor, Tensor]  # of what is outside the data plate (S, K), and of every row (S, K, n)


def shares(
    rest: Tensor, rows: Tensor, weights: Tensor | None, *, alpha: float, by_row: bool
) -> tuple[Tensor, Shares, Shares | None]:
    """Return the bound, and what each log weight counts in its gradient to theta, and to phi where that differs.

    Parameters
    ----------
    rest, rows
        log w of every draw, (S, K) and (S, K, n).
    weights
        Of the rows, (n,).
    alpha
        Order of the bound; 1 is the ELBO.
    by_row
        Whether all that is drawn belongs to one row.

    Returns
    -------
    tuple
        The bound (S,); two pairs of shares in the shapes of `rest` and `rows`, the second None where phi's are
        theta's.
    """
    draws, power = rest.shape[1], 1.0 - alpha
    one = torch.ones_like(rows) if weights is None else weights.expand_as(rows)
    if power == 0 or draws == 1:  # the ELBO: every draw counts 1/K
        value = (rest + (one * rows).sum(-1)).mean(1)
        return value, (torch.full_like(rest, 1 / draws), one / draws), None
    if by_row:  # a bound for each row, over its own draws: tighter than one over draws of all rows at once
        c = torch.softmax(power * rows, 1)
        each = (torch.logsumexp(power * rows, 1) - math.log(draws)) / power  # (S, n)
        value = rest.mean(1) + (one[:, 0] * each).sum(-1)
        flat = torch.full_like(rest, 1 / draws)
        return value, (flat, one * c), (flat, one * (alpha * c + power * c.square()))
    total = rest + (one * rows).sum(-1)  # log w of whole draws, (S, K)
    c = torch.softmax(power * total, 1)
    value = (torch.logsumexp(power * total, 1) - math.log(draws)) / power
    d = alpha * c + power * c.square()
    return value, (c, one * c[..., None]), (d, one * d[..., None])
