"""Data for the declared models, from a generator."""

import numpy as np


def clusters(rng, n=300, k=3, d=1, gap=3.0):
    """Normal clusters, of sizes and spreads of their own, that overlap."""
    z = rng.choice(k, size=n, p=rng.dirichlet(np.full(k, 5.0)))
    center = gap * (np.arange(k)[:, None] if d == 1 else rng.normal(size=(k, d)))
    x = center[z] + rng.uniform(0.5, 1.5, size=(k, d))[z] * rng.normal(size=(n, d))
    return x[:, 0] if d == 1 else x


def path(rng, n=400, k=3, stay=0.9):
    """States of a chain."""
    z = [0]
    for _ in range(n - 1):
        z.append(z[-1] if rng.random() < stay else int(rng.integers(k)))
    return np.array(z)


def correlated(rng):
    """Clusters with covariances of their own."""
    z = rng.integers(3, size=300)
    return 2 * rng.normal(size=(3, 2))[z] + np.einsum(
        "nij,nj->ni", rng.normal(size=(3, 2, 2))[z], rng.normal(size=(300, 2))
    )


def labels(rng, n=300, items=8, k=3, levels=4):
    """Answers of latent classes."""
    cumulated = rng.dirichlet(np.full(levels, 0.7), size=(k, items)).cumsum(-1)[rng.integers(k, size=n)]
    return (rng.random((n, items, 1)) > cumulated).sum(-1).clip(0, levels - 1)


def lines(rng, n=300, slopes=(2.0, -1.0), noise=0.7, levels=1.0):
    """Points about lines that cross."""
    x, z = rng.normal(size=n) * 2, rng.integers(len(slopes), size=n)
    return {
        "x": x,
        "y": np.array(slopes)[z] * x + levels * rng.normal(size=len(slopes))[z] + noise * rng.normal(size=n),
    }


def count_lines(rng, n=300):
    """Counts whose log rates are lines that cross."""
    x, z = rng.normal(size=n), rng.integers(2, size=n)
    return {"x": x, "y": rng.poisson(np.exp(np.array([1.0, 1.5])[z] + np.array([0.8, -0.6])[z] * x))}


def symbols(rng, n=500):
    """Symbols emitted along a chain."""
    z = path(rng, n, 2, 0.85)
    cumulated = rng.dirichlet(np.full(5, 0.6), size=2).cumsum(-1)[z]
    return (rng.random((n, 1)) > cumulated).sum(-1).clip(0, 4)


def rated(rng, n=200, people=5, k=3, right=0.7):
    """What people say, who are right with probability `right`."""
    truth, wrong = rng.integers(k, size=n), rng.integers(k, size=(n, people))
    return np.where(rng.random((n, people)) < right, truth[:, None], wrong)


def mixed(rng, n=300):
    """Three fields that a state feeds, and columns of noise in large units."""
    z = rng.integers(3, size=n)
    return {
        "x": np.array([0.0, 2.5, 2.5])[z] + rng.normal(size=n),
        "y": rng.poisson(np.array([3.0, 3.0, 9.0])[z]),
        "label": np.where(rng.random(n) < 0.5, z, rng.integers(3, size=n)),
        "other": 1e6 * rng.normal(size=(n, 4)),
    }


def courses(rng, n=150, visits=5):
    """Courses of three groups."""
    z, t = rng.integers(3, size=n), np.arange(visits)
    return (
        np.array([0.0, 1.0, 3.0])[z, None]
        + np.array([1.0, 0.0, -0.7])[z, None] * t
        + 1.2 * rng.normal(size=(n, visits))
    )


def factors(rng, n=200, d=8, q=2):
    """Rows of a factor model, in units that differ."""
    return (rng.normal(size=(n, q)) @ rng.normal(size=(q, d)) + rng.normal(size=(n, d))) * np.logspace(-2, 3, d) + 50
