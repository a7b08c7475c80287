"""Shares of log weights: against autograd, and without the numbers that processors are slow at."""

from __future__ import annotations

import pytest
import torch

from inference.variational.renyi import shares


@pytest.mark.parametrize("by_row", [True, False], ids=["of rows", "of whole draws"])
@pytest.mark.parametrize("alpha", [0.0, 0.5, -1.0])
def test_shares_for_theta_are_the_gradient_of_the_bound(alpha, by_row):
    """d L / d log w_k of Li and Turner (2016), equation 8, by autograd; sums outside the plate stand for one row."""
    draw = torch.Generator().manual_seed(0)
    rest = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(1, 4, 3, generator=draw, dtype=torch.float64).requires_grad_()
    weights = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    value, theta, _ = shares(rest, rows, weights, alpha=alpha, by_row=by_row)
    (slope,) = torch.autograd.grad(value.sum(), rows)
    assert torch.allclose(slope, theta[1].detach(), rtol=1e-12)


@pytest.mark.parametrize("covering", [False, True])
def test_shares_are_zero_or_normal_and_so_are_their_products_with_small_gradients(covering):
    """Weights 0 to 200 nats apart, of which float32 has those of 88 to 103 as denormal numbers."""
    rows = -torch.arange(0.0, 200.0, 0.5)[None, :, None].expand(1, 400, 2)
    _, *pairs = shares(torch.zeros(1, 400), rows, None, alpha=0.0, by_row=True, covering=covering)
    for _, share in pairs:
        small = share[share != 0].abs() * 1e-18
        assert float(small.min()) > torch.finfo(torch.float32).tiny
        exact = torch.softmax(rows.double(), 1)
        assert covering or torch.allclose(share.double()[:, :50], (exact if share is pairs[0][1] else exact**2)[:, :50])
