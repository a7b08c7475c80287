"""Time per EM iteration of Bernoulli and Poisson mixtures against pomegranate 1.1: same rows, same start.

Run with: pip install pomegranate==1.1.2 && python benchmarks/mixtures_against_pomegranate.py [--repeats 3]

Binary rows have the size of the MNIST training digits, 50,000 x 784. Both compute in float64 here.
"""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from timing import paired, per_step, repeats_asked, seconds, table
from torch.distributions import constraints

import zoo
from inference import EM, fit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pomegranate.distributions import Bernoulli, Poisson
    from pomegranate.gmm import GeneralMixtureModel

SHORT, LONG = 1, 6


class BernoulliMixture(zoo.Model):
    """Rows of zeros and ones from a few profiles."""

    x = zoo.Binary("row", "item")
    components: int = 10

    def forward(self, x):
        k = self.components
        weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
        probs = pyro.param("probs", torch.full((k, x.shape[1]), 0.5), constraint=constraints.unit_interval)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Bernoulli(probs[z]).to_event(1), obs=x)


class PoissonRows(zoo.Model):
    """Rows of counts from a few vectors of rates."""

    x = zoo.Count("row", "item")
    components: int = 10

    def forward(self, x):
        k = self.components
        weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
        rates = pyro.param("rates", torch.ones(k, x.shape[1]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rates[z]).to_event(1), obs=x)


def bernoulli(n=50_000, d=784, k=10):
    """Binary rows from k profiles, and a start."""
    rng = np.random.default_rng(0)
    profiles = rng.beta(0.5, 1.5, size=(k, d)) * 0.9 + 0.05
    x = (rng.random((n, d)) < profiles[rng.integers(k, size=n)]).astype(float)
    start = 0.25 + 0.5 * x[rng.choice(n, k, replace=False)]  # from rows: far from all of them components stay empty
    return "Bernoulli", BernoulliMixture(components=k), x, "probs", start, Bernoulli


def poisson(n=100_000, d=8, k=10):
    """Counts from k vectors of rates, and a start."""
    rng = np.random.default_rng(0)
    x = rng.poisson(rng.gamma(2.0, 2.0, size=(k, d))[rng.integers(k, size=n)]).astype(float)
    return "Poisson", PoissonRows(components=k), x, "rates", rng.gamma(4.0, 1.0, size=(k, d)), Poisson


def ours(model, x, begin):
    """Seconds per step, and the log likelihood at the end."""
    found = fit(model, x, method=EM(max_steps=LONG, tolerance=0, start=begin), seed=0, progress=False)
    return per_step(found.trace), found.objective.value


def theirs(x, values, family):
    """Seconds per step, and the log likelihood at the end."""
    rows = torch.tensor(x)

    def run(steps):
        parts = [family(torch.tensor(v)) for v in values]
        return GeneralMixtureModel(parts, max_iter=steps, tol=-1e30).double().fit(rows)

    time = seconds(lambda: run(LONG)) - seconds(lambda: run(SHORT))
    return time / (LONG - SHORT), float(run(LONG).log_probability(rows).sum())


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__)
    lines = []
    for case in (bernoulli, poisson):
        name, model, x, key, values, family = case()
        k, found = len(values), {}

        def mine(model=model, x=x, key=key, values=values, k=k, found=found):
            time, found["ours"] = ours(model, x, {"weights": np.full(k, 1 / k), key: values})
            return time

        def other(x=x, values=values, family=family, found=found):
            time, found["theirs"] = theirs(x, values, family)
            return time

        a, b = paired(repeats, mine, other)
        gap = abs(found["ours"] / found["theirs"] - 1)
        lines.append((name, *x.shape, k, f"{1e3 * a:.1f}", f"{1e3 * b:.1f}", f"{b / a:.1f}", f"{gap:.0e}"))
    table(
        ("mixture", "n", "d", "k", "ours ms", "pomegranate", "ratio", "log-lik gap"), lines, (10, 7, 4, 3, 9, 12, 6, 12)
    )


if __name__ == "__main__":
    main()
