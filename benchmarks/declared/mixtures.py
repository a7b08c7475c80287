"""Mixtures as users declare them, without starting values of their own."""

import pyro
import pyro.distributions as dist
import torch
from torch.distributions import constraints

import zoo

POSITIVE = constraints.positive


def shares(k):
    """Weights of k states, without a prior."""
    return pyro.param("shares", torch.ones(k) / k, constraint=constraints.simplex)


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
