"""The same fits on a GPU and on the CPU beside it: EM of a large mixture, and training of a variational autoencoder.

Run with: python benchmarks/gpu.py [--rows 5000000] [--repeats 3]

EM: full covariances, 16 features, 32 components; the difference between a short and a longer fit from the same start,
divided by the steps between. Autoencoder: 784-400-50, batches of 256 and of 2048, in turn with a hand-written loop on
the same GPU. The last column of the first table is the relative difference of the two devices' log likelihoods.
"""

import argparse

import numpy as np
import torch
from em_against_sklearn import rows, start
from timing import machine, paired, per_step, table
from vae_step import by_hand, images, ours

import zoo
from inference import EM, fit

FEATURES, COMPONENTS, STEPS = 16, 32, 6


def em(x, device, dtype):
    """Seconds per step of EM, and the log likelihood after STEPS steps."""
    begin, _ = start(x, COMPONENTS, "full")
    method = EM(max_steps=STEPS, tolerance=0, start=begin)
    found = fit(zoo.GMM(COMPONENTS), x, method=method, seed=0, device=device, dtype=dtype, progress=False)
    return per_step(found.trace), found.objective.value


def mixtures(n, repeats):
    """One line per precision: both devices, the ratio, and the gap in log likelihood."""
    x = rows(n, FEATURES, COMPONENTS)
    for dtype in (torch.float64, torch.float32):
        values = {}

        def timed(device, dtype=dtype, values=values):
            time, values[device] = em(x, device, dtype)
            return time

        cuda, cpu = paired(repeats, lambda timed=timed: timed("cuda"), lambda timed=timed: timed("cpu"))
        gap = abs(values["cuda"] / values["cpu"] - 1)
        yield str(dtype)[6:], f"{1e3 * cuda:.1f}", f"{1e3 * cpu:.1f}", f"{cpu / cuda:.1f}", f"{gap:.0e}"


def autoencoders():
    """One line per batch size and kind of step, each in turn with a loop by hand."""
    x = images()
    for batch in (256, 2048):
        for name, how in (("eager", False), ("by default", "auto"), ("compiled", True)):
            mine, theirs = ours(x, how=how, device="cuda", batch=batch, others=[by_hand(x, device="cuda", batch=batch)])
            ratio = np.median(mine) / np.median(theirs)
            yield batch, name, *(f"{1e3 * np.median(t):.2f}" for t in (mine, theirs)), f"{ratio:.2f}"


def main():
    """Print two tables of best times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("torch sees no CUDA device here")
    print(machine())
    print(f"EM, {options.rows:,} x {FEATURES}, {COMPONENTS} components, full covariances")
    table(
        ("dtype", "cuda ms", "cpu ms", "ratio", "log-lik gap"),
        mixtures(options.rows, options.repeats),
        (8, 8, 8, 6, 12),
    )
    print("Autoencoder, one step")
    table(("batch", "step", "ms", "by hand", "ratio"), autoencoders(), (6, 11, 8, 8, 6))


if __name__ == "__main__":
    main()
