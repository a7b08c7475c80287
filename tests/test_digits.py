"""Handwritten digits, binarised at 8: how well models predict 297 digits after seeing 1500."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from guides import Encoder
from inference import EM, SVI, fit
from tests.cases.models import BernoulliMixture


def mixture(train):
    """Within a nat of its limit is enough: rows differ by more."""
    return fit(BernoulliMixture(components=40), train, method=EM(tolerance=1.0), seed=0, dtype=torch.float32)


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


@pytest.mark.slow
def test_a_mixture_of_forty_profiles(digits):
    train, test = digits
    found = mixture(train)
    assert 17.5 < -found.log_prob(test).mean() < 18.9  # 18.0 with other starts
    values = found.trace["value"].to_numpy()
    # Sums of 96,000 terms in single precision are good to some 1e-6 of their size.
    assert (np.diff(values) > -1e-6 * np.abs(values[1:])).all()


@pytest.mark.slow
def test_vae_with_an_encoder(digits):
    """One test, since its fit takes ten seconds."""
    train, test = digits
    vae = fit(zoo.VAE(), train, method=SVI(guide=Encoder()), seed=0, device="cpu")
    assert vae.converged
    assert vae.program.dtype == torch.float32
    assert np.isfinite(vae.trace["value"]).all()

    unseen = vae.log_prob(test, samples=1000)
    error = unseen.attrs["mcse_total"] / len(unseen)
    assert error < 0.1
    assert -unseen.mean() + error <= 17.8
    assert -unseen.mean() + 4 * error < -mixture(train).log_prob(test).mean()

    # One sample is the ELBO; the expected log of a mean of weights rises with their number (Burda et al. 2016).
    one, ten = (vae.log_prob(test, samples=n).mean() for n in (1, 10))
    assert one < ten < unseen.mean()
    single = vae.log_prob(test[:1], samples=1000)
    assert abs(single.iloc[0] - unseen.iloc[0]) < 5 * np.hypot(single.attrs["mcse"][0], unseen.attrs["mcse"][0])

    seen = vae.log_prob(samples=200)
    assert vae.objective.kind == "elbo"
    assert vae.objective.value < seen.sum() + 4 * (vae.objective.error + seen.attrs["mcse_total"])
    assert vae.objective.value > seen.sum() - 5 * len(seen)  # the encoder follows the decoder

    drawn = np.asarray(vae.generate(400, seed=1))
    assert drawn.shape == (400, 64)
    assert set(np.unique(drawn)) == {0.0, 1.0}
    # Pixel means of 400 draws have a standard error of at most 0.025; the model's own may be off by as much.
    assert np.sqrt(np.mean((drawn.mean(0) - train.mean(0)) ** 2)) < 0.05
