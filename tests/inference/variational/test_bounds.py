"""Bounds as pure functions: closed forms, gradients against autograd, mini-batches, and what SVI makes of them."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from itertools import pairwise

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from guides import Encoder, FullRank, MeanField, Point
from inference import MAP, SVI, fit
from inference.starts.natural import several_starts
from inference.variational.bound import Bound
from inference.variational.schedule import LAST_RATE, Schedule
from inference.variational.vectorize import flat, nested
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, LinearFactors, NonCentred, NormalMean, RandomEffects, coin
from zoo.program.prepare import prepare
from zoo.program.rows import Batch, rows_of
from zoo.replay.random import reseed

ROWS = np.random.default_rng(3).normal(1.0, 2.0, 24)
FACTOR_ROWS = np.random.default_rng(4).normal(size=(12, 4))
ONE = torch.ones((), dtype=torch.float64)
ALL = Batch({})  # all rows as they are


class Scaled(zoo.Model):
    """A local latent per row and one parameter: x_i ~ Normal(w z_i, 1), z_i ~ Normal(0, 1)."""

    x = zoo.Real("row")

    def forward(self, x):
        w = pyro.param("w", torch.tensor(1.3))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)


def bound_of(model, data, guide=None, starts=1, seed=0, jiggle=0.2, weights=None, **settings):
    """A bound in float64, its parameters moved away from where they start."""
    with torch.random.fork_rng():
        reseed(seed)
        program = prepare(model, data, dtype=torch.float64, device="cpu", weights=weights)
        bound = Bound(program, guide or MeanField(), several_starts(program, starts), **settings)
        bound.start.coordinates += jiggle * torch.randn_like(bound.start.coordinates)
        bound.start.weights += jiggle * torch.randn_like(bound.start.weights)
    return bound


def noise_of(bound, *sizes, rows=None, seed=1):
    with torch.random.fork_rng():
        reseed(seed)
        return bound.noise(len(bound.program.data) if rows is None else rows, *sizes)


def evaluated(bound, noise, batch=None, beta=ONE):
    at = bound.start
    return bound.gradient(at.coordinates, at.weights, at.fixed, noise, beta, batch or ALL)


def log_weights(bound, noise, coordinates=None, weights=None):
    """log w of each draw, whole and by row, with the gradient of plain autograd."""
    at = bound.start
    c, w = at.coordinates if coordinates is None else coordinates, at.weights if weights is None else weights
    rest, rows = bound._each(bound._log_weight, c, w, at.fixed, noise, ONE, ALL)
    return rest, rows


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("model", "data"), [(NormalMean(), ROWS), (LinearFactors(), FACTOR_ROWS)], ids=["all", "rows"])
def test_a_bound_is_a_mean_of_powers_of_the_weights(model, data, alpha):
    bound = bound_of(model, data, alpha=alpha)
    noise = noise_of(bound, 1, 7)
    value = float(evaluated(bound, noise)[0])
    rest, rows = (t.detach()[0] for t in log_weights(bound, noise))
    logs = rows if bound.by_row else (rest + rows.sum(-1))[:, None]
    power = 1 - alpha
    expected = ((power * logs).exp().mean(0).log() / power if power else logs.mean(0)).sum()
    expected = expected + (rest.mean() if bound.by_row else 0)
    assert bound.by_row == isinstance(model, LinearFactors)
    assert value == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_gradients_to_parameters_are_those_of_autograd(alpha):
    bound = bound_of(Scaled(), ROWS, alpha=alpha)
    noise = noise_of(bound, 1, 5)
    _, slope, _ = evaluated(bound, noise)
    c = bound.start.coordinates.clone().requires_grad_()
    rest, rows = log_weights(bound, noise, c)
    value = rest.mean() + (rows.mean(1) if alpha == 1 else ((1 - alpha) * rows).exp().mean(1).log() / (1 - alpha)).sum()
    (expected,) = torch.autograd.grad(value, c)
    where = bound.coordinates.sizes[0]  # the model's own come last
    assert where < bound.coordinates.size
    torch.testing.assert_close(slope[:, where:], expected[:, where:])


@pytest.mark.parametrize("alpha", [0.5, 0.0])
def test_gradients_to_the_guide_are_right_on_average(alpha):
    """Against differences of the bound itself, with the same noise at both ends."""
    bound = bound_of(NormalMean(), ROWS[:5], alpha=alpha)
    count, step = 4000, 1e-4
    noise = noise_of(bound, count, 4)
    at = bound.start

    def at_all(c):
        many = c.expand(count, -1)
        fixed = at.fixed.map(lambda v: v.expand(count, *v.shape[1:]))
        return bound.gradient(many, at.weights.expand(count, -1), fixed, noise, ONE, ALL)

    _, slopes, _ = at_all(at.coordinates)
    for j in range(bound.coordinates.sizes[0]):
        shift = torch.zeros_like(at.coordinates)
        shift[0, j] = step
        differences = (at_all(at.coordinates + shift)[0] - at_all(at.coordinates - shift)[0]) / (2 * step)
        gap = slopes[:, j] - differences  # the same draws: only what differs has noise
        assert abs(float(gap.mean())) < 4 * float(gap.std()) / math.sqrt(count) + 1e-6


@pytest.mark.slow
def test_importance_weighted_bounds_rise_to_the_evidence_of_a_linear_gaussian_decoder():
    """log p(x) is that of a Normal with covariance L L^T + s^2 I."""
    model = LinearFactors()
    covariance = (model.loadings @ model.loadings.mT).double().numpy() + model.noise**2 * np.eye(4)
    exact = stats.multivariate_normal(np.zeros(4), covariance).logpdf(FACTOR_ROWS).sum()
    found = []
    for k in (1, 4, 16, 64, 256):
        bound = bound_of(model, FACTOR_ROWS, Encoder(hidden=(8,)), alpha=0.0 if k > 1 else 1.0, jiggle=0.05)
        values = torch.cat([evaluated(bound, noise_of(bound, 1, k, seed=s))[0] for s in range(200)])
        found.append((float(values.mean()), float(values.std()) / math.sqrt(len(values))))
    for (low, a), (high, b) in pairwise(found):
        assert high - low > -4 * math.hypot(a, b)
    assert found[-1][0] - found[0][0] > 1  # it is far away at the start
    for value, error in found:
        assert value < exact + 4 * error


@pytest.mark.parametrize(
    ("model", "data"),
    [(NormalMean(), ROWS), (RandomEffects(), ROWS), (LinearFactors(), FACTOR_ROWS), (zoo.BayesianGMM(), "faithful")],
    ids=lambda v: type(v).__name__,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_mini_batches_average_to_the_bound_on_all_rows(model, data, weighted):
    rows = 272 if isinstance(data, str) else len(data)
    weights = np.random.default_rng(0).integers(1, 4, rows) if weighted else None
    bound = bound_of(model, data, weights=weights)
    noise = noise_of(bound, 1, 3)
    whole = evaluated(bound, noise)
    data = bound.program.data
    one = torch.ones(rows, dtype=torch.float64) if data.weights is None else data.weights
    parts = []
    for at in torch.randperm(rows, generator=torch.Generator().manual_seed(0)).split(rows // 4):
        parts.append(evaluated(bound, (noise[0], noise[1][:, :, at]), rows_of(data, at, one[at] * 4)))
    for k in range(3):
        mean = torch.stack([p[k] for p in parts]).mean(0)
        torch.testing.assert_close(mean, whole[k], rtol=1e-9, atol=1e-9)


def test_several_starts_are_evaluated_as_each_alone():
    together = bound_of(EightSchools(), SCHOOLS, starts=3)
    noise = noise_of(together, 3, 4)
    value, slope, _ = evaluated(together, noise)
    for i in range(3):
        at = together.start.only(i)
        one = together.gradient(
            at.coordinates, at.weights, at.fixed, (noise[0][i : i + 1], noise[1][i : i + 1]), ONE, ALL
        )
        torch.testing.assert_close(one[0], value[i : i + 1])
        torch.testing.assert_close(one[1], slope[i : i + 1])
    assert len(set(value.tolist())) == 3


def test_warming_up_weighs_the_latents_and_reports_the_bound_itself():
    plain, warmed = (bound_of(EightSchools(), SCHOOLS, warmed=w) for w in (False, True))
    noise = noise_of(plain, 1, 4)
    expected = evaluated(plain, noise)
    full = evaluated(warmed, noise)
    cold = evaluated(warmed, noise, beta=torch.tensor(0.0, dtype=torch.float64))
    for k in range(3):
        torch.testing.assert_close(full[k], expected[k])
    torch.testing.assert_close(cold[0], expected[0])
    # Without the latents' own terms only the likelihood pulls, through theta.
    c = warmed.start.coordinates.clone().requires_grad_()
    named = warmed.named(c[0], warmed.start.weights[0])
    draw = plain._ask(
        named,
        plain.start.fixed.map(lambda v: v[0]),
        "draw",
        plain.program.data,
        None,
        (noise[0][0, 0], noise[1][0, 0]),
    )
    assert draw.locals.shape == (8, 1)
    theta = plain.view.constrain_locals(draw.locals)[0]["theta"]
    data = {n: torch.tensor(v, dtype=torch.float64) for n, v in SCHOOLS.items()}
    (pull,) = torch.autograd.grad(dist.Normal(theta, data["error"]).log_prob(data["effect"]).sum(), c)
    first = evaluated(warmed, (noise[0][:, :1], noise[1][:, :1]), beta=torch.tensor(0.0, dtype=torch.float64))
    torch.testing.assert_close(first[1], pull)


# -- SVI ---------------------------------------------------------------------------------------------------------------


def exact_normal(x):
    model = NormalMean()
    covariance = np.eye(len(x)) * model.noise**2 + model.width**2
    return float(stats.multivariate_normal(np.zeros(len(x)), covariance).logpdf(x))


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"objective": "iwae"},
        {"objective": "renyi", "alpha": 0.5},
        {"warm_up": 200},
        {"optimizer": "AdamW", "options": {"weight_decay": 0.0}},
        {"schedule": "cosine", "steps": 500},
        {"schedule": "one_cycle", "steps": 500},
        {"restarts": 3},
    ],
    ids=str,
)
def test_every_setting_finds_a_posterior_that_is_in_the_family(settings):
    x = ROWS[:12]
    found = fit(NormalMean(), x, method=SVI(**settings), seed=0)
    exact = exact_normal(x)
    precision = NormalMean().width ** -2 + len(x) * NormalMean().noise ** -2
    mu = found.posterior["posterior"]["mu"].to_numpy()
    assert found.converged, found.reason
    assert found.objective.kind == ("iwae" if settings.get("objective") == "iwae" else "elbo")
    assert exact - 0.05 - 4 * found.objective.error < found.objective.value < exact + 4 * found.objective.error + 1e-6
    assert abs(found.diagnostics["evidence"] - exact) < 4 * found.diagnostics["evidence_error"] + 1e-6
    assert mu.std() == pytest.approx(precision**-0.5, rel=0.1)
    assert "log p(x)" in found.verdict
    assert found.verdict in repr(found)


@pytest.mark.slow
def test_constant_rates_run_to_the_end_and_say_so():
    found = fit(coin, FLIPS, method=SVI(schedule="constant", steps=300), seed=0)
    assert found.steps == 300
    assert "300" in found.reason


@pytest.mark.parametrize("kind", ["constant", "cosine", "exponential", "one_cycle"])
def test_rates_follow_the_schedule(kind):
    schedule = Schedule(100, 0.1, kind=kind)
    rates = []
    for step in range(1, 101):
        rates.append(schedule.rate)
        schedule.record(step, -1.0)
    assert schedule.finished
    assert schedule.converged
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    if kind == "cosine":
        t = np.arange(100)
        np.testing.assert_allclose(rates, 0.1 * (LAST_RATE + (1 - LAST_RATE) * (1 + np.cos(np.pi * t / 100)) / 2))
    if kind == "exponential":
        np.testing.assert_allclose(rates, 0.1 * LAST_RATE ** (np.arange(100) / 100))


@pytest.mark.slow
def test_wake_sleep_trains_an_encoder():
    model = LinearFactors()
    covariance = (model.loadings @ model.loadings.mT).double().numpy() + model.noise**2 * np.eye(4)
    rows = np.random.default_rng(0).multivariate_normal(np.zeros(4), covariance, 60)
    exact = stats.multivariate_normal(np.zeros(4), covariance).logpdf(rows).sum()
    method = SVI(guide=Encoder(hidden=(16,)), objective="wake_sleep", steps=1500, particles=4)
    found = fit(model, rows, method=method, seed=0)
    assert found.objective.kind == "elbo"
    assert (
        exact - 10 < found.objective.value < exact + 4 * found.objective.error
    )  # 10 nats of 60 rows; it begins at -100
    assert abs(found.diagnostics["evidence"] - exact) < 4 * found.diagnostics["evidence_error"] + 1e-6


@pytest.mark.slow
def test_the_evidence_of_eight_schools():
    """log p(x) = -31.311347 by quadrature."""
    good = fit(NonCentred(), SCHOOLS, method=SVI(guide=FullRank(), steps=800), seed=0)
    assert abs(good.diagnostics["evidence"] + 31.311347) < 3 * good.diagnostics["evidence_error"]


@pytest.mark.slow
def test_rows_of_an_encoder_are_judged_one_by_one():
    rows = np.random.default_rng(0).normal(size=(40, 4))
    early = fit(LinearFactors(), rows, method=SVI(guide=Encoder(hidden=(8,)), steps=3), seed=0)
    late = fit(LinearFactors(), rows, method=SVI(guide=Encoder(hidden=(16,)), steps=1500), seed=0)
    assert early.diagnostics["khat_rows"] == late.diagnostics["khat_rows"] == 40
    assert early.diagnostics["khat_rows_above"] > late.diagnostics["khat_rows_above"]
    assert any("rows looked at" in w for w in early.warnings)
    assert late.diagnostics["khat"] < 0.7


def two_places(x):
    """x_i ~ Normal(mu^2, 1): as much at -mu as at mu."""
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu**2 - mu, 1.0), obs=x)


@pytest.mark.slow
def test_starts_that_disagree_are_noticed():
    model = zoo.model(x=zoo.Real("row"))(two_places)
    rows = np.random.default_rng(0).normal(6.0, 1.0, 8)  # mu = 3 or -2, of which the smaller is likelier
    found = fit(model, rows, method=SVI(restarts=6, steps=600), seed=1)
    assert found.diagnostics["rhat_restarts"] > 1.01
    assert any("different places" in w for w in found.warnings)
    assert float(found.posterior["posterior"]["mu"].mean()) < 0
    same = fit(NormalMean(), rows, method=SVI(restarts=3, steps=300), seed=0)
    assert same.diagnostics["rhat_restarts"] < 1.05


@pytest.mark.parametrize(
    ("method", "model", "data", "said"),
    [
        (SVI(objective="wake_sleep"), NormalMean(), ROWS, "wake_sleep"),
        (SVI(objective="wake_sleep"), LinearFactors(), FACTOR_ROWS, "encoder"),
        (SVI(objective="iwae", guide=Point()), NormalMean(), ROWS, "point"),
        (SVI(objective="iwae", batch_size=4), NormalMean(), ROWS, "batch_size"),
    ],
    ids=str,
)
def test_bounds_that_make_no_sense_are_refused(method, model, data, said):
    with pytest.raises(zoo.ZooError, match=said):
        fit(model, data, method=method, seed=0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"warm_up": 60, "steps": 100}, "warm_up"),
        ({"options": {"speed": 3.0}}, "speed"),
        ({"optimizer": "Newton"}, "RMSprop"),
        ({"schedule": "slowly"}, "schedule"),
        ({"objective": "chi"}, "objective"),
        ({"clip": 0.0}, "clip"),
    ],
    ids=str,
)
def test_settings_are_checked(settings, said):
    with pytest.raises(zoo.ZooError, match=said):
        SVI(**settings)


# -- going on after a kill ---------------------------------------------------------------------------------------------

CODE = """
import sys, time
from inference.variational.optimize import Climb
from tests.inference.variational.test_bounds import climbed

