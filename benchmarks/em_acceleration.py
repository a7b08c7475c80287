"""E-steps and CPU time of EM and CAVI with and without acceleration, and how far from the limit each says it has come.

Run with: python benchmarks/em_acceleration.py [--only NAME]

Both start at the same place and stop by the same rule. The limit is where an accelerated fit of tolerance 1e-11 ends;
what is left to it is what "within 1e-06 of the limit" has to cover. Where that is negative, the end is above that one.
"""

import argparse
import time
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from timing import machine, table
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, fit
from inference.coordinate.ascent import Coordinates

MOST = 5_000  # steps without acceleration


class DawidSkene(zoo.Model):
    """Several people classify the same items, each with errors of their own (Dawid and Skene 1979)."""

    answer = zoo.Category("item", "person")
    classes: int = 2

    def forward(self, answer):
        k, people = self.classes, answer.shape[1]
        shares = pyro.param("shares", torch.ones(k) / k, constraint=constraints.simplex)
        start = torch.full((people, k, k), 0.3 / (k - 1)) + torch.eye(k) * (0.7 - 0.3 / (k - 1))
        error = pyro.param("error", start, constraint=constraints.simplex)
        with pyro.plate("item", len(answer)):
            z = pyro.sample("z", dist.Categorical(shares))
            pyro.sample("answer", dist.Categorical(error[torch.arange(people), z[..., None]]).to_event(1), obs=answer)


class ZeroInflated(zoo.Model):
    """Counts, of which some are 0 whatever the rate."""

    y = zoo.Count("row")

    def forward(self, y):
        gate = pyro.param("gate", torch.tensor(0.5), constraint=constraints.unit_interval)
        rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(gate))
            pyro.sample("y", dist.Poisson(rate * (1 - z) + 1e-9 * z), obs=y)


class RandomEffects(zoo.Model):
    """Batches of measurements about levels of their own (one-way layout)."""

    y = zoo.Real("batch", "measurement")

    def forward(self, y):
        center = pyro.param("center", y.mean())
        between = pyro.param("between", y.std(), constraint=constraints.positive)
        within = pyro.param("within", y.std(), constraint=constraints.positive)
        with pyro.plate("batch", len(y)):
            level = pyro.sample("level", dist.Normal(center, between))
            pyro.sample("y", dist.Normal(level[..., None], within).expand(y.shape).to_event(1), obs=y)


def overlapping(n=600, d=2, k=3, gap=1.5, seed=1):
    """Gaussian clusters that overlap."""
    rng = np.random.default_rng(seed)
    return gap * rng.normal(size=(k, d))[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def factors(n=200, d=8, q=2, noise=1.0, seed=2):
    """Rows of a factor model."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + noise * rng.normal(size=(n, d))


def answers(n=150, people=5, k=3, right=0.6, seed=3):
    """What people say, who are right with probability `right`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(k, size=n)
    wrong = rng.integers(k, size=(n, people))
    return np.where(rng.random((n, people)) < right, truth[:, None], wrong)


def chain(n=500, seed=4):
    """A hidden chain of two states whose emissions overlap."""
    rng = np.random.default_rng(seed)
    z = [0]
    for _ in range(n - 1):
        z.append(z[-1] if rng.random() < 0.9 else 1 - z[-1])
    return np.array(z) * 1.5 + rng.normal(size=n)


def zero_inflated(n=400, seed=5):
    """Small counts with too many zeros."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.3, 0, rng.poisson(1.2, size=n))


def layout(batches=30, each=3, between=0.2, seed=6):
    """Batches that differ little."""
    rng = np.random.default_rng(seed)
    return between * rng.normal(size=(batches, 1)) + rng.normal(size=(batches, each))


def cases():
    """Name -> model, data, method."""
    iris = zoo.datasets.load("iris").select_dtypes("number").to_numpy()
    faithful = zoo.datasets.load("faithful")
    gas = zoo.datasets.load("whiteside").rename(columns={"temperature": "x", "gas": "y"})[["x", "y"]]
    return {
        "GMM(2), Old Faithful": (zoo.GMM(components=2), faithful, EM),
        "GMM(3), Old Faithful": (zoo.GMM(components=3), faithful, EM),
        "GMM(3), overlapping": (zoo.GMM(components=3), overlapping(), EM),
        "GMM(4) tied, overlapping": (zoo.GMM(components=4, covariance="tied"), overlapping(k=4), EM),
        "FactorAnalysis(1), iris": (zoo.FactorAnalysis(factors=1), iris, EM),
        "FactorAnalysis(2)": (zoo.FactorAnalysis(factors=2), factors(), EM),
        "FactorAnalysis(3), noisy": (zoo.FactorAnalysis(factors=3), factors(q=3, noise=2.0), EM),
        "PPCA(2)": (zoo.PPCA(factors=2), factors(noise=2.0), EM),
        "LatentClass(3)": (zoo.LatentClass(components=3), answers(), EM),
        "Dawid-Skene(3)": (DawidSkene(classes=3), answers(), EM),
        "Dawid-Skene(2), vague": (DawidSkene(classes=2), answers(k=2, right=0.3), EM),
        "HiddenMarkov(2)": (zoo.HiddenMarkov(components=2), chain(), EM),
        "PoissonMixture(3)": (zoo.PoissonMixture(components=3), zero_inflated(), EM),
        "zero-inflated Poisson": (ZeroInflated(), zero_inflated(), EM),
        "random effects": (RandomEffects(), layout(), EM),
        "BayesianGMM(3)": (zoo.BayesianGMM(components=3), overlapping(), CAVI),
        "BayesianGMM(3), Old Faithful": (zoo.BayesianGMM(components=3), faithful, CAVI),
        "MixtureOfRegressions(2)": (zoo.MixtureOfRegressions(components=2), gas, EM),
    }


def counted(model, data, method):
    """Fit, E-steps and CPU seconds."""
    steps, plain = [0], Coordinates.expect

    def expect(self, state):
        steps[0] += 1
        return plain(self, state)

    Coordinates.expect = expect
    try:
        began = time.process_time()
        found = fit(model, data, method=method, seed=0, progress=False)
        return found, steps[0], time.process_time() - began
    finally:
        Coordinates.expect = plain


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")
    print(machine())
    header = ("model", "method", "plain E-steps", "s", "left", "accelerated", "s", "left")
    lines = []
    for name, (model, data, method) in cases().items():
        if only not in name:
            continue
        limit = fit(model, data, method=method(tolerance=1e-11, max_steps=3000), seed=0, progress=False)
        ends = [counted(model, data, method(acceleration=a, max_steps=m)) for a, m in ((None, MOST), ("auto", 1000))]
        row = [name, method.__name__.lower()]
        for found, steps, seconds in ends:
            star = "" if found.converged else "*"
            row += [f"{steps}{star}", f"{seconds:.2f}", f"{limit.objective.value - found.objective.value:.1e}"]
        lines.append(row)
        table(header if len(lines) == 1 else row, [row] if len(lines) == 1 else [], (30, 6, 14, 6, 8, 12, 6, 8))
    print("* not converged")


if __name__ == "__main__":
    main()
