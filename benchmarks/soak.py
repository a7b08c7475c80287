"""Resident memory, open files, threads and cache folders of many small fits in one process.

Run with: python benchmarks/soak.py [--fits 5000] [--only NAME ...]

Models, methods and shapes take turns, so that what is kept by shape or by model would pile up. The last column is
memory against that after the first tenth, when what is imported, traced and compiled once is there (Linux only).
"""

import argparse
import gc
import os
import threading
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
from timing import machine, table

WIDTHS = (7, 9, 11, 8, 8, 10, 12, 9)


def jobs():
    """Name -> one small fit, of which the number makes the shape, and to every how many fits it comes once."""
    import zoo
    from inference import CAVI, EM, NUTS, SVI, Exact, Laplace

    rng = np.random.default_rng(0)

    def line(n):
        x = rng.normal(size=(n, 2))
        return {"x": x, "y": x.sum(1) + rng.normal(size=n)}

    def answers(n):
        found = line(n)
        return {**found, "y": (found["y"] > 0).astype(float)}

    def vae():
        return zoo.VAE(latent=1, hidden=(4,), likelihood="gaussian")

    return {
        "exact, BetaBernoulli": (1, lambda i: (zoo.BetaBernoulli(), 1.0 * rng.integers(0, 2, 30 + i % 5), Exact())),
        "exact, GammaPoisson": (1, lambda i: (zoo.GammaPoisson(), rng.poisson(3.0, 20 + i % 23), Exact())),
        "exact, NormalNormal": (1, lambda i: (zoo.NormalNormal(), rng.normal(size=10 + i % 50), Exact())),
        "exact, regression": (2, lambda i: (zoo.BayesianRegression(), line(40 + i % 11), Exact())),
        "EM, GMM": (2, lambda i: (zoo.GMM(components=2 + i // 2 % 3), rng.normal(size=(60 + i % 7, 2)), EM())),
        "EM, LatentClass": (2, lambda i: (zoo.LatentClass(components=2), rng.integers(0, 3, (40, 3)), EM())),
        "CAVI, BayesianGMM": (8, lambda i: (zoo.BayesianGMM(components=3), rng.normal(size=(50, 2)), CAVI())),
        "Laplace, logistic": (8, lambda i: (zoo.LogisticRegression(), answers(50 + i % 11), Laplace())),
        "SVI, recorded": (10, lambda i: (zoo.LogisticRegression(), answers(50 + i % 13), SVI(steps=100))),
        "SVI, as it is": (10, lambda i: (zoo.GMM(components=2), line(40)["x"], SVI(steps=50, compile=False))),
        "SVI, networks": (40, lambda i: (vae(), rng.normal(size=(64, 3)), SVI(epochs=5, batch_size=32))),
        "SVI, compiled": (
            200,
            lambda i: (zoo.LogisticRegression(), answers(50 + i % 3), SVI(steps=50, compile=True)),
        ),
        "NUTS": (100, lambda i: (zoo.LogisticRegression(), answers(50 + i % 3), NUTS(chains=2, warmup=50, draws=50))),
    }


def in_turn(chosen):
    """Fits without end: every job as often as it is to come."""
    number = 0
    while True:
        for name, (every, job) in chosen.items():
            if number % every == 0:
                yield name, job(number)
        number += 1


def status(entry):
    """An entry of this process's status, in KiB or as it is."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(entry)))


def measured(fits, every, only):
    """Fit one after the other, ask a little of each, and look at the process now and then."""
    from inference import fit
    from inference.compiled import kept

    chosen = {n: j for n, j in jobs().items() if not only or n in only}
    began, first = time.perf_counter(), None
    for done, (_, (model, data, method)) in enumerate(islice(in_turn(chosen), fits), 1):
        fit(model, data, method=method, seed=done, progress=False).summary()
        if done % every == 0:
            gc.collect()
            memory = status("RssAnon") / 2**10  # what files are mapped the system takes and gives as it likes
            first = first if first is not None or done < fits / 10 else memory
            yield (
                f"{done:,}",
                f"{time.perf_counter() - began:.0f}",
                f"{memory:.1f}",
                len(os.listdir("/proc/self/fd")),
                threading.active_count(),
                f"{len(gc.get_objects()):,}",
                f"{kept.size() / 2**20:.1f}",
                "" if first is None else f"{100 * (memory / first - 1):+.1f} %",
            )


def main():
    """Print a line every so many fits."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fits", type=int, default=5000)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--only", nargs="+", default=[])
    asked = parser.parse_args()
    warnings.simplefilter("ignore")  # the fits are too short for their verdicts
    print(machine())
    header = ("fits", "seconds", "memory MiB", "files", "threads", "objects", "compiled MiB", "growth")
    table(header, measured(asked.fits, asked.every, asked.only), WIDTHS)


if __name__ == "__main__":
    main()