step = Climb.step
def slowly(self, *args):
    time.sleep(0.01)
    return step(self, *args)
Climb.step = slowly
climbed(sys.argv[1])
"""


def climbed(path):
    method = SVI(steps=400, checkpoint=str(path), checkpoint_every=50, batch_size=5, guide=FullRank(), restarts=2)
    return fit(RandomEffects(), ROWS[:12], method=method, seed=7)


def everything(found):
    """All numbers of a fit, to the last bit."""
    posterior = found.posterior["posterior"]
    numbers = [posterior[n].to_numpy().tobytes() for n in sorted(posterior.data_vars)]
    return found.objective, found.diagnostics, numbers, found.trace[["step", "value"]].to_numpy().tobytes()


@pytest.mark.slow
def test_a_fit_that_is_killed_goes_on_to_the_same_end(tmp_path):
    path = tmp_path / "state"
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(path)]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not path.exists():
        assert victim.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 1))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    again = climbed(path)
    whole = climbed(tmp_path / "other")
    assert everything(again) == everything(whole)
    assert len(again.trace) == len(whole.trace) == 8


@pytest.mark.slow
def test_workers_change_nothing():
    ends = [fit(NormalMean(), ROWS, method=SVI(batch_size=6, steps=40, workers=w), seed=0) for w in (0, 1)]
    assert everything(ends[0]) == everything(ends[1])


@pytest.mark.slow
def test_a_file_of_another_fit_is_refused(tmp_path):
    path = tmp_path / "state"
    method = SVI(steps=100, checkpoint=str(path), checkpoint_every=50)
    first = fit(coin, FLIPS, method=method, seed=0)
    assert fit(coin, FLIPS, method=method, seed=0).objective == first.objective
    for seed, model in ((1, coin), (0, coin(a=2.0))):
        with pytest.raises(zoo.FitError, match="another fit"):
            fit(model, FLIPS, method=method, seed=seed)
    with pytest.raises(zoo.FitError, match="is a folder"):
        fit(coin, FLIPS, method=SVI(steps=100, checkpoint=str(tmp_path)), seed=0)
    path.write_bytes(b"nothing")
    with pytest.raises(zoo.FitError, match="cannot be read"):
        fit(coin, FLIPS, method=method, seed=0)


@pytest.mark.slow
def test_map_takes_the_same_settings():
    found = fit(NormalMean(), ROWS, method=MAP(restarts=2, optimizer="NAdam"), seed=0)
    precision = NormalMean().width ** -2 + len(ROWS) * NormalMean().noise ** -2
    mean = ROWS.sum() * NormalMean().noise ** -2 / precision
    assert float(found.posterior["point_estimate"]["mu"]) == pytest.approx(mean, abs=1e-3)


# -- settings that do not go together ----------------------------------------------------------------------------------

UNFIT = {
    "one draw": ({"objective": "iwae", "particles": 1}, "objective='iwae' weighs .* of one draw is the ELBO"),
    "one draw of p": ({"objective": "inclusive", "particles": 1}, "objective='inclusive' weighs draws"),
    "no order": ({"objective": "renyi", "alpha": float("nan")}, "alpha"),
    "order of another bound": ({"alpha": 0.3}, "alpha is the order of objective='renyi', and objective is 'elbo'"),
    "late warm-up": ({"warm_up": 600, "steps": 1000}, "warm_up=600 must end in the first half of steps=1000"),
    "unknown option": ({"options": {"momentum": 0.9}}, "torch.optim.Adam does not take options"),
    "bad option": ({"options": {"betas": (2.0, 0.9)}}, "options"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_settings_that_do_not_go_together_are_refused_at_once(case):
    settings, reason = UNFIT[case]
    with pytest.raises(zoo.ZooError, match=reason):
        SVI(**settings)
    assert SVI().order == 1.0
    assert SVI(objective="renyi").order == 0.5
    assert SVI(objective="renyi", alpha=0.3).order == 0.3
    assert not SVI(objective="iwae").covering


@pytest.mark.parametrize(("starts", "draws"), [(1, 4), (3, 2), (3, 1)])
def test_all_ways_to_evaluate_many_draws_give_the_same(starts, draws):
    bound = bound_of(RandomEffects(), ROWS[:6], starts=starts)
    at, noise = bound.start, noise_of(bound, starts, draws)
    found = []
    for ways in ([nested], [flat], []):
        bound.vectorized.ways = ways
        found.append(bound.gradient(at.coordinates, at.weights, at.fixed, noise, ONE, ALL))
    for other in found[1:]:
        for ours, theirs in zip(found[0], other, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_way_that_fails_is_followed_by_the_next():
    def broken(*_):
        raise RuntimeError("no batching rule")

    bound = bound_of(RandomEffects(), ROWS[:6], starts=3)
    at, noise = bound.start, noise_of(bound, 3, 2)
    expected = bound.gradient(at.coordinates, at.weights, at.fixed, noise, ONE, ALL)
    bound.vectorized.ways = [broken, flat]
    found = bound.gradient(at.coordinates, at.weights, at.fixed, noise, ONE, ALL)
    assert bound.vectorized.ways == [flat]
    assert bound.vectorized.note == "no batching rule"
    torch.testing.assert_close(found[0], expected[0])
