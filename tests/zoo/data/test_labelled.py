"""Arrays of xarray as data: dimensions by name in any order, labels in that of the fitted data, pixels in errors."""

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr

import zoo
from inference import Exact, Fit, fit
from zoo.data.bind import bind
from zoo.errors import DataError

SIZES = {"row": 6, "channel": 2, "height": 3, "width": 4}
LABELS = {"channel": ["red", "green"], "height": [10, 20, 30], "width": list("abcd")}
IMAGES = xr.DataArray(
    np.random.default_rng(0).normal(size=tuple(SIZES.values())), dims=tuple(SIZES), coords=LABELS, name="x"
)


class Pixels(zoo.Model):
    """A level for each pixel."""

    x = zoo.Real("row", "channel", "height", "width")
    dims = {"level": ("channel", "height", "width")}  # noqa: RUF012

    def forward(self, x):
        level = pyro.sample("level", dist.Normal(torch.zeros(x.shape[1:]), 1.0).to_event(3))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(level, 1.0).to_event(3), obs=x)


@pytest.mark.parametrize(
    "source",
    [
        IMAGES,
        IMAGES.transpose("width", "row", "height", "channel"),
        {"x": IMAGES.T},
        IMAGES.to_dataset().assign(other=("row", np.arange(6))),
        xr.DataTree(IMAGES.to_dataset()),
    ],
    ids=["array", "transposed", "dict", "dataset", "tree"],
)
def test_dimensions_are_matched_by_name(source):
    data = bind(Pixels(), source)
    assert torch.equal(data.values["x"], torch.from_numpy(IMAGES.values))
    assert {dim: index.tolist() for dim, index in data.coords.items() if dim != "row"} == LABELS


def test_dimensions_that_nobody_has_named_are_taken_in_order():
    assert bind(Pixels(), xr.DataArray(IMAGES.values)).values["x"].shape == IMAGES.shape


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    result = fit(Pixels(), IMAGES, method=Exact(), seed=0, progress=False)
    result.save(folder := tmp_path_factory.mktemp("fit") / "saved")
    return [result, Fit.load(folder)]


def test_labels_stand_in_all_groups_of_a_fit_and_a_loaded_one(fitted):
    for result in fitted:
        for group, name in [("posterior", "level"), ("observed_data", "x"), ("posterior_predictive", "x")]:
            found = result.posterior[group][name]
            assert {dim: found.coords[dim].values.tolist() for dim in LABELS} == LABELS


def test_new_images_are_put_in_the_order_of_those_fitted(fitted):
    """Labels that were not fitted are left out; a density by hand says that no pixel was taken for another."""
    wide = xr.concat([IMAGES.isel(width=[2, 0, 3, 1]), IMAGES.isel(width=[0]).assign_coords(width=["z"])], "width")
    other = wide.isel(channel=[1, 0], height=[1, 2, 0])[:2]
    precision = 1.0 + SIZES["row"]
    mean = IMAGES.sum("row") / precision
    exact = torch.distributions.Normal(torch.from_numpy(mean.values), (1 + 1 / precision) ** 0.5)
    right = exact.log_prob(torch.from_numpy(IMAGES[:2].values)).sum((1, 2, 3))
    for result in fitted:
        found = result.log_prob(other)
        assert np.array_equal(found, result.log_prob(IMAGES[:2]))
        assert np.abs(found - right.numpy()).max() < 5 * max(found.attrs["mcse"])


def test_columns_of_a_table_in_a_dict_are_matched_by_name():
    table = pd.DataFrame({"a": [1.0, 2.0, 4.0], "b": [5.0, 3.0, 1.0]})
    like = bind(zoo.GMM(), {"x": table})
    assert torch.equal(bind(zoo.GMM(), {"x": table[["b", "a"]]}, like=like).values["x"], like.values["x"])


def at(array, value, **where):
    """Return a copy with another number in one place."""
    changed = array.copy(deep=True)
    changed.loc[where] = value
    return changed


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (IMAGES.rename(width="w"), r"field 'x': expected dimensions 'row', .* found .*\.rename\({'w': 'width'}\)"),
        (IMAGES.expand_dims("time"), "found 'time', .*select or stack"),
        (
            at(IMAGES, np.inf, row=3, channel="green", height=20, width="b"),
            "row 3, channel 'green', height 20, width 'b'",
        ),
        (
            at(IMAGES, np.nan, channel="green", height=20, width="b"),
            "^channel 'green', height 20, width 'b' of field 'x'",
        ),
        (
            at(IMAGES, np.inf, row=3, channel="green", height=20, width="b").values,
            "row 3, channel 1, height 1, width 1",
        ),
    ],
    ids=["a name", "too many", "infinite", "never observed", "without labels"],
)
def test_what_is_wrong_is_called_by_its_labels(source, text):
    with pytest.raises(DataError, match=text):
        bind(Pixels(), source)


def test_new_images_of_which_a_part_is_not_there_are_refused(fitted):
    with pytest.raises(DataError, match="'width' has no label 'c' of the fitted data; expected a, b, c, d, found a, b"):
        fitted[0].log_prob(IMAGES.sel(width=["a", "b"]))
    with pytest.raises(DataError, match=r"expected 4 along 'width' as in the fitted data \(a, b, c, d\), found 2"):
        fitted[0].log_prob(IMAGES.values[..., :2])


def test_symbols_of_sequences_may_be_labels():
    """Codes follow the labels' order, and generated sequences have the labels."""
    words = xr.DataArray(
        np.array([["b", "a", "c"], ["c", "c", "a"]]).T, dims=("time", "row"), coords={"time": [1, 2, 3]}
    )

    @zoo.model(s=zoo.Category("row", "time", levels=3))
    def symbols(s):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("row", len(s)):
            pyro.sample("s", dist.Categorical(share).expand([s.shape[1]]).to_event(1), obs=s)

    result = fit(symbols(), words, method=Exact(), seed=0, progress=False)
    assert result.program.data.values["s"].tolist() == [[1, 0, 2], [2, 2, 0]]
    drawn = result.generate(4)
    assert drawn.columns.tolist() == [1, 2, 3]
    assert set(drawn.to_numpy().ravel()) <= set("abc")
