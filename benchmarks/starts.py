"""How often one fit at default settings ends where the best of many random starts does, for models users declare.

Run with: python benchmarks/starts.py [--only NAME] [--seeds 5] [--restarts 20]

Each seed has data of its own. An end counts as the best if it is no more than 1e-3 nats below the best end that any
fit of these data came to.
"""

import argparse
import time
import warnings

import numpy as np
from declared import CASES
from timing import machine, table

from inference import CAVI, EM, fit

METHODS = {"em": EM, "cavi": CAVI}
CLOSE = 1e-3  # nats
HEADER = ("model", "method", "reached", "random", "short of the best, nats", "s")
WIDTHS = (42, 6, 7, 6, 44, 5)


def climbed(model, data, method):
    """Objective at the end of a fit, minus infinity where it breaks down; and CPU seconds."""
    began = time.process_time()
    try:
        value = fit(model, data, method=method, seed=0, progress=False).objective.value
    except Exception as error:  # a start that breaks down is a start that ends nowhere
        print(f"   {type(error).__name__}: {str(error)[:160]}")
        value = -np.inf
    return value, time.process_time() - began


def main():
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--restarts", type=int, default=20)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    print(machine())
    table(HEADER, [], WIDTHS)
    hits = total = 0
    for name, case in CASES.items():
        if asked.only not in name:
            continue
        for kind in case.methods:
            gaps, lucky, seconds = [], 0.0, 0.0
            for seed in range(asked.seeds):
                data = case.data(np.random.default_rng(seed))
                value, took = climbed(case.model, data, METHODS[kind]())
                best, _ = climbed(case.model, data, METHODS[kind](restarts=asked.restarts, start="random"))
                single, _ = climbed(case.model, data, METHODS[kind](start="random"))
                gaps.append(max(best, value) - value)
                lucky += max(best, value, single) - single < CLOSE
                seconds += took
            reached = sum(gap < CLOSE for gap in gaps)
            hits, total = hits + reached, total + len(gaps)
            shown = " ".join(f"{g:.1g}" if np.isfinite(g) else "broke" for g in gaps)
            table(
                (name, kind, f"{reached}/{len(gaps)}", f"{int(lucky)}/{len(gaps)}", shown, f"{seconds:.1f}"), [], WIDTHS
            )
    print(f"{hits} of {total} fits")


if __name__ == "__main__":
    main()
