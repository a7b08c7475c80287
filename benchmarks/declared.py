"""Mixtures, chains and factor models as users declare them, without starting values of their own, and data for each."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import zoo

POSITIVE, SIMPLEX = constraints.positive, constraints.simplex


@dataclass(frozen=True)
class Case:
    """A model, what makes data for it from a generator, and the methods that climb it."""

    model: Any
    data: Callable[[np.random.Generator], Any]
    methods: tuple[str, ...] = ("em",)


def shares(k):
    """Weights of k states, without a prior."""
    return pyro.param("shares", torch.ones(k) / k, constraint=SIMPLEX)


class Univariate(zoo.Model):
    """Normal mixture of one column, parameters declared at constants."""

    x = zoo.Real("row")
    k: int = 3

    def forward(self, x):
        w = shares(self.k)
        loc = pyro.param("loc", torch.zeros(self.k))
        scale = pyro.param("scale", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


class Columns(zoo.Model):
    """Normal mixture of several columns, in any units."""

    x = zoo.Real("row", "column")
    k: int = 4

    def forward(self, x):
        w, d = shares(self.k), x.shape[1]
        loc = pyro.param("loc", torch.zeros(self.k, d))
        scale = pyro.param("scale", torch.ones(self.k, d), constraint=POSITIVE)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


class Full(zoo.Model):
    """Multivariate Normal mixture with a Cholesky factor a component."""

    x = zoo.Real("row", "column")
    k: int = 3

    def forward(self, x):
        w, d = shares(self.k), x.shape[1]
        loc = pyro.param("loc", torch.zeros(self.k, d))
        tril = pyro.param("tril", torch.eye(d).repeat(self.k, 1, 1), constraint=constraints.lower_cholesky)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.MultivariateNormal(loc[z], scale_tril=tril[z]), obs=x)


class Priors(zoo.Model):
    """Normal mixture with conjugate priors."""

    x = zoo.Real("row")
    k: int = 3

    def forward(self, x):
        w = pyro.sample("w", dist.Dirichlet(torch.ones(self.k)))
        with pyro.plate("component", self.k):
            precision = pyro.sample("precision", dist.Gamma(2.0, 2.0))
            loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], precision[z].rsqrt()), obs=x)


class ColumnPriors(zoo.Model):
    """Normal mixture of several columns with priors made from the data."""

    x = zoo.Real("row", "column")
    k: int = 3

    def forward(self, x):
        center, spread = x.mean(0), x.std(0)
        w = pyro.sample("w", dist.Dirichlet(torch.full((self.k,), 2.0)))
        with pyro.plate("component", self.k):
            loc = pyro.sample("loc", dist.Normal(center, 3 * spread).to_event(1))
            variance = pyro.sample("variance", dist.InverseGamma(2.0, spread.square()).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Normal(loc[z], variance[z].sqrt()).to_event(1), obs=x)


class Counts(zoo.Model):
    """Poisson mixture."""

    y = zoo.Count("row")
    k: int = 3

    def forward(self, y):
        w, rate = shares(self.k), pyro.param("rate", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Poisson(rate[z]), obs=y)


class CountColumns(zoo.Model):
    """Poisson mixture of several columns with Gamma priors."""

    y = zoo.Count("row", "column")
    k: int = 3

    def forward(self, y):
        w = pyro.sample("w", dist.Dirichlet(torch.ones(self.k)))
        with pyro.plate("component", self.k):
            rate = pyro.sample("rate", dist.Gamma(torch.full((y.shape[1],), 1.0), 0.1).to_event(1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Poisson(rate[z]).to_event(1), obs=y)


class Classes(zoo.Model):
    """Latent classes of categorical answers with Dirichlet priors."""

    answer = zoo.Category("row", "item")
    k: int = 3

    def forward(self, answer):
        items = answer.shape[1]
        w = pyro.sample("w", dist.Dirichlet(torch.ones(self.k)))
        with pyro.plate("class", self.k):
            probs = pyro.sample("probs", dist.Dirichlet(torch.full((items, 4), 1.1)).to_event(1))
        with pyro.plate("row", len(answer)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("answer", dist.Categorical(probs[z]).to_event(1), obs=answer)


class Binaries(zoo.Model):
    """Bernoulli mixture, without priors."""

    x = zoo.Binary("row", "item")
    k: int = 3

    def forward(self, x):
        w = shares(self.k)
        p = pyro.param("p", torch.full((self.k, x.shape[1]), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Bernoulli(p[z]).to_event(1), obs=x)


class Waits(zoo.Model):
    """Exponential mixture."""

    t = zoo.Positive("row")
    k: int = 2

    def forward(self, t):
        w, rate = shares(self.k), pyro.param("rate", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("t", dist.Exponential(rate[z]), obs=t)


class Gammas(zoo.Model):
    """Gamma mixture: the shape has no closed form."""

    t = zoo.Positive("row")
    k: int = 2

    def forward(self, t):
        w = shares(self.k)
        shape = pyro.param("shape", torch.ones(self.k), constraint=POSITIVE)
        rate = pyro.param("rate", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(t)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("t", dist.Gamma(shape[z], rate[z]), obs=t)


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


class Trials(zoo.Model):
    """Binomial mixture of several columns."""

    y = zoo.Count("row", "column")
    k: int = 3

    def forward(self, y):
        w = shares(self.k)
        p = pyro.param("p", torch.full((self.k, y.shape[1]), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("y", dist.Binomial(20, p[z]).to_event(1), obs=y)


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


class Heavy(zoo.Model):
    """Laplace mixture."""

    x = zoo.Real("row")
    k: int = 3

    def forward(self, x):
        w, loc = shares(self.k), pyro.param("loc", torch.zeros(self.k))
        scale = pyro.param("scale", torch.ones(self.k), constraint=POSITIVE)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(w))
            pyro.sample("x", dist.Laplace(loc[z], scale[z]), obs=x)


# -- data ----------------------------------------------------------------------------------------------------------


def clusters(rng, n=300, k=3, d=1, gap=3.0):
    """Normal clusters, of sizes and spreads of their own, that overlap."""
    z = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 5.0)))
    center = gap * (np.arange(k)[:, None] if d == 1 else rng.normal(size=(k, d)))
    x = center[z] + rng.uniform(0.5, 1.5, size=(k, d))[z] * rng.normal(size=(n, d))
    return x[:, 0] if d == 1 else x


def path(rng, n=400, k=3, stay=0.9):
    """States of a chain."""
    z = [0]
    for _ in range(n - 1):
        z.append(z[-1] if rng.random() < stay else int(rng.integers(k)))
    return np.array(z)


def correlated(rng):
    """Clusters with covariances of their own."""
    z = rng.integers(3, size=300)
    return 2 * rng.normal(size=(3, 2))[z] + np.einsum(
        "nij,nj->ni", rng.normal(size=(3, 2, 2))[z], rng.normal(size=(300, 2))
    )


def labels(rng, n=300, items=8, k=3, levels=4):
    """Answers of latent classes."""
    cumulated = rng.dirichlet(np.full(levels, 0.7), size=(k, items)).cumsum(-1)[rng.integers(k, size=n)]
    return (rng.random((n, items, 1)) > cumulated).sum(-1).clip(0, levels - 1)


def lines(rng, n=300, slopes=(2.0, -1.0), noise=0.7, levels=1.0):
    """Points about lines that cross."""
    x, z = rng.normal(size=n) * 2, rng.integers(len(slopes), size=n)
    return {
        "x": x,
        "y": np.array(slopes)[z] * x + levels * rng.normal(size=len(slopes))[z] + noise * rng.normal(size=n),
    }


def count_lines(rng, n=300):
    """Counts whose log rates are lines that cross."""
    x, z = rng.normal(size=n), rng.integers(2, size=n)
    return {"x": x, "y": rng.poisson(np.exp(np.array([1.0, 1.5])[z] + np.array([0.8, -0.6])[z] * x))}


def symbols(rng, n=500):
    """Symbols emitted along a chain."""
    z = path(rng, n, 2, 0.85)
    cumulated = rng.dirichlet(np.full(5, 0.6), size=2).cumsum(-1)[z]
    return (rng.random((n, 1)) > cumulated).sum(-1).clip(0, 4)


def rated(rng, n=200, people=5, k=3, right=0.7):
    """What people say, who are right with probability `right`."""
    truth, wrong = rng.integers(k, size=n), rng.integers(k, size=(n, people))
    return np.where(rng.random((n, people)) < right, truth[:, None], wrong)


def mixed(rng, n=300):
    """Three fields that a state feeds, and columns of noise in large units."""
    z = rng.integers(3, size=n)
    return {
        "x": np.array([0.0, 2.5, 2.5])[z] + rng.normal(size=n),
        "y": rng.poisson(np.array([3.0, 3.0, 9.0])[z]),
        "label": np.where(rng.random(n) < 0.5, z, rng.integers(3, size=n)),
        "other": 1e6 * rng.normal(size=(n, 4)),
    }


def courses(rng, n=150, visits=5):
    """Courses of three groups."""
    z, t = rng.integers(3, size=n), np.arange(visits)
    return (
        np.array([0.0, 1.0, 3.0])[z, None]
        + np.array([1.0, 0.0, -0.7])[z, None] * t
        + 1.2 * rng.normal(size=(n, visits))
    )


def factors(rng, n=200, d=8, q=2):
    """Rows of a factor model, in units that differ."""
    return (rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + rng.normal(size=(n, d))) * np.logspace(-2, 3, d) + 50


CASES = {
    "Normal mixture": Case(Univariate(), clusters),
    "Normal mixture, columns 1e6 and 1e-3": Case(
        Columns(), lambda rng: clusters(rng, 400, 4, 2) * [1e6, 1e-3] + [0, 5]
    ),
    "Normal mixture, full": Case(Full(), correlated),
    "Normal mixture, priors": Case(Priors(), clusters, ("em", "cavi")),
    "Normal mixture, priors from 1e6 and 1e-3": Case(
        ColumnPriors(), lambda rng: clusters(rng, 300, 3, 2) * [1e6, 1e-3], ("em", "cavi")
    ),
    "Poisson mixture": Case(Counts(), lambda rng: rng.poisson(np.array([2.0, 9.0, 30.0])[rng.integers(3, size=300)])),
    "Poisson mixture, priors": Case(
        CountColumns(),
        lambda rng: rng.poisson(rng.gamma(2.0, 2.5, size=(3, 4))[rng.integers(3, size=300)]),
        ("em", "cavi"),
    ),
    "latent classes, priors": Case(Classes(), labels, ("em", "cavi")),
    "Bernoulli mixture": Case(
        Binaries(), lambda rng: (rng.random((300, 12)) < rng.random((3, 12))[rng.integers(3, size=300)]).astype(int)
    ),
    "Exponential mixture": Case(Waits(), lambda rng: rng.exponential(np.array([1.0, 20.0])[rng.integers(2, size=300)])),
    "Gamma mixture": Case(
        Gammas(), lambda rng: rng.gamma(np.array([3.0, 12.0])[z := rng.integers(2, size=300)]) * np.array([1.0, 2.0])[z]
    ),
    "mixture of lines": Case(Lines(), lines),
    "lines that cross, priors": Case(
        LinePriors(k=2), lambda rng: lines(rng, slopes=(2.0, -2.0), noise=0.3, levels=0.0), ("em", "cavi")
    ),
    "mixture of lines, priors": Case(LinePriors(), lambda rng: lines(rng, slopes=(2.0, 0.0, -2.0)), ("em", "cavi")),
    "mixture of Poisson regressions": Case(CountLines(), count_lines),
    "chain, Normal": Case(Chain(), lambda rng: 2.5 * (z := path(rng)) + rng.normal(size=len(z))),
    "chain, Poisson": Case(Chain(emission="poisson"), lambda rng: rng.poisson(np.array([2.0, 6.0, 15.0])[path(rng)])),
    "chain, symbols, priors": Case(Symbols(), symbols),
    "factors": Case(Loadings(), factors),
    "random effects": Case(Levels(), lambda rng: 1e3 + rng.normal(size=(40, 1)) + 2 * rng.normal(size=(40, 4))),
    "raters": Case(Raters(), rated),
    "mixed fields": Case(Mixed(), mixed),
    "Binomial mixture": Case(
        Trials(), lambda rng: rng.binomial(20, rng.beta(2, 2, size=(3, 3))[rng.integers(3, size=300)])
    ),
    "courses": Case(Curves(), courses),
    "Normal mixture, 8 clusters": Case(Columns(k=8), lambda rng: clusters(rng, 600, 8, 3)),
    "latent classes of 5, priors": Case(Classes(k=5), lambda rng: labels(rng, 500, 10, 5), ("em", "cavi")),
    "mixture of 4 lines, priors": Case(
        LinePriors(k=4), lambda rng: lines(rng, 400, (3.0, 1.0, -1.0, -3.0)), ("em", "cavi")
    ),
    "chain of 5, Normal": Case(Chain(k=5), lambda rng: 2.5 * (z := path(rng, 500, 5)) + rng.normal(size=len(z))),
    "Laplace mixture": Case(Heavy(), clusters),
}
