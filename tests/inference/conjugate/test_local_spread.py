"""The variance among neighbours, that floors of variances are relative to."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

import zoo
from inference import EM, fit
from inference.conjugate.local_spread import local_spread, tight_axes
from zoo.constant_columns import FLOOR

LEVELS = np.concatenate([np.random.default_rng(seed).normal(m, 1, 100) for seed, m in enumerate([0.0, 1e4] * 3)])
WITHIN = [LEVELS[LEVELS < 5e3].var(), LEVELS[LEVELS > 5e3].var()]


def ratio(*columns):
    """Variance among neighbours as a share of the variance, by column."""
    x = torch.stack([torch.as_tensor(c, dtype=torch.float64) for c in columns], -1)
    seen = ~x.isnan()
    mean = torch.where(seen, x, 0.0).sum(0) / seen.sum(0)
    variance = torch.where(seen, (x - mean).square(), 0.0).sum(0) / seen.sum(0)
    return (local_spread(x, variance, FLOOR) / variance).tolist()


def normals(n, seed=0):
    return np.random.default_rng(seed).normal(size=n)


def test_one_group_has_about_the_variance():
    uniform = np.random.default_rng(1).uniform(size=5000)
    for share in ratio(normals(5000), 1e6 + 1e-3 * normals(5000, 2), uniform):
        assert 0.6 < share <= 1


@pytest.mark.parametrize("far", [1e2, 1e4, 1e5])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_groups_far_apart_have_about_that_within_the_tightest(far, share):
    """It is between the variance in the tight group and some thousand times that, however far the groups are."""
    n = int(3000 * share)
    x = np.concatenate([normals(n), far + 10 * normals(3000 - n, 1)])
    assert 0.01 < ratio(x)[0] * x.var() < 1e4


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 100])
def test_few_rows_have_a_floor_too(n):
    (share,) = ratio(np.arange(n) + 0.1 * normals(n)) if n > 1 else (1.0,)
    assert 0 < share <= 1


def test_ties_are_no_spacing():
    assert ratio(np.repeat([0.0, 1.0], 300), np.repeat([0.0, 1.0, 2.0], 200)) == [1.0, 1.0]
    assert 0.1 < ratio(np.concatenate([np.zeros(500), normals(500)]))[0] <= 1


def test_missing_cells_are_left_out():
    some, x = np.arange(600) % 3 == 0, LEVELS.copy()
    x[some] = math.nan
    whole, part = ratio(LEVELS, x)
    assert 0.1 < part / whole < 10


def test_it_is_the_same_in_other_units_and_rows_in_any_order():
    x = LEVELS[np.random.default_rng(3).permutation(600)]
    assert ratio(x) == pytest.approx(ratio(LEVELS), rel=1e-12)
    assert ratio(1e-3 * LEVELS) == pytest.approx(ratio(LEVELS), rel=1e-6)


def test_a_floor_is_above_rounding():
    """Two groups that are exact up to rounding: single precision has no floor below that of one group."""
    x = np.concatenate([normals(300), 1e9 + normals(300, 1)])
    assert FLOOR * ratio(x)[0] == pytest.approx(100 * np.finfo(float).eps, rel=1e-6)
    single = torch.tensor(x, dtype=torch.float32)[:, None]
    variance = single.var(0)
    assert torch.equal(local_spread(single, variance, FLOOR), variance)


@pytest.mark.parametrize("model", ["hmm", "full", "diag", "tied", "spherical"])
def test_tight_levels_far_apart_have_their_own_variance(model):
    """At the maximum of the likelihood each level has the mean and the variance of its own rows."""
    made = zoo.HiddenMarkov(components=2) if model == "hmm" else zoo.GMM(2, model)
    found = fit(made, LEVELS if model == "hmm" else LEVELS[:, None], method="em", seed=0)
    got = np.sort(found.points["covariances"].numpy().ravel())
    wanted = [np.mean(WITHIN)] if model == "tied" else np.sort(WITHIN)
    assert got == pytest.approx(wanted, rel=1e-4)
    assert found.converged
    assert not [w for w in found.warnings if "floor" in w]


def test_a_group_that_is_one_point_is_at_its_floor():
    x = np.concatenate([normals(200), np.full(20, 1e4)])[:, None]
    found = fit(zoo.GMM(2), x, method="em", seed=0)
    assert any("floor" in w for w in found.warnings)


@pytest.mark.parametrize("tight", [1e-2, 1e-4, 1e-5])
def test_columns_next_to_combinations_of_others_are_no_collapse(tight):
    """Against scikit-learn, whose floor is taken off; the gap to it was 1,200 nats at 1e-4 with floors by column."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=400) + 4 * rng.integers(0, 2, 400)
    x = np.column_stack([first, first + tight * rng.normal(size=400), rng.normal(size=400)])
    theirs = GaussianMixture(2, reg_covar=1e-16, n_init=3, random_state=0, tol=1e-9, max_iter=2000).fit(x)
    ours = fit(zoo.GMM(components=2), x, method=EM(restarts=3), seed=0, progress=False)
    assert ours.objective.value > theirs.score(x) * len(x) - 0.01
    assert not any("collapsed" in warning for warning in ours.warnings)


def test_axes_are_as_tight_as_the_data_along_them():
    rng = np.random.default_rng(1)
    x = torch.from_numpy(rng.normal(size=(500, 3)))
    assert tight_axes(x, FLOOR) is None
    x[:, 2] = (x[:, 0] + x[:, 1]) / 2**0.5 + 1e-3 * x[:, 2]
    values = torch.linalg.eigvalsh(tight_axes(x, FLOOR))
    np.testing.assert_allclose(values[1:], 1.0)
    np.testing.assert_allclose(values[0], np.sqrt(np.linalg.eigvalsh(np.cov(x.T.numpy(), bias=True))[0]), rtol=1e-3)
