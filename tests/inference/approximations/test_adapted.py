"""Rows with missing cells, asked about after training on whole ones, against the exact marginal and posterior."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tests.cases.linear_vae import LATENT, NOISE, Exact, Wide, data, kept, weights

SEEN = [0, 2]


@pytest.mark.slow
@pytest.mark.parametrize("guide", [Exact, Wide])
def test_what_is_hidden_is_integrated_out(guide: type) -> None:
    found = kept(guide, data())
    rows = data(20, seed=5)
    half = rows.copy()
    half[:15, [1, 3]] = math.nan
    w, b = weights()
    w, b = w[SEEN], b[SEEN]
    exact = stats.multivariate_normal(b, w @ w.T + NOISE**2 * np.eye(2)).logpdf(rows[:15, SEEN])
    said = found.log_prob(half, samples=2000)
    z = (said.to_numpy()[:15] - exact) / np.array(said.attrs["mcse"])[:15]
    assert abs(z).max() < 4.5
    assert max(said.attrs["mcse"][:15]) < 0.05
    whole = found.log_prob(rows, samples=2000)
    assert whole.attrs["mcse"][15:] == pytest.approx(said.attrs["mcse"][15:], rel=1.0, abs=1e-9)


@pytest.mark.slow
def test_a_row_with_gaps_has_the_codes_of_what_is_seen() -> None:
    found = kept(Exact, data())
    half = data(8, seed=5)
    half[:, [1, 3]] = math.nan
    w, b = weights()
    w, b = w[SEEN], b[SEEN]
    covariance = np.linalg.inv(np.eye(LATENT) + w.T @ w / NOISE**2)
    mean = (half[:, SEEN] - b) @ w @ covariance / NOISE**2
    said = found.assign(half)
    got = said.filter(like="mean").to_numpy()
    assert got.shape == mean.shape
    error = np.sqrt(np.diag(covariance) / 1000)
    assert (abs(got - mean) < 6 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("guide", [Exact, Wide])
def test_encode_of_a_row_with_gaps_is_its_posterior(guide: type) -> None:
    found = kept(guide, data())
    half = data(8, seed=5)
    half[:6, [1, 3]] = math.nan
    w, b = weights()
    seen, offset = w[SEEN], b[SEEN]
    covariance = np.linalg.inv(np.eye(LATENT) + seen.T @ seen / NOISE**2)
    mean = (half[:6, SEEN] - offset) @ seen @ covariance / NOISE**2
    sd = np.sqrt(np.diag(covariance))
    effective = 400  # of 2000 draws, at least
    codes = found.encode(half)
    assert (abs(codes["z"].to_numpy()[:6] - mean) < 5 * sd / np.sqrt(effective)).all()
    assert (abs(codes["z_sd"].to_numpy()[:6] / sd - 1) < 5 / np.sqrt(2 * effective)).all()
    draws = found.encode(half, draws=500)["z"].to_numpy()[:, :6]
    assert (abs(draws.mean(0) - mean) < 5 * sd * np.sqrt(1 / 500 + 1 / effective)).all()
    whole = found.encode(half[6:], seed=0)["z_sd"].to_numpy()
    np.testing.assert_allclose(codes["z_sd"].to_numpy()[6:], whole, rtol=0.2)  # rows without gaps have q as it is
    restored = found.reconstruct(half)["x"].to_numpy()[:6]
    assert (abs(restored - (mean @ w.T + b)) < 5 * abs(w).max() * sd.sum() / np.sqrt(effective)).all()
