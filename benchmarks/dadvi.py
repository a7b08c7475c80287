"""Deterministic VI against mean-field SVI and Laplace: gradients, CPU seconds, and whether sds are right.

Posteriors are those of posteriordb in the folder that ZOO_REFERENCES names. An answer has the sds if none is more than
10 % off, beyond three Monte Carlo errors of the reference. Gradients are of the log joint over all rows: a step of SVI
takes as many as it has draws, and a product of second derivatives with a vector counts as two. Seconds are CPU
seconds of the whole fit with its verdict. Run with:
python benchmarks/dadvi.py [--methods dadvi batch-and-match laplace svi] [--only kidiq eight]
"""

import argparse
import os
import statistics
import time
import warnings
from pathlib import Path

from posteriors import references
from timing import machine, table
from verdicts import SD_OFF, worst

from guides import FullRank
from inference import SVI, fit
from inference.method import as_method
from inference.variational.per_step import PARTICLES
from zoo.errors import ZooError

MATCH = SVI(guide=FullRank(), optimizer="batch-and-match")


def run(known, method):
    """Gradients, CPU seconds, how far the worst sd is off, and the first words of the verdict."""
    began = time.process_time()
    try:
        found = fit(known.model, known.data, method=method, seed=0, progress=False)
    except ZooError:
        return None
    seconds = time.process_time() - began
    (_, sd), _ = worst(found, known)
    each = PARTICLES if isinstance(method, SVI) else 1
    return int(found.diagnostics.get("gradients", found.steps * each)), seconds, sd, found.verdict.partition(":")[0]


def main():
    """Print a line for each posterior and method, and a table of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="*", default=["dadvi", "batch-and-match", "laplace", "svi"])
    parser.add_argument("--only", nargs="*", help="names of posteriors, or parts of them")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    done = {m: [] for m in asked.methods}
    for name, known in references(Path(os.environ["ZOO_REFERENCES"])):
        if asked.only and not any(part in name for part in asked.only):
            continue
        for method in asked.methods:
            line = run(known, MATCH if method == "batch-and-match" else as_method(method))
            done[method].append(line)
            said = "failed" if line is None else f"{line[0]:7} {line[1]:7.1f} s {line[2]:7.3f}  {line[3]}"
            print(f"{name:42} {method:15} {said}", flush=True)
    print(machine())
    rows = []
    for method, lines in done.items():
        ended = [x for x in lines if x is not None]
        right = sum(x[2] <= SD_OFF for x in ended)
        medians = [f"{statistics.median(x[i] for x in ended):.{i}f}" for i in (0, 1)] if ended else ["-", "-"]
        rows.append([method, *medians, f"{right} of {len(lines)}"])
    table(["method", "gradients", "CPU seconds", "sds within 10 %"], rows, [15, 10, 12, 16])


if __name__ == "__main__":
    main()
