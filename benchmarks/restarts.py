"""Time of ten restarts of EM in one tensor program against single fits, n = 10,000.

Run with: python benchmarks/restarts.py [--repeats 3]

All take the same number of steps.
"""

from em_against_sklearn import rows
from timing import paired, repeats_asked, seconds, table

import zoo
from inference import EM, fit

SIZES = [(10_000, 2, 3), (10_000, 4, 4), (10_000, 8, 5)]
STEPS = 200


def run(x, k, restarts):
    """Seconds of one fit."""
    method = EM(max_steps=STEPS, tolerance=0, restarts=restarts)
    return seconds(lambda: fit(zoo.GMM(k), x, method=method, seed=0))


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__)
    lines = []
    for n, d, k in SIZES:
        x = rows(n, d, k)
        one, ten = paired(repeats, lambda x=x, k=k: run(x, k, 1), lambda x=x, k=k: run(x, k, 10))
        lines.append((n, d, k, f"{one:.3f}", f"{ten:.3f}", f"{ten / one:.2f}"))
    table(("n", "d", "k", "one s", "ten s", "ten / one"), lines, (7, 3, 3, 8, 8, 10))


if __name__ == "__main__":
    main()
