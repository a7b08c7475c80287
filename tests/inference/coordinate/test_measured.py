"""What an extrapolated climb says of its distance to the limit, against long climbs by plain steps from its end."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import zoo
from inference import EM, fit
from inference.coordinate.convergence import WithinTolerance
from inference.coordinate.measured import DEEPEST, Measured

SAID = 1e-6
LONG = EM(acceleration=None, tolerance=1e-13, max_steps=4000)


def overlapping(seed, n=600, d=2, k=3, gap=1.5):
    """Gaussian clusters that overlap: slow modes that hide behind others."""
    rng = np.random.default_rng(seed)
    return gap * rng.normal(size=(k, d))[rng.integers(k, size=n)] + rng.normal(size=(n, d))


@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.slow) for s in (2, 3, 5))])
def test_within_tolerance_of_the_limit_is_so(seed):
    x = overlapping(seed)
    found = fit(zoo.GMM(components=3), x, method=EM(), seed=0)
    assert found.converged
    assert "within 1e-06" in found.reason
    start = {n: v.tolist() for n, v in found.points.items()}
    on = fit(zoo.GMM(components=3), x, method=EM(**{**vars(LONG), "start": start}), seed=0)
    assert -1e-9 < on.objective.value - found.objective.value < SAID


class Affine:
    """Steps u -> u* + J (u - u*), of states that are vectors."""

    def __init__(self, rates):
        axes = torch.linalg.qr(
            torch.randn(len(rates), len(rates), generator=torch.Generator().manual_seed(0)).double()
        ).Q
        self.jacobian = axes @ torch.diag(torch.tensor(rates, dtype=torch.float64)) @ axes.mT
        self.limit, self.state = torch.linspace(1, 3, len(rates), dtype=torch.float64)[None], None

    def evaluate(self, state):
        self.state = state
        return (0.0,)

    def update(self):
        return self.limit + (self.state - self.limit) @ self.jacobian.mT


def sight(rates, tolerance):
    way = Affine(rates)
    found = Measured.__new__(Measured)
    found.way, found.rule, found.eps, found.evaluations = way, WithinTolerance(tolerance, 100, 1e-16), 1e-16, 0
    found.chart = SimpleNamespace(vector=lambda state: state, state=lambda vector, like: vector)
    found.state = way.limit + torch.linspace(-1, 2, len(rates), dtype=torch.float64)[None] * 1e-2
    way.evaluate(found.state)
    return way, found._look(way.update() - found.state, 1.0), found.evaluations


def test_the_limit_of_an_affine_map_is_seen():
    """After as many products as dimensions nothing is hidden; before, the residual of the equation says how much is."""
    way, seen, spent = sight([0.999, 0.9, 0.5, 0.1], 1e-30)
    torch.testing.assert_close(seen.there, way.limit, rtol=0, atol=1e-8)
    assert seen.hidden < 1e-16
    assert spent == 4
    rates = np.linspace(0.0, 0.95, 40)
    way, seen, spent = sight(list(rates), 1e-3)
    assert spent < DEEPEST
    assert (seen.there - way.limit).norm() < 0.1 * 1e-2
    _, less, more_spent = sight(list(rates), 1e-9)
    assert more_spent > spent
    assert less.hidden < seen.hidden <= 1e-3
