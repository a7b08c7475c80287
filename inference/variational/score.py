"""The score function, E_q[(log w - b) grad log q], for draws without a gradient (Paisley, Blei and Jordan 2012)."""

from __future__ import annotations

from torch import Tensor


def advantages(rest: Tensor, rows: Tensor, weights: Tensor | None, *, together: bool) -> tuple[Tensor, Tensor]:
    """Return what the score of each draw counts: log w, less its mean over the other draws of the step.

    The mean of the other draws is a baseline that leaves the gradient unbiased (Mnih and Rezende 2016; Kool, van Hoof
    and Welling 2019). What is drawn for one row moves that row's part of log w only (Ranganath, Gerrish and Blei 2014,
    section 3.1).

    Parameters
    ----------
    rest, rows
        log w of every draw, shapes (starts, draws) and (starts, draws, rows).
    weights
        Of the rows, shape (rows,).
    together
        Whether rows depend on each other, so that each row's draw moves everything.

    Returns
    -------
    tuple
        For the globals (starts, draws), and for each row (starts, draws, rows).
    """
    draws = rest.shape[1]
    each = rows if weights is None else weights * rows
    total = rest + each.sum(-1)
    signal = total[..., None].expand_as(rows) if together else each
    a, b = ((s - s.mean(1, keepdim=True)) / (draws - 1) for s in (total, signal))
    return a, b
