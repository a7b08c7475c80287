"""Pictures of images and codes: what is laid out where."""

from __future__ import annotations

import numpy as np
import pytest

from inference.reporting.images import as_images, image_grid, latent_map
from tests.cases.linear_vae import Exact, data, kept
from zoo.errors import DataError


def test_rows_are_laid_out_as_images() -> None:
    rows = np.arange(2 * 12.0).reshape(2, 12)
    assert as_images(rows[:, :9])[1, 2].tolist() == rows[1, 6:9].tolist()
    assert as_images(rows.reshape(2, 3, 4)).shape == (2, 3, 4)
    assert as_images(rows.reshape(2, 1, 3, 4)).shape == (2, 3, 4)
    assert as_images(rows.reshape(2, 3, 2, 2))[0, 1, 0].tolist() == [2.0, 6.0, 10.0]
    with pytest.raises(DataError, match="are no images"):
        as_images(rows)


def test_images_share_a_scale_and_codes_have_a_colour_for_each_label() -> None:
    figure = image_grid({"data": np.zeros((3, 4)), "decoded": np.full((2, 4), 2.0)})
    shown = [axis.images for axis in figure.axes]
    assert [len(images) for images in shown] == [1, 1, 1, 1, 1, 0]
    assert float(shown[0][0].get_array().max()) == 0.0
    assert float(shown[3][0].get_array().min()) == 1.0
    codes = np.random.default_rng(0).normal(size=(30, 2))
    for labels, parts in ((None, 1), (np.arange(30) % 3, 3), (np.arange(30) % 12, 12), (np.linspace(0, 1, 30), 1)):
        assert len(latent_map(codes, ("a", "b"), labels).axes[0].collections) == parts


@pytest.mark.slow
def test_a_fit_draws_its_images_and_codes() -> None:
    found = kept(Exact, data())
    assert len(found.draw_images(n=5).axes) == 15
    axis = found.draw_codes(labels=["a"] * 30 + ["b"] * 30).axes[0]
    assert len(axis.collections) == 2
    assert {axis.get_xlabel(), axis.get_ylabel()} == {"z[0]", "z[1]"}
    with pytest.raises(DataError, match="2 entries for 60 rows"):
        found.draw_codes(labels=[1, 2])
