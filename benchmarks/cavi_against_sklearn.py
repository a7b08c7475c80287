"""Time per CAVI iteration of a Bayesian mixture against scikit-learn's `BayesianGaussianMixture`: same rows.

Run with: python benchmarks/cavi_against_sklearn.py [--repeats 3]

Both have full covariances and a Dirichlet prior on the weights.
"""

import warnings

from em_against_sklearn import rows
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture
from timing import paired, per_step, repeats_asked, seconds, table

import zoo
from inference import CAVI, fit

SIZES = [(272, 2, 6), (100_000, 2, 3), (200_000, 8, 8), (200_000, 16, 16)]
SHORT, LONG = 1, 6


def ours(x, k):
    """Seconds per step, from the trace of one fit."""
    return per_step(fit(zoo.BayesianGMM(k), x, method=CAVI(max_steps=LONG, tolerance=0), seed=0).trace)


def theirs(x, k):
    """Seconds per step, from the difference of two fits."""

    def run(steps):
        BayesianGaussianMixture(
            n_components=k,
            max_iter=steps,
            tol=0,
            init_params="random_from_data",
            weight_concentration_prior_type="dirichlet_distribution",
            random_state=0,
        ).fit(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return (seconds(lambda: run(LONG)) - seconds(lambda: run(SHORT))) / (LONG - SHORT)


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__)
    lines = []
    for n, d, k in SIZES:
        x = rows(n, d, k)
        a, b = paired(repeats, lambda x=x, k=k: ours(x, k), lambda x=x, k=k: theirs(x, k))
        lines.append((n, d, k, f"{1e3 * a:.2f}", f"{1e3 * b:.2f}", f"{b / a:.1f}"))
    table(("n", "d", "k", "ours ms", "sklearn ms", "ratio"), lines, (7, 3, 3, 9, 11, 6))


if __name__ == "__main__":
    main()
