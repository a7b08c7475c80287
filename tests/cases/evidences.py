"""Models whose log evidence is known: closed forms, quadrature, and the published numbers of the references."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from scipy.optimize import minimize

import zoo
from zoo import Binary, Count, Real

HITS = [18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7]  # of 45 at bats (Efron and Morris 1975)
SEEN, CAPTURES, ANIMALS, OCCASIONS = 87, 149, 237, 3  # M0 of Kéry and Schaub (2012, chapter 6)


@zoo.model(hits=Count("player"))
def batters(hits, *, at_bats: int = 45):
    """Batting averages that come from one Beta distribution, of mean phi and size kappa."""
    phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
    kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
    with pyro.plate("player", len(hits)):
        theta = pyro.sample("theta", dist.Beta(phi * kappa, (1 - phi) * kappa))
        pyro.sample("hits", dist.Binomial(at_bats, theta), obs=hits)


@zoo.model(caught=Binary("animal", "occasion"))
def closed_population(caught):
    """Animals that are there with probability omega, and then caught each time with probability p."""
    omega = pyro.sample("omega", dist.Uniform(0.0, 1.0))
    p = pyro.sample("p", dist.Uniform(0.0, 1.0))
    with pyro.plate("animal", len(caught)):
        there = pyro.sample("there", dist.Bernoulli(omega))
        chance = (there * p).unsqueeze(-1).expand(*there.shape, caught.shape[1]).clamp(1e-300, 1 - 1e-15)
        pyro.sample("caught", dist.Bernoulli(chance).to_event(1), obs=caught)


@zoo.model(heads=Count("coin"))
def tosses(heads, *, count: int):
    """How many of the tosses of a coin are heads."""
    chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    with pyro.plate("coin", len(heads)):
        pyro.sample("heads", dist.Binomial(count, chance), obs=heads)


@zoo.model(x=Real("galaxy"))
def galaxies(x, *, components: int = 3):
    """Velocities from a few clusters, with the priors of Neal (1999) on Chib (1995)."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(components)))
    with pyro.plate("component", components):
        mean = pyro.sample("mean", dist.Normal(20.0, 10.0))
        variance = pyro.sample("variance", dist.InverseGamma(3.0, 20.0))
    with pyro.plate("galaxy", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(mean[z], variance[z].sqrt()), obs=x)


def seen_and_unseen():
    """Captures of M0: any rows with these totals have the same density."""
    rows = np.zeros((ANIMALS, OCCASIONS))
    rows[:SEEN, 0] = 1
    rows[: CAPTURES - SEEN, 1] = 1
    return rows


@zoo.model(y=Real("row"), x=Real("row", "column"))
def regression(y, x, *, wide: float, noise: float, heavy: bool = True):
    """Linear regression, the scale of its noise half Cauchy or half Normal."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1]), wide).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(noise) if heavy else dist.HalfNormal(noise))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


def regression_evidence(y, x, mean, scale, log_prior, low, high):
    """Log evidence of y ~ Normal(x b, s^2), b ~ Normal(mean, scale^2): b in closed form, log s by the trapezoidal rule.

    With x diag(scale) = U S W^T, y - x mean has variance s^2 + S_j^2 along U_j and s^2 along all that is orthogonal.
    """
    y, x = np.asarray(y, float), np.asarray(x, float)
    scale = np.broadcast_to(scale, x.shape[1])
    u, size, _ = np.linalg.svd(x * scale, full_matrices=False)
    off = y - x @ np.broadcast_to(mean, x.shape[1])
    along = u.T @ off
    rest = np.square(off - u @ along).sum()

    t = np.linspace(low, high, 8001)
    v = np.exp(2 * t)
    variance = v[:, None] + size**2
    logs = -0.5 * (np.log(2 * math.pi * variance) + along**2 / variance).sum(1)
    logs = logs - 0.5 * rest / v - 0.5 * (len(y) - len(along)) * np.log(2 * math.pi * v)
    return float(special.logsumexp(logs + log_prior(np.exp(t)) + t)) + math.log(t[1] - t[0])


def markov_evidence(y, points=20):
    """Log evidence of posteriordb's two-state example, the first state uniform: four latents by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    boxes = [(0.0, 1.0), (0.0, 1.0), (1.8, 4.2), (8.0, 9.7)]
    axes = [(low + high) / 2 + (high - low) / 2 * nodes for low, high in boxes]
    stay, back, low, high = (a.ravel() for a in np.meshgrid(*axes, indexing="ij"))
    logs = sum(a.ravel() for a in np.meshgrid(*[np.log(weights)] * 4, indexing="ij"))
    logs = logs + sum(math.log((b - a) / 2) for a, b in boxes)
    logs = logs + stats.norm(3, 1).logpdf(low) + stats.norm(10, 1).logpdf(high)
    one = two = np.full(len(stay), 0.5)
    for i, value in enumerate(y):
        if i:
            one, two = one * stay + two * back, one * (1 - stay) + two * (1 - back)
        one, two = one * np.exp(-0.5 * (value - low) ** 2), two * np.exp(-0.5 * (value - high) ** 2)
        total = one + two
        logs, one, two = logs + np.log(total) - 0.5 * math.log(2 * math.pi), one / total, two / total
    return float(special.logsumexp(logs))


def mixture_evidence(y, points=5):
    """Log evidence of posteriordb's two clusters on a line: Gauss and Hermite about one mode, times two labellings."""
    y = np.asarray(y, float)

    def log_p(v):  # (count, 5): logit of the weight, means, log scales
        share, mean, log_scale = special.expit(v[:, :1]), v[:, 1:3], v[:, 3:]
        scale = np.exp(log_scale)
        prior = stats.beta(5, 5).logpdf(share) + np.log(share * (1 - share))
        prior = prior.sum(1) + (stats.norm(0, 2).logpdf(mean) + stats.halfnorm(0, 2).logpdf(scale) + log_scale).sum(1)
        logs = (
            -0.5 * ((y - mean[..., None]) / scale[..., None]) ** 2
            - (log_scale + 0.5 * math.log(2 * math.pi))[..., None]
        )
        logs = logs + np.log(np.concatenate([share, 1 - share], 1))[..., None]
        return prior + np.logaddexp(logs[:, 0], logs[:, 1]).sum(1)

    start = np.array([0.5, -2.7, 2.8, 0.0, 0.0])
    mode = minimize(lambda v: -log_p(v[None])[0], start, method="BFGS").x
    step = 1e-3 * np.eye(5)
    pairs = [(i, j) for i in range(5) for j in range(5)]
    corners = np.array([[mode + a * step[i] + b * step[j] for a in (1, -1) for b in (1, -1)] for i, j in pairs])
    seconds = log_p(corners.reshape(-1, 5)).reshape(25, 4) @ np.array([1, -1, -1, 1]) / 4e-6
    root = np.linalg.cholesky(np.linalg.inv(-seconds.reshape(5, 5)))
    nodes, weights = np.polynomial.hermite_e.hermegauss(points)
    z = np.stack([a.ravel() for a in np.meshgrid(*[nodes] * 5, indexing="ij")], 1)
    log_w = sum(a.ravel() for a in np.meshgrid(*[np.log(weights) + nodes**2 / 2] * 5, indexing="ij"))
    found = np.concatenate([log_p(mode + part @ root.T) for part in np.array_split(z, 40)])
    return float(special.logsumexp(found + log_w)) + np.log(root.diagonal()).sum() + math.log(2)
