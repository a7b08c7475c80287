"""Starting values that models share, against what numpy says of the same rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.initial import _squares, cluster_moments, column_moments, expected_factors, observed, principal_axes
from zoo.replay.random import reseed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 3)) * [1.0, 5.0, 0.2] + [100.0, -3.0, 7.0]
LOST = RNG.random(X.shape) < 0.3
LOST[4] = True  # a row without any cell
TIMES = RNG.integers(1, 4, len(X))
LABELS = np.array([0, 0, 1, 1, 1, 0, 2, 1, 0, 0, 1, 1])  # a cluster of one row


def known(missing):
    """Rows with NaN where cells are missing; as tensors with a number there, with the cells that are missing."""
    tensor = torch.tensor(np.where(LOST, X[0], X) if missing else X)
    return np.where(LOST & missing, np.nan, X), tensor, torch.tensor(LOST) if missing else None


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_moments_of_columns_count_rows_by_their_weight_and_missing_cells_not_at_all(missing, weighted):
    rows, x, lost = known(missing)
    rows = np.repeat(rows, TIMES, axis=0) if weighted else rows
    mean, variance = column_moments(x, torch.tensor(TIMES) if weighted else None, lost)
    np.testing.assert_allclose(mean, np.nanmean(rows, 0), rtol=1e-12)
    np.testing.assert_allclose(variance, np.nanvar(rows, 0), rtol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_moments_of_clusters_are_shrunk_to_those_of_the_columns(missing):
    """Shares as if each had one row more; scatter as if d more rows had a tenth of the columns' variances."""
    rows, x, lost = known(missing)
    shares, means, covariances = cluster_moments(x, torch.tensor(LABELS), 3, lost)
    some = ~np.isnan(rows).all(1)
    counts, overall = np.bincount(LABELS[some], minlength=3), np.nanvar(rows, 0)
    np.testing.assert_allclose(shares, (counts + 1) / (counts + 1).sum())
    for k in range(3):
        own = rows[some & (k == LABELS)]
        seen = ~np.isnan(own)
        # A cell that is missing stands at the cluster's mean, or where none is seen at the column's.
        mean = np.where(seen.any(0), np.where(seen, own, 0).sum(0) / seen.sum(0).clip(1), np.nanmean(rows, 0))
        gaps = np.where(seen, own - mean, 0.0)
        scatter = gaps.T @ gaps + np.diag((~seen).sum(0) * overall)
        np.testing.assert_allclose(means[k], mean, rtol=1e-12)
        expected = (scatter + 0.1 * 3 * np.diag(overall)) / (counts[k] + 3)
        np.testing.assert_allclose(covariances[k], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("missing", [False, True])
def test_distances_are_over_the_columns_that_are_seen(missing):
    rows, x, lost = known(missing)
    seen = observed(x, lost)
    centers = torch.tensor(X[[1, 7]])
    found = _squares(centers, seen * x, (seen * x).square().sum(1), seen if missing else None)
    gaps = np.square(rows - centers.numpy()[:, None])
    expected = np.nansum(gaps, 2) * 3 / (~np.isnan(rows)).sum(1).clip(1)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_principal_axes_have_half_of_the_variance_along_them():
    with torch.random.fork_rng():
        reseed(0)
        means, loadings, rest = principal_axes(torch.tensor(X), 2)
    values, vectors = np.linalg.eigh(np.cov(X.T, bias=True))
    half = 0.5 * (vectors[:, 1:] * values[1:]) @ vectors[:, 1:].T
    np.testing.assert_allclose(means, X.mean(0))
    np.testing.assert_allclose(loadings @ loadings.mT, half, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rest, X.var(0) - np.diag(half), rtol=1e-9)


def test_expected_factors_are_those_of_gaussian_conditioning():
    loadings, variances, means = RNG.normal(size=(3, 2)), np.array([0.5, 2.0, 0.1]), X.mean(0)
    found = expected_factors(*(torch.tensor(v) for v in (X, means, loadings, variances)))
    gain = np.linalg.solve(loadings @ loadings.T + np.diag(variances), loadings)
    np.testing.assert_allclose(found, (X - means) @ gain, rtol=1e-9, atol=1e-9)
