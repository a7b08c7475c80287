"""SVI on rows that are fetched by their numbers: data sets of torch, arrays on disk, files of images, dynamic draws."""

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

import zoo
from guides import Encoder
from inference import SVI, fit
from zoo.data import indexed
from zoo.data.bind import bind
from zoo.errors import DataError, MethodError

RNG = np.random.default_rng(0)
SHARES = RNG.uniform(0.1, 0.9, (4, 4))
GREY = (255 * np.broadcast_to(SHARES, (600, 4, 4))).astype(np.uint8)
BITS = zoo.binarised(GREY, seed=5)
STEPS = SVI(steps=300, learning_rate=0.5, schedule="cosine", compile=False)


class Shares(zoo.Model):
    """A probability for each pixel: the maximum is their means."""

    x = zoo.Real("row", "height", "width")

    def forward(self, x):
        share = pyro.param("share", torch.full(x.shape[1:], 0.5), constraint=dist.constraints.unit_interval)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(share).to_event(2), obs=x)


class Pictures(Dataset):
    """Images and labels, as data sets of torch often are."""

    def __len__(self):
        return len(BITS)

    def __getitem__(self, i):
        return torch.from_numpy(BITS[i]).float(), 3


def point(result):
    """The probabilities of a fit."""
    return result.posterior["point_estimate"]["share"].values.squeeze()


@pytest.fixture
def few(monkeypatch):
    """A sample of 100 rows, so that 600 are more than it."""
    monkeypatch.setattr(indexed, "SAMPLE", 100)


def on_disk(folder):
    np.save(folder / "bits.npy", BITS)
    return folder / "bits.npy"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dataset", "loader", "mapped", "stream"])
def test_all_rows_are_fitted_and_a_sample_is_judged(kind, few, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.stream.SAMPLE", 100)
    source = {
        "dataset": Pictures,
        "loader": lambda: DataLoader(Pictures(), batch_size=32, shuffle=True),
        "mapped": lambda: np.load(on_disk(tmp_path), mmap_mode="r"),
        "stream": lambda: zoo.stream(on_disk(tmp_path)),
    }[kind]()
    result = fit(Shares(), source, method=STEPS, seed=0, progress=False)
    assert len(result.program.data) <= 200
    assert "600 rows were read part by part" in result.warnings[0]
    mean = BITS.mean(0)
    error = np.sqrt(mean * (1 - mean) / 600)  # of the maximum itself; the last steps are to come that near
    assert (np.abs(point(result) - mean) < error).all()
    exact = float(torch.distributions.Bernoulli(torch.from_numpy(mean)).log_prob(torch.from_numpy(BITS * 1.0)).sum())
    assert abs(result.objective.value - exact) < 4 * result.objective.error


def test_small_data_sets_are_read_at_once():
    """So every method takes them, and none is a sample."""
    data = bind(Shares(), Pictures())
    assert torch.equal(data.values["x"], torch.from_numpy(BITS).double())
    by_tensors = bind(Shares(), DataLoader(TensorDataset(torch.from_numpy(BITS))))
    assert torch.equal(by_tensors.values["x"], torch.from_numpy(BITS))


@pytest.mark.slow
def test_dynamic_draws_are_new_in_every_pass_and_follow_from_the_seed():
    """With 600 draws the maximum has their error; over many passes it comes to the grey values themselves."""
    ends = [
        fit(
            Shares(),
            zoo.binarised(GREY, "dynamic"),
            method=replace(STEPS, workers=w),
            seed=1,
            progress=False,
        )
        for w in (0, 1)
    ]
    assert np.array_equal(point(ends[0]), point(ends[1]))
    other = fit(Shares(), zoo.binarised(GREY, "dynamic"), method=STEPS, seed=2, progress=False)
    first = bind(Shares(), ends[0].program.data).values["x"].mean(0).numpy()
    grey = GREY[0] / 255
    for end in (ends[0], other):
        assert np.abs(point(end) - grey).mean() < 0.6 * np.abs(first - grey).mean()


@pytest.mark.slow
def test_questions_take_one_draw():
    result = fit(Shares(), zoo.binarised(GREY, "dynamic"), method=STEPS, seed=0, progress=False)
    with pytest.raises(DataError, match=r"draw once, as in zoo.binarised\(x, seed=0\)"):
        result.log_prob(zoo.binarised(GREY, "dynamic"))
    with pytest.raises(
        DataError, match=r"Bernoulli, which gives 0 or 1, and new rows hold .* at row 0, height 0, width 0"
    ):
        result.log_prob(GREY[:3])
    assert np.isfinite(result.log_prob(zoo.binarised(GREY[:3], seed=0))).all()


@pytest.mark.slow
def test_files_of_images(tmp_path, few):
    image = pytest.importorskip("PIL.Image")
    for i, bits in enumerate(BITS[:120]):
        image.fromarray(255 * bits).save(tmp_path / f"{i:03}.png")
    files = zoo.image_files(tmp_path, grey=True)
    assert np.array_equal(files.at(np.array([5, 2])), 255 * BITS[[5, 2]])
    result = fit(Shares(), zoo.scaled(files), method=STEPS, seed=0, progress=False)
    mean = BITS[:120].mean(0)
    assert (np.abs(point(result) - mean) < np.sqrt(mean * (1 - mean) / 120)).all()
    image.fromarray(np.zeros((3, 5), np.uint8)).save(tmp_path / "zz.png")
    with pytest.raises(DataError, match=r"zz.png: expected an image of 4 x 4 .* found 3 x 5; .*size=\(height, width\)"):
        zoo.image_files(tmp_path, grey=True).at(np.array([0, 120]))
    assert zoo.image_files(tmp_path, size=(6, 7)).at(np.array([0, 120])).shape == (2, 3, 6, 7)


class Endless(IterableDataset):
    def __iter__(self):
        yield 1.0


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (lambda: Endless(), "give a Dataset with __getitem__ and __len__"),
        (lambda: DataLoader(Pictures(), sampler=WeightedRandomSampler([1.0] * 600, 9)), "leaves out or repeats rows"),
        (lambda: DataLoader(Pictures(), collate_fn=len), "collate_fn of its own"),
    ],
)
def test_what_is_no_set_of_rows_is_refused(source, text):
    with pytest.raises(DataError, match=text):
        fit(Shares(), source(), method=STEPS, seed=0)


