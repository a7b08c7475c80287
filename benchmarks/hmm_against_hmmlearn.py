"""Time per EM iteration of hidden Markov models against hmmlearn: same rows, same start, same log likelihood.

Run with: pip install hmmlearn==0.3.3 && python benchmarks/hmm_against_hmmlearn.py [--repeats 3]
"""

import logging

import numpy as np
from hmmlearn.hmm import GaussianHMM, PoissonHMM
from timing import paired, per_step, repeats_asked, seconds, table

import zoo
from inference import EM, fit

SHORT, LONG = 1, 6
SIZES = [("normal", 10_000, 1, 3), ("normal", 100_000, 2, 8), ("poisson", 10_000, 1, 3), ("poisson", 100_000, 1, 8)]


def chain(n, k, rng):
    """States that stay where they are nine times in ten."""
    jump = rng.random(n) < 0.1
    target = rng.integers(k, size=n)
    where = np.maximum.accumulate(np.where(jump, np.arange(n), 0))
    return target[where]


def data(emission, n, d, k):
    """Rows of a chain, and a start."""
    rng = np.random.default_rng(0)
    z = chain(n, k, rng)
    transition = np.full((k, k), 0.3 / max(1, k - 1)) + (0.7 - 0.3 / max(1, k - 1)) * np.eye(k)
    begin = {"initial": np.full(k, 1 / k), "transition": transition}
    if emission == "normal":
        centers = 2 * rng.normal(size=(k, d))
        x = centers[z] + rng.normal(size=(n, d))
        begin |= {"means": centers + 0.5, "covariances": np.tile(np.eye(d), (k, 1, 1))}
    else:
        rates = 3.0 * (1 + np.arange(k))
        x = rng.poisson(rates[z][:, None], size=(n, d)).astype(float)
        begin |= {"rates": np.tile((rates + 1.0)[:, None], (1, d))}
    return x, begin


def ours(emission, x, k, begin):
    """Seconds per step, and the log likelihood at the end."""
    model = zoo.HiddenMarkov(components=k, emission=emission)
    shapes = {s.name: s.shape for s in zoo.program.prepare.prepare(model, x, device="cpu").parameters}
    begin = {n: np.asarray(v).reshape(shapes[n]) for n, v in begin.items()}
    found = fit(model, x, method=EM(max_steps=LONG, tolerance=0, start=begin), seed=0)
    return per_step(found.trace), found.objective.value


def theirs(emission, x, k, begin):
    """Seconds per step, and the log likelihood at the end."""

    def run(steps):
        settings = {"n_components": k, "n_iter": steps, "tol": -1e300, "init_params": ""}
        if emission == "normal":
            model = GaussianHMM(covariance_type="full", covars_prior=0, covars_weight=0, min_covar=0, **settings)
            model.means_, model.covars_ = begin["means"], begin["covariances"]
        else:
            model = PoissonHMM(**settings)
            model.lambdas_ = begin["rates"]
        model.startprob_, model.transmat_ = begin["initial"], begin["transition"]
        return model.fit(x if emission == "normal" else x.astype(int))

    time = seconds(lambda: run(LONG)) - seconds(lambda: run(SHORT))
    rows = x if emission == "normal" else x.astype(int)
    return time / (LONG - SHORT), run(LONG).score(rows)


def main():
    """Print a table of best times and ratios."""
    logging.getLogger("hmmlearn").setLevel(logging.ERROR)
    repeats = repeats_asked(__doc__)
    lines = []
    for emission, n, d, k in SIZES:
        x, begin = data(emission, n, d, k)
        found = {}

        def mine(emission=emission, x=x, k=k, begin=begin, found=found):
            time, found["ours"] = ours(emission, x, k, begin)
            return time

        def other(emission=emission, x=x, k=k, begin=begin, found=found):
            time, found["theirs"] = theirs(emission, x, k, begin)
            return time

        a, b = paired(repeats, mine, other)
        gap = abs(found["ours"] / found["theirs"] - 1)
        lines.append((emission, n, d, k, f"{1e3 * a:.2f}", f"{1e3 * b:.2f}", f"{b / a:.1f}", f"{gap:.0e}"))
    table(
        ("emission", "n", "d", "k", "ours ms", "hmmlearn ms", "ratio", "log-lik gap"), lines, (9, 7, 3, 3, 9, 12, 6, 12)
    )


if __name__ == "__main__":
    main()
