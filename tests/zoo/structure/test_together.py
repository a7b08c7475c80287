"""Sources moved together show what they show one at a time, in far fewer runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from tests.cases.models import OWN_CASES, ZOO_CASES
from tests.zoo.structure.test_stand_in import described
from zoo.data.bind import bind
from zoo.program.prepare import as_model, prepare
from zoo.structure import probes, ties
from zoo.structure.runner import Runner
from zoo.structure.together import apart, moved_by_each

X = np.random.default_rng(0).normal(size=(8, 24))


def one_at_a_time(monkeypatch, few=10**9):
    monkeypatch.setattr(probes, "FEW", few)
    monkeypatch.setattr(ties, "FEW", few)


def random_story(seed):
    """Two dozen sites, each of up to three earlier ones, in ways that are linear, bent, gated and none of these."""
    rng = np.random.default_rng(seed)
    parents = [rng.choice(t, size=min(t, int(rng.integers(0, 4))), replace=False) for t in range(24)]
    kinds = rng.integers(0, 5, size=24)
    coupled = int(rng.integers(4, 24))

    @zoo.model(x=zoo.Real("row", "time"))
    def story(x):
        noise = pyro.param("noise", torch.ones(24), constraint=dist.constraints.positive)
        common = pyro.sample("common", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            z = []
            for t in range(24):
                loc = sum((z[p] for p in parents[t]), torch.zeros(()))
                if kinds[t] == 1:
                    loc = loc.abs() + common
                elif kinds[t] == 2 and len(parents[t]) > 1:
                    loc = z[parents[t][0]] * z[parents[t][1]]
                elif kinds[t] == 3 and len(parents[t]) > 1:
                    loc = torch.where(z[parents[t][0]] > 0, z[parents[t][1]], 0.0)
                if t == coupled and loc.ndim:
                    loc = loc.cumsum(-1)
                z.append(pyro.sample(f"z{t}", dist.Normal(loc, 1.0)))
                pyro.sample(f"x{t}", dist.Normal(z[t] if kinds[t] else common, noise[t]), obs=x[:, t])

    return story


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_stories_have_the_same_structure(seed, monkeypatch):
    found = prepare(random_story(seed), X).structure
    one_at_a_time(monkeypatch)
    singly = prepare(random_story(seed), X).structure
    assert {(t.kind, t.site) for t in found.ties} == {(t.kind, t.site) for t in singly.ties}
    assert described(replace(found, ties=())) == described(replace(singly, ties=()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data"),
    [*(c for cases in ZOO_CASES.values() for c in cases), *((c[0], c[1]) for c in OWN_CASES)],
    ids=lambda v: type(v).__name__,
)
def test_every_model_has_the_same_structure(model, data, monkeypatch):
    model = as_model(model)
    bound = bind(model, data)
    torch.manual_seed(0)
    before = prepare(model, bound).structure
    one_at_a_time(monkeypatch, 1)
    torch.manual_seed(0)
    assert described(prepare(model, bound).structure) == described(before)


@zoo.model(x=zoo.Real("row", "time"))
def walk(x):
    with pyro.plate("row", len(x)):
        z = torch.zeros(())
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[:, t])


@pytest.mark.slow
def test_steps_of_a_loop_are_moved_in_far_fewer_runs(monkeypatch):
    count, plain = [], Runner.__call__
    monkeypatch.setattr(Runner, "__call__", lambda *a, **k: (count.append(1), plain(*a, **k))[1])
    found = prepare(walk, X).structure
    assert found.sites["z7"].args["loc"].sites == ("z6",)
    together = len(count)
    one_at_a_time(monkeypatch)
    prepare(walk, X)
    assert together < 0.6 * (len(count) - together)


def test_what_blocks_do_not_show_is_looked_at_singly():
    calls = []

    def moves(names):
        calls.append(names)
        return {"late"} if len(calls) > 3 else set()

    assert moved_by_each(list("abcdefghi"), moves) is None


def test_sources_are_told_apart():
    feeds = {f"s{i}": {i, i + 1, "hub"} if i == 4 else {i, i + 1} for i in range(20)}
    assert moved_by_each(list(feeds), lambda names: set().union(*(feeds[n] for n in names))) == feeds
    for group in apart(feeds):
        assert sum(len(feeds[n]) for n in group) == len(set().union(*(feeds[n] for n in group)))
