"""What an extrapolated climb says of its distance to the limit, against long climbs by plain steps from its end."""

from __future__ import annotations

import numpy as np
import pytest

import zoo
from inference import EM, fit

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
