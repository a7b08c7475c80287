"""Locals of independent rows are resampled each by its own weights, against posteriors in closed form."""

from __future__ import annotations

import arviz_stats
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats

import inference.approximations.corrected_rows as module
import inference.diagnostics.by_row as judging
import zoo
from guides import Encoder, MeanField, Point
from inference import SVI, Fit, fit
from inference.approximations.approximation import Approximation
from inference.approximations.corrected_rows import CorrectedRows, back, by_row, resampled_rows
from inference.approximations.pareto import khat, smoothed_rows
from inference.diagnostics import row_totals
from inference.diagnostics.arviz import loo
from tests.cases.models import LinearFactors
from zoo import Real
from zoo.program.prepare import prepare

ROWS = 300
FAR = 1.8  # of the first column, beyond which the guide of the tests below is too narrow
SURE = 4.0
PSIS = arviz_stats.__name__  # importing it gives arrays of xarray their `azstats`


def data(rows: int = ROWS) -> np.ndarray:
    rng = np.random.default_rng(0)
    loadings = LinearFactors.loadings.numpy()
    return rng.normal(size=(rows, 2)) @ loadings.T + LinearFactors.noise * rng.normal(size=(rows, 4))


def exact(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (rows, 2) and covariance (2, 2) of z_i given x_i, a Normal."""
    loadings = LinearFactors.loadings.double().numpy()
    covariance = np.linalg.inv(np.eye(2) + loadings.T @ loadings / LinearFactors.noise**2)
    return x @ loadings @ covariance / LinearFactors.noise**2, covariance


class Off(Approximation):
    """Normal of each row, half an sd off and a quarter too wide; 3 sds off and far too narrow of rows far out."""

    @property
    def covers_new_rows(self):
        return True

    def draw(self, program, count):
        values, log_q = self.propose(program, {}, count)
        return values, log_q.sum(1)

    def propose(self, program, points, count):
        mean, covariance = (torch.tensor(v) for v in exact(program.data.values["x"].numpy()))
        sd = covariance.diagonal().sqrt()
        out = far(program.data.values["x"].numpy())[:, None]
        q = dist.Normal(torch.where(out, mean + 3 * sd, mean + 0.5 * sd), torch.where(out, 0.3 * sd, 1.25 * sd))
        q = q.to_event(1)
        z = q.sample((count,))
        return {"z": z}, q.log_prob(z)

    def tensors(self):
        return {}

    @classmethod
    def read(cls, described, tensors, program):
        return cls()


def far(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x[:, 0] > FAR)


def drawn(count: int, *, corrected: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """How far means and sds of draws of each row are from exact ones, in exact sds: (rows, 2)."""
    program = prepare(LinearFactors(), data(), device="cpu")
    q = CorrectedRows(Off(), {}) if corrected else Off()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        z = q.draw(program, count)[0]["z"].numpy()
    mean, covariance = exact(data())
    sd = np.sqrt(np.diag(covariance))
    return (z.mean(0) - mean) / sd, z.std(0) / sd - 1


# -- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [200, 1000, 5000])
def test_all_rows_at_once_have_the_weights_that_arviz_gives_one_row(count):
    rng = np.random.default_rng(count)
    normal = [scale * rng.normal(size=count) for scale in (0.5, 1.0, 2.0, 4.0)]
    ratio = np.stack([*normal, *(-k * np.log(rng.random(count)) for k in (-0.5, 0.3, 0.7, 1.2))], 1)
    found = smoothed_rows(torch.from_numpy(ratio))
    logs, shapes = xr.DataArray(-ratio, dims=("draw", "row")).azstats.psislw(dim="draw")
    np.testing.assert_allclose(found.shapes, shapes, rtol=1e-9)
    np.testing.assert_allclose(found.weights, np.exp(logs.transpose("draw", "row")), rtol=1e-9)
    assert [khat(row) for row in ratio.T] == found.shapes.tolist()


def test_rows_without_a_tail_or_a_spread():
    first = torch.arange(400)
    ratio = torch.randn(400, 5, generator=torch.Generator().manual_seed(0)).double()
    ratio[:, 1] = 3.0
    ratio[:, 2] = torch.where(first < 160, 2.0, 1 / 3).log()
    ratio[:, 3] = torch.where(first < 5, 9.0, 0.0)
    ratio[:, 4] = torch.where(first % 2 == 0, -torch.inf, 0.0)
    found = smoothed_rows(ratio)
    assert found.shapes[1].isnan()
    assert found.shapes[2] == 0
    assert found.shapes[3] == torch.inf
    np.testing.assert_allclose(found.weights[:, 4], np.tile([0, 1 / 200], 200), atol=1e-12)
    np.testing.assert_allclose(found.weights.sum(0), np.ones(5))


def test_draws_are_taken_as_often_as_their_weights_say():
    """Each floor(S w) or one more times, in random order; rows that cannot be corrected keep their first draws."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ratio = 0.5 * torch.randn(2000, 3).double()
        ratio[:, 1] = 20 * torch.rand(2000).log().abs()
        ratio[7, 2] = torch.nan
        along = torch.randn(2000, 3).double()
        at = resampled_rows(ratio, along, 500)
    weights = smoothed_rows(ratio).weights[:, 0]
    times = torch.bincount(at[:, 0], minlength=2000)
    assert bool(((times - 500 * weights).abs() < 1).all())
    assert abs(stats.spearmanr(np.arange(500), along[at[:, 0], 0]).statistic) < 0.2
    # Evenly along the order: the distribution function is off by at most one in 500.
    order = along[:, 0].argsort()
    taken = torch.bincount(at[:, 0], minlength=2000)[order].cumsum(0) / 500
    assert float((taken - weights[order].cumsum(0)).abs().max()) <= 1 / 500 + 1e-12
    for row in (1, 2):
        assert at[:, row].tolist() == list(range(500))


# -- posteriors in closed form -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rows", [ROWS, 40], ids=["at once", "in parts"])
def test_corrected_rows_have_their_exact_posterior(monkeypatch, rows):
    """Chi-square tests over all rows: errors of means are sqrt(1 / in effect + 1 / kept) of an sd; of q far more."""
    monkeypatch.setattr(module, "NUMBERS", 4 * module.WEIGHED * rows)
    count, good = 500, ~far(data()).numpy()
    (mean, sd), (mean_before, sd_before) = (drawn(count, corrected=c) for c in (True, False))
    worth = module.WEIGHED * (np.sqrt(2 * 1.25**2 - 1) / 1.25**2) ** 2 * np.exp(-2 * 0.25 / (2 * 1.25**2 - 1))
    error = np.sqrt(1 / worth + 1 / count)
    freedom = mean[good].size
    assert np.square(mean[good] / error).sum() < freedom + SURE * np.sqrt(2 * freedom)
    assert np.square(sd[good] / error).sum() < freedom  # sds have less: sqrt(1 / 2) of that, at least of plain draws
    assert abs(mean[good].mean()) < SURE * error / np.sqrt(freedom)
    assert abs(mean_before[good].mean() - 0.5) < 0.02
    assert abs(sd_before[good].mean() - 0.25) < 0.02
    # as they were
    assert abs(mean[~good].mean() - 3) < 0.02
    assert abs(sd[~good].mean() + 0.7) < 0.02


def test_what_is_said_of_rows_that_are_left(monkeypatch):
    """The others' shapes are below 0.7; q is at least half an sd off in all rows."""
    monkeypatch.setattr(row_totals, "draws_for", lambda _: 400)
    program = prepare(LinearFactors(), data(), device="cpu")
    share = float(far(data()).double().mean())
    assert 0 < share < 0.2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before, after = (judging.judge_rows(program, Off(), {}, converged=True, corrected=c) for c in (False, True))
    assert after.diagnostics["khat_rows_above"] == before.diagnostics["khat_rows_above"] == pytest.approx(share)
    assert f"above 0.7 in {share:.0%} of {ROWS} rows, which q hands out as they are" in after.verdict
    assert f"more than 10% off in {share:.0%} of the rows" in after.verdict
    assert "handed out uncorrected" in before.verdict
    assert "more than 10% off in 100% of the rows" in before.verdict
    assert any("handed out as q has them" in w for w in after.warnings)
    assert isinstance(after.approximation, CorrectedRows)
    assert isinstance(before.approximation, Off)
    shifts, good = after.shifts, ~far(data())
    assert torch.equal((shifts["khat"]["z"] > 0.7).all(1), ~good)
    score = (shifts["mean_shift"]["z"] - 0.5)[good] / shifts["mean_error"]["z"][good]
    assert float(score.square().mean()) < 1.5
    score = (shifts["sd_ratio"]["z"] - 1.25)[good] / shifts["sd_error"]["z"][good]
    assert float(score.square().mean()) < 1.5


# -- fits ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> Fit:
    """An encoder after few steps."""
    method = SVI(guide=Encoder(hidden=(8,)), steps=30, compile=False)
    return fit(LinearFactors(), data(60), method=method, seed=0, progress=False)


def test_densities_of_the_draws_are_those_of_the_program(short):
    expected = [float(short.program.log_joint({"z": z, **short.points}).total()) for z in short.draws.values["z"][:5]]
    np.testing.assert_allclose(short.log_p[:5], expected, rtol=1e-9)
    assert not np.allclose(short.log_p, short.draws.log_q)
    assert short.shifts.index[:2].tolist() == ["z[0, 0]", "z[0, 1]"]


def test_nothing_is_resampled_before_draws_are_read(monkeypatch):
    made = []
    weighed = CorrectedRows.weighed

    def noted(self, program, count):
        made.append(count)
        return weighed(self, program, count)

    monkeypatch.setattr(CorrectedRows, "weighed", noted)
    method = SVI(guide=Encoder(hidden=(4,)), steps=5, compile=False)
    found = fit(LinearFactors(), data(20), method=method, seed=0, progress=False)
    assert found.verdict
    assert found.diagnostics["khat_rows"] == 20
    assert found.log_prob(samples=20).shape == (20,)
    assert made == []
    assert found.posterior["posterior"]["z"].shape[2] == 20
    assert len(made) == 1


@pytest.mark.slow
def test_a_saved_fit_has_the_same_draws(short, tmp_path):
    again = Fit.load(short.save(tmp_path / "fit"), LinearFactors)
    assert torch.equal(again.draws.values["z"], short.draws.values["z"])
    assert again.verdict == short.verdict
    assert again.shifts.equals(short.shifts)


@pytest.mark.slow
def test_an_encoder_that_was_trained_for_a_while_is_corrected():
    x = data(120)
    mean, covariance = exact(x)
    off = {}
    for corrected in (False, True):
        method = SVI(guide=Encoder(hidden=(16,)), steps=800, corrected=corrected)
        found = fit(LinearFactors(), x, method=method, seed=0, progress=False)
        z = found.posterior["posterior"]["z"].to_numpy()[0]
        off[corrected] = np.sqrt(np.square((z.mean(0) - mean) / np.sqrt(np.diag(covariance))).mean())
    assert found.diagnostics["khat_rows_above"] < 0.05
    assert off[True] < min(0.8 * off[False], 0.07)


@zoo.model(x=Real("row"))
def shifted(x):
    """mu ~ Normal(0, 3), z_i ~ Normal(mu, 1), x_i ~ Normal(z_i, 1)."""
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, np.tile([1.0, 2.0], 15)], ids=["plain", "weighted"])
def test_latents_that_rows_share_may_be_at_a_point(weights):
    """Given mu, z_i is Normal((mu + x_i) / 2, sd sqrt(1/2)), whatever a row weighs; log p(x, mu) is known, too."""
    x = np.random.default_rng(0).normal(2.0, 1.4, 30)
    method = SVI(guide=Point("mu") & MeanField("z"), steps=120, compile=False)
    found = fit(shifted, pd.DataFrame({"x": x}), method=method, weights=weights, seed=0, progress=False)
    assert found.objective.kind == "elbo_at_point"
    assert found.diagnostics["khat_rows_above"] == 0
    mu = float(found.draws.values["mu"][0])
    z = found.draws.values["z"].numpy()
    error = np.sqrt(2 / 1000)  # at most twice that of plain draws, squared
    assert np.square((z.mean(0) - (mu + x) / 2) / np.sqrt(0.5) / error).sum() < 30 + SURE * np.sqrt(60)
    assert np.square((z.std(0) / np.sqrt(0.5) - 1) / error).sum() < 30
    each = stats.norm(mu, np.sqrt(2)).logpdf(x)
    log_p = stats.norm(0, 3).logpdf(mu) + (each.sum() if weights is None else weights @ each)
    assert abs(found.diagnostics["evidence"] - log_p) < SURE * found.diagnostics["evidence_error"] + 1e-6
    assert "mu at a point without spread, and given that k-hat" in found.verdict
    one = {n: v[0] for n, v in found.draws.values.items()}
    total = float(found.program.log_joint(one).total(found.program.data.weights))
    assert found.log_p[0] == pytest.approx(total, rel=1e-12)


