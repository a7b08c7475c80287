"""A second look at draws of chains: modes that no chain has come to."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference.diagnostics.second_look import second_look
from zoo import Real
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

HILL = math.asin(2.1 / 3)  # of six of about the same height that are narrow, 2 pi or less apart


@zoo.model(y=Real("row"))
def sine(y):
    s = pyro.sample("s", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(3 * torch.sin(s), 0.3), obs=y)


@zoo.model(y=Real("row"))
def line(y):
    s = pyro.sample("s", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(3 * s, 0.3), obs=y)


@pytest.mark.parametrize("seed", range(5))
def test_chains_that_all_stay_on_one_hill_have_missed_the_others(seed):
    """Whether or not the weights of the wide look are even enough to tell moments."""
    program = prepare(sine(), [2.0, 2.2])
    with torch.random.fork_rng():
        reseed(seed)
        draws = HILL + 0.1 * torch.randn(2000, dtype=torch.float64)
        seen = second_look(program, {"s": draws}, 4000, 1500.0)
    assert "that no chain has come to" in seen.missed
    assert not seen.agreement


def test_chains_that_have_seen_all_are_borne_out():
    program = prepare(line(), [2.0, 2.2])
    precision = 2 * 9 / 0.09 + 1 / 9
    with torch.random.fork_rng():
        reseed(0)
        draws = 3 * 4.2 / 0.09 / precision + precision**-0.5 * torch.randn(20000, dtype=torch.float64)
        seen = second_look(program, {"s": draws}, 4000, 20000.0)
    assert not seen.missed
    assert seen.agreement
