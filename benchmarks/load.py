"""Time and peak memory of large jobs: a million rows, 2,000 columns, 500 components, 10,000 sequences.

Run with: python benchmarks/load.py [--only NAME] [--rows 1000000]

Each job is one fit in a process of its own (Linux only). Beside its peak resident memory stands that of the process
before the fit, which has torch, Pyro and the data in it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from timing import machine, table

WIDTHS = (30, 22, 9, 9, 9, 9, 9)


def jobs(rows):
    """Name -> how large, and a function that returns model, data and method."""
    import zoo
    from inference import CAVI, EM, MAP, NUTS, SVI, Exact, Laplace

    def clusters(n, d, k, seed=0):
        rng = np.random.default_rng(seed)
        centres = 4.0 * rng.normal(size=(k, d))
        return centres[rng.integers(k, size=n)] + rng.normal(size=(n, d))

    def lines(n, d, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, d))
        return {"x": x, "y": x @ rng.normal(size=d) + rng.normal(size=n)}

    def answers(n, d, seed=0):
        found = lines(n, d, seed)
        return {**found, "y": (found["y"] > 0).astype(float)}

    def flips(n, seed=0):
        return (np.random.default_rng(seed).random(n) < 0.3).astype(float)

    def levels(n, d, seed=0):
        rng = np.random.default_rng(seed)
        p = rng.dirichlet(np.ones(4), size=(3, d)).cumsum(-1)
        return (rng.random((n, d, 1)) > p[rng.integers(3, size=n)]).sum(-1).clip(0, 3)

    def sequences(count, length, seed=0):
        rng = np.random.default_rng(seed)
        z = (rng.random((count, length)) < 0.1).cumsum(1) % 2
        return (3.0 * z + rng.normal(size=z.shape)).reshape(-1, 1)  # one below the other

    n = rows
    return {
        "GMM, EM": (f"{n:,} x 10, K=3", lambda: (zoo.GMM(components=3), clusters(n, 10, 3), EM())),
        "GMM, SVI": (f"{n:,} x 10, K=3", lambda: (zoo.GMM(components=3), clusters(n, 10, 3), SVI(steps=1000))),
        "GMM, MAP": (f"{n:,} x 10, K=3", lambda: (zoo.GMM(components=3), clusters(n, 10, 3), MAP())),
        "BayesianGMM, CAVI": (f"{n:,} x 10, K=3", lambda: (zoo.BayesianGMM(components=3), clusters(n, 10, 3), CAVI())),
        "KMeans, EM": (f"{n:,} x 10, K=10", lambda: (zoo.KMeans(clusters=10), clusters(n, 10, 10), EM())),
        "LatentClass, EM": (f"{n:,} x 10, K=3", lambda: (zoo.LatentClass(components=3), levels(n, 10), EM())),
        "BetaBernoulli, exact": (f"{n:,}", lambda: (zoo.BetaBernoulli(), flips(n), Exact())),
        "BayesianRegression, exact": (f"{n:,} x 10", lambda: (zoo.BayesianRegression(), lines(n, 10), Exact())),
        "LogisticRegression, SVI": (f"{n:,} x 10", lambda: (zoo.LogisticRegression(), answers(n, 10), SVI(steps=1000))),
        "LogisticRegression, Laplace": (f"{n:,} x 10", lambda: (zoo.LogisticRegression(), answers(n, 10), Laplace())),
        "LogisticRegression, NUTS": (
            f"{n // 100:,} x 10",
            lambda: (zoo.LogisticRegression(), answers(n // 100, 10), NUTS(chains=2)),
        ),
        "PPCA, EM": (f"{n:,} x 10", lambda: (zoo.PPCA(factors=2), clusters(n, 10, 3), EM())),
        "VAE, SVI, 1 epoch": (f"{n:,} x 10", lambda: (_vae(), clusters(n, 10, 3), SVI(epochs=1, batch_size=1000))),
        "BayesianRegression, wide": ("5,000 x 2,000", lambda: (zoo.BayesianRegression(), lines(5000, 2000), Exact())),
        "PPCA, wide": ("5,000 x 2,000", lambda: (zoo.PPCA(factors=5), clusters(5000, 2000, 3), EM())),
        "FactorAnalysis, wide": (
            "5,000 x 2,000",
            lambda: (zoo.FactorAnalysis(factors=5), clusters(5000, 2000, 3), EM()),
        ),
        "GMM diag, wide": (
            "5,000 x 2,000, K=5",
            lambda: (zoo.GMM(components=5, covariance="diag"), clusters(5000, 2000, 5), EM()),
        ),
        "GMM, many components": (
            "100,000 x 10, K=500",
            lambda: (zoo.GMM(components=500), clusters(100_000, 10, 500), EM(max_steps=20)),
        ),
        "KMeans, many components": (
            "100,000 x 10, K=500",
            lambda: (zoo.KMeans(clusters=500), clusters(100_000, 10, 500), EM()),
        ),
        "HiddenMarkov, EM": (
            "10,000 sequences x 100",
            lambda: (zoo.HiddenMarkov(components=2, lengths=(100,) * 10_000), sequences(10_000, 100), EM()),
        ),
    }


def _vae():
    import zoo

    return zoo.VAE(latent=2, hidden=(32,), likelihood="gaussian")


def resident(entry):
    """Memory of this process in GiB: VmRSS now, or VmHWM at its highest. Not getrusage, which remembers the parent."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(entry))) / 2**20


def measure(name, rows):
    """Fit and ask for a summary; print seconds and memory as JSON."""
    from inference import fit

    model, data, method = jobs(rows)[name][1]()
    before = resident("VmRSS")
    found = fit(model, data, method=method, seed=0, progress=False)
    began = time.perf_counter()
    found.summary()
    first = time.perf_counter() - began
    print(json.dumps([found.seconds, first, before, resident("VmHWM"), bool(found.converged)]))


def main():
    """Measure each job."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--measure")
    asked = parser.parse_args()
    if asked.measure:
        return measure(asked.measure, asked.rows)
    print(machine())
    table(("job", "size", "fit s", "summary s", "data GiB", "peak GiB", "converged"), _rows(asked), WIDTHS)


def _rows(asked):
    for name, (size, _) in jobs(asked.rows).items():
        if asked.only not in name:
            continue
        command = [sys.executable, __file__, "--rows", str(asked.rows), "--measure", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            yield (name, size, done.stderr.strip().splitlines()[-1], *[""] * 4)
            continue
        seconds, first, before, peak, converged = json.loads(done.stdout.splitlines()[-1])
        yield name, size, f"{seconds:.1f}", f"{first:.1f}", f"{before:.2f}", f"{peak:.2f}", str(converged)


if __name__ == "__main__":
    main()
