"""Time of a whole fit on Old Faithful, K = 2, in a fresh process, after import: the first fit and the ones after it.

Run with: python benchmarks/first_fit.py [--repeats 3]
"""

import json
import subprocess
import sys

from timing import repeats_asked, table

CODE = """
import json, time
import zoo, torch
from inference import fit, EM
rows = zoo.datasets.load("faithful")
import zoo.gmm
found = []
for _ in range(5):
    began = time.perf_counter()
    fit(zoo.GMM(components=2), rows, method=EM(), seed=0)
    found.append(time.perf_counter() - began)
print(json.dumps(found))
"""


def main():
    """Print the best times over fresh processes."""
    repeats = repeats_asked(__doc__)
    runs = []
    for _ in range(repeats):
        done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    best = [min(run[i] for run in runs) for i in range(5)]
    table(("fit", "ms"), [(str(i + 1), f"{1e3 * t:.1f}") for i, t in enumerate(best)], (5, 8))


if __name__ == "__main__":
    main()
