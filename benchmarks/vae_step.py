"""Training steps of variational autoencoders against torch loops written by hand, and against Pyro and pythae.

Run with: python benchmarks/vae_step.py [--network mlp conv] [--repeats 3] [--batch 128] [--libraries pyro pythae]

Images of 28 x 28 zeros and ones. "mlp" is 784-400-50 with tanh units, "conv" the encoder and decoder of
`zoo.networks`, which both sides share but for what the hand-written decoder has of torch: `nn.ConvTranspose2d`. All use
float32, Adam and one draw per row. By hand that is a plain loop: batches from a tensor, Bernoulli logits against the
closed-form KL, fused Adam, with and without `torch.compile` of the loss. Loops take turns; what is shown is processor
time of the best 50 steps in a row of each, compilation and everything before the first step apart.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import torch
from timing import machine, paired, table
from torch import nn
from torch.nn import functional as F

import zoo
from guides import Encoder
from inference import SVI, fit
from zoo.networks import ConvEncoder

ROWS, SIDE, HIDDEN, LATENT, RATE = 10_000, 28, 400, 50, 1e-3
PIXELS, BLOCK, BLOCKS = SIDE * SIDE, 50, 4
FEATURES = 256  # that the convolutional encoder gives of an image


def images():
    """Binary rows with some structure, (rows, pixels)."""
    rng = np.random.default_rng(0)
    code = rng.normal(size=(ROWS, 10))
    return (code @ rng.normal(size=(10, PIXELS)) + rng.normal(size=(ROWS, PIXELS)) > 1).astype(np.float32)


class Deconvolutions(nn.Module):
    """What `ConvDecoder` computes, of torch's own layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(LATENT, 64 * 49),
            nn.Unflatten(-1, (64, 7, 7)),
            nn.SiLU(),
            nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
        )
        self.bias = nn.Parameter(torch.zeros(1, SIDE, SIDE))

    def forward(self, z):
        return self.layers(z) + self.bias


def networks(kind):
    """Encoder and decoder of a loop by hand."""
    if kind == "conv":
        encoder = nn.Sequential(ConvEncoder((1, SIDE, SIDE), FEATURES), nn.SiLU(), nn.Linear(FEATURES, 2 * LATENT))
        return encoder, Deconvolutions()

    def net(a, b):
        return nn.Sequential(nn.Linear(a, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, b))

    return net(PIXELS, 2 * LATENT), net(LATENT, PIXELS)


def clock(device):
    """Processor seconds; on a GPU seconds, read when it has done its work."""
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def best_block(step, batch, device):
    """Seconds per step of the best block of steps; `step` takes numbers of rows."""
    order, at, found = torch.randperm(ROWS, device=device), 0, []
    for _ in range(BLOCKS):
        began = clock(device)
        for _ in range(BLOCK):
            if at + batch > ROWS:
                order, at = torch.randperm(ROWS, device=device), 0
            step(order[at : at + batch])
            at += batch
        found.append((clock(device) - began) / BLOCK)
    return min(found[1:])


def shaped(x, kind):
    """Rows as a network takes them."""
    return x.reshape(-1, 1, SIDE, SIDE) if kind == "conv" else x


