"""Log weights of draws and what climbs by them: latents of rows, constrained latents, points, dreams."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from guides import Encoder, MeanField, Point
from tests.cases.models import LinearFactors
from tests.inference.variational.test_bounds import FACTOR_ROWS, bound_of, evaluated, log_weights, noise_of
from zoo.program.rows import Batch
from zoo.replay.random import reseed

X = np.array([0.7, 2.9, 1.6, 5.2])


@zoo.model(x=zoo.Real("row"))
def positive(x):
    """A positive latent for all rows, and one for each."""
    a = pyro.sample("a", dist.Gamma(3.0, 2.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Gamma(2.0, 1.0))
        pyro.sample("x", dist.Normal(a * z, 0.8), obs=x)


def drawn(bound, noise):
    """Unconstrained latents of one draw: of all rows (1,) and of each (n,)."""
    at = bound.start
    named = bound.named(at.coordinates[0], at.weights[0])
    draw = bound._ask(named, at.fixed.map(lambda v: v[0]), "draw", bound.program.data, None, noise)
    return draw.globals.detach().numpy(), draw.locals.detach().numpy()[:, 0]


def densities(a, z):
    """log p(a), and log p(x_i, z_i given a)."""
    rows = stats.gamma(2.0).logpdf(z) + stats.norm(a * z, 0.8).logpdf(X)
    return stats.gamma(3.0, scale=0.5).logpdf(a), rows


@pytest.mark.parametrize("guide", [MeanField(), Point()])
def test_a_log_weight_is_p_over_q_in_the_space_of_q(guide):
    """Under u = log z, p(u) = z p(z); q is the Normal that draws at noise 0 and 1 say; a point has p(z) and no q."""
    bound = bound_of(positive(), X, guide)
    noise = noise_of(bound, 1, 3)
    rest, rows = (t.detach()[0].numpy() for t in log_weights(bound, noise))
    (m, low), (one, high) = (drawn(bound, tuple(torch.full_like(n[0, 0], c) for n in noise)) for c in (0.0, 1.0))
    for k in range(3):
        u, v = drawn(bound, tuple(n[0, k] for n in noise))
        wanted, each = densities(np.exp(u), np.exp(v))
        if guide != Point():
            wanted = wanted + u - stats.norm(m, one - m).logpdf(u)
            each = each + v - stats.norm(low, high - low).logpdf(v)
        assert rest[k] == pytest.approx(float(wanted.sum()), rel=1e-12)
        np.testing.assert_allclose(rows[k], each, rtol=1e-12)


def test_rows_dream_as_often_as_they_weigh():
    """The sleep phase adds up row by row: what each row adds by itself, times its weight."""
    bound = bound_of(LinearFactors(), FACTOR_ROWS[:3], Encoder(hidden=(4,)), asleep=True)
    noise, own = noise_of(bound, 1, 2), bound.weights.sizes[0]

    def slope(weights):
        with torch.random.fork_rng():
            reseed(0)  # the same dreams
            batch = Batch({}, weights=torch.tensor(weights, dtype=torch.float64))
            return evaluated(bound, noise, batch)[2][:, :own]

    assert own
    parts = [slope(row) for row in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])]
    torch.testing.assert_close(slope([2.0, 0.5, 3.0]), 2.0 * parts[0] + 0.5 * parts[1] + 3.0 * parts[2])
