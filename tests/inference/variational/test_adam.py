"""Adam as a function, against torch's own."""

from __future__ import annotations

import torch

from inference.variational.adam import Moments, descend
from zoo.replay.random import reseed

BETAS = (0.9, 0.99)


def walk(rates, steps=25):
    """Positions after each step by both, gradients from a quartic; all starts are one optimizer each in torch."""
    reseed(0)
    start = torch.randn(len(rates), 5, dtype=torch.float64)
    ours = start.clone()
    moments = Moments(torch.zeros_like(start), torch.zeros_like(start), torch.zeros(()))
    leaves = [row.clone().requires_grad_() for row in start]
    theirs = [torch.optim.Adam([leaf], lr=rate, betas=BETAS) for leaf, rate in zip(leaves, rates, strict=True)]
    rate = torch.tensor(rates, dtype=torch.float64)[:, None]
    for step in range(steps):
        descend(ours, ours**3 - step * ours, moments, rate, BETAS)
        for leaf, optimizer in zip(leaves, theirs, strict=True):
            leaf.grad = (leaf**3 - step * leaf).detach()
            optimizer.step()
    return start, ours, torch.stack(leaves).detach()


def test_steps_are_those_of_torch():
    _, ours, theirs = walk([0.05, 0.2])
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_start_with_rate_zero_stays_where_it_is():
    start, ours, theirs = walk([0.05, 0.0])
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(ours[1], start[1])


def test_a_gradient_that_is_no_number_changes_nothing_of_its_start():
    leaf = torch.ones(2, 3)
    moments = Moments(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(()))
    gradient = torch.stack([torch.full((3,), torch.nan), torch.ones(3)])
    descend(leaf, gradient, moments, torch.tensor([[0.0], [0.1]]), BETAS)
    assert torch.equal(leaf[0], torch.ones(3))
    assert torch.equal(moments.exp_avg[0], torch.zeros(3))
    assert (leaf[1] < 1).all()
    assert moments.step == 1
    descend(leaf, gradient, moments, torch.zeros(2, 1), BETAS)
    assert moments.step == 1
