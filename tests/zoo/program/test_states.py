"""Draws of enumerated sites given everything else, against the probabilities of all their states."""

from __future__ import annotations

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import zoo
from tests.zoo.replay.test_chain import chain
from zoo import MarkovChain, Real
from zoo.elimination.forward_backward import smooth
from zoo.program.prepare import prepare
from zoo.program.states import draw_path, draw_states
from zoo.replay.evaluate import model_context
from zoo.replay.random import reseed

DRAWS = 20_000
MU = 0.4
X = torch.tensor([0.3, -0.8, 1.9])
MOVES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
LOC = torch.tensor([-1.0, 0.5, 2.0])
STEP = torch.tensor([[0.8, 0.2], [0.4, 0.6]])


@zoo.model(x=Real("row"))
def alone(x):
    """One state per row."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(MOVES[0].to(x)))
        pyro.sample("x", dist.Normal(mu + LOC.to(x)[z], 1.0), obs=x)


@zoo.model(x=Real("row"))
def follows(x):
    """Two states per row, the second given the first, and both seen through x."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.3)).long()
        w = pyro.sample("w", dist.Categorical(MOVES.to(x)[z]))
        pyro.sample("x", dist.Normal(mu + LOC.to(x)[w] - z, 1.0), obs=x)


@zoo.model(x=Real("row"))
def shared(x):
    """A state that all rows share, said last though rows need it for what they show."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    rows = pyro.plate("row", len(x))
    with rows:
        z = pyro.sample("z", dist.Categorical(MOVES[0].to(x)))
    s = pyro.sample("s", dist.Categorical(torch.tensor([0.4, 0.6]).to(x)))
    with rows:
        pyro.sample("x", dist.Normal(mu + LOC.to(x)[z] * (1 + s), 1.0), obs=x)


@zoo.model(x=Real("row"))
def moving(x):
    """A hidden Markov chain whose states lead to another state of each row."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", MarkovChain(torch.tensor([0.6, 0.4]).to(x), STEP.to(x)))
        w = pyro.sample("w", dist.Categorical(MOVES.to(x)[z]))
        pyro.sample("x", dist.Normal(mu + LOC.to(x)[w] + z, 1.0), obs=x)


@zoo.model(x=Real("row"))
def together(x):
    """Two hidden Markov chains side by side."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", MarkovChain(torch.tensor([0.6, 0.4]).to(x), STEP.to(x)))
        w = pyro.sample("w", MarkovChain(torch.tensor([0.2, 0.8]).to(x), STEP.to(x).flip(0)))
        pyro.sample("x", dist.Normal(mu + LOC.to(x)[z] + 1.5 * w, 1.0), obs=x)


MODELS = {"alone": alone, "follows": follows, "shared": shared, "moving": moving, "together": together}


def every(program, x):
    """Every assignment of states with its probability, from the density that Pyro's own trace of the model has."""
    sites = program.enumerated
    cells = [len(x) if s.plates else 1 for s in sites]
    choices = list(
        itertools.product(*(range(s.cardinality) for s, n in zip(sites, cells, strict=True) for _ in range(n)))
    )
    log_p = []
    for choice in choices:
        parts = torch.tensor(choice).split(cells)
        given = {s.name: p if s.plates else p[0] for s, p in zip(sites, parts, strict=True)}
        given = {n: v.to(torch.float64) if program.sites[n].family == "Bernoulli" else v for n, v in given.items()}
        with model_context(torch.float64, torch.device("cpu")):
            model = poutine.condition(program.model, {**given, "mu": torch.tensor(MU)})
            trace = poutine.trace(model).get_trace(x=x)
            trace.compute_log_prob()
        total = sum(n["log_prob"].sum() for n in trace.nodes.values() if n["type"] == "sample" and "log_prob" in n)
        log_p.append(total)
    return choices, torch.stack(log_p).softmax(0)


def frequencies(drawn, program, choices):
    """How often each assignment was drawn."""
    columns = torch.cat([drawn[s.name].reshape(DRAWS, -1) for s in program.enumerated], 1)
    sizes = [s.cardinality for s in program.enumerated for _ in range(drawn[s.name].reshape(DRAWS, -1).shape[1])]
    code, counter = torch.zeros(DRAWS, dtype=torch.long), []
    for column, size in zip(columns.T, sizes, strict=True):
        code = code * size + column
    for choice in choices:
        number = 0
        for state, size in zip(choice, sizes, strict=True):
            number = number * size + state
        counter.append(int((code == number).sum()))
    return torch.tensor(counter) / DRAWS


# A weight repeats a row. That does not change what a row is given the other latents, only what rows share.
@pytest.mark.parametrize(
    ("name", "weights"), [*((n, None) for n in MODELS), ("follows", [3, 1, 2]), ("moving", [2] * 3)]
)
def test_every_assignment_comes_as_often_as_its_probability(name, weights):
    program = prepare(MODELS[name](), {"x": X.double()}, weights=weights)
    reseed(0)
    values = {"mu": torch.full((DRAWS,), MU, dtype=torch.float64)}
    drawn = draw_states(program, values, DRAWS, 5000)
    for site in program.enumerated:
        assert drawn[site.name].shape == (DRAWS, *([3] if site.plates else []))
    choices, expected = every(program, X.double())
    found = frequencies(drawn, program, choices)
    error = (expected * (1 - expected) / DRAWS).sqrt()
    assert ((found - expected).abs() < 5 * error + 1e-9).all()


@pytest.mark.parametrize(
    ("rows", "states", "sequences", "forbid"), [(6, 3, 2, False), (6, 3, 1, True), (1, 2, 1, False)]
)
def test_paths_have_the_moves_that_smoothing_expects(rows, states, sequences, forbid):
    table, evidence, first = chain(rows, states, sequences, forbid=forbid)
    reseed(1)
    path = draw_path(table.expand(DRAWS, -1, -1), evidence.expand(DRAWS, -1, -1), first)
    _, smoothed, counts = smooth(table[None], evidence[None], first)
    for k in range(states):
        p = smoothed[0, k]
        assert (((path == k).double().mean(0) - p).abs() < 5 * (p * (1 - p) / DRAWS).sqrt() + 1e-9).all()
    moves = torch.zeros(states, states, dtype=torch.double)
    for t in range(1, rows):
        if not first[t]:
            moves.index_put_((path[:, t - 1], path[:, t]), torch.ones(DRAWS, dtype=torch.double), accumulate=True)
    assert torch.allclose(moves / DRAWS, counts[0, 1:], atol=5 * (rows / DRAWS) ** 0.5)
    assert not moves[counts[0, 1:] == 0].any()
