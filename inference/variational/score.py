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
        log w of every draw, shapes (S, K) and (S, K, n): S starts, K draws, n rows.
    weights
        Of the rows, shape (n,).
    together
        Whether rows depend on each other, so that each row's draw moves everything.

    Returns
    -------
    tuple
        For the globals (S, K), and for each row (S, K, n).
    """
    draws = rest.shape[1]
    each = rows if weights is None else weights * rows
    total = rest + each.sum(-1)  # what a draw of a global moves
    signal = total[..., None].expand_as(rows) if together else each  # what a draw for a row moves
    # s_k less the mean of the others is K / (K - 1) (s_k - mean of all); with the 1/K of the mean over draws, this.
    a, b = ((s - s.mean(1, keepdim=True)) / (draws - 1) for s in (total, signal))
    return a, b
