"""Published and recomputed numbers that no other file of tests has: mixtures of galaxies and of waiting times."""

from __future__ import annotations

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import CAVI, EM, fit
from zoo import Real

EVIDENCE = -226.791  # Neal (1999), for the priors below


@pytest.fixture(scope="module")
def velocities(references):
    table = pd.read_csv(references / "data" / "galaxies_corrected.csv")
    return table.select_dtypes("number").iloc[:, -1].to_numpy(float) / 1000


class Velocities(zoo.Model):
    """mu_k ~ Normal(20, 10), precision_k ~ Gamma(3, 20), weights ~ Dirichlet(1, 1, 1)."""

    x = Real("row")

    def forward(self, x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("component", 3):
            mean = pyro.sample("mean", dist.Normal(20.0, 10.0))
            precision = pyro.sample("precision", dist.Gamma(3.0, 20.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(mean[z], precision[z].rsqrt()), obs=x)


def test_three_components_of_galaxies(velocities):
    found = fit(zoo.GMM(3), velocities[:, None], method=EM(restarts=20), seed=0)
    assert len(velocities) == 82
    assert found.objective.value == pytest.approx(-203.48198, abs=1e-4)


def test_three_components_of_galaxies_with_a_slip_of_the_pen(references):
    """One velocity stands as 26690 where 26960 was measured; mclust has -203.1792 for that table."""
    table = pd.read_csv(references / "data" / "galaxies_MASS_as_shipped.csv")
    x = table.select_dtypes("number").iloc[:, -1].to_numpy(float)[:, None] / 1000
    assert fit(zoo.GMM(3), x, method=EM(restarts=20), seed=0).objective.value == pytest.approx(-203.17923, abs=1e-4)


def test_two_waits_of_one_spread(faithful, reference):
    known = reference("mixture_fits.json")["gmm_faithful_waiting_equalvar"]
    found = fit(zoo.GMM(2, covariance="tied"), faithful[["waiting"]], method=EM(tolerance=1e-9), seed=0)
    assert found.objective.value == pytest.approx(known["loglik"], abs=1e-5)
    by = found.points["means"][:, 0].argsort()
    assert found.points["means"][by, 0].tolist() == pytest.approx(known["means"], abs=1e-4)
    assert found.points["weights"][by].tolist() == pytest.approx(known["weights"], abs=1e-5)
    assert float(found.points["covariances"].sqrt()) == pytest.approx(known["sigma"], abs=1e-4)


@pytest.mark.slow
def test_the_bound_on_the_evidence_of_galaxies(velocities):
    found = fit(Velocities(), velocities, method=CAVI(restarts=10), seed=0)
    assert EVIDENCE - 5 < found.objective.value < EVIDENCE
