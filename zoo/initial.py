"""Starting values that models share: clusters by k-means, moments, principal axes; missing cells count nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.constant_columns import floors

AT_ONCE = 4_000_000  # numbers
FEW = 1_000_000  # numbers that double precision costs next to nothing for
SEED_ROWS = 20_000  # seeding looks at a random subset of this size, which finds the same clusters as all rows


def kmeans(
    x: Tensor, clusters: int, steps: int = 20, *, missing: Tensor | None = None, standardize: bool = True
) -> Tensor:
    """Label rows by k-means++ seeding (Arthur and Vassilvitskii 2007) and Lloyd steps.

    Distances to a row with missing cells are over what it has, scaled up to all columns; a seed that misses a cell has
    the column's mean there.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    clusters
        Number of labels; every label is used where there are that many distinct rows.
    steps
        Most Lloyd steps.
    missing
        True where a cell is missing, in the shape of x; None if none is.
    standardize
        Whether each column counts in units of its standard deviation, or all in the unit that they share, such as
        pixels: a pixel that is hardly ever on says little there.

    Returns
    -------
    Tensor
        Labels 0 .. clusters - 1, shape (rows,).
    """
    # Differences of squares tell groups apart that are 1e-3 of the spread wide in single precision, 1e-7 in double.
    x = x.double() if x.numel() <= FEW else x
    seen = None if missing is None else observed(x, missing)
    if seen is None:
        x = x - x[0]  # a column that does not vary is 0 exactly, whatever its mean is rounded to
        x = x - x.mean(0)
        scale = x.std(0, correction=0)
    else:  # a missing cell is 0 from here on, where it stands at its column's mean and adds nothing to a product
        center, variance = column_moments(x, None, missing)
        x, scale = seen * (x - center), variance.sqrt()
    if standardize:  # a constant column says nothing, and is 0
        x = x / torch.where(scale > 0, scale, torch.ones_like(scale))
    pick = torch.randperm(len(x), device=x.device)[:SEED_ROWS]
    sample, known = x[pick], None if seen is None else seen[pick]
    norms = sample.square().sum(1)
    centers = _seed(sample, norms, known, clusters)
    for _ in range(steps):
        labels = _squares(centers, sample, norms, known).argmin(0)
        one_hot = torch.nn.functional.one_hot(labels, clusters).to(x.dtype)  # (rows, clusters)
        # Rows of each cluster, (clusters, 1); where cells are missing, cells seen in each column, (clusters, columns).
        counts = one_hot.sum(0)[:, None] if known is None else one_hot.T @ known
        # An empty cluster stays where it is.
        moved = torch.where(counts > 0, one_hot.T @ sample / counts.clamp_min(1), centers)
        if torch.equal(moved, centers):
            break
        centers = moved
    return _squares(centers, x, x.square().sum(1), seen).argmin(0)


def _squares(centers: Tensor, x: Tensor, norms: Tensor, seen: Tensor | None) -> Tensor:
    """Squared distance of each row from each center, shape (centers, rows), over the columns that count of the row.

    sum_j seen_ij (x_ij - c_kj)^2 multiplied out, with the rows' squared norms known: a matrix product or two, and no
    (centers, rows, columns) array. x is 0 where it is missing. Standardized columns keep the differences of squares
    accurate enough.
    """
    squares = centers.square()
    own = squares.sum(1)[:, None] if seen is None else squares @ seen.T
    square = (norms - 2 * centers @ x.T + own).clamp_min(0.0)
    return square if seen is None else square * (x.shape[1] / seen.sum(1).clamp_min(1))


def _seed(x: Tensor, norms: Tensor, seen: Tensor | None, clusters: int) -> Tensor:
    """Pick each center among a few candidates drawn with probability proportional to squared distance.

    The candidate that leaves the least sum of squares is taken: greedy k-means++, as in scikit-learn.
    """
    tries = 2 + int(torch.tensor(float(clusters)).log())
    centers = x[torch.randint(len(x), (1,), device=x.device)]
    # Squared distance of each row from its nearest center so far, (rows,).
    distance = _squares(centers, x, norms, seen)[0]
    for _ in range(clusters - 1):
        # With fewer distinct rows than centers all distances are 0: any row will do.
        weight = distance if float(distance.sum()) > 0 else torch.ones_like(distance)
        candidates = torch.multinomial(weight, tries, replacement=True)
        closer = torch.minimum(distance, _squares(x[candidates], x, norms, seen))  # (candidates, rows)
        best = closer.sum(1).argmin()
        distance, centers = closer[best], torch.cat([centers, x[candidates[best]][None]])
    return centers


def observed(x: Tensor, missing: Tensor | None) -> Tensor:
    """1 where a cell is observed and 0 where it is missing (None: nowhere), in the shape of x."""
    return torch.ones_like(x) if missing is None else (~missing).reshape(x.shape).to(x)


def column_moments(x: Tensor, weights: Tensor | None, missing: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the mean and variance of each column, rows counted by their weight and missing cells not at all."""
    anchor = x[0]  # differences from any row are small where the data are far from zero
    if missing is None:
        share = torch.full_like(x[:, 0], 1 / len(x)) if weights is None else weights.to(x) / weights.sum()
        size = max(1, AT_ONCE // x.shape[1])  # rows at a time: differences of all would double what is in memory
        parts = list(zip(share.split(size), x.split(size), strict=True))
        mean = sum(s @ (part - anchor) for s, part in parts)
        return mean + anchor, sum(s @ (part - anchor - mean).square() for s, part in parts)
    seen = observed(x, missing)
    count = seen if weights is None else seen * weights.to(x)[:, None]
    share = count / count.sum(0)
    mean = (share * (x - anchor)).sum(0)
    return mean + anchor, (share * (x - anchor - mean).square()).sum(0)


def smoothed_logits(x: Tensor, weights: Tensor | None, missing: Tensor | None = None, trials: float = 1.0) -> Tensor:
    """Log odds of each entry, (rows, ...) to (...), smoothed by one row of one half: where a decoder starts."""
    center, _ = column_moments(x.flatten(1), weights, None if missing is None else missing.flatten(1))
    rows = len(x) if weights is None else float(weights.sum())
    mean = (rows * center / trials + 0.5) / (rows + 1.0)
    return torch.logit(mean.clamp(1e-4, 1 - 1e-4)).reshape(x.shape[1:])


def cluster_moments(
    x: Tensor, labels: Tensor, clusters: int, missing: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights (k,), means (k, d) and covariances (k, d, d) of labelled rows, shrunk so none is degenerate.

    A missing cell stands at its cluster's mean with the column's variance. A column that does not vary has the smallest
    variance in all clusters, and no part in anything else.
    """
    one_hot = torch.nn.functional.one_hot(labels, clusters).to(x.dtype)  # (rows, k)
    counts = one_hot.sum(0)
    if missing is None:
        shifted = x - x[0]
        center = shifted.mean(0)
        shifted, center = shifted - center, x[0] + center
        means = (one_hot.T @ shifted) / counts.clamp_min(1)[:, None]
        spread = torch.diag(shifted.square().mean(0))
        weighted = one_hot.T[:, :, None] * (shifted - means[:, None])  # (k, rows, d), 0 in rows of other clusters
    else:
        center, variance = column_moments(x, None, missing)
        seen = observed(x, missing)
        one_hot = one_hot * seen.any(1, keepdim=True)  # a row without any cell belongs nowhere
        counts = one_hot.sum(0)
        shifted, spread = seen * (x - center), torch.diag(variance)
        known = one_hot.T @ seen  # cells seen in each cluster and column, (k, d)
        means = (one_hot.T @ shifted) / known.clamp_min(1)
        weighted = one_hot.T[:, :, None] * (seen * (shifted - means[:, None]))
    scatter = weighted.mT @ weighted
    if missing is not None:  # each missing cell adds the column's variance
        scatter = scatter + (counts[:, None] - known)[:, :, None] * spread
    # As if d more rows had a tenth of the data's variances: positive definite even for a cluster of one row.
    size = int((spread.diagonal() > 0).sum())
    covariances = (scatter + 0.1 * size * spread) / (counts + size)[:, None, None]
    covariances = covariances + torch.diag(floors(spread.diagonal()))
    return (counts + 1) / (counts + 1).sum(), means + center, covariances


def principal_axes(x: Tensor, factors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the columns' means (d,), and loadings (d, factors) and what these leave of each variance (d,).

    The first principal axes of at most `SEED_ROWS` rows, each with half of the variance along it: a start on the way
    to the maximum, not the maximum itself.
    """
    sample = x[torch.randperm(len(x), device=x.device)[:SEED_ROWS]]
    means = sample[0] + (sample - sample[0]).mean(0)
    centred = sample - means
    _, singular, axes = torch.svd_lowrank(centred, q=min(factors + 6, *centred.shape))
    loadings = axes[:, :factors] * singular[:factors] / (2 * len(sample)) ** 0.5
    return means, loadings, centred.square().mean(0) - loadings.square().sum(-1)


def expected_factors(x: Tensor, means: Tensor, loadings: Tensor, variances: Tensor) -> Tensor:
    """E[z | x] = (I + L' V^-1 L)^-1 L' V^-1 (x - m), shape (rows, factors), with V the diagonal matrix of variances."""
    scaled = loadings / variances[:, None]
    precision = torch.eye(loadings.shape[1]).to(x) + scaled.mT @ loadings
    factors: Tensor = torch.linalg.solve(precision, ((x - means) @ scaled).mT).mT
    return factors


def predictor_scales(x: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return what columns of predictors are centred at, and units in which effects are alike (Gelman et al. 2008).

    The unit of a column is two standard deviations, and of one with two values their distance.
    """
    center, variances = column_moments(x, weights)
    low, high = x.amin(0), x.amax(0)
    two = ((x == low) | (x == high)).all(0) & (high > low)
    return center, torch.where(two, high - low, 2 * variances.sqrt())


def ridge(z: Tensor, response: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """Minimize sum_i w_i (response_i - z_i . b)^2 + penalty * |b|^2; the last column of z has no penalty.

    Parameters
    ----------
    z
        Columns in comparable units, the last one of ones, shape (rows, columns).
    response, weights
        Shape (rows,).
    penalty
        Positive.

    Returns
    -------
    Tensor
        The coefficients, shape (columns,).
    """
    weighted = (z * weights[:, None]).mT
    eye = torch.eye(z.shape[1]).to(z)
    eye[-1, -1] = 1e-6  # a level is as free as it can be
    found: Tensor = torch.linalg.solve(weighted @ z + penalty * eye, weighted @ response)
    return found
