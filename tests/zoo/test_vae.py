"""Autoencoders: likelihoods, decoders and encoders of every kind, networks of one's own, images in place of vectors."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor, nn

import zoo
from guides import Encoder
from guides.amortized import FAMILIES
from inference import SVI, Fit, fit
from tests.cases.spread import spread
from zoo.pixels import Pixels
from zoo.program.prepare import prepare
from zoo.replay.discretized import DiscretizedLogistic

SHORT = 5
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4, (12, 4, 6))
BITS = (GREY > 1).astype(float)


class Seen(nn.Module):
    """An encoder of images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x.unsqueeze(-3))
        return found


class Made(nn.Module):
    """A decoder of images."""

    def __init__(self, each: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 24 * each), nn.Unflatten(-1, (each, 4, 6)))

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.layers(z)
        return found


def short(model, x, guide=None):
    return fit(model, x, method=SVI(guide=guide or Encoder(hidden=(4,)), steps=SHORT), seed=0, progress=False)


# -- q of a row --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [1, 2, 5])
def test_families_are_invertible_and_know_their_volume(family, size):
    torch.manual_seed(0)
    q = FAMILIES[family](7, size).double()
    for parameter in q.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    numbers, noise = q.numbers(torch.randn(4, 7, dtype=torch.float64)), torch.randn(4, size, dtype=torch.float64)
    value, log_det = q(numbers, noise)
    back, again = q(numbers, value, back=True)
    torch.testing.assert_close(back, noise)
    torch.testing.assert_close(again, log_det)
    for i in range(4):
        slope = torch.func.jacrev(lambda e, i=i: q(numbers[i : i + 1], e[None])[0][0])(noise[i])
        torch.testing.assert_close(torch.linalg.slogdet(slope)[1], log_det[i])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_begin_as_one_normal(family):
    torch.manual_seed(0)
    q, noise = FAMILIES[family](3, 4), torch.randn(6, 4)
    numbers = q.numbers(torch.randn(6, 3))
    loc, log_scale = numbers[:, :4], 8 * torch.tanh(numbers[:, 4:8] / 8)
    torch.testing.assert_close(q(numbers, noise)[0], loc + log_scale.exp() * noise)


