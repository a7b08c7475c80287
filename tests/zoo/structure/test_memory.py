"""What does not fit into memory is refused before it is made, and what an allocator refuses is said in words."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import fit
from zoo.structure import memory

ROWS = np.random.default_rng(0).normal(size=(50, 20))


@zoo.model(x=zoo.Real("row"))
def wasteful(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0)) + torch.zeros(10**15).sum()
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.mark.parametrize("model", [zoo.GMM(components=9), zoo.BayesianGMM(components=9)])
def test_before_they_are_made(model, monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 0)
    monkeypatch.setattr(memory, "there_is", lambda: 50_000)
    with pytest.raises(zoo.ZooError, match=r"of shape \(9, 20, 20\) takes 0\.0 GiB, .* covariance='diag'"):
        fit(model, ROWS, method="em", seed=0, progress=False)


def test_what_an_allocator_refuses():
    with pytest.raises(zoo.ZooError, match=r"wasteful needs more memory .* \(7450580.6 GiB at once\).* line \d+"):
        fit(wasteful, ROWS[:, 0], method="exact", seed=0, progress=False)


def test_there_is_some():
    assert memory.there_is() > 2**28
