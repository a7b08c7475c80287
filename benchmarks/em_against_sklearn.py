"""Time per EM iteration of `GMM` against scikit-learn's `GaussianMixture`: the same rows, the same kind of covariance.

Run with: python benchmarks/em_against_sklearn.py [--repeats 3]

Both are timed as the difference between a short and a longer run, so that starting values and set-up cancel; the two
libraries take turns. What carries over to another machine is the ratio.
"""

import argparse
import platform
import statistics
import time
import warnings

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

import zoo
from inference import EM, fit

SIZES = [(272, 2, 2), (100_000, 2, 3), (200_000, 8, 8), (200_000, 16, 16)]
SHORT, LONG = 2, 8


def rows(n, d, k, seed=0):
    """Draw rows from k components that overlap, so that EM has steps to take."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(k, d))
    return centers[rng.integers(k, size=n)] + rng.normal(size=(n, d))


def ours(x, k, covariance):
    """Seconds per iteration, from the trace of one run."""
    trace = fit(zoo.GMM(k, covariance), x, method=EM(max_steps=LONG, tolerance=1e-300), seed=0).trace
    seconds = trace["seconds"].to_numpy()
    return (seconds[-1] - seconds[SHORT]) / max(1, len(seconds) - 1 - SHORT)


def theirs(x, k, covariance):
    """Seconds per iteration, from the difference of two runs."""

    def run(steps):
        began = time.perf_counter()
        GaussianMixture(
            k, covariance_type=covariance, max_iter=steps, tol=0, init_params="random_from_data", random_state=0
        ).fit(x)
        return time.perf_counter() - began

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (run(LONG) - run(SHORT)) / (LONG - SHORT)


def main():
    """Print a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'n':>8} {'d':>3} {'k':>3} {'covariance':>10} {'ours ms':>9} {'sklearn ms':>11} {'ratio':>6}")
    for n, d, k in SIZES:
        x = rows(n, d, k)
        for covariance in ("full", "diag", "tied", "spherical"):
            pairs = [(ours(x, k, covariance), theirs(x, k, covariance)) for _ in range(repeats)]
            mine, other = (1e3 * statistics.median(p[i] for p in pairs) for i in (0, 1))
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"{n:>8} {d:>3} {k:>3} {covariance:>10} {mine:>9.2f} {other:>11.2f} {ratio:>6.2f}", flush=True)


if __name__ == "__main__":
    main()
