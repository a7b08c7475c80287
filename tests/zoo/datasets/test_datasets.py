"""The data sets we ship: shape, values, provenance, and that listing them costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from zoo import datasets
from zoo.errors import UnknownNameError, ZooError


@pytest.fixture
def references() -> Path:
    """Give the folder of reference values, or skip where there is none."""
    folder = os.environ.get("ZOO_REFERENCES")
    if not folder:
        pytest.skip("ZOO_REFERENCES is not set: no reference values to compare with")
    return Path(folder)


@pytest.mark.parametrize("name", datasets.names())
def test_info_tells_what_load_returns(name: str) -> None:
    told, frame = datasets.info(name), datasets.load(name)
    assert told.name == name
    assert frame.shape == (told.rows, len(told.columns))
    assert tuple(frame.columns) == told.columns
    assert frame.index.name == told.index
    assert not frame.isna().to_numpy().any()
    assert all(pd.api.types.is_numeric_dtype(kind) for kind in frame.dtypes)


@pytest.mark.parametrize("name", datasets.names())
def test_every_dataset_says_where_it_comes_from(name: str) -> None:
    told = datasets.info(name)
    for text in (told.title, told.source, told.licence, told.note):
        assert text.strip()


def test_every_shipped_file_is_a_dataset_in_the_table() -> None:
    folder = resources.files(datasets)
    files = {item.name for item in folder.iterdir() if ".csv" in item.name}
    assert files == {datasets.info(name).file for name in datasets.names()}
    table = folder.joinpath("README.md").read_text(encoding="utf-8")
    assert [file for file in files if f"`{file}`" not in table] == []


def test_names_are_sorted() -> None:
    assert datasets.names() == sorted(datasets.names())
    assert {"coin", "digits", "eight_schools", "faithful", "galaxies"} <= set(datasets.names())


def test_load_gives_a_new_frame_each_time() -> None:
    first = datasets.load("coin")
    first.iloc[0, 0] = 7
    assert datasets.load("coin").iloc[0, 0] != 7


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown dataset 'faithfull'; did you mean 'faithful'\?") as caught:
        datasets.load("faithfull")
    assert isinstance(caught.value, ZooError)
    with pytest.raises(UnknownNameError, match=r"Known: coin, digits, .*, faithful, galaxies"):
        datasets.info("")


def test_listing_imports_neither_torch_nor_pandas() -> None:
    code = "import sys, zoo.datasets as d; d.info(d.names()[0]); print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_coin_is_ten_tosses_with_five_heads() -> None:
    flips = datasets.load("coin")["flips"]
    assert set(flips) == {0, 1}
    assert flips.sum() == 5


def test_digits_equal_those_of_scikit_learn() -> None:
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    np.testing.assert_array_equal(datasets.load("digits").to_numpy(), load_digits().data)


def test_eight_schools_are_those_of_rubin_1981() -> None:
    schools = datasets.load("eight_schools")
    assert list(schools["effect"]) == [28, 8, -3, 7, -1, 1, 18, 12]
    assert list(schools["error"]) == [15, 10, 16, 11, 9, 11, 10, 18]
    assert schools.index[0] == "Choate"
    assert schools.index.is_unique


def test_faithful_has_its_known_moments() -> None:
    geyser = datasets.load("faithful")
    # Means and standard deviations as R prints them for datasets::faithful.
    np.testing.assert_allclose(geyser.mean(), [3.487783, 70.89706], rtol=1e-6)
    np.testing.assert_allclose(geyser.std(), [1.141371, 13.59497], rtol=1e-6)
    assert tuple(geyser.iloc[0]) == (3.6, 79)
    assert tuple(geyser.iloc[-1]) == (4.467, 74)


def test_galaxies_have_the_published_78th_value() -> None:
    velocity = datasets.load("galaxies")["velocity"]
    assert velocity.iloc[77] == 26960
    assert velocity.is_monotonic_increasing
    assert velocity.iloc[0] == 9172
    assert velocity.iloc[-1] == 34279


def test_iris_equals_that_of_scikit_learn() -> None:
    load_iris = pytest.importorskip("sklearn.datasets").load_iris
    np.testing.assert_array_equal(datasets.load("iris").to_numpy(), load_iris().data)


def test_discoveries_have_their_known_moments() -> None:
    found = datasets.load("discoveries")["discoveries"]
    assert list(found.index) == list(range(1860, 1960))
    assert (found.sum(), found.max()) == (310, 12)
    assert list(found.head(5)) == [5, 3, 0, 2, 0]  # as R prints datasets::discoveries


def test_whiteside_gives_the_lines_of_its_textbook() -> None:
    """Venables and Ripley (2002), section 6.1: 6.85384 - 0.39324 t before insulation, 4.72385 - 0.27793 t after."""
    house = datasets.load("whiteside")
    for after, intercept, slope in ((0, 6.85384, -0.39324), (1, 4.72385, -0.27793)):
        part = house[house["insulated"] == after]
        np.testing.assert_allclose(np.polyfit(part["temperature"], part["gas"], 1), [slope, intercept], rtol=2e-5)


def test_faithful_equals_the_reference(references: Path) -> None:
    pd.testing.assert_frame_equal(datasets.load("faithful"), pd.read_csv(references / "data" / "faithful.csv"))


def test_galaxies_equal_the_reference(references: Path) -> None:
    expected = pd.read_csv(references / "data" / "galaxies_corrected.csv")["dat"]
    np.testing.assert_array_equal(datasets.load("galaxies")["velocity"], expected)


def test_eight_schools_equal_the_reference(references: Path) -> None:
    expected = json.loads((references / "posteriordb" / "eight_schools.json").read_text(encoding="utf-8"))
    schools = datasets.load("eight_schools")
    np.testing.assert_array_equal(schools["effect"], expected["y"])
    np.testing.assert_array_equal(schools["error"], expected["sigma"])


def test_coin_has_the_counts_of_the_reference(references: Path) -> None:
    exact = json.loads((references / "small_exact.json").read_text(encoding="utf-8"))["beta_bernoulli_uniform_n10_k5"]
    flips = datasets.load("coin")["flips"]
    assert exact["post_a"] == 1 + flips.sum()
    assert exact["post_b"] == 1 + len(flips) - flips.sum()
