"""A posterior with two curved modes, and what each divergence, a flow and NUTS make of it; draws runs/two_modes.png."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pyro
import pyro.distributions as dist

import zoo
from guides import Flow, FullRank
from inference import NUTS, SVI, fit


@zoo.model(x=zoo.Real("row"))
def product(x):
    """Only the product of a and b is seen: (a, b) and (-a, -b) are equally good."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a * b, 0.6), obs=x)


def exact(x, a, b):
    """The posterior density on a grid, and the log evidence."""
    normal = np.log(2 * np.pi)
    joint = -0.5 * (a**2 + b**2) - normal
    for one in x:
        joint = joint - 0.5 * ((one - a * b) / 0.6) ** 2 - 0.5 * normal - np.log(0.6)
    cell = (a[0, 1] - a[0, 0]) * (b[1, 0] - b[0, 0])
    evidence = joint.max() + np.log(np.exp(joint - joint.max()).sum() * cell)
    return np.exp(joint - evidence), evidence


x = [1.9, 1.4, 2.2, 1.7]
a, b = np.meshgrid(np.linspace(-5, 5, 401), np.linspace(-5, 5, 401))
density, evidence = exact(x, a, b)
print(f"exact log p(x) = {evidence:.3f}")

plain = {"corrected": False, "collapse": False, "compile": False, "steps": 250}  # draws of q itself, of a and b
normal, flow = {"guide": FullRank(), **plain}, {"guide": Flow(layers=2), "learning_rate": 0.02, **plain}
fits = {
    "Normal, exclusive KL(q || p)": SVI(**normal),
    "Normal, inclusive KL(p || q)": SVI(objective="inclusive", **normal),
    "Normal, Rényi of order -1": SVI(objective="renyi", alpha=-1.0, **normal),
    "flow, exclusive": SVI(**flow),
    "flow, inclusive": SVI(objective="inclusive", **flow),
    "Normal, inclusive, resampled": SVI(objective="inclusive", **{**normal, "corrected": True}),
    "NUTS": NUTS(chains=4),
}
shown = {"exact, on a grid": None}
for label, method in fits.items():
    shown[label] = fit(product, x, method=method, seed=0, progress=False)
    print(f"{label:28} {shown[label].verdict}")

figure, axes = plt.subplots(2, 4, figsize=(13, 6.8), sharex=True, sharey=True, layout="constrained")
inside = np.linspace(0, density.max(), 8)[1:]
for axis, (label, found) in zip(axes.flat, shown.items(), strict=True):
    axis.contour(a, b, density, levels=inside, colors="0.35", linewidths=0.7, zorder=2)
    axis.set(title=label, aspect="equal", xlim=(-4, 4), ylim=(-4, 4))
    if found is None:
        axis.contourf(a, b, density, levels=[*inside, 1.0], cmap="Blues")
        continue
    draws = found.posterior["posterior"]
    some = np.random.default_rng(0).choice(draws["a"].size, 600, replace=False)
    axis.scatter(draws["a"].to_numpy().ravel()[some], draws["b"].to_numpy().ravel()[some], s=5, color="C0", alpha=0.5)
figure.supxlabel("a")
figure.supylabel("b")
Path("runs").mkdir(exist_ok=True)
figure.savefig("runs/two_modes.png", dpi=130)