def test_what_needs_all_rows_is_refused(few, tmp_path):
    with pytest.raises(MethodError, match="has numbers for each row, and a stream too many; use Encoder"):
        fit(zoo.VAE(latent=2), Pictures(), method=SVI(), seed=0)
    with pytest.raises(MethodError, match=r"nuts needs all rows in memory and cannot read a stream, which .*svi.* can"):
        fit(zoo.BetaBernoulli(), zoo.binarised(GREY[:, 0, 0], "dynamic"), method="nuts", seed=0)
    with pytest.raises(MethodError, match=r"draws of .* would have to be weighed against all rows"):
        fit(zoo.BetaBernoulli(), zoo.binarised(GREY[:, 0, 0], "dynamic"), method="svi", seed=0)


def test_a_row_of_a_stream_that_lacks_values_is_named(few):
    odd = BITS.astype(float)
    odd[431, 1, 1] = np.nan
    with pytest.raises(DataError, match="row 431 of an array misses values"):
        fit(Shares(), indexed.Array(odd), method=replace(STEPS, batch_size=300), seed=0)


@pytest.mark.slow
def test_an_encoder_is_trained_on_a_stream_as_on_rows_in_memory(few):
    """The same passes over the same rows; bounds agree within the error that a sample of the rows has."""
    codes = RNG.normal(size=(600, 2))
    shares = 1 / (1 + np.exp(-codes @ RNG.normal(size=(2, 16))))
    bits = (RNG.uniform(size=shares.shape) < shares).reshape(-1, 4, 4)
    method = SVI(guide=Encoder(hidden=(32,)), steps=1500, compile=False)
    ends = [
        fit(zoo.VAE(latent=2, hidden=(32,)), source, method=method, seed=0, progress=False)
        for source in (bits, indexed.Array(bits))
    ]
    gap = ends[0].objective.value - ends[1].objective.value
    assert abs(gap) < 4 * np.hypot(*(end.objective.error for end in ends))
