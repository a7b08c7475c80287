"""Grey levels as zeros and ones, without gaps, in [0, 1]: distributions of the draws, and what they follow from."""

import numpy as np
import pytest
import torch
from scipy import stats

import zoo
from zoo.data.grey import uniforms
from zoo.errors import DataError
from zoo.program.prepare import prepare

GREY = np.random.default_rng(0).integers(0, 256, (40, 5, 5), dtype=np.uint8)


def test_noise_is_uniform_and_independent_along_rows_columns_and_passes():
    a, b = (uniforms(3, epoch, np.arange(400), 50) for epoch in (0, 1))
    assert stats.kstest(a.ravel(), "uniform").pvalue > 1e-3
    for left, right in [(a, b), (a[1:], a[:-1]), (a[:, 1:], a[:, :-1])]:
        assert abs(np.corrcoef(left.ravel(), right.ravel())[0, 1]) < 4 / np.sqrt(left.size)


def test_zeros_and_ones_have_the_grey_values_for_means():
    repeated = np.tile(GREY[:1], (4000, 1, 1))
    mean, share = zoo.binarised(repeated, seed=1).mean(0), GREY[0] / 255
    assert (np.abs(mean - share) <= 4.5 * np.sqrt(share * (1 - share) / 4000)).all()


def test_a_static_draw_is_the_first_pass_of_a_dynamic_one_whatever_rows_are_asked_for():
    static, dynamic = zoo.binarised(GREY, seed=2), zoo.binarised(GREY, "dynamic", seed=2)
    some = np.array([7, 3, 30])
    assert np.array_equal(dynamic.at(some), static[some])
    assert not np.array_equal(dynamic.at(some, epoch=1), static[some])
    assert np.array_equal(dynamic.at(some, epoch=1), dynamic.at(some, epoch=1))
    assert not np.array_equal(static, zoo.binarised(GREY, seed=3))


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_arrays_stay_arrays_and_tensors_tensors(kind):
    made = zoo.binarised(kind(GREY), seed=0), zoo.dequantized(kind(GREY), seed=0), zoo.scaled(kind(GREY))
    assert all(type(m) is type(kind(GREY)) for m in made)
    assert np.array_equal(made[0], zoo.binarised(GREY / 255, seed=0))
    assert np.array_equal(np.floor(256 * np.asarray(made[1])), GREY)
    assert np.abs(np.asarray(made[2]) - GREY / 255).max() < 1e-7


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: zoo.binarised(GREY), r"needs a seed: binarised\(x, seed=0\)"),
        (lambda: zoo.binarised(GREY, "often", seed=0), "expected 'static' .* or 'dynamic'"),
        (lambda: zoo.binarised(GREY * 2.0, seed=0), "grey values from 0 to 1, found values from 0 to 510"),
        (lambda: zoo.binarised(GREY, seed=0, levels=16), "levels 0 to 15, found values from 0 to 255"),
        (lambda: zoo.dequantized(GREY + 0.5, seed=0), "grey levels 0, 1, ..., 255, found values"),
        (lambda: zoo.binarised("mnist", seed=0), "expected an array, a tensor or zoo.image_files"),
    ],
)
def test_what_is_wrong_is_said(make, text):
    with pytest.raises(DataError, match=text):
        make()


def test_counts_of_eight_bits_are_counts():
    """They were compared with the largest count as it wraps around in eight bits, and 1 was too large."""
    rows = zoo.binarised(GREY, "dynamic")
    program = prepare(zoo.PixelCNN(channels=4, blocks=0), rows)
    assert len(program.data) > 0
