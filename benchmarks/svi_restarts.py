"""Time of 32 restarts of mean-field SVI in one tensor program against one, Bayesian mixture, 272 x 2.

Run with: python benchmarks/svi_restarts.py [--repeats 3]

All take the same number of steps.
"""

from timing import paired, repeats_asked, seconds, table

import zoo
from inference import SVI, fit

STEPS = 1000


def run(restarts, how):
    """Seconds of one fit."""
    method = SVI(steps=STEPS, schedule="constant", restarts=restarts, compile=how)
    model = zoo.BayesianGMM(3, covariance="diag")
    return seconds(lambda: fit(model, "faithful", method=method, seed=0, progress=False))


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__)
    lines = []
    for how, name in (("auto", "default"), (False, "eager"), (True, "compiled")):
        run(1, how), run(32, how)  # what is compiled is kept on disk
        one, many = paired(repeats, lambda how=how: run(1, how), lambda how=how: run(32, how))
        lines.append((name, f"{one:.2f}", f"{many:.2f}", f"{many / one:.2f}"))
    table(("", "one s", "32 s", "32 / one"), lines, (10, 8, 8, 9))


if __name__ == "__main__":
    main()
