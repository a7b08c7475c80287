"""Draws inside `torch.vmap` have the distribution that they have outside it, and differ from entry to entry."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from tests.cases.spread import spread
from zoo.replay.draws import vectorized_draw

FAMILIES = {
    "Normal": lambda v: dist.Normal(v, 1.0),
    "HalfCauchy": lambda v: dist.HalfCauchy(v.exp()),
    "Gamma of no varying argument": lambda v: dist.Gamma(torch.tensor(2.0), torch.tensor(1.0)),
    "Beta": lambda v: dist.Beta(v.exp(), 2.0),
    "Dirichlet": lambda v: dist.Dirichlet(torch.stack([v.exp(), v.exp() + 1])),
    "StudentT": lambda v: dist.StudentT(3.0, v, 1.0),
    "MultivariateNormal": lambda v: dist.MultivariateNormal(v.expand(2), torch.eye(2)),
    "expanded": lambda v: dist.Exponential(v.exp()).expand([3]).to_event(1),
    "expanded over plates": lambda v: dist.Dirichlet(torch.ones(2)).expand([3]),
    "Poisson": lambda v: dist.Poisson(v.exp()),
    "Categorical": lambda v: dist.Categorical(logits=torch.stack([v, -v])),
    "Multinomial": lambda v: dist.Multinomial(5, probs=torch.tensor([0.2, 0.8])),
    "LKJCholesky": lambda v: dist.LKJCholesky(2, v.exp()),
}


@spread("family", FAMILIES, part=0, of=2)
def test_draws_have_their_distribution(family):
    torch.manual_seed(0)
    count, at = 500, torch.tensor([-0.5, 1.0])
    v, lead = at.repeat_interleave(count), torch.zeros(2 * count)
    make = FAMILIES[family]
    drawn = torch.vmap(lambda v, lead: vectorized_draw(make(v), lead), randomness="different")(v, lead)
    assert drawn.shape == (2 * count, *make(at[0]).shape())
    for i in range(2):
        expected = torch.stack([make(at[i]).sample() for _ in range(count)]).reshape(count, -1)
        mine = drawn[i * count : (i + 1) * count].reshape(count, -1)
        for j in range(mine.shape[1]):
            assert stats.ks_2samp(mine[:, j].numpy(), expected[:, j].numpy(), method="asymp").pvalue > 1e-4


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_what_cannot_be_drawn_there_raises_what_callers_wait_for():
    def draw(v: torch.Tensor) -> torch.Tensor:
        return vectorized_draw(dist.Wishart(torch.tensor(4.0), torch.eye(2) * v), v)

    with pytest.raises(RuntimeError):
        torch.vmap(draw, randomness="different")(torch.ones(3))
