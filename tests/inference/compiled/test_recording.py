"""Steps played back from a recording: the bits of steps as they are, and what cannot be recorded is not."""

from __future__ import annotations

import linecache
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.fx import graph_module

import zoo
from guides import Encoder, MeanField
from inference.compiled import recording
from inference.compiled.record import recorded
from inference.compiled.recording import FEWEST, played_back
from inference.starts.natural import several_starts
from inference.variational import optimize
from inference.variational.batches import Batches
from inference.variational.bound import Bound
from inference.variational.optimize import Climb
from inference.variational.schedule import Schedule
from zoo.program.prepare import prepare


@zoo.model(x=zoo.Real("row"))
def normal(x):
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(pyro.sample("loc", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def noisy():
    """A network with all that a training step moves besides weights: running moments and random numbers."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2))


@pytest.mark.parametrize(
    ("model", "guide", "starts", "optimizer"),
    [
        (zoo.VAE(latent=2, hidden=(16,)), Encoder(network=noisy), 1, "Adam"),
        (zoo.BayesianGMM(components=2), MeanField(), 2, "RMSprop"),
    ],
)
def test_same_bits_as_steps_as_they_are(model, guide, starts, optimizer, monkeypatch):
    digits, geyser = zoo.datasets.load("digits").head(90), zoo.datasets.load("faithful").head(60)
    program = prepare(model, (digits >= 8).astype(int) if isinstance(model, zoo.VAE) else geyser)
    program.model.train()
    tried, ends, batches = [], [], Batches(program.data, 32, 0)
    monkeypatch.setattr(optimize, "worth", lambda *_: False)
    monkeypatch.setattr(optimize, "played_back", lambda *args: tried.append(played_back(*args)) or tried[-1])
    for how in ("auto", False):
        torch.manual_seed(1)
        bound = Bound(program, guide, several_starts(program, starts))
        climb = Climb(bound, [Schedule(20, 0.05) for _ in range(starts)], optimizer, {}, 0.1)
        with torch.random.fork_rng(devices=[]):
            step = climb.lower(program, batches, 2, how, FEWEST)
        stream = batches.stream()
        values = [climb.step(step, [(bound.noise(32, starts, 2), next(stream))]) for _ in range(20)]
        ends.append([torch.tensor(values), *climb.at, *(t.clone() for t in climb.running)])
    assert len(tried) == 1
    assert tried[0] is not None
    for played, plain in zip(*ends, strict=True):
        torch.testing.assert_close(played, plain, rtol=0, atol=0)


def test_what_is_not_of_torch_is_not_recorded():
    program, calls = prepare(normal(), [0.0, 1.0]), []

    def leaving(x):
        return (torch.as_tensor(np.exp(x.numpy())),)

    def counting(x):
        calls.append(x)
        return (x * len(calls),)

    def branching(x):
        return (x if x.sum() > 0 else -x,)

    def random_by_python(x):
        return (x * random.random(),)

    x, other = torch.ones(3), torch.zeros(3)
    for function in (leaving, counting, branching, random_by_python):
        assert played_back(function, (x,), (other + 2,), program) is None, function.__name__
    call = played_back(lambda x: (x.exp().cumsum(0),), (x,), (other,), program)
    assert call is not None
    assert torch.equal(call(other)[0], torch.tensor([1.0, 2.0, 3.0]))


def test_what_would_take_much_memory_is_not_recorded(monkeypatch):
    program, x = prepare(normal(), [0.0, 1.0]), torch.ones(1000)
    monkeypatch.setattr(recording, "MOST", 10_000)
    assert played_back(lambda x: (x.exp().log(),), (x,), (x,), program) is not None
    assert played_back(lambda x: (x.exp().log().exp(),), (x,), (x,), program) is None


def test_sources_of_graphs_are_not_kept():
    before = len(linecache.cache), len(graph_module._loader.eval_cache)
    graph = recorded(lambda x: (x + 1,), [torch.zeros(2)], {})
    graph.recompile()
    assert torch.equal(graph(torch.ones(2))[0], torch.full((2,), 2.0))
    assert (len(linecache.cache), len(graph_module._loader.eval_cache)) == before
