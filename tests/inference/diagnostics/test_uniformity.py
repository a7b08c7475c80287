"""p-values of uniformity are exact, and shapes are read as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import bdtr, bdtrc

from inference.diagnostics.uniformity import coverage, holm, p_value, shape_of


def least_tail(values, points):
    """The statistic by its definition."""
    n, tails = len(values), []
    for z in points:
        count = int((values <= z).sum())
        above = bdtrc(count - 1, n, z) if count else 1.0
        tails.append(min(1.0, 2 * min(bdtr(count, n, z), above)))
    return min(tails)


@pytest.mark.slow
@pytest.mark.parametrize("n", [7, 60])
def test_p_value_is_the_share_of_uniform_samples_with_a_smaller_statistic(n):
    noise, count = np.random.default_rng(1), 2000
    points = np.arange(1, n) / n
    null = np.array([least_tail(noise.random(n), points) for _ in range(count)])
    for power in (1.0, 1.3, 2.0):
        sample = noise.random(n) ** power
        share = (null <= least_tail(sample, points) * (1 + 1e-9)).mean()
        p = p_value(sample)
        assert abs(p - share) <= 4 * math.sqrt(max(share * (1 - share), 1 / count) / count)


def test_two_numbers_by_hand():
    # One point, 1/2: with both below it, P(B <= 2) = 1 and P(B >= 2) = 1/4, so that p = P(both on one side) = 1/2.
    assert p_value(np.array([0.1, 0.2])) == pytest.approx(0.5)
    assert p_value(np.array([0.1, 0.8])) == 1.0


@pytest.mark.slow
def test_p_values_of_uniform_numbers_are_below_each_level_as_often_as_it_says():
    noise, count = np.random.default_rng(2), 200
    p = np.array([p_value(noise.random(50)) for _ in range(count)])
    for level in (0.05, 0.2, 0.5):
        assert abs((p <= level).mean() - level) <= 4 * math.sqrt(level * (1 - level) / count)


def test_far_departures_have_small_p_values_and_not_zero():
    p = p_value(np.random.default_rng(3).random(1000) ** 3)
    assert 0 < p < 1e-30


def test_holm():
    # Holm (1979): 0.01 * 4, 0.013 * 3, 0.04 * 2, 0.2 * 1, never falling.
    assert holm(np.array([0.2, 0.01, 0.04, 0.013])) == pytest.approx([0.2, 0.04, 0.08, 0.04])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda u: 0.5 + 0.6 * (u - 0.5), "draws are too wide"),
        (lambda u: np.where(u < 0.5, 2 * u**2, 1 - 2 * (1 - u) ** 2), "draws are too narrow"),
        (lambda u: u**1.5, "draws are too high"),
        (lambda u: u**0.66, "draws are too low"),
    ],
)
def test_shapes(make, words):
    u = (np.arange(1000) + 0.5) / 1000
    assert shape_of(make(u)).startswith(words)
    assert coverage(u, 0.9) == pytest.approx(0.9)
