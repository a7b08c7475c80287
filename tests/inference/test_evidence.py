"""Evidence: bridge sampling against closed forms, kinds kept apart, Bayes factors with their errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

import zoo
from inference import NUTS, SMC, Laplace, evidence, fit
from inference.approximations.sampled import Sampled
from inference.cli import app
from inference.diagnostics.bridge import bridge
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, coin
from zoo.program.prepare import prepare

PARTICLES = SMC(compile=False)


def beta_draws(seed, count=1000):
    """Independent draws of the coin's Beta(6, 6), as four chains."""
    values = torch.from_numpy(stats.beta(6, 6).rvs(count, random_state=seed))
    return Sampled({"heads": values}, torch.zeros(count, dtype=torch.float64), chains=4)


def test_bridge_from_exact_draws_has_the_error_that_it_says():
    """z-scores over seeds have unit spread, or less: the error never takes credit for two halves agreeing."""
    program = prepare(coin, FLIPS)
    exact = math.log(math.gamma(6) ** 2 / math.gamma(12))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = np.array([bridge(program, beta_draws(seed)) for seed in range(20)])
    z = (found[:, 0] - exact) / found[:, 1]
    assert (found[:, 1] < 0.01).all()
    assert (z**2).sum() < stats.chi2(20).ppf(0.999)
    assert (np.abs(z) < 3).all()


@pytest.mark.slow
def test_bridge_and_smc_agree_with_quadrature_on_eight_schools(reference):
    exact = reference("small_exact.json")["eight_schools_posteriordb"]["log_evidence"]
    table = evidence(EightSchools(), SCHOOLS, methods=[PARTICLES], seed=0, progress=False).table
    assert table["kind"].tolist() == ["smc", "bridge"]
    assert (abs(table["log_evidence"] - exact) < 3 * table["error"]).all()


def test_kinds_stand_apart_and_all_estimates_meet_the_closed_form():
    methods = ["exact", Laplace(compile=False), PARTICLES, "em"]
    found = evidence(coin, FLIPS, methods=methods, seed=0, progress=False)
    assert found.table["kind"].tolist() == ["exact", "importance", "laplace", "elbo", "smc", "bridge", ""]
    exact = found.table["log_evidence"].iloc[0]
    for row in found.table[found.table["kind"].isin(["smc", "bridge", "importance"])].itertuples():
        assert abs(row.log_evidence - exact) < 3 * row.error + 1e-9, row
    text = str(found)
    assert text.index("estimates of log p(x)") < text.index("lower bounds, not to be ranked with estimates")
    assert "em is not legal" in text
    bounds = text.partition("lower bounds")[2]
    assert "elbo" in bounds
    assert "smc" not in bounds.partition("\n\n")[0]


def test_bayes_factors_are_differences_with_both_errors():
    models = {"flat": coin(), "fair": coin(a=20.0, b=20.0)}
    found = evidence(models, FLIPS, methods=["exact"], seed=0, progress=False).bayes_factors

    def log_beta(a, b):
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    expected = log_beta(25, 25) - log_beta(20, 20) - log_beta(6, 6)
    assert found["log_bayes_factor"].tolist() == pytest.approx([0.0, expected])
    assert found["its_error"].tolist() == [0.0, 0.0]
    noisy = evidence(models, FLIPS, methods=[PARTICLES], seed=0, progress=False).bayes_factors
    assert abs(noisy["log_bayes_factor"][1] - expected) < 3 * noisy["its_error"][1]
    assert noisy["its_error"][1] == pytest.approx(math.hypot(*noisy["error"]))


def test_fits_bring_their_own_data():
    fitted = fit(coin, FLIPS, method="exact", seed=0)
    assert evidence(fitted).table["log_evidence"].tolist() == [fitted.objective.value]
    with pytest.raises(zoo.DataError, match="a model needs data"):
        evidence(coin)


def test_on_the_command_line(tmp_path):
    from typer.testing import CliRunner

    file = tmp_path / "flips.csv"
    file.write_text("x\n" + "\n".join(map(str, FLIPS)), encoding="utf-8")
    ran = CliRunner().invoke(app, ["evidence", "BetaBernoulli", str(file), "--methods", "exact", "--seed", "0"])
    assert ran.exit_code == 0, ran.output
    assert "-7.9273" in ran.output


@pytest.mark.slow
def test_chains_in_one_labelling_have_the_evidence_of_all(faithful):
    """NUTS stays in one of two labelled modes; the bridge counts both."""
    waits = faithful["waiting"].to_numpy()[:40, None]
    model = zoo.BayesianGMM(components=2, covariance="diag")
    table = evidence(
        model, waits, methods=[PARTICLES, NUTS(chains=4, warmup=150, draws=200, compile=False)], seed=0, progress=False
    ).table
    values = table.set_index("method")[table.set_index("method")["kind"] == "bridge"]
    smc, nuts = values.loc["smc"], values.loc["nuts"]
    assert abs(smc["log_evidence"] - nuts["log_evidence"]) < 3 * math.hypot(smc["error"], nuts["error"])
