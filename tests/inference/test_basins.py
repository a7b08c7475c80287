"""Which basin chains begin in: a sine whose frequency has many modes, far apart in log density."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import NUTS, fit
from inference.compiled.compile import Lowered
from inference.sampling.unconstrained import Target, centre_of
from inference.starts.basins import highest
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from tests.cases.models import FLIPS, coin
from zoo import Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

TIMES = np.linspace(0, 6, 60)
FREQUENCY, NOISE = 1.6, 0.1
WAVE = np.sin(FREQUENCY * TIMES) + NOISE * np.random.default_rng(0).normal(size=60)


@zoo.model(y=Real("row"), t=Real("row"))
def wave(y, t):
    """Out of step, a sine fits worse than none."""
    frequency = pyro.sample("frequency", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(torch.sin(frequency * t), NOISE), obs=y)


def begun(model, data, seed, gradients=120_000):
    """Where chains would begin, as given and as looked for, and the density."""
    program = prepare(model, data, device="cpu")
    target = Target(Lowered(Density(program).gradient, False), program)
    torch.manual_seed(seed)
    given = centre_of(natural_start(program, starting_values(program)))
    before = torch.get_rng_state()
    found = highest(program, target, *given, gradients)
    assert torch.equal(torch.get_rng_state(), before)
    return given, found, target


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_chains_begin_at_the_highest_mode(seed):
    (centre, _), (found, unit), target = begun(wave(), {"y": WAVE, "t": TIMES}, seed)
    assert target(centre)[0] < target(found)[0] - 15
    information = np.sum((TIMES * np.cos(FREQUENCY * TIMES) / NOISE) ** 2)  # of the frequency, at the true one
    assert found[0] == pytest.approx(FREQUENCY, abs=4 * information**-0.5)
    assert unit[0] == pytest.approx(information**-0.5, rel=0.2)


def test_where_there_is_one_mode_the_start_stays():
    given, found, _ = begun(coin(a=2.0), FLIPS, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(given, found, strict=True))


@pytest.mark.slow
def test_nuts_has_the_posterior_near_the_right_frequency():
    found = fit(wave(), {"y": WAVE, "t": TIMES}, method=NUTS(warmup=300, draws=300), seed=0, progress=False)
    draws = found.posterior["posterior"]["frequency"].values
    grid = np.linspace(1.4, 1.8, 20_001)
    log_p = -0.5 * np.sum((WAVE - np.sin(grid[:, None] * TIMES)) ** 2, 1) / NOISE**2 - grid**2 / 18
    weight = np.exp(log_p - log_p.max()) / np.exp(log_p - log_p.max()).sum()
    mean = (weight * grid).sum()
    sd = (weight * (grid - mean) ** 2).sum() ** 0.5
    assert draws.mean() == pytest.approx(mean, abs=0.2 * sd)
    assert draws.std() == pytest.approx(sd, rel=0.15)