@pytest.mark.slow
def test_a_linear_autoencoder_is_ppca():
    """Its posterior is Normal with one covariance for all rows, so the bound is the likelihood (Lucas et al. 2019)."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(300, 2)) @ rng.normal(size=(2, 5)) + 0.5 * rng.normal(size=(300, 5)) + 3.0
    x /= x.std(0)  # columns in one unit, as PPCA has one noise for all
    exact = fit(zoo.PPCA(factors=2), x, method="em", seed=0)
    linear = zoo.VAE(latent=2, hidden=(), likelihood="gaussian", noise="shared")
    guide = Encoder(hidden=(), family="full")
    found = fit(linear, x, method=SVI(guide=guide, steps=4000, schedule="cosine"), seed=0, dtype=torch.float64)
    gap = exact.objective.value - found.objective.value
    assert -4 * (found.objective.error or 0.0) < gap < 1.0  # nats of 300 rows
    density = found.log_prob(samples=2000)
    assert abs(density.sum() - exact.log_likelihood) < 1.0 + 4 * density.attrs["mcse_total"]


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_images_are_rows_with_names_for_their_pixels():
    flat = short(zoo.VAE(latent=2, hidden=(3,)), BITS.reshape(12, -1))
    for image in (BITS, BITS[:, None]):
        found = short(zoo.VAE(latent=2, hidden=(3,)), image)
        np.testing.assert_allclose(found.objective.value, flat.objective.value, rtol=1e-5)
        np.testing.assert_allclose(found.log_prob(image[:3]), flat.log_prob(BITS[:3].reshape(3, -1)), rtol=1e-4)
        assert found.posterior["observed_data"]["x"].dims[-2:] == ("height", "width")
        assert np.asarray(found.generate(5)["x"]).shape == (5, *image.shape[1:])


@pytest.mark.parametrize("kind", ["conv", "resnet"])
@spread("likelihood", ["bernoulli", "gaussian", "binomial", "categorical", "logistic"], part=0, of=2)
def test_decoders_of_images_start_at_the_mean_image(kind, likelihood):
    x = BITS if likelihood == "bernoulli" else GREY.astype(float)
    program = prepare(zoo.VAE(latent=2, decoder=kind, likelihood=likelihood), x, device="cpu")
    model = program.model
    pixels = model.get_submodule("pixels")
    assert isinstance(pixels, Pixels)
    with pyro.get_param_store().scope():
        levels = pixels(torch.zeros(1, *pixels.shape, pixels.each) + pixels.start()).base_dist
    mean = (levels.probs * torch.arange(4)).sum(-1) if likelihood == "categorical" else levels.mean
    # Smoothed by a row of one half, or (logistic) cut off at the ends.
    np.testing.assert_allclose(mean[0].numpy(), x.mean(0), atol=0.75 if likelihood == "logistic" else 0.15)
    out = pixels.laid_out(model.get_submodule("decoder")(torch.zeros(3, 2)), 1)
    assert out.shape == (3, *pixels.shape, pixels.each)


def test_channels_of_a_decoder_may_stand_first_or_last():
    program = prepare(zoo.VAE(latent=2, likelihood="categorical"), GREY.astype(float), device="cpu")
    pixels = program.model.get_submodule("pixels")
    out = torch.randn(3, 4, 6, 4)
    torch.testing.assert_close(pixels.laid_out(out.movedim(-1, 1), 1), out)
    torch.testing.assert_close(pixels.laid_out(out, 1), out)


@pytest.mark.slow
def test_pixels_that_never_vary_are_kept():
    x = GREY.astype(float)
    x[:, 0, 0] = 7.0
    for image in (x, x.reshape(12, -1)):
        found = short(zoo.VAE(latent=2, hidden=(3,), likelihood="gaussian"), image)
        assert math.isfinite(found.objective.value)
        assert bool(np.isfinite(found.log_prob(image)).all())


# -- likelihoods -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loc", "scale"), [(2.0, 0.7), (-3.0, 0.2), (9.0, 4.0), (3.4, 1e-3)])
def test_a_discretized_logistic_is_a_distribution(loc, scale):
    levels = DiscretizedLogistic(torch.tensor(loc).double(), torch.tensor(scale).double(), 7)
    every = torch.arange(8, dtype=torch.float64)
    mass = levels.log_prob(every).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)
    assert float(levels.mean) == pytest.approx(float(mass @ every), abs=1e-9)
    torch.manual_seed(0)
    counts = torch.bincount(levels.sample((4000,)).long(), minlength=8).double()
    seen = mass > 1e-12
    distance = ((counts - 4000 * mass)[seen].square() / (4000 * mass[seen])).sum()
    assert float(counts[~seen].sum()) == 0
    assert float(distance) < chi2.ppf(1 - 1e-6, 7)


# -- networks of one's own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_networks_of_ones_own_are_trained_and_saved(tmp_path):
    by_class = short(zoo.VAE(latent=2, decoder=Made), BITS, Encoder(network=Seen))
    again = Fit.load(by_class.save(tmp_path / "class"))
    np.testing.assert_allclose(again.log_prob(BITS[:3]), by_class.log_prob(BITS[:3]), rtol=1e-6)
    assert "decoder=Made" in repr(by_class)
    torch.manual_seed(1)
    decoder, encoder = Made(), Seen()
    before = decoder.layers[0].weight.detach().clone()
    found = short(zoo.VAE(latent=2, decoder=decoder), BITS, Encoder(network=encoder, family="flow"))
    torch.testing.assert_close(decoder.layers[0].weight, before)  # a copy was trained
    folder = found.save(tmp_path / "instance")
    with pytest.raises(zoo.ModelError, match=r"decoder=Made.*networks="):
        Fit.load(folder)
    again = Fit.load(folder, networks={"network": Seen(), "decoder": Made()})
    np.testing.assert_allclose(again.log_prob(BITS[:3]), found.log_prob(BITS[:3]), rtol=1e-6)


class Misspelt(nn.Module):
    def forward(self, x: Tensor, xs: Tensor) -> Tensor:
        return x + xs


class Infinite(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / (0 * x.flatten(1))


@pytest.mark.parametrize(
    ("model", "x", "guide", "words"),
    [
        (zoo.VAE(latent=2, decoder=Made(3)), BITS, None, ["decoder gives", "(4, 6)"]),
        (zoo.VAE(latent=2, decoder=lambda: 3), BITS, None, ["int", "Module"]),
        (zoo.VAE(latent=2), BITS, Encoder(network=nn.Flatten(0)), ["Flatten", "(48,)", "2 rows"]),
        (zoo.VAE(latent=2), BITS, Encoder(network=nn.Linear(7, 4)), ["Linear", "x of shape (2, ", "mat1 and mat2"]),
        (zoo.VAE(latent=2), BITS, Encoder(network=Misspelt), ["Misspelt", "'xs'", "did you mean 'x'"]),
        (zoo.VAE(latent=2), BITS, Encoder(network=Infinite), ["Infinite", "gave inf", "x of shape (2, "]),
        (zoo.VAE(latent=2), BITS.reshape(12, -1), Encoder(network="conv"), ["(24,)", "mlp"]),
        (zoo.VAE(latent=2, decoder="conv"), BITS.reshape(12, -1), None, ["24", "reshape"]),
        (zoo.VAE(likelihood="logistic"), BITS + 0.5, None, [".5", "gaussian"]),
    ],
    ids=["decoder", "no module", "encoder", "sizes", "misspelt", "infinite", "vectors", "images", "levels"],
)
def test_networks_that_do_not_fit_are_named(model, x, guide, words):
    with pytest.raises(zoo.ZooError) as error:
        short(model, x, guide)
    for word in words:
        assert word in str(error.value)
