"""Information criteria against published numbers, closed forms and brute force."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import zoo
from inference import EM, MAP, SVI, fit
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, coin
from zoo import Binary, Real

GEYSER = zoo.datasets.load("faithful")
REFERENCES = os.environ.get("ZOO_REFERENCES")


@pytest.mark.skipif(not REFERENCES, reason="ZOO_REFERENCES is not set")
@pytest.mark.parametrize(
    ("covariance", "components", "parameters"),
    [
        ("full", 1, 5),
        ("full", 2, 11),
        ("tied", 2, 8),
        ("diag", 2, 9),
        ("spherical", 2, 7),
        pytest.param("tied", 3, 11, marks=pytest.mark.slow),
    ],
)
def test_bic_of_mixtures_of_the_geyser(covariance, components, parameters):
    """scikit-learn's BIC, and mclust's with the sign turned: 2322.1917 for two full covariances."""
    saved = json.loads((Path(REFERENCES) / "mixture_fits.json").read_text())
    model = zoo.GMM(components=components, covariance=covariance)
    found = fit(model, GEYSER, method=EM(restarts=4, tolerance=1e-9), seed=0)
    assert found.free_parameters == parameters
    assert found.bic == pytest.approx(saved[f"gmm_faithful_{covariance}_{components}"]["bic_sklearn"], abs=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCES, reason="ZOO_REFERENCES is not set")
def test_bic_of_the_galaxies():
    """mclust: 441.6122 for three variances."""
    velocities = np.loadtxt(Path(REFERENCES) / "data" / "galaxies_MASS_as_shipped.csv", delimiter=",", skiprows=1)
    velocities = velocities.reshape(len(velocities), -1)[:, -1:] / 1000
    found = fit(zoo.GMM(components=3), velocities, method=EM(restarts=32, tolerance=1e-9), seed=0)
    assert found.bic == pytest.approx(441.6122, abs=2e-3)


def test_criteria_of_a_normal_in_closed_form():
    x = GEYSER.to_numpy()
    found = fit(zoo.GMM(components=1), GEYSER, method="em", seed=0)
    likelihood = stats.multivariate_normal(x.mean(0), np.cov(x.T, ddof=0)).logpdf(x).sum()
    assert found.log_likelihood == pytest.approx(likelihood, abs=1e-8)
    assert found.aic == pytest.approx(2 * 5 - 2 * likelihood, abs=1e-8)
    assert found.bic == pytest.approx(5 * math.log(272) - 2 * likelihood, abs=1e-8)
    assert found.icl == pytest.approx(found.bic, abs=1e-8)


def test_icl_adds_twice_the_entropy_of_the_responsibilities():
    found = fit(zoo.GMM(components=3), GEYSER, method=EM(max_steps=20), seed=0)
    r = found.assign().to_numpy()
    assert found.icl - found.bic == pytest.approx(-2 * np.sum(r * np.log(np.where(r > 0, r, 1))), abs=1e-8)
    assert found.icl - found.bic > 10


def test_rows_count_by_their_weight():
    rows, weights = GEYSER.iloc[:60], np.arange(60) % 3 + 1.0
    weighted = fit(zoo.GMM(components=2), rows, method="em", weights=weights, seed=0)
    start = {n: weighted.posterior["point_estimate"][n].to_numpy() for n in ("weights", "means", "covariances")}
    repeated = rows.loc[rows.index.repeat(weights.astype(int))].reset_index(drop=True)
    plain = fit(zoo.GMM(components=2), repeated, method=EM(start=start), seed=0)
    for name in ("aic", "bic", "icl"):
        assert getattr(weighted, name) == pytest.approx(getattr(plain, name), abs=1e-3)


def test_priors_are_no_part_of_the_likelihood():
    """The posterior mode counts as a point; its prior does not (Fraley and Raftery 2007)."""
    found = fit(zoo.BayesianGMM(components=2), GEYSER, method="em", seed=0)
    assert found.free_parameters == 11
    assert found.log_likelihood == pytest.approx(found.log_prob().sum(), abs=1e-8)
    mode = fit(coin(a=3.0, b=2.0), FLIPS, method=MAP(steps=300), seed=0)
    p = float(mode.posterior["point_estimate"]["heads"])
    heads = sum(FLIPS)
    assert mode.log_likelihood == pytest.approx(heads * math.log(p) + (10 - heads) * math.log(1 - p), abs=1e-9)
    assert mode.bic == pytest.approx(math.log(10) - 2 * mode.log_likelihood)


@zoo.model(x=Binary("step"))
def switching(x):
    """A coin that changes hands."""
    start = pyro.param("start", torch.tensor([0.6, 0.4]), constraint=constraints.simplex)
    moves = pyro.param("moves", torch.tensor([[0.7, 0.3], [0.2, 0.8]]), constraint=constraints.simplex)
    heads = pyro.param("heads", torch.tensor([0.2, 0.9]), constraint=constraints.unit_interval)
    with pyro.plate("step", len(x)):
        z = pyro.sample("z", zoo.MarkovChain(start, moves))
        pyro.sample("x", dist.Bernoulli(heads[z]), obs=x)


def test_entropy_of_a_chain_is_that_of_its_paths():
    x = [0, 1, 1, 0, 1, 1, 1]
    found = fit(switching, x, method=EM(max_steps=3), seed=0)
    start, moves, heads = (found.points[n].double().numpy() for n in ("start", "moves", "heads"))
    paths = np.array(list(itertools.product([0, 1], repeat=len(x))))
    logs = np.log(start[paths[:, 0]]) + np.log(moves[paths[:, :-1], paths[:, 1:]]).sum(1)
    logs += np.log(np.where(np.array(x) == 1, heads[paths], 1 - heads[paths])).sum(1)
    total = np.logaddexp.reduce(logs)
    share = np.exp(logs - total)
    assert found.free_parameters == 1 + 2 + 2
    assert found.log_likelihood == pytest.approx(total, abs=1e-9)
    assert found.icl - found.bic == pytest.approx(-2 * np.sum(share * (logs - total)), abs=1e-8)


@zoo.model(x=Real("row", "feature"))
def supports(x):
    """One parameter of each kind of support."""
    d = x.shape[1]
    factor = pyro.param("factor", torch.eye(d), constraint=constraints.lower_cholesky)
    shape = pyro.param("shape", torch.eye(d), constraint=constraints.corr_cholesky)
    scale = pyro.param("scale", torch.ones(d), constraint=constraints.positive)
    table = pyro.param("table", torch.full((2, 4), 0.25), constraint=constraints.simplex)
    place = pyro.param("place", torch.zeros(d))
    with pyro.plate("row", len(x)):
        tril = factor + scale[:, None] * shape + table.sum() * 0
        pyro.sample("x", dist.MultivariateNormal(place, scale_tril=tril), obs=x)


def test_free_parameters_are_the_dimensions_of_supports():
    rows = np.random.default_rng(0).normal(size=(9, 3))
    found = fit(supports, rows, method=MAP(steps=2), seed=0)
    assert found.free_parameters == 6 + 3 + 3 + 2 * 3 + 3


def test_weights_of_networks_count():
    pixels = (np.random.default_rng(0).random((30, 4)) < 0.4).astype(float)
    found = fit(zoo.VAE(latent=2, hidden=(3,)), pixels, method=SVI(guide="encoder", steps=5), seed=0)
    assert found.free_parameters == (2 * 3 + 3) + (3 * 4 + 4)
    with pytest.raises(zoo.FitError, match=r"bound \(elbo\).*held-out"):
        _ = found.aic


@pytest.mark.parametrize(
    ("model", "data", "method", "text"),
    [
        (coin, FLIPS, "exact", "heads have posterior draws.*loo.*waic"),
        (EightSchools, SCHOOLS, MAP(steps=5), "theta.* at a point.*em"),
        (zoo.KMeans(clusters=3), GEYSER, EM(hard=True), "maximized another function.*fit with EM"),
    ],
    ids=["draws", "locals", "classification"],
)
def test_what_has_no_criteria(model, data, method, text):
    found = fit(model, data, method=method, seed=0)
    with pytest.raises(zoo.FitError, match=text):
        _ = found.bic


def test_icl_is_about_clusters():
    found = fit(coin, FLIPS, method=MAP(steps=50), seed=0)
    with pytest.raises(zoo.FitError, match="no discrete latent"):
        _ = found.icl
