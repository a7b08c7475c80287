"""What a fit of a variational autoencoder costs beside its training: before the first step, judging, saving, loading.

Run with: python benchmarks/fixed_costs.py [--rows 2000 8000] [--epochs 10] [--network conv mlp]

Images of 28 x 28 zeros and ones, batches of 128, 50 latents; "conv" is the encoder and decoder of `zoo.networks`, "mlp"
784-400-50. Processor seconds; imports come first and do not count.
"""

import argparse
import tempfile
import time
from itertools import pairwise
from unittest.mock import patch

import vae_step
from timing import machine, table

import zoo
from guides import Encoder
from inference import SVI, Fit, fit
from inference.variational.optimize import Climb


def costs(x, kind, epochs):
    """Seconds before, of and after the training, and to save and load."""
    marks, run = [time.process_time()], Climb.run

    def timed(climb, *given, **named):
        marks.append(time.process_time())
        run(climb, *given, **named)
        marks.append(time.process_time())

    guide = Encoder(hidden=(vae_step.HIDDEN,), network=kind)
    method = SVI(guide=guide, batch_size=128, epochs=epochs, schedule="cosine", learning_rate=0.02)
    model = zoo.VAE(latent=vae_step.LATENT, hidden=(vae_step.HIDDEN,), decoder=kind)
    with patch.object(Climb, "run", timed):
        found = fit(model, vae_step.shaped(x, kind), method=method, seed=0, progress=False)
    marks.append(time.process_time())
    with tempfile.TemporaryDirectory() as folder:
        found.save(folder + "/fit")
        marks.append(time.process_time())
        Fit.load(folder + "/fit")
    marks.append(time.process_time())
    return [b - a for a, b in pairwise(marks)]


def lines(given):
    """One line for each network and number of rows."""
    for kind in given.network:
        costs(vae_step.images()[:200], kind, 1)  # what is imported on the way
        for rows in given.rows:
            vae_step.ROWS = rows
            before, training, judging, saving, loading = costs(vae_step.images(), kind, given.epochs)
            times = (f"{t:.1f}" for t in (before, training, judging, saving, loading))
            yield kind, rows, *times, f"{judging / training:.0%}"


def main():
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="*", default=[2000, 8000])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--network", nargs="*", default=["conv", "mlp"], choices=("mlp", "conv"))
    given = parser.parse_args()
    print(machine())
    header = ("network", "rows", "before", "training", "judging", "save", "load", "judging / training")
    table(header, lines(given), (7, 6, 7, 9, 8, 6, 6, 19))


if __name__ == "__main__":
    main()
