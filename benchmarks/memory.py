"""Peak memory of training a variational autoencoder and of evaluating it, beside loops written by hand.

Run with: python benchmarks/memory.py [--rows 10000] [--network mlp conv] [--epochs 2]

Images of 28 x 28 zeros and ones, batches of 128; the networks of `vae_step.py`. Each number is of a process of its own,
the largest resident set that the system has seen, in MiB; "nothing" has imported the same and made the data. "with
evaluation" adds the importance-weighted log density of 500 rows with 500 draws after that training.
"""

import argparse
import resource
import subprocess
import sys

import numpy as np
import torch
import vae_step
from timing import machine, table
from torch.nn import functional as F

import zoo
from guides import Encoder
from inference import SVI, fit

EVALUATED, DRAWS, CHUNK, BATCH = 500, 500, 50, 128


def by_hand(x, kind, epochs, *, evaluated):
    """Train a plain loop, and evaluate it a few draws at a time."""
    step = vae_step.by_hand(x, kind, batch=BATCH)
    for _ in range(epochs * (len(x) // BATCH)):
        step()
    if not evaluated:
        return
    encoder, decoder = vae_step.networks(kind)
    rows, logs = torch.as_tensor(vae_step.shaped(x[:EVALUATED], kind)), []
    with torch.no_grad():
        loc, log_scale = encoder(rows).chunk(2, -1)
        for _ in range(DRAWS // CHUNK):
            noise = torch.randn(CHUNK, *loc.shape)
            z = loc + log_scale.exp() * noise
            logits = decoder(z.flatten(0, 1)).reshape(CHUNK, *rows.shape)
            log_p = -F.binary_cross_entropy_with_logits(logits, rows.expand_as(logits), reduction="none")
            log_p = log_p.flatten(2).sum(-1)
            logs.append(log_p + (0.5 * (noise.square() - z.square()) + log_scale).sum(-1))
    torch.cat(logs).logsumexp(0)


def ours(x, kind, epochs, *, evaluated):
    """Fit, and ask for the density of rows."""
    guide = Encoder(hidden=(vae_step.HIDDEN,), network=kind)
    method = SVI(guide=guide, batch_size=BATCH, epochs=epochs, schedule="constant")
    model = zoo.VAE(latent=vae_step.LATENT, hidden=(vae_step.HIDDEN,), decoder=kind)
    found = fit(model, vae_step.shaped(x, kind), method=method, seed=0, progress=False)
    if evaluated:
        found.log_prob(vae_step.shaped(x[:EVALUATED], kind), samples=DRAWS)


RUNS = {"nothing": lambda *_, **__: None, "by hand": by_hand, "ours": ours}


def peak(name, kind, given, evaluated):
    """MiB at the peak of a process that does this."""
    settings = [name, kind, str(given.rows), str(given.epochs), str(int(evaluated))]
    command = [sys.executable, __file__, "--one", *settings]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) / 1024


def lines(given):
    """One line for each network and part."""
    for kind in given.network:
        least = peak("nothing", kind, given, False)
        for part, evaluated in (("training", False), ("with evaluation", True)):
            mine, theirs = (peak(name, kind, given, evaluated) for name in ("ours", "by hand"))
            yield kind, part, f"{least:.0f}", f"{theirs:.0f}", f"{mine:.0f}", f"{mine / theirs:.2f}"


def main():
    """Print a table, or do one of its parts and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--network", nargs="*", default=["mlp", "conv"], choices=("mlp", "conv"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--one", nargs=5, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        name, kind, rows, epochs, evaluated = given.one
        vae_step.ROWS = int(rows)
        x = (np.random.default_rng(0).random((int(rows), vae_step.PIXELS), dtype=np.float32) > 0.5).astype(np.float32)
        RUNS[name](x, kind, int(epochs), evaluated=bool(int(evaluated)))
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    print(machine())
    table(("network", "part", "nothing", "by hand", "ours", "ratio"), lines(given), (7, 16, 8, 8, 6, 6))


if __name__ == "__main__":
    main()
