"""Batch and match: the equation of its update, Normal posteriors, and the references of posteriordb."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from guides import FullRank, MeanField
from inference import SVI, Fit, fit
from inference.variational.batch_and_match import updated
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, SumOfTwo, coin
from tests.cases.posteriordb_more import posterior
from zoo.errors import MethodError
from zoo.program.prepare import prepare

X = [1.0, 2.5, -0.3, 4.0]
MATCH = SVI(guide=FullRank(), optimizer="batch-and-match", compile=False)


def matched(model, data, seed=0) -> Fit:
    return fit(model, data, method=MATCH, seed=seed, progress=False)


@pytest.mark.parametrize("draws", [3, 20])
def test_an_update_solves_its_equation(draws):
    """S U S + S = V, U and V as in Cai et al. (2024), algorithm 1; with fewer draws than coordinates, too."""
    rng = torch.Generator().manual_seed(draws)
    v, g = (torch.randn(draws, 5, dtype=torch.float64, generator=rng) for _ in range(2))
    mean, root = torch.arange(5.0).double(), torch.eye(5).double() + 0.1
    rate = 3.0
    new, factor = updated(mean, root, v, g, rate)
    weight, middle, pull = rate / (1 + rate), v.mean(0), g.mean(0)
    u_ = rate * torch.cov(g.mT, correction=0) + weight * torch.outer(pull, pull)
    v_ = root @ root.mT + rate * torch.cov(v.mT, correction=0) + weight * torch.outer(mean - middle, mean - middle)
    s = factor @ factor.mT
    torch.testing.assert_close(s @ u_ @ s + s, v_, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(new, mean / (1 + rate) + weight * (s @ pull + middle))


@pytest.mark.slow
def test_a_normal_posterior_is_found_exactly():
    """From gradients at a few hundred draws, where steps along gradients take tens of thousands."""
    found = matched(SumOfTwo(), X)
    part = found.approximation.q.over_globals
    tril = part.unit[:, None] * (part.lower.tril(-1) + torch.diag(part.log_scale.exp()))
    exact = np.linalg.inv(np.eye(2) + len(X) * np.ones((2, 2)))
    np.testing.assert_allclose((tril @ tril.T).numpy(), exact, rtol=1e-8)
    np.testing.assert_allclose(part.start.numpy(), exact @ np.full(2, sum(X)), rtol=1e-7)
    evidence = stats.multivariate_normal(np.zeros(4), np.eye(4) + 2).logpdf(X)
    assert found.objective.kind == "elbo"
    assert found.objective.value == pytest.approx(evidence, abs=1e-7)
    assert found.converged
    assert "sds from their limit" in found.reason
    assert found.diagnostics["gradients"] < 1000
    program = prepare(SumOfTwo(), X, device="cpu")
    unjudged = MATCH.fit_unjudged(program)
    assert unjudged.objective.value == pytest.approx(evidence, abs=1e-7)
    drawn = unjudged.approximation.draw(program, 100)[0]
    assert torch.cat([*drawn.values()]).isfinite().all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_others_the_same_answer():
    one, again, other = (matched(coin(a=2.0), FLIPS, seed) for seed in (0, 0, 1))
    assert one.sample(50).to_array().values.tobytes() == again.sample(50).to_array().values.tobytes()
    assert one.objective == again.objective
    share = stats.beta(2 + sum(FLIPS), 1 + len(FLIPS) - sum(FLIPS))
    for found in (one, other):
        draws = found.posterior["posterior"]["heads"].values.ravel()
        assert draws.mean() == pytest.approx(share.mean(), abs=0.1 * share.std())
        assert draws.std() == pytest.approx(share.std(), rel=0.1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"guide": MeanField()}, "is for guide=FullRank"),
        ({"learning_rate": 0.1}, "learning_rate=0.1 has no meaning"),
        ({"batch_size": 10}, "batch_size=10 has no meaning"),
        ({"particles": 9}, "must be even"),
    ],
)
def test_settings_that_play_no_part_are_refused(settings, said):
    with pytest.raises(MethodError, match=said):
        SVI(**{"guide": FullRank(), "optimizer": "batch-and-match", **settings})


@pytest.mark.slow
def test_what_is_integrated_out_comes_back(tmp_path):
    """Effects of the schools, centred, are drawn exactly given mean and scale: standard Normal when standardized."""
    found = matched(EightSchools(), SCHOOLS)
    draws = {n: v.values[0] for n, v in found.posterior["posterior"].data_vars.items()}
    effect, error = (np.asarray(SCHOOLS[n], float) for n in ("effect", "error"))
    precision = draws["tau"][:, None] ** -2 + error**-2
    mean = (draws["mu"] * draws["tau"] ** -2)[:, None] + effect / error**2
    z = (draws["theta"] - mean / precision) * precision**0.5
    assert abs(z.mean()) < 4 / z.size**0.5
    assert abs((z**2).mean() - 1) < 4 * (2 / z.size) ** 0.5
    assert not found.verdict.startswith("trust")  # the scale's logarithm is skewed, and the Normal is not
    found.save(tmp_path / "fit")
    assert Fit.load(tmp_path / "fit").objective == found.objective


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["earnings-logearn_interaction", "garch-garch11", "hmm_example-hmm_example", "mesquite-mesquite"]
)
def test_means_and_sds_are_those_of_the_reference(references, name):
    """Collinear, skewed, with states summed out; within 0.1 sds and 10 % by under 2,000 gradients."""
    data = json.loads((references / "posteriordb" / f"{name.partition('-')[0]}.json").read_text(encoding="utf-8"))
    model, given, named = posterior(name, data)
    found = matched(model, given)
    assert found.converged
    assert found.diagnostics["gradients"] < 2000
    values = {n: torch.from_numpy(v.to_numpy()) for n, v in found.posterior["posterior"].data_vars.items()}
    draws = {n: v.numpy() for n, v in named(values).items()}
    table = pd.read_csv(references / "posteriordb" / "reference_summary.csv")
    expected = table[table["reference_posterior"] == name]
    assert len(expected) > 2
    for row in expected.itertuples():
        site, _, index = row.parameter.partition("[")
        mine = draws[site][(..., *(int(i) - 1 for i in index[:-1].split(",")))] if index else draws[site]
        error = 3 * (1 / mine.size + 1 / row.ess_bulk) ** 0.5  # Monte Carlo errors of both, in sds
        assert abs(mine.mean() - row.mean) < (0.1 + error) * row.sd, row.parameter
        kurtosis = max(3.0, float(np.mean(((mine - mine.mean()) / mine.std()) ** 4)))
        assert abs(mine.std() / row.sd - 1) < 0.1 + error * (0.25 * (kurtosis - 1)) ** 0.5, row.parameter
