"""Gradient steps on unknowns without a closed form: what they never do."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference.coordinate.gradient_step import FLOOR, RIDGE, GradientStep, _above
from inference.coordinate.matrices import POSITIVE_DEFINITE
from zoo import Real
from zoo.program.prepare import prepare

AT = torch.float64


@zoo.model(x=Real("row", "feature"))
def around_zero(x):
    covariance = pyro.param("covariance", 4.0 * torch.eye(2), constraint=constraints.positive_definite)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), covariance), obs=x)


@pytest.mark.parametrize("matrices", list(POSITIVE_DEFINITE))
def test_a_covariance_without_a_maximum_stops_at_its_floor(matrices):
    """Of rows that are all 0 the likelihood is the higher the smaller it is: -n log |S| / 2."""
    program = prepare(around_zero(), torch.zeros(5, 2, dtype=AT), dtype=AT)
    values = program.initial()
    step = GradientStep(program, ["covariance"], matrices)
    for _ in range(12):
        values = step(values, {"x": torch.ones(5, dtype=AT)})
    found = torch.linalg.eigvalsh(values["covariance"])
    floor = 4.0 * FLOOR
    assert float(found.min()) >= floor * (1 - 1e-6)
    assert float(found.max()) <= 10 * floor  # it came all the way


def test_what_is_at_its_floor_is_a_ridge_above_it():
    """Of each column's own size, so that a Cholesky factor is there; what is above its floor is the difference."""
    floor = torch.diag(torch.tensor([0.01, 400.0], dtype=AT))
    value = torch.stack([floor, floor + torch.tensor([[2.0, 1.0], [1.0, 3.0]], dtype=AT)])
    found = _above(value, floor.expand(2, 2, 2))
    torch.testing.assert_close(found[0], RIDGE * floor, rtol=1e-9, atol=0.0)
    torch.testing.assert_close(found[1], value[1] - floor)


@zoo.model(x=Real("row"))
def with_a_hole(x):
    """A mean whose log density is NaN from 0.4 to 1.2: a line search has nothing to compare there, and may leap it."""
    m = pyro.param("m", torch.tensor(0.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m + 0 * ((m - 0.4) * (m - 1.2)).sqrt(), 1.0), obs=x)


@pytest.mark.slow
def test_a_step_that_lowers_the_expected_log_joint_is_not_taken():
    program = prepare(with_a_hole(), torch.tensor([0.5], dtype=AT), dtype=AT)
    values = program.initial()
    new = GradientStep(program, ["m"])(values, {"x": torch.ones(1, dtype=AT)})
    assert float(program.log_joint(new).total()) >= float(program.log_joint(values).total())
