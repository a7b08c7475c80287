"""Bernoulli densities and log sigmoids against torch's own."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from zoo.replay.bernoulli import bernoulli_density, log_sigmoid
from zoo.replay.normals import log_density

GRID = torch.tensor([-800.0, -41.0, -40.0, -39.0, -3.0, 0.0, 2.0, 39.0, 41.0, 800.0], dtype=torch.float64)


def gradient(function: object, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(function(x).sum(), x)[0]  # type: ignore[operator]


def test_log_sigmoids_are_those_of_torch() -> None:
    torch.testing.assert_close(log_sigmoid(GRID), torch.nn.functional.logsigmoid(GRID), rtol=1e-14, atol=1e-17)
    torch.testing.assert_close(gradient(log_sigmoid, GRID), torch.sigmoid(-GRID), rtol=1e-14, atol=1e-17)


@pytest.mark.parametrize("event", [0, 1])
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_densities_are_those_of_torch(value: float, event: int) -> None:
    fn = dist.Bernoulli(logits=GRID.expand(3, -1)).to_event(event)
    x = torch.full_like(GRID, value)
    rounded = float(GRID.max()) * torch.finfo(GRID.dtype).eps
    torch.testing.assert_close(log_density(fn, x, (), {}), fn.log_prob(x), rtol=1e-14, atol=rounded)
    p = dist.Bernoulli(torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64))
    torch.testing.assert_close(log_density(p, x[:3], (), {}), p.log_prob(x[:3]), rtol=1e-14, atol=rounded)


def test_other_distributions_have_their_own() -> None:
    assert bernoulli_density(dist.Normal(0.0, 1.0), GRID) is None
