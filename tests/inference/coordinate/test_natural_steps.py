"""Mini-batches of rows that have latents of their own: the fixed points and the ends are those of all rows."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import CAVI, fit
from inference.coordinate import natural_steps
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.natural_steps import NaturalSteps
from zoo import Count, Real
from zoo.program.prepare import prepare


@zoo.model(y=Real("row"))
def effects(y):
    """Effects of rows, whose mean and spread are unknown; the noise is unknown too."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    with pyro.plate("row", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau.rsqrt()))
        pyro.sample("y", dist.Normal(theta, noise.rsqrt()), obs=y)


@zoo.model(counts=Count("text", "token"))
def tokens(counts, *, k: int = 2):
    """Topics of documents, by their shares times vectors."""
    vectors = pyro.sample("vectors", dist.Dirichlet(torch.ones(k, counts.shape[1])).to_event(1))
    with pyro.plate("text", len(counts)):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(k)))
        total = int(counts.sum(-1).max())
        pyro.sample("counts", dist.Multinomial(total, shares @ vectors, validate_args=False), obs=counts)


RNG = np.random.default_rng(0)
EFFECTS = 3 + RNG.normal(0, 2.0, 60)
TOKENS = np.array(
    [RNG.multinomial(30, s @ [[0.4, 0.4, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]]) for s in RNG.dirichlet([0.3, 0.3], 60)]
)
CASES = {"effects": (effects(), EFFECTS), "tokens": (tokens(), TOKENS)}


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("name", CASES)
def test_the_end_of_all_rows_stands_in_batches_of_all_rows(name, weighted, monkeypatch):
    """Natural parameters are a fixed point, at whatever rate; so row weights are counted once for what is a row's."""
    monkeypatch.setattr(natural_steps, "SETTLED", 1e-13)
    monkeypatch.setattr(natural_steps, "MOST_ROUNDS", 500)
    model, data = CASES[name]
    weights = np.r_[np.full(30, 1.0), np.full(30, 2.0)] if weighted else None
    found = fit(model, data, method=CAVI(tolerance=1e-11, max_steps=20_000), seed=0, weights=weights, progress=False)
    program, posteriors = found.program, found.approximation.posteriors
    ends = {n: p for p in posteriors for n in p.names}
    state = State({n: v for p in posteriors for n, v in p.mean().items()}, ends)
    steps = NaturalSteps(program, forgetting=0.7, delay=3.0)
    moved = steps.at_rows(Coordinates(program), steps.over_all(state, 1000))
    for unknown, posterior in moved.posteriors.items():
        for key, tensor in posterior.tensors().items():
            torch.testing.assert_close(tensor, ends[unknown].tensors()[key], rtol=1e-3, atol=1e-3)
    assert float(Coordinates(program).expect(moved)[0]) == pytest.approx(found.objective.value, abs=1e-3)


@pytest.mark.slow
def test_topics_by_batches_are_as_good_as_by_all_documents():
    """Batches end next to the end of all documents from the same start, 0.05 nats a document."""
    rng = np.random.default_rng(1)
    vectors, shares = rng.dirichlet(np.full(20, 0.1), 3), rng.dirichlet(np.full(3, 0.2), 300)
    counts = np.array([rng.multinomial(60, s @ vectors) for s in shares])
    counts = counts[:, counts.sum(0) > 0]
    whole = fit(zoo.LDA(3), counts, method="cavi", seed=0, progress=False)
    found = fit(zoo.LDA(3), counts, method=CAVI(batch_size=50, max_steps=25), seed=0, progress=False)
    assert found.objective.value == pytest.approx(whole.objective.value, abs=0.05 * len(counts))
    assert (found.trace["value"].diff()[1:4] > 0).all()
    mine, theirs = (f.posterior["posterior"]["words"].to_numpy().mean((0, 1)) for f in (found, whole))
    order = np.abs(mine[:, None] - theirs[None]).sum(-1).argmin(0)
    assert sorted(order) == [0, 1, 2]
    np.testing.assert_allclose(mine[order], theirs, atol=0.02)


@zoo.model(y=Real("row"))
def unknown_spread(y):
    """Effects of rows, whose spread is a parameter."""
    spread = pyro.param("spread", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("row", len(y)):
        theta = pyro.sample("theta", dist.Normal(0.0, spread))
        pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def test_a_parameter_without_prior_is_refused():
    program = prepare(unknown_spread(), EFFECTS)
    assert CAVI().why_not(program) is None
    assert CAVI(batch_size=10).why_not(program) == (
        "batch_size takes steps between posteriors, and 'spread' is a parameter without prior"
    )
