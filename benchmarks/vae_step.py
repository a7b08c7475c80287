"""Training steps of variational autoencoders against torch loops written by hand, and against Pyro and pythae.

Run with: python benchmarks/vae_step.py [--network mlp conv] [--steps 300] [--batch 128] [--side 28] [--hidden 400]
[--latent 50] [--libraries pyro pythae]

Images of zeros and ones. "mlp" has one layer of tanh units, "conv" the encoder and decoder of `zoo.networks`, which
both sides share but for what the hand-written decoder has of torch: `nn.ConvTranspose2d`. All use float32, Adam and one
draw per row. By hand that is a plain loop: batches from a tensor, Bernoulli logits against the closed-form KL, fused
Adam, with and without `torch.compile` of the loss. All loops take turns step by step within one process, so that other
work on the machine disturbs them alike: each of this library's is a whole fit, between two steps of which all others
take one. What is shown are the median and the 10 % quantile of processor times, without the first steps.
"""

import argparse
import time
from unittest.mock import patch

import numpy as np
import torch
from timing import machine, table
from torch import nn
from torch.nn import functional as F

import zoo
from guides import Encoder
from inference import SVI, fit
from inference.variational.optimize import Climb
from zoo.networks import ConvEncoder

ROWS, SIDE, HIDDEN, LATENT, RATE = 10_000, 28, 400, 50, 1e-3
PIXELS = SIDE * SIDE
FIRST = 10  # steps that do not count
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


class Rows:
    """Numbers of the rows of one mini-batch after the other."""

    def __init__(self, batch, device):
        self.batch, self.device, self.at, self.order = batch, device, ROWS, None

    def __next__(self):
        if self.at + self.batch > ROWS:
            self.order, self.at = torch.randperm(ROWS, device=self.device), 0
        self.at += self.batch
        return self.order[self.at - self.batch : self.at]


def shaped(x, kind):
    """Rows as a network takes them."""
    return x.reshape(-1, 1, SIDE, SIDE) if kind == "conv" else x


def by_hand(x, kind="mlp", compiled=False, device="cpu", batch=128):
    """A step of a plain loop."""
    data, order = torch.as_tensor(shaped(x, kind), device=device), Rows(batch, device)
    encoder, decoder = (net.to(device) for net in networks(kind))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=RATE, fused=True)

    def loss(rows, noise):
        loc, log_scale = encoder(rows).chunk(2, -1)
        logits = decoder(loc + log_scale.exp() * noise)
        misfit = F.binary_cross_entropy_with_logits(logits, rows, reduction="sum")
        kl = 0.5 * (loc.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
        return (kl + misfit) / batch

    evaluated = torch.compile(loss) if compiled else loss

    def step():
        optimizer.zero_grad(set_to_none=True)
        evaluated(data[next(order)], torch.randn(batch, LATENT, device=device)).backward()
        optimizer.step()

    return step


def by_pyro(x, kind, batch):
    """A step of Pyro's own SVI."""
    import pyro
    import pyro.distributions as dist
    from pyro.infer import SVI as PyroSVI
    from pyro.infer import Trace_ELBO

    data, order = torch.as_tensor(shaped(x, kind)), Rows(batch, "cpu")
    encoder, decoder = networks(kind)
    kept = None  # Pyro's parameters between this loop's steps

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

    svi = PyroSVI(model, guide, pyro.optim.Adam({"lr": RATE}), Trace_ELBO())

    def step():
        nonlocal kept
        with pyro.get_param_store().scope(kept) as kept:
            svi.step(data[next(order)])

    return step


def by_pythae(x, kind, batch):
    """A step of pythae's VAE, whose own networks are replaced by these; its trainer's loop without files."""
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
    optimizer, order = torch.optim.Adam(model.parameters(), lr=RATE), Rows(batch, "cpu")

    def step():
        inputs = DatasetOutput(data=data.data[next(order)])
        optimizer.zero_grad()
        model(inputs).loss.backward()
        optimizer.step()

    return step


def ours(x, kind="mlp", how=False, device="cpu", batch=128, steps=300, others=()):
    """Seconds of each step of SVI with an encoder, and of one of each of the other loops between any two of them."""
    times, plain, last = [[] for _ in range(1 + len(others))], Climb.step, None

    def turn(climb, *given):
        nonlocal last
        if last is not None:
            times[0].append(clock(device) - last)
        for found, step in zip(times[1:], others, strict=True):
            began = clock(device)
            with torch.enable_grad():
                step()
            found.append(clock(device) - began)
        last = clock(device)
        return plain(climb, *given)

    guide = Encoder(hidden=(HIDDEN,), network=kind)
    method = SVI(guide=guide, batch_size=batch, steps=steps, schedule="constant", compile=how)
    model = zoo.VAE(latent=LATENT, hidden=(HIDDEN,), decoder=kind)
    with patch.object(Climb, "step", turn):
        fit(model, shaped(x, kind), method=method, seed=0, device=device, progress=False)
    return [np.array(found[FIRST:]) for found in times]


def main():
    """Print a table of times and ratios."""
    global SIDE, HIDDEN, LATENT, PIXELS
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", nargs="*", default=["mlp", "conv"], choices=("mlp", "conv"))
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--hidden", type=int, default=HIDDEN)
    parser.add_argument("--latent", type=int, default=LATENT)
    parser.add_argument("--libraries", nargs="*", default=[], choices=("pyro", "pythae"))
    given = parser.parse_args()
    SIDE, HIDDEN, LATENT, PIXELS = given.side, given.hidden, given.latent, given.side**2
    print(machine())
    x = images()
    for kind in given.network:
        names = ["by hand, eager", "by hand, compiled", *given.libraries]
        others = [by_hand(x, kind, how, batch=given.batch) for how in (False, True)]
        others += [{"pyro": by_pyro, "pythae": by_pythae}[name](x, kind, given.batch) for name in given.libraries]
        lines = []
        for label, how in (("eager", False), ("played back", "auto"), ("compiled", True)):
            with patch("inference.variational.optimize.worth", lambda *_, how=how: how is True):
                times = ours(x, kind, how, "cpu", given.batch, given.steps, others)
            eager, compiled = times[1], times[2]
            for name, found in zip([f"ours, {label}", *names], times, strict=True):
                ratios = [f"{np.median(found) / np.median(of):.2f}" for of in (eager, compiled)]
                lines.append((name, *(f"{1e3 * v:.2f}" for v in (np.median(found), np.quantile(found, 0.1))), *ratios))
        table((f"one step, {kind}", "median ms", "10 %", "of eager", "of compiled"), lines, (17, 9, 6, 8, 11))


if __name__ == "__main__":
    main()
