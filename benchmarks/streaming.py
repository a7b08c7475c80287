"""Peak memory and time of EM over rows streamed from disk, n x 4, K = 3: linear in rows, memory bounded.

Run with: python benchmarks/streaming.py [--rows 5000000 10000000 20000000] [--folder /tmp]

Each size is fitted in a process of its own, whose peak resident memory is reported (Linux only).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import machine, table

STEPS = 5


def write(path, rows, seed=0):
    """Write rows from three components, a part at a time."""
    rng = np.random.default_rng(seed)
    centers = 3 * rng.normal(size=(3, 4))
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(rows, 4))
    for start in range(0, rows, 1_000_000):
        stop = min(start + 1_000_000, rows)
        file[start:stop] = centers[rng.integers(3, size=stop - start)] + rng.normal(size=(stop - start, 4))
    file.flush()


def measure(path):
    """Fit, and print seconds and peak memory as JSON."""
    import zoo
    from inference import EM, fit

    found = fit(zoo.GMM(3), zoo.stream(path), method=EM(max_steps=STEPS, tolerance=0), seed=0)
    status = Path("/proc/self/status").read_text()  # not getrusage, which remembers the process that started this one
    peak = 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(json.dumps({"seconds": found.seconds, "peak": peak, "passes": len(found.trace)}))


def main():
    """Print a table of sizes, times and peaks."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000_000, 10_000_000, 20_000_000])
    parser.add_argument("--folder", default=None)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    print(machine())
    lines = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            path = Path(folder) / "rows.npy"
            write(path, rows)
            command = [sys.executable, __file__, "--measure", str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        peak, time = found["peak"] / 2**30, found["seconds"]
        lines.append((f"{rows:,}", found["passes"], f"{time:.1f}", f"{1e6 * time / rows:.3f}", f"{peak:.2f}"))
    table(("rows", "E-steps", "seconds", "us per row", "peak GiB"), lines, (12, 8, 9, 11, 9))


if __name__ == "__main__":
    main()