@pytest.mark.slow
def test_rows_that_are_corrected_are_not_weighed_again_when_one_is_left_out():
    """All draws have the same mu, so each left-out row has its density given that."""
    x = np.random.default_rng(0).normal(2.0, 1.4, 30)
    method = SVI(guide=Point("mu") & MeanField("z"), steps=50, compile=False)
    found = fit(shifted, pd.DataFrame({"x": x}), method=method, seed=0, progress=False)
    expected = stats.norm(float(found.draws.values["mu"][0]), np.sqrt(2)).logpdf(x)
    left_out = loo(found.posterior)
    np.testing.assert_allclose(left_out.rows, expected, atol=0.1)  # integrated by 100 draws each, averaged
    assert left_out.largest < 0.5


@pytest.mark.slow
def test_rows_may_stand_in_any_dimension():
    @zoo.model(x=Real("row", "column"))
    def grid(x):
        with pyro.plate("column", x.shape[1], dim=-1), pyro.plate("row", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = np.random.default_rng(0).normal(size=(20, 3))
    found = fit(grid, x, method=SVI(steps=30, compile=False), seed=0, progress=False)
    assert isinstance(found.approximation, CorrectedRows)
    z = found.draws.values["z"]
    assert torch.equal(back(found.program, "z", by_row(found.program, "z", z, 1), 1), z)
    assert np.square((z.mean(0).numpy() - x / 2) * np.sqrt(1000)).sum() < 60 + SURE * np.sqrt(120)
