"""Handwritten digits, binarised at 8: how well models predict 297 digits after seeing 1500."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from guides import Encoder
from inference import EM, SVI, fit
from tests.models import BernoulliMixture


@pytest.fixture(scope="module")
def vae(digits):
    return fit(zoo.VAE(), digits[0], method=SVI(guide=Encoder()), seed=0, device="cpu")


@pytest.fixture(scope="module")
def mixture(digits):
    """Within a nat of its limit is enough: rows differ by more."""
    method = EM(tolerance=1.0)
    return fit(BernoulliMixture(components=40), digits[0], method=method, seed=0, dtype=torch.float32)


def test_the_split_is_the_fixed_one(digits):
    train, test = digits
    assert train.shape == (1500, 64)
    assert test.shape == (297, 64)
    assert set(np.unique(train)) == {0.0, 1.0}


def test_independent_pixels(digits):
    train, test = digits
    found = fit(BernoulliMixture(components=1), train, method="em", seed=0)
    p = (train.sum(0) + 0.5) / (len(train) + 1)  # the mode under Beta(1.5, 1.5)
    direct = (test * np.log(p) + (1 - test) * np.log1p(-p)).sum(1)
    np.testing.assert_allclose(found.log_prob(test), direct, rtol=1e-9)
    assert -direct.mean() == pytest.approx(25.2, abs=0.05)


def test_a_mixture_of_forty_profiles(mixture, digits):
    assert 17.5 < -mixture.log_prob(digits[1]).mean() < 18.9  # 18.0 with other starts
    values = mixture.trace["value"].to_numpy()
    # Sums of 96,000 terms in single precision are good to some 1e-6 of their size.
    assert (np.diff(values) > -1e-6 * np.abs(values[1:])).all()


def test_vae_beats_them_on_unseen_digits(vae, mixture, digits):
    found = vae.log_prob(digits[1], samples=1000)
    error = found.attrs["mcse_total"] / len(found)
    assert -found.mean() + error <= 17.8
    assert error < 0.1
    assert -found.mean() + 4 * error < -mixture.log_prob(digits[1]).mean()
    assert vae.converged
    assert vae.program.dtype == torch.float32
    assert np.isfinite(vae.trace["value"]).all()


def test_more_samples_tighten_the_bound(vae, digits):
    """One sample is the ELBO; the expected log of a mean of weights rises with their number (Burda et al. 2016)."""
    one, ten, thousand = (vae.log_prob(digits[1], samples=n).mean() for n in (1, 10, 1000))
    assert one < ten < thousand


def test_vae_objective_is_below_the_likelihood_of_its_rows(vae):
    marginal = vae.log_prob()
    assert vae.objective.kind == "elbo"
    assert vae.objective.value < marginal.sum() + 4 * (vae.objective.error + marginal.attrs["mcse_total"])
    assert vae.objective.value > marginal.sum() - 5 * len(marginal)  # the encoder follows the decoder


def test_vae_draws_digits(vae, digits):
    drawn = np.asarray(vae.generate(400, seed=1))
    assert drawn.shape == (400, 64)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    seen = digits[0].mean(0)
    # Pixel means of 400 draws have a standard error of at most 0.025; the model's own may be off by as much.
    assert np.sqrt(np.mean((drawn.mean(0) - seen) ** 2)) < 0.05


def test_single_rows_and_the_whole_set_agree(vae, digits):
    whole = vae.log_prob(digits[1], samples=2000)
    one = vae.log_prob(digits[1][:1], samples=2000)
    assert abs(one.iloc[0] - whole.iloc[0]) < 5 * np.hypot(one.attrs["mcse"][0], whole.attrs["mcse"][0])
