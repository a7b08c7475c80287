"""Models declared for tests, as a user would declare them; the library knows none of them."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from zoo import Binary, Count, Positive, Real

SCHOOLS = {
    "effect": [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0],
    "error": [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0],
}
FLIPS = [1, 0, 1, 1, 0, 0, 1, 0, 1, 0]


class EightSchools(zoo.Model):
    """Treatment effects of coaching programmes in eight schools (Rubin 1981)."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect: Tensor, error: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


class NonCentred(zoo.Model):
    """Eight schools with standardized effects, which removes the funnel."""

    effect = Real("school")
    error = Positive("school")
    scale: float = 5.0

    def forward(self, effect: Tensor, error: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, self.scale))
        tau = pyro.sample("tau", dist.HalfCauchy(self.scale))
        with pyro.plate("school", len(effect)):
            standard = pyro.sample("standard", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * standard)
            pyro.sample("effect", dist.Normal(theta, error), obs=effect)


@zoo.model(flips=Binary("toss"))
def coin(flips, *, a: float = 1.0, b: float = 1.0):
    """A coin with an unknown probability of heads."""
    heads = pyro.sample("heads", dist.Beta(a, b))
    with pyro.plate("toss", len(flips)):
        pyro.sample("flips", dist.Bernoulli(heads), obs=flips)


class PoissonMixture(zoo.Model):
    """Counts from a few rates; rates and weights are parameters."""

    count = Count("year")
    components: int = 2

    def forward(self, count: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        rate = pyro.param("rate", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("year", len(count)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("count", dist.Poisson(rate[z]), obs=count)


class BernoulliMixture(zoo.Model):
    """Rows of zeros and ones from a few profiles, with Beta priors that keep probabilities off the boundary."""

    x = Binary("row", "item")
    components: int = 2
    pseudo: float = 1.5

    def forward(self, x: Tensor) -> None:
        k, d = self.components, x.shape[1]
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(k)))
        with pyro.plate("component", k):
            p = pyro.sample("p", dist.Beta(torch.full((d,), self.pseudo), self.pseudo).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


class RegressionMixture(zoo.Model):
    """A few lines through a cloud of points: y is linear in x, with coefficients and noise of its component."""

    x = Real("row")
    y = Real("row")
    components: int = 2

    def forward(self, x: Tensor, y: Tensor) -> None:
        k = self.components
        weights = pyro.param("weights", torch.full((k,), 1 / k), constraint=constraints.simplex)
        intercept = pyro.param("intercept", torch.zeros(k))
        slope = pyro.param("slope", torch.zeros(k))
        noise = pyro.param("noise", torch.ones(k), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("y", dist.Normal(intercept[z] + slope[z] * x, noise[z]), obs=y)
