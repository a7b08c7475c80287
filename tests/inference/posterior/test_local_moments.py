"""`assign` of continuous latents of rows: factor scores, shares of topics and codes of fitted and of new rows."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special

import zoo
from inference import EM, SVI, Fit, Laplace, fit
from zoo import Real

RNG = np.random.default_rng(0)
W = RNG.normal(size=(1, 4))
X = RNG.normal(size=(30, 1)) @ W + 0.5 * RNG.normal(size=(30, 4))
NEW = RNG.normal(size=(6, 1)) @ W + 0.5 * RNG.normal(size=(6, 4))


@zoo.model(x=Real("row", "feature"))
def one_factor(x):
    with pyro.plate("feature", x.shape[1]):
        w = pyro.sample("w", dist.Normal(1.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z * w, 0.5).to_event(1), obs=x)


def scores(w, x):
    """Mean and standard deviation of z given x, averaged over draws of w by how well they explain each row."""
    precision = 1 + (w**2).sum(1) / 0.25
    means = (w @ x.T / 0.25) / precision[:, None]
    gaps = (x**2).sum(1) / 0.25 - means**2 * precision[:, None]
    share = special.softmax(-0.5 * (gaps + np.log(precision)[:, None]), axis=0)
    mean = (share * means).sum(0)
    return mean, np.sqrt((share * (1 / precision[:, None] + (means - mean) ** 2)).sum(0))


@pytest.mark.slow
def test_scores_of_factors_at_a_point_are_exact(tmp_path):
    x = X.copy()
    x[3, 1] = x[5, :2] = np.nan
    found = fit(zoo.PPCA(1), x, method="em", seed=0)
    m, w, v = (found.points[n].numpy() for n in ("means", "loadings", "variance"))
    for rows in (x, NEW):
        table = found.assign(None if rows is x else rows)
        assert table.columns.tolist() == [("z[0]", "mean"), ("z[0]", "sd")]
        assert table.attrs["ess"] == np.inf
        for row, (mean, sd) in zip(rows, table.to_numpy(), strict=True):
            o = ~np.isnan(row)
            precision = 1 + (w[o, 0] ** 2).sum() / v
            assert mean == pytest.approx(w[o, 0] @ (row - m)[o] / v / precision, abs=1e-9)
            assert sd == pytest.approx(precision**-0.5, abs=1e-9)
    assert Fit.load(found.save(tmp_path / "fit")).assign(NEW).equals(found.assign(NEW))


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    ["map", pytest.param(Laplace(), marks=pytest.mark.slow), pytest.param(SVI(steps=200), marks=pytest.mark.slow)],
    ids=["map", "laplace", "svi"],
)
def test_new_rows_are_folded_in(method):
    """Each given the globals, of which draws count by how well they explain the row."""
    found = fit(one_factor, {"x": X}, method=method, seed=0)
    group = found.posterior["point_estimate" if found.is_point else "posterior"]
    w = group["w"].to_numpy().reshape(-1, 4)
    table = found.assign({"x": NEW})
    mean, sd = scores(w, NEW)
    error = 6 * sd / np.sqrt(table.attrs["ess"])
    assert table.attrs["ess"] > 100
    assert (np.abs(table[("z[0]", "mean")] - mean) < error).all()
    assert (np.abs(table[("z[0]", "sd")] - sd) < error).all()
    log_prob = found.log_prob({"x": NEW})
    assert max(log_prob.attrs["mcse"]) < 0.1  # by draws of the prior it was several times as much
    if found.is_point:
        exact = scipy_log_density(w[0])
        assert (np.abs(log_prob - exact) < 5 * np.asarray(log_prob.attrs["mcse"])).all()


def scipy_log_density(w):
    covariance = np.outer(w, w) + 0.25 * np.eye(4)
    squares = np.einsum("ij,jk,ik->i", NEW, np.linalg.inv(covariance), NEW)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def test_beside_a_discrete_latent_it_is_asked_for_by_name():
    model = zoo.MixtureOfFactorAnalyzers(components=2, factors=1)
    found = fit(model, X, method=EM(max_steps=5), seed=0)
    assert found.assign(NEW).shape == (6, 2)
    assert found.assign(NEW, site="t").columns.tolist() == [("t[0]", "mean"), ("t[0]", "sd")]


@pytest.mark.slow
def test_documents_and_codes():
    counts = RNG.multinomial(60, RNG.dirichlet(np.full(8, 0.5), 12) @ np.eye(8))
    counts = counts + (counts.sum(0) == 0)
    found = fit(zoo.LDA(topics=2), counts[:10], method="cavi", seed=0)
    table = found.assign(counts[10:]).xs("mean", axis=1, level=1)
    assert table.sum(axis=1).to_numpy() == pytest.approx(1.0)
    vae = fit(zoo.VAE(latent=1, hidden=(3,), likelihood="gaussian"), X, method=SVI(guide="encoder", steps=20), seed=0)
    assert np.isfinite(vae.assign(NEW)).all(axis=None)