def by_hand(x, kind="mlp", compiled=False, device="cpu", batch=128):
    """Seconds per step of a plain loop."""
    data = torch.as_tensor(shaped(x, kind), device=device)
    encoder, decoder = (net.to(device) for net in networks(kind))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def loss(rows, noise):
        loc, log_scale = encoder(rows).chunk(2, -1)
        logits = decoder(loc + log_scale.exp() * noise)
        misfit = F.binary_cross_entropy_with_logits(logits, rows, reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        return (kl + misfit) / batch

    evaluated = torch.compile(loss) if compiled else loss

    def step(rows):
        optimizer.zero_grad(set_to_none=True)
        evaluated(data[rows], torch.randn(batch, LATENT, device=device)).backward()
        optimizer.step()

    return best_block(step, batch, device)


def by_pyro(x, kind, batch):
    """Seconds per step of Pyro's own SVI."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI as PyroSVI
    from pyro.infer import Trace_ELBO

    data = torch.as_tensor(shaped(x, kind))
    encoder, decoder = networks(kind)

    def model(rows):
        pyro.module("decoder", decoder)
        with pyro.plate("row", len(rows)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(rows), LATENT), 1.0).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(rows.ndim - 1), obs=rows)

    def guide(rows):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(rows).chunk(2, -1)
        with pyro.plate("row", len(rows)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    with pyro.get_param_store().scope():
        svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())
        return best_block(lambda rows: svi.step(data[rows]), batch, "cpu")


def by_pythae(x, kind, batch):
    """Seconds per step of pythae's VAE, whose own networks are replaced by these; its trainer's loop without files."""
    from pythae.data.datasets import BaseDataset, DatasetOutput
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    inner, outer = networks(kind)

    class Inner(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.network = inner

        def forward(self, x):
            loc, log_variance = self.network(x).chunk(2, -1)
            return ModelOutput(embedding=loc, log_covariance=log_variance)

    class Outer(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.network = outer

        def forward(self, z):
            return ModelOutput(reconstruction=torch.sigmoid(self.network(z)))

    shape = (1, SIDE, SIDE) if kind == "conv" else (PIXELS,)
    config = VAEConfig(input_dim=shape, latent_dim=LATENT, reconstruction_loss="bce")
    model, data = (
        VAE(config, encoder=Inner(), decoder=Outer()),
        BaseDataset(torch.as_tensor(shaped(x, kind)), torch.zeros(ROWS)),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)

    def step(rows):
        inputs = DatasetOutput(data=data.data[rows])
        optimizer.zero_grad()
        model(inputs).loss.backward()
        optimizer.step()

    return best_block(step, batch, "cpu")


def ours(x, kind="mlp", how=False, device="cpu", batch=128):
    """Seconds per step of SVI with an encoder."""
    method = SVI(
        guide=Encoder(hidden=(HIDDEN,), network=kind),
        batch_size=batch,
        steps=BLOCK * BLOCKS,
        schedule="constant",
        compile=how,
    )
    model = zoo.VAE(latent=LATENT, hidden=(HIDDEN,), decoder=kind)
    read = time.process_time if device == "cpu" else time.perf_counter
    with patch("time.perf_counter", read):  # by which the trace has its seconds
        found = fit(model, shaped(x, kind), method=method, seed=0, device=device, progress=False)
    return (found.trace["seconds"].diff() / found.trace["step"].diff()).iloc[1:].min()


def main():
    """Print a table of best times and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", nargs="*", default=["mlp", "conv"], choices=("mlp", "conv"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--libraries", nargs="*", default=["pyro"], choices=("pyro", "pythae"))
    given = parser.parse_args()
    print(machine())
    x = images()
    for kind in given.network:
        runs = {
            "by hand, eager": lambda kind=kind: by_hand(x, kind, False, batch=given.batch),
            "by hand, compiled": lambda kind=kind: by_hand(x, kind, True, batch=given.batch),
            "ours, eager": lambda kind=kind: ours(x, kind, False, batch=given.batch),
            "ours, compiled": lambda kind=kind: ours(x, kind, True, batch=given.batch),
            "ours, by default": lambda kind=kind: ours(x, kind, "auto", batch=given.batch),
        }
        others = {"pyro": ("Pyro", by_pyro), "pythae": ("pythae", by_pythae)}
        for name in given.libraries:
            label, loop = others[name]
            runs[label] = lambda kind=kind, loop=loop: loop(x, kind, given.batch)
        times = paired(given.repeats, *runs.values())
        lines = [
            (n, f"{1e3 * t:.1f}", f"{t / times[0]:.2f}", f"{t / times[1]:.2f}")
            for n, t in zip(runs, times, strict=True)
        ]
        table((f"one step, {kind}", "ms", "of eager", "of compiled"), lines, (17, 6, 8, 11))


if __name__ == "__main__":
    main()
