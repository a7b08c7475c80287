"""Blocked log densities equal those of the distributions they replace."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from zoo.replay import normals as densities
from zoo.replay.random import reseed


def normals(rows: int, columns: int, components: int, offset: float) -> dict[str, dist.Distribution]:
    """Normals whose parameters vary by component, as a mixture's likelihood has them inside a data plate."""
    loc = offset + torch.randn(components, 1, columns, dtype=torch.float64)
    a = torch.randn(components, 1, columns, columns, dtype=torch.float64)
    covariance = a @ a.mT + torch.eye(columns, dtype=torch.float64)
    scale = 0.5 + torch.rand(components, 1, columns, dtype=torch.float64)
    batch = [components, rows]
    return {
        "full": dist.MultivariateNormal(loc, covariance).expand(batch),
        "precision": dist.MultivariateNormal(loc, precision_matrix=covariance).expand(batch),
        "tied": dist.MultivariateNormal(loc, covariance[0, 0]).expand(batch),
        "one": dist.MultivariateNormal(loc[0, 0], covariance[0, 0]).expand([rows]),
        "diag": dist.Normal(loc, scale).to_event(1).expand(batch),
        "spherical": dist.Normal(loc, scale[..., :1]).to_event(1).expand(batch),
    }


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("kind", ["full", "precision", "tied", "one", "diag", "spherical"])
@pytest.mark.parametrize(("rows", "columns", "components"), [(5000, 3, 4), (40_000, 1, 2), (300, 30, 5)])
def test_blocked_density_equals_the_distribution(monkeypatch, kind, offset, rows, columns, components) -> None:
    reseed(rows)
    monkeypatch.setattr(densities, "BLOCK", 1 << 12)  # several blocks, the last one short
    monkeypatch.setattr(densities, "FEW", 1)
    fn = normals(rows, columns, components, offset)[kind]
    value = offset + 3 * torch.randn(rows, columns, dtype=torch.float64)
    with torch.no_grad():
        assert densities._blocked(fn, value) is not None
        found = densities.log_density(fn, value, (), {})
    expected = fn.log_prob(value)
    assert found.shape == expected.shape
    # The plain route loses digits of x - m at an offset of 1e6, about 1e6 * eps relative to a scale of one.
    torch.testing.assert_close(
        found, expected, rtol=1e-9 if offset == 0.0 else 1e-7, atol=1e-9 if offset == 0.0 else 1e-6
    )


def test_parameters_that_vary_by_row_take_the_plain_route() -> None:
    value = torch.randn(20_000, 2)
    fn = dist.MultivariateNormal(torch.randn(20_000, 2), torch.eye(2))
    with torch.no_grad():
        assert densities._blocked(fn, value) is None
        torch.testing.assert_close(densities.log_density(fn, value, (), {}), fn.log_prob(value))


def test_gradients_take_the_plain_route() -> None:
    loc = torch.zeros(3, 1, 2, requires_grad=True)
    fn = dist.MultivariateNormal(loc, torch.eye(2)).expand([3, 20_000])
    densities.log_density(fn, torch.randn(20_000, 2), (), {}).sum().backward()
    assert loc.grad is not None
