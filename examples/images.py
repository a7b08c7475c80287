"""Images: a VAE with networks of one's own, its pictures, digits on demand, and digits it has never seen.

Writes reconstructions.png, codes.png, on_demand.png and unusual.png to runs/images.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn

import zoo
from guides import Encoder
from inference import SVI, fit

UNSEEN = 6  # no image of this digit is trained on, so that it can be told apart as unusual
folder = Path("runs") / "images"
folder.mkdir(parents=True, exist_ok=True)

images, labels = load_digits(return_X_y=True)  # grey levels 0 .. 16
images = images.reshape(-1, 8, 8)
order = np.random.default_rng(0).permutation(len(images))
train, test = order[:1400], order[1400:]
usual = train[labels[train] != UNSEEN]


class Look(nn.Module):
    """From images to features."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.GroupNorm(4, 32), nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.GroupNorm(8, 64), nn.SiLU(),
            nn.Flatten(), nn.Linear(64 * 2 * 2, 128), nn.SiLU(),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x[:, None] / 8 - 1)


def paint():
    """From codes to images."""
    return nn.Sequential(
        nn.Linear(LATENT, 64 * 2 * 2), nn.SiLU(), nn.Unflatten(-1, (64, 2, 2)),
        nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.SiLU(),
        nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1),
    )  # fmt: skip


LATENT = 10
model = zoo.VAE(latent=LATENT, decoder=paint, likelihood="binomial", total_count=16)
found = fit(model, images[usual], method=SVI(Encoder(network=Look), epochs=60), seed=0)
print(found)
known = test[labels[test] != UNSEEN]
print(f"{found.log_prob(images[known], samples=200).mean():.1f} nats per digit it has not seen, of kinds that it has")

found.draw_images(images[known], n=12).savefig(folder / "reconstructions.png", dpi=150)
found.draw_codes(images, labels=labels).savefig(folder / "codes.png", dpi=150)

# A digit of the kind that was left out is less dense, further from the prior, and less well restored.
scores = found.anomaly(images[test], samples=100)
figure = Figure(figsize=(4.5, 4.2), layout="constrained")
axis = figure.subplots()
for name, sign in (("log_prob", -1), ("kl", 1), ("reconstruction", -1)):
    truth, score = labels[test] == UNSEEN, sign * scores[name]
    axis.plot(*roc_curve(truth, score)[:2], label=f"{name}, {roc_auc_score(truth, score):.2f}")
axis.plot([0, 1], [0, 1], color="0.8", zorder=0)
axis.set(xlabel="digits trained on, taken for unusual", ylabel=f"digits {UNSEEN}, found", aspect="equal")
axis.legend(title="area under the curve")
figure.savefig(folder / "unusual.png", dpi=150)

# With labels as a covariate, the code says how a digit is written, and the label which.
told = {"x": images[train], "label": labels[train]}
model = zoo.ConditionalVAE(latent=4, hidden=(256,), likelihood="binomial", total_count=16)
written = fit(model, told, method=SVI(Encoder(hidden=(256,)), epochs=60), seed=0)
hands = np.random.default_rng(1).normal(size=(6, 4))  # a code for each line
figure = Figure(figsize=(7, 4.4), layout="constrained")
axes = figure.subplots(6, 10)
for digit, column in enumerate(axes.T):
    column[0].set_title(digit)
    for axis, image in zip(column, written.decode(hands, condition={"label": digit})["x"].to_numpy(), strict=True):
        axis.imshow(image, cmap="gray_r", vmin=0, vmax=16)
        axis.set_axis_off()
figure.savefig(folder / "on_demand.png", dpi=150)
print("pictures:", *sorted(str(path) for path in folder.glob("*.png")))
