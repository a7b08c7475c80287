"""Evidence, Pareto shapes and verdicts after SVI, against exact answers and published draws."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats
from scipy.integrate import quad

import inference.diagnostics.by_row
import zoo
from guides import FullRank
from inference import SVI, Laplace, fit
from tests.cases import posteriordb
from tests.cases.models import CONJUGATE, SCHOOLS, ZOO_CASES, EightSchools, LinearFactors

CONJUGATE_CASES = [
    pytest.param(model, data, id=f"{name}-{i}") for name in CONJUGATE for i, (model, data) in enumerate(ZOO_CASES[name])
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "data"), CONJUGATE_CASES)
def test_importance_weighted_evidence_is_that_of_the_closed_form(model, data):
    exact = fit(model, data, method="exact").objective.value
    found = fit(model, data, method=SVI(guide=FullRank(), steps=600), seed=0)
    error = found.diagnostics["evidence_error"]
    assert abs(found.diagnostics["evidence"] - exact) < 3 * error + 1e-9
    assert error < 0.1
    assert exact - 0.3 < found.objective.value < exact + 4 * found.objective.error
    if exact - found.objective.value < 1e-3:  # the ratios are all but the same
        assert found.verdict.startswith("trust")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kidscore_momiq", "nes2000"])
def test_full_rank_finds_the_posterior_of_a_regression(references, name):
    file = {"kidscore_momiq": "kidiq"}.get(name, name)
    data = json.loads((references / "posteriordb" / f"{file}.json").read_text(encoding="utf-8"))
    summary = pd.read_csv(references / "posteriordb" / "reference_summary.csv")
    model, bound, named = posteriordb.case(name, data)
    found = fit(model, bound, method=SVI(guide=FullRank(), steps=500), seed=0)
    draws = named({n: v.to_numpy()[0] for n, v in found.posterior["posterior"].data_vars.items()})
    expected = summary[summary.reference_posterior == f"{file}-{name.replace('nes2000', 'nes')}"]
    assert len(expected) > 1
    for _, row in expected.iterrows():
        parameter, _, at = row.parameter.partition("[")
        values = draws[parameter][:, int(at[:-1]) - 1] if at else draws[parameter]
        assert abs(values.mean() - row["mean"]) < 0.1 * row.sd + 4 * row.mcse_mean
    assert found.diagnostics["khat"] < 0.7
    assert "do not trust" not in found.verdict


@pytest.mark.slow
def test_mean_field_on_a_funnel_is_not_to_be_trusted():
    found = fit(EightSchools(), SCHOOLS, method=SVI(steps=800, collapse=False), seed=0)
    assert found.diagnostics["khat"] > 0.7
    assert found.verdict.startswith("do not trust")
    assert any("khat" in w for w in found.warnings)


@pytest.mark.slow
def test_diagnostics_and_verdict_survive_to_a_file(tmp_path):
    found = fit(zoo.BetaBernoulli(), [1, 0, 1], method=SVI(steps=60), seed=0)
    again = type(found).load(found.save(tmp_path / "fit"))
    assert again.diagnostics == found.diagnostics
    assert again.verdict == found.verdict


@pytest.mark.slow
def test_rows_of_a_guide_that_draws_them_all_are_not_looked_at_one_by_one_where_there_are_many(monkeypatch):
    monkeypatch.setattr(inference.diagnostics.by_row, "CELLS", 50_000)  # fewer than 1000 draws of 40 rows need
    rows = np.random.default_rng(0).normal(size=(40, 4))
    found = fit(LinearFactors(), rows, method=SVI(steps=20), seed=0)
    assert np.isnan(found.diagnostics["khat"])
    assert found.diagnostics["khat_rows"] == 0
    assert np.isfinite(found.diagnostics["evidence"])
    assert found.verdict.startswith("usable with care: too few draws")


@zoo.model(x=zoo.Real("row"))
def heavy(x):
    s = pyro.sample("s", dist.StudentT(3.0, 0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Cauchy(s, 4.0), obs=x)


@pytest.mark.slow
def test_the_evidence_has_an_error_where_the_weights_have_no_variance():
    """A Normal's weights of a posterior with heavy tails: the wider look's are bounded, and so is their error."""
    x = np.array([-1.0, 2.0])
    density = quad(lambda s: stats.t(3).pdf(s) * np.prod(stats.cauchy(s, 4.0).pdf(x)), -np.inf, np.inf)[0]
    found = [fit(heavy(), x, method=Laplace(), seed=seed).diagnostics for seed in range(6)]
    z = [(f["evidence"] - np.log(density)) / f["evidence_error"] for f in found]
    assert max(f["khat"] for f in found) > 0.5
    assert np.square(z).sum() < stats.chi2(len(z)).ppf(0.999)
    assert np.median([f["evidence_error"] for f in found]) < 0.01
