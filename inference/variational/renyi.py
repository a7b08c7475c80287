"""Objectives that are functions of K log weights, and what each of these counts in their gradients.

With w = p(x, z) / q(z) at K draws of q, and c the normalized w^(1 - alpha): the Rényi bound (Li and Turner 2016) climbs
in theta and phi; what makes q cover p goes down a divergence from p to q in phi, and climbs in theta the
importance-weighted bound, as reweighted wake-sleep does (Bornschein and Bengio 2015; Le et al. 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Shares = tuple[Tensor, Tensor]  # of what is outside the data plate (S, K), and of every row (S, K, n)


def shares(
    rest: Tensor, rows: Tensor, weights: Tensor | None, *, alpha: float, by_row: bool, covering: bool = False
) -> tuple[Tensor, Shares, Shares | None]:
    """Return the objective, and what each log weight counts in its gradient to theta, and to phi where that differs.

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
    covering
        Whether phi goes down the divergence of order 1 - alpha from p to q; alpha is then 0 or less.

    Returns
    -------
    tuple
        The objective (S,); two pairs of shares in the shapes of `rest` and `rows`, the second None where phi's are
        theta's.
    """
    draws = rest.shape[1]
    one = torch.ones_like(rows) if weights is None else weights.expand_as(rows)
    if alpha == 1 or draws == 1:  # the ELBO: every draw counts 1/K
        value = (rest + (one * rows).sum(-1)).mean(1)
        return value, (torch.full_like(rest, 1 / draws), one / draws), None
    of = _covering if covering else _bound
    if by_row:  # an objective for each row, over its own draws: a tighter bound than over draws of all rows at once
        each, *counted = of(rows, alpha)
        c, d = (_normal(count) for count in counted)
        value = rest.mean(1) + (one[:, 0] * each).sum(-1)
        flat = torch.full_like(rest, 1 / draws)
        return value, (flat, one * c), (flat, one * d)
    value, *counted = of(rest + (one * rows).sum(-1), alpha)  # of log w of whole draws, (S, K)
    c, d = (_normal(count) for count in counted)
    return value, (c, one * c[..., None]), (d, one * d[..., None])


def _bound(log_w: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """The Rényi bound over dimension 1, and the shares of log weights in its gradients to theta and phi."""
    power = 1 - alpha
    c = torch.softmax(power * log_w, 1)
    return _mean_of_powers(log_w, power), c, alpha * c + power * c.square()


def _covering(log_w: Tensor, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p(x) - D_{1 - alpha}(p || q) over dimension 1, which is log p(x) - KL(p || q) at 0; shares for theta and phi.

    phi climbs sum_k c_k log q(z_k), the c fixed: E[log q] under p^(1 - alpha) q^alpha, which is p itself at 0. Its
    doubly reparameterized gradient has c - c^2 of the gradient of (1 - alpha) log w through each draw (Tucker et al.
    2019, section 4, "reweighted wake-sleep").
    """
    power, theta, evidence = 1 - alpha, torch.softmax(log_w, 1), _mean_of_powers(log_w, 1.0)
    if alpha == 0:
        gap = math.log(log_w.shape[1]) - torch.special.entr(theta).sum(1)
        return evidence - gap, theta, theta - theta.square()
    gap = power / -alpha * (_mean_of_powers(log_w, power) - evidence)
    c = torch.softmax(power * log_w, 1)
    return evidence - gap, theta, power * (c - c.square())


def _mean_of_powers(log_w: Tensor, power: float) -> Tensor:
    """log (1/K sum_k w_k^power)^(1/power) over dimension 1."""
    return (torch.logsumexp(power * log_w, 1) - math.log(log_w.shape[1])) / power


def _normal(count: Tensor) -> Tensor:
    """Shares without those next to nothing: products of denormal numbers take forty times as long.

    What is left, times any gradient above the square root of the smallest normal number, is a normal number.
    """
    return torch.where(count.abs() > torch.finfo(count.dtype).tiny ** 0.5, count, 0.0)
