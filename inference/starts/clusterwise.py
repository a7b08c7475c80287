"""Clusterwise linear regression: rows labelled by which of several regressions they are about."""

from __future__ import annotations

import torch
from torch import Tensor

TRIES, STEPS, SAMPLE = 60, 10, 2000  # random starts, steps of each, rows that they look at
RIDGE = 1e-6  # of a squared column


def clusterwise(z: Tensor, y: Tensor, clusters: int) -> Tensor:
    """Minimize sum_i min_k |y_i - z_i B_k|^2 over regressions B_k, by alternating steps from many starts (Späth 1979).

    A start has one regression through as few rows as it needs, drawn at random, for each label; all starts are one
    tensor program, and the one with the least sum is kept.

    Parameters
    ----------
    z
        Covariates, among them a column of ones, in comparable units, shape (rows, p).
    y
        Responses in comparable units, shape (rows, columns).
    clusters
        Number of labels.

    Returns
    -------
    Tensor
        Label of each row, shape (rows,).
    """
    pick = torch.randperm(len(z), device=z.device)[:SAMPLE]
    some_z, some_y = z[pick], y[pick]
    rows, p = some_z.shape
    drawn = torch.rand(TRIES, rows, device=z.device).topk(min(clusters * p, rows), 1).indices
    drawn = drawn[:, torch.arange(clusters * p, device=z.device) % drawn.shape[1]]
    member = torch.zeros(TRIES, clusters, rows, dtype=z.dtype, device=z.device)  # 1 for the rows of each regression
    member.scatter_(2, drawn.reshape(TRIES, clusters, p), 1.0)
    for _ in range(STEPS):
        coefficients = _regress(member, some_z, some_y)
        squares = _squares(coefficients, some_z, some_y)  # (tries, clusters, rows)
        member = torch.zeros_like(member).scatter_(1, squares.argmin(1, keepdim=True), 1.0)
    best = squares.amin(1).sum(1).argmin()
    return _squares(coefficients[best][None], z, y)[0].argmin(0)


def _regress(member: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Coefficients of the regression on the rows of each label, (tries, clusters, p, columns)."""
    products = (z[:, :, None] * z[:, None, :]).flatten(1)  # (rows, p * p)
    gram = (member @ products).reshape(*member.shape[:2], z.shape[1], z.shape[1])
    moments = (member @ (z[:, :, None] * y[:, None, :]).flatten(1)).reshape(*gram.shape[:3], y.shape[1])
    eye = RIDGE * torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    found: Tensor = torch.linalg.solve(gram + eye, moments)
    return found


def _squares(coefficients: Tensor, z: Tensor, y: Tensor) -> Tensor:
    """Squared distance of each row from each regression, (tries, clusters, rows)."""
    total = torch.zeros(*coefficients.shape[:2], len(z), dtype=z.dtype, device=z.device)
    for column in range(y.shape[1]):  # one response at a time keeps the arrays small
        total += (y[:, column] - coefficients[..., column] @ z.mT).square()
    return total
