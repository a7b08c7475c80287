"""Expected statistics and log densities of multivariate Normals of which some entries are missing.

The missing entries of a row are unknowns with a posterior of their own, given the observed ones and the state: Normal,
with precision E[P] restricted to them. It is the same formula at points (EM) and under posteriors of mean and precision
(CAVI), where exp E[log Normal(x; m, P^-1)] is a multiple of Normal(x; E[m], E[P]^-1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from inference.conjugate.exponential_family import Moments, Statistics
from zoo.data.patterns import MissingCells
from zoo.replay.incomplete_normals import by_row, marginal_log_prob, solve


def log_marginal(value: Tensor, loc: Moments, precision: Moments, covariance: Tensor, cells: MissingCells) -> Tensor:
    """log of the integral of exp E[log p(x)] over the missing entries of x, in the layout of the log density.

    log Normal(x_o; E[m]_o, (E[P]^-1)_oo) + (E[log |P|] - log |E[P]| - E[(m - E[m])^T P (m - E[m])]) / 2.
    """
    plates, d = value.shape[:-1], value.shape[-1]
    rows = marginal_log_prob(value.reshape(-1, d), by_row(loc["mean"], plates, 1), by_row(covariance, plates, 2), cells)
    entries = rows.reshape(*rows.shape[:-1], *plates)
    root = torch.linalg.cholesky(covariance)
    beyond = precision["logdet"] + 2 * root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    if "quad" in loc:
        beyond = beyond - loc["quad"]
    elif "cov" in loc:
        beyond = beyond - (precision["mean"] * loc["cov"]).sum((-1, -2))
    log_density: Tensor = entries + 0.5 * beyond
    return log_density


def completed(
    value: Tensor,
    cells: MissingCells,
    weight: Tensor,
    mean: Tensor,
    covariance: Tensor,
    center: Tensor,
    *,
    summed: bool,
) -> Statistics:
    """Weights of the entries, and weights times E[x] and E[x x^T] given the observed entries, about the center.

    The missing entries of a row are completed by what Normal(mean, covariance) says of them.

    Parameters
    ----------
    value
        Rows, (plates, d), with anything in their missing cells.
    weight
        Of the entries, (states, plates).
    mean, covariance
        (states, plates or 1, d) and (states, plates or 1, d, d).
    summed
        Sum over plates, pattern by pattern, the arguments being the same in all rows.
    """
    plates, d = value.shape[:-1], value.shape[-1]
    mean, covariance = by_row(mean, plates, 1), by_row(covariance, plates, 2)
    patterns, groups = solve(value.reshape(-1, d), mean, covariance, cells)
    lead = weight.shape[: weight.ndim - len(plates)]
    weight = weight.expand(*lead, *plates).reshape(*lead, -1)
    first, second = weight.new_zeros(*lead, 1, d), weight.new_zeros(*lead, 1, d, d)
    rows, squares = [], []
    for solved in groups:
        at = solved.group.rows
        x = (mean[..., None, :, :] if mean.shape[-2] == 1 else mean[..., at, :]) - center + solved.deviation()
        left = solved.remainder()
        if not summed:
            rows.append(x.flatten(-3, -2))
            squares.append((x[..., :, None] * x[..., None, :] + left[..., None, :, :]).flatten(-4, -3))
            continue
        w = weight[..., at] * solved.group.real
        weighted = (w[..., None] * x).flatten(-3, -2)
        first[..., 0, :] += weighted.sum(-2)
        second[..., 0, :, :] += weighted.mT @ x.flatten(-3, -2) + (w.sum(-1)[..., None, None] * left).sum(-3)
    if summed:
        plates, count = torch.Size([1] * len(plates)), weight.sum(-1)
    else:
        count = weight
        first = weight[..., None] * torch.cat(rows, -2)[..., patterns.place, :]
        second = weight[..., None, None] * torch.cat(squares, -3)[..., patterns.place, :, :]
    parts = first.reshape(*lead, *plates, d), second.reshape(*lead, *plates, d, d)
    return count.reshape(*lead, *plates), parts
