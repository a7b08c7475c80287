"""Training a variational autoencoder, 784-400-50, 10,000 rows, batches of 256, against a torch loop and Pyro.

Run with: python benchmarks/vae_step.py [--repeats 3]

All use float32, Adam and one draw per row, and see every row once in a pass. What is timed is two passes after a first.
"""

import time

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from timing import paired, repeats_asked, table
from torch import nn

import zoo
from guides import Encoder
from inference import SVI, fit

ROWS, PIXELS, HIDDEN, LATENT, BATCH, RATE = 10_000, 784, 400, 50, 256, 1e-3
PASSES = 3


def images():
    """Binary rows with some structure."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=(ROWS, 10))
    return (code @ rng.normal(size=(10, PIXELS)) + rng.normal(size=(ROWS, PIXELS)) > 1).astype(np.float32)


class Net(nn.Module):
    """One hidden layer."""

    def __init__(self, a, b):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(a, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, b))

    def forward(self, x):
        return self.layers(x)


def now(device):
    """Read the clock when the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def by_hand(x, device="cpu", batch=BATCH):
    """Seconds per pass of a plain loop."""
    data = torch.as_tensor(x, device=device)
    encoder, decoder = Net(PIXELS, 2 * LATENT).to(device), Net(LATENT, PIXELS).to(device)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)
    for i in range(PASSES):
        if i == 1:
            began = now(device)
        order = torch.randperm(ROWS, device=device)
        for start in range(0, ROWS - batch + 1, batch):
            rows = data[order[start : start + batch]]
            loc, log_scale = encoder(rows).chunk(2, -1)
            z = loc + log_scale.exp() * torch.randn_like(loc)
            fit_term = -nn.functional.binary_cross_entropy_with_logits(decoder(z), rows, reduction="sum")
            kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
            optimizer.zero_grad(set_to_none=True)
            (kl - fit_term).div(batch).backward()
            optimizer.step()
    return (now(device) - began) / (PASSES - 1)


def by_pyro(x):
    """Seconds per pass of Pyro's own SVI."""
    from pyro.infer import SVI as PyroSVI
    from pyro.infer import Trace_ELBO

    data = torch.as_tensor(x)
    encoder, decoder = Net(PIXELS, 2 * LATENT), Net(LATENT, PIXELS)

    def model(rows):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(rows)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=rows)

    def guide(rows):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(rows).chunk(2, -1)
        with pyro.plate("row", len(rows)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    with pyro.get_param_store().scope():
        svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        for i in range(PASSES):
            if i == 1:
                began = time.perf_counter()
            order = torch.randperm(ROWS)
            for start in range(0, ROWS - BATCH + 1, BATCH):
                svi.step(data[order[start : start + BATCH]])
    return (time.perf_counter() - began) / (PASSES - 1)


def ours(x, how, device="cpu", batch=BATCH):
    """Seconds per pass of SVI with an encoder, compilation not counted."""
    steps = max(PASSES * (ROWS // batch), 200)  # the trace has an entry every fifty steps
    method = SVI(guide=Encoder(hidden=(HIDDEN,)), batch_size=batch, steps=steps, schedule="constant", compile=how)
    found = fit(zoo.VAE(latent=LATENT, hidden=(HIDDEN,)), x, method=method, seed=0, device=device, progress=False)
    return found.trace["seconds"].diff().iloc[1:].mean() * (ROWS // batch) / found.trace["step"].diff().iloc[1:].mean()


def main():
    """Print a table of best times and ratios."""
    repeats = repeats_asked(__doc__)
    x = images()
    times = paired(repeats, lambda: by_hand(x), lambda: ours(x, False), lambda: ours(x, True), lambda: by_pyro(x))
    names = ("by hand", "ours, eager", "ours, compiled", "Pyro")
    lines = [(n, f"{t:.3f}", f"{t / times[0]:.2f}") for n, t in zip(names, times, strict=True)]
    table(("one pass", "seconds", "ratio"), lines, (14, 8, 6))


if __name__ == "__main__":
    main()
