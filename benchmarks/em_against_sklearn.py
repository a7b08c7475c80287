"""Time per EM iteration against scikit-learn's `GaussianMixture`: same rows, same start, same log likelihood.

Run with: python benchmarks/em_against_sklearn.py [--repeats 3] [--small]

Four ways are timed: `zoo.GMM`, the same mixture declared by hand in fifteen lines (full covariances), and scikit-learn.
Each runs a short and a longer fit from the same start, and the difference is divided by the steps between. What carries
over to another machine is the ratio.
"""

import argparse
import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from timing import machine, paired, per_step, seconds, table
from torch.distributions import constraints

import zoo
from inference import EM, fit

SIZES = [(272, 2, 2), (100_000, 2, 3), (200_000, 8, 8), (200_000, 16, 16), (50_000, 64, 32)]
SHORT, LONG = 1, 6


class ByHand(zoo.Model):
    """A Gaussian mixture as a user would declare it."""

    x = zoo.Real("row", "feature")
    components: int = 2

    def forward(self, x):
        k, d = self.components, x.shape[1]
        weights = pyro.param("weights", torch.ones(k) / k, constraint=constraints.simplex)
        means = pyro.param("means", torch.zeros(k, d))
        covariances = pyro.param("covariances", torch.eye(d).repeat(k, 1, 1), constraint=constraints.positive_definite)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.MultivariateNormal(means[z], covariances[z]), obs=x)


def rows(n, d, k, seed=0):
    """Draw rows from k components that overlap, so that EM has steps to take."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, d))
    return centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def start(x, k, covariance, seed=1):
    """Equal weights, means at random rows, the variances of the data."""
    means = x[np.random.default_rng(seed).choice(len(x), k, replace=False)]
    d, spread = x.shape[1], x.var(0)
    covariances = {
        "full": np.tile(np.diag(spread), (k, 1, 1)),
        "tied": np.diag(spread),
        "diag": np.tile(spread, (k, 1)),
        "spherical": np.full(k, spread.mean()),
    }[covariance]
    return {"weights": np.full(k, 1 / k), "means": means, "covariances": covariances}, d


def ours(model, x, begin):
    """Seconds per step, and the log likelihood after LONG steps."""
    found = fit(model, x, method=EM(max_steps=LONG, tolerance=0, start=begin), seed=0)
    return per_step(found.trace), found.objective.value


def theirs(x, k, covariance, begin):
    """Seconds per step, and the log likelihood after LONG steps."""
    matrix = begin["covariances"]
    precisions = np.linalg.inv(matrix) if covariance in ("full", "tied") else 1 / matrix

    def run(steps):
        return GaussianMixture(
            k,
            covariance_type=covariance,
            max_iter=steps,
            tol=0,
            reg_covar=0,
            weights_init=begin["weights"],
            means_init=begin["means"],
            precisions_init=precisions,
        ).fit(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        time = seconds(lambda: run(LONG)) - seconds(lambda: run(SHORT))
        return time / (LONG - SHORT), run(LONG).score(x) * len(x)


def compare(n, d, k, covariance, repeats):
    """One line of the table."""
    x = rows(n, d, k)
    begin, _ = start(x, k, covariance)
    values = {}

    def timed(name, function):
        def call():
            time, values[name] = function()
            return time

        return call

    runs = [
        timed("ours", lambda: ours(zoo.GMM(k, covariance), x, begin)),
        timed("theirs", lambda: theirs(x, k, covariance, begin)),
    ]
    if covariance == "full":
        runs.append(timed("hand", lambda: ours(ByHand(components=k), x, begin)))
    times = paired(repeats, *runs)
    gap = abs(values["ours"] / values["theirs"] - 1)
    hand = f"{times[0] / times[2]:.0%}" if len(times) > 2 else "-"
    mine, other = (1e3 * t for t in times[:2])
    return n, d, k, covariance, f"{mine:.2f}", f"{other:.2f}", f"{other / mine:.1f}", f"{gap:.0e}", hand


def main():
    """Print a table of best times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="leave out the largest sizes")
    options = parser.parse_args()
    print(machine())
    header = ("n", "d", "k", "covariance", "ours ms", "sklearn ms", "ratio", "log-lik gap", "by hand")
    sizes = SIZES[:2] if options.small else SIZES
    lines = (
        compare(*size, covariance, options.repeats)
        for size in sizes
        for covariance in (("full", "diag", "tied", "spherical") if size[1] < 64 else ("full",))
    )
    table(header, lines, (7, 3, 3, 10, 9, 11, 6, 12, 8))


if __name__ == "__main__":
    main()
