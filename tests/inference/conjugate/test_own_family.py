"""A family that stands in a user's own file, for a distribution that stands there too."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from torch.distributions import constraints

import zoo
from inference import EM, Exact, fit
from inference.conjugate import closed_form
from inference.conjugate.exponential_family import Arguments, Entries, ExponentialFamily, Moments
from zoo import Positive
from zoo.program.prepare import prepare

X = [0.4, 1.1, 0.9, 2.0, 0.3, 1.4]


class SquaredRate(dist.TorchDistribution):
    """x^2 ~ Exponential(rate): a Rayleigh distribution, p(x) = 2 rate x exp(-rate x^2)."""

    arg_constraints: ClassVar[dict[str, Any]] = {"rate": constraints.positive}
    support = constraints.positive

    def __init__(self, rate, batch_shape=None):
        self.rate = torch.as_tensor(rate)
        super().__init__(self.rate.shape if batch_shape is None else batch_shape, validate_args=False)

    def expand(self, batch_shape, _instance=None):
        return SquaredRate(self.rate.expand(batch_shape))

    def sample(self, sample_shape=()):
        return dist.Exponential(self.rate).sample(sample_shape).sqrt()

    def log_prob(self, value):
        return math.log(2) + self.rate.log() + value.log() - self.rate * value.square()


@zoo.model(x=Positive("row"))
def speeds(x):
    """Speeds whose squares share a rate."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(x)):
        pyro.sample("x", SquaredRate(rate), obs=x)


@zoo.model(x=Positive("row"))
def two_speeds(x):
    """A mixture of two."""
    rate = pyro.param("rate", torch.tensor([0.5, 3.0]), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", SquaredRate(rate[z]), obs=x)


@pytest.mark.slow
def test_a_family_counts_from_when_it_is_defined():
    assert closed_form(prepare(speeds(), X)).rest == ["rate"]

    class SquaredRateFamily(ExponentialFamily):
        """T = x^2, eta = -rate, A = -log rate, h = 2 x."""

        distributions = (SquaredRate,)
        conjugate: ClassVar[dict[str, str]] = {"rate": "Gamma"}

        def statistics(self, fn: Any, value: Moments):
            return (value["mean"].square(),)

        def natural(self, fn: Any, argument: Arguments, center=None):
            rate = argument("rate")
            return (-rate["mean"],), rate["log"]

        def base(self, fn: Any, value: Moments):
            return math.log(2) + value["mean"].log()

        def message(self, argument: str, entries: Entries):
            return entries.count, -entries.sums[0]

    assert closed_form(prepare(speeds(), X)).rest == []
    found = fit(speeds(), X, method=Exact(), seed=0)
    q = found.approximation.distributions["rate"]
    assert (float(q.concentration), float(q.rate)) == pytest.approx((2.0 + len(X), 0.5 + np.square(X).sum()))
    # p(x) = p(x | r) p(r) / p(r | x) at any r
    r, a, b = 1.3, 2.0 + len(X), 0.5 + float(np.square(X).sum())
    likelihood = sum(math.log(2 * r * x) - r * x * x for x in X)
    prior, posterior = scipy.stats.gamma(2.0, scale=2.0).logpdf(r), scipy.stats.gamma(a, scale=1 / b).logpdf(r)
    assert found.objective.value == pytest.approx(likelihood + prior - posterior, abs=1e-9)
    climbed = fit(two_speeds(), X * 5, method=EM(), seed=0)
    assert climbed.trace["value"].diff().dropna().min() >= -1e-9
