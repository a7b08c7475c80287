"""Starting values for mixtures: k-means++ seeding and a few Lloyd steps."""

from __future__ import annotations

import torch
from torch import Tensor

SEED_ROWS = 20_000  # seeding looks at a random subset of this size, which finds the same clusters as all rows


def kmeans(x: Tensor, clusters: int, steps: int = 20) -> Tensor:
    """Label rows by k-means++ seeding (Arthur and Vassilvitskii 2007) and Lloyd steps on standardized columns.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    clusters
        Number of labels; every label is used where there are that many distinct rows.
    steps
        Most Lloyd steps.

    Returns
    -------
    Tensor
        Labels 0 .. clusters - 1, shape (rows,).
    """
    x = x - x.mean(0)
    scale = x.std(0, correction=0)
    x = x / torch.where(scale > 0, scale, torch.ones_like(scale))
    sample = x[torch.randperm(len(x), device=x.device)[:SEED_ROWS]]
    centers = _seed(sample, clusters)
    for _ in range(steps):
        labels = torch.cdist(sample, centers).argmin(1)
        one_hot = torch.nn.functional.one_hot(labels, clusters).to(x.dtype)
        counts = one_hot.sum(0)
        moved = torch.where(counts[:, None] > 0, one_hot.T @ sample / counts.clamp_min(1)[:, None], centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return torch.cdist(x, centers).argmin(1)


def _seed(x: Tensor, clusters: int) -> Tensor:
    """Pick each center among a few candidates drawn with probability proportional to squared distance."""
    tries = 2 + int(torch.tensor(float(clusters)).log())
    centers = x[torch.randint(len(x), (1,), device=x.device)]
    distance = (x - centers).square().sum(1)
    for _ in range(clusters - 1):
        weight = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        candidates = torch.multinomial(weight, tries, replacement=True)
        closer = torch.minimum(distance, torch.cdist(x[candidates], x).square())
        best = closer.sum(1).argmin()
        distance, centers = closer[best], torch.cat([centers, x[candidates[best]][None]])
    return centers


def column_moments(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of each column, rows counted by their weight."""
    share = torch.full_like(x[:, 0], 1 / len(x)) if weights is None else weights.to(x) / weights.sum()
    anchor = x[0]  # differences from any row are small where the data are far from zero
    mean = share @ (x - anchor)
    return mean + anchor, share @ (x - anchor - mean).square()


def cluster_moments(x: Tensor, labels: Tensor, clusters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (k,), means (k, d) and covariances (k, d, d) of labelled rows, shrunk so none is degenerate."""
    one_hot = torch.nn.functional.one_hot(labels, clusters).to(x.dtype)
    counts = one_hot.sum(0)
    center = x.mean(0)
    shifted = x - center
    means = (one_hot.T @ shifted) / counts.clamp_min(1)[:, None]
    spread = torch.diag(shifted.square().mean(0))
    weighted = one_hot.T[:, :, None] * (shifted - means[:, None])
    scatter = weighted.mT @ weighted
    size = x.shape[1]
    covariances = (scatter + 0.1 * size * spread) / (counts + size)[:, None, None]
    return (counts + 1) / (counts + 1).sum(), means + center, covariances
