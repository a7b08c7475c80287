"""Regressions, chains, factors and fields of several kinds as users declare them, without starting values."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import zoo
from declared.mixtures import shares

POSITIVE, SIMPLEX = constraints.positive, constraints.simplex


class Lines(zoo.Model):
    """Mixture of regressions, without priors."""

    x = zoo.Real("row")
    y = zoo.Real("row")
    k: int = 2

    def forward(self, x, y):
        w = shares(self.k)
        a, b = pyro.param("a", torch.zeros(self.k)), pyro.param("b", torch.zeros(self.k))
        scale = pyro.param("scale", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Normal(a[z] + b[z] * x, scale[z]), obs=y)


class LinePriors(zoo.Model):
    """Mixture of regressions with priors and one scale."""

    x = zoo.Real("row")
    y = zoo.Real("row")
    k: int = 3

    def forward(self, x, y):
        w = pyro.sample("w", dist.Dirichlet(torch.ones(self.k)))
        with pyro.plate("component", self.k):
            a, b = pyro.sample("a", dist.Normal(0.0, 10.0)), pyro.sample("b", dist.Normal(0.0, 10.0))
        precision = pyro.sample("precision", dist.Gamma(1.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Normal(a[z] + b[z] * x, precision.rsqrt()), obs=y)


class CountLines(zoo.Model):
    """Mixture of Poisson regressions, climbed by gradient."""

    x = zoo.Real("row")
    y = zoo.Count("row")
    k: int = 2

    def forward(self, x, y):
        w = shares(self.k)
        a, b = pyro.param("a", torch.zeros(self.k)), pyro.param("b", torch.zeros(self.k))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Poisson((a[z] + b[z] * x).exp()), obs=y)


class Chain(zoo.Model):
    """Hidden Markov model; emissions by `emission`."""

    x = zoo.Real("time")
    k: int = 3
    emission: str = "normal"

    def forward(self, x):
        k = self.k
        first = pyro.param("first", torch.ones(k) / k, constraint=SIMPLEX)
        moves = pyro.param("moves", torch.ones(k, k) / k, constraint=SIMPLEX)
        if self.emission == "normal":
            loc = pyro.param("loc", torch.zeros(k))
            scale = pyro.param("scale", torch.ones(k), constraint=POSITIVE)
        else:
            rate = pyro.param("rate", torch.ones(k), constraint=POSITIVE)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", zoo.MarkovChain(first, moves))
            pyro.sample(
                "x", dist.Normal(loc[z], scale[z]) if self.emission == "normal" else dist.Poisson(rate[z]), obs=x
            )


class Symbols(zoo.Model):
    """Hidden Markov model of symbols, with Dirichlet priors."""

    s = zoo.Category("time")
    k: int = 2

    def forward(self, s):
        k = self.k
        first = pyro.param("first", torch.ones(k) / k, constraint=SIMPLEX)
        with pyro.plate("state", k):
            moves = pyro.sample("moves", dist.Dirichlet(torch.full((k,), 1.5)))
            probs = pyro.sample("probs", dist.Dirichlet(torch.full((5,), 1.5)))
        with pyro.plate("time", len(s)):
            z = pyro.sample("z", zoo.MarkovChain(first, moves))
            pyro.sample("s", dist.Categorical(probs[z]), obs=s)


class Loadings(zoo.Model):
    """Factor model whose loadings are declared at constants."""

    x = zoo.Real("row", "column")
    q: int = 2

    def forward(self, x):
        d = x.shape[1]
        center = pyro.param("center", torch.zeros(d))
        loadings = pyro.param("loadings", torch.eye(self.q, d))
        noise = pyro.param("noise", torch.ones(d), constraint=POSITIVE)
        with pyro.plate("row", len(x)):
            f = pyro.sample("f", dist.Normal(torch.zeros(self.q), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(center + f @ loadings, noise).to_event(1), obs=x)


class Levels(zoo.Model):
    """One-way layout with random effects."""

    y = zoo.Real("batch", "measurement")

    def forward(self, y):
        center = pyro.param("center", torch.tensor(0.0))
        between = pyro.param("between", torch.tensor(1.0), constraint=POSITIVE)
        within = pyro.param("within", torch.tensor(1.0), constraint=POSITIVE)
        with pyro.plate("batch", len(y)):
            level = pyro.sample("level", dist.Normal(center, between))
            pyro.sample("y", dist.Normal(level[..., None], within).expand(y.shape).to_event(1), obs=y)


class Raters(zoo.Model):
    """Several people classify the same items, each with errors of their own (Dawid and Skene 1979)."""

    answer = zoo.Category("item", "person")
    k: int = 3

    def forward(self, answer):
        k, people = self.k, answer.shape[1]
        w = shares(k)
        start = torch.full((people, k, k), 0.3 / (k - 1)) + torch.eye(k) * (0.7 - 0.3 / (k - 1))
        error = pyro.param("error", start, constraint=SIMPLEX)
        with pyro.plate("item", len(answer)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("answer", dist.Categorical(error[torch.arange(people), z[..., None]]).to_event(1), obs=answer)


class Mixed(zoo.Model):
    """A measurement, a count and a label of each row, and a field that the state does not feed."""

    x = zoo.Real("row")
    y = zoo.Count("row")
    label = zoo.Category("row")
    other = zoo.Real("row", "noise")
    k: int = 3

    def forward(self, x, y, label, other):
        w = shares(self.k)
        loc, scale = (
            pyro.param("loc", torch.zeros(self.k)),
            pyro.param("scale", torch.ones(self.k), constraint=POSITIVE),
        )
        rate = pyro.param("rate", torch.ones(self.k), constraint=POSITIVE)
        probs = pyro.param("probs", torch.ones(self.k, 3) / 3, constraint=SIMPLEX)
        level = pyro.param("level", torch.zeros(other.shape[1]))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)
            pyro.sample("y", dist.Poisson(rate[z]), obs=y)
            pyro.sample("label", dist.Categorical(probs[z]), obs=label)
            pyro.sample("other", dist.Normal(level, 1e6).to_event(1), obs=other)


class Curves(zoo.Model):
    """Groups of subjects by their courses: each state has a line over time."""

    y = zoo.Real("subject", "visit")
    k: int = 3

    def forward(self, y):
        w, time = shares(self.k), torch.arange(y.shape[1]).to(y)
        a, b = pyro.param("a", torch.zeros(self.k)), pyro.param("b", torch.zeros(self.k))
        scale = pyro.param("scale", torch.tensor(1.0), constraint=POSITIVE)
        with pyro.plate("subject", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Normal(a[z][..., None] + b[z][..., None] * time, scale).to_event(1), obs=y)
