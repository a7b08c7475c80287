"""The Laplace guide: exact where the posterior is Normal, elsewhere the method's answer; part of any composition."""

from __future__ import annotations

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import distributions as td

import inference
import zoo
from guides import Encoder, Guides, Laplace, MeanField, Point
from inference import MAP, SVI, Fit, fit
from inference.starts.natural import several_starts
from inference.variational.bound import Bound
from inference.variational.last_step import DRAWS, finished
from inference.variational.optimize import Climb
from tests.cases.guides import built, flat
from tests.cases.models import (
    BITS,
    FLIPS,
    SCHOOLS,
    EightSchools,
    LinearFactors,
    NonCentred,
    RandomEffects,
    SumOfTwo,
    coin,
)
from zoo.program.prepare import prepare

RNG = np.random.default_rng(3)
ROWS = RNG.normal(1, 1, 12)
CLUSTERS = np.concatenate([RNG.normal(-2, 0.5, 15), RNG.normal(3, 1, 25)])[:, None]


def svi(model, data, guide=None, *, weights=None, **settings):
    """A fit that hands out the guide itself, of all latents, not its draws as weights correct them."""
    plain = {"compile": False, "corrected": False, "collapse": False}
    method = SVI(guide=guide or Laplace(), **{**plain, **settings})
    return fit(model, data, method=method, seed=0, weights=weights)


def parts(found):
    """The parts of q that are Normals now."""
    return [p for p in found.approximation.q.modules() if hasattr(p, "names") and len(p.factor)]


def normal(found):
    """Mean and covariance of the one Normal in q."""
    (part,) = parts(found)
    return (part.start + part.unit * part.loc).numpy(), (part.factor @ part.factor.T).numpy()


def by_the_method(model, data, **weights):
    """The same from `inference.Laplace`, with the fit itself."""
    method = inference.Laplace(compile=False, corrected=False, collapse=False)
    found = fit(model, data, method=method, seed=0, **weights)
    part = found.approximation.q.over_globals
    tril = part.unit[:, None] * (part.lower.tril(-1) + torch.diag(part.log_scale.exp()))
    return (part.start + part.unit * part.loc).numpy(), (tril @ tril.T).numpy(), found


class Regression(zoo.Model):
    """Counts that rise with a covariate: y_i ~ Poisson(exp(a + b x_i)), a size for the coefficients."""

    x = zoo.Real("row")
    y = zoo.Count("row")

    def forward(self, x, y):
        size = pyro.sample("size", dist.Gamma(3.0, 2.0))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), size).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Poisson((b[0] + b[1] * x).exp()), obs=y)


X = RNG.normal(size=30)
POISSON = {"x": X, "y": RNG.poisson(np.exp(0.5 + 0.7 * X))}


# -- exact -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [None, 5])
def test_a_normal_posterior_of_globals_is_found_exactly(batch_size):
    """Mini-batches climb with noise; the end is on all rows."""
    found = svi(SumOfTwo(), ROWS, steps=300, batch_size=batch_size)
    precision = np.eye(2) + len(ROWS) * np.ones((2, 2))
    mean, covariance = normal(found)
    np.testing.assert_allclose(covariance, np.linalg.inv(precision), rtol=1e-9)
    np.testing.assert_allclose(mean, np.linalg.solve(precision, np.full(2, ROWS.sum())), rtol=1e-9)
    evidence = stats.multivariate_normal(np.zeros(12), np.eye(12) + 2).logpdf(ROWS)
    assert found.objective.kind == "elbo"
    assert found.objective.value == pytest.approx(evidence, abs=1e-9)
    assert found.diagnostics["evidence"] == pytest.approx(evidence, abs=1e-9)
    assert math.isnan(found.diagnostics["khat"])  # the ratios are all the same
    assert found.verdict.startswith("trust")
    draws = found.sample(1000)
    assert np.corrcoef(draws["a"][0], draws["b"][0])[0, 1] == pytest.approx(-12 / 13, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("restarts", [1, 3])
def test_globals_and_locals_are_one_normal(restarts):
    found = svi(RandomEffects(), ROWS, restarts=restarts)
    evidence = stats.multivariate_normal(np.zeros(12), 100 + 2 * np.eye(12)).logpdf(ROWS)
    assert found.objective.value == pytest.approx(evidence, abs=1e-9)
    assert found.converged
    assert found.warnings == []
    precision = np.diag([12 + 0.01] + [2.0] * 12)
    precision[0, 1:] = precision[1:, 0] = -1
    np.testing.assert_allclose(normal(found)[1], np.linalg.inv(precision), rtol=1e-8)
    assert found.posterior["posterior"]["effect"].dims == ("chain", "draw", "row")
    if restarts > 1:
        assert found.diagnostics["rhat_restarts"] == pytest.approx(1, abs=0.01)


@pytest.mark.slow
def test_local_latents_alone():
    data = RNG.normal(size=(12, 4))
    loadings = LinearFactors.loadings.double().numpy()
    marginal = stats.multivariate_normal(np.zeros(4), loadings @ loadings.T + LinearFactors.noise**2 * np.eye(4))
    assert svi(LinearFactors(), data).objective.value == pytest.approx(marginal.logpdf(data).sum(), abs=1e-8)


# -- the method's answer -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "weights"),
    [
        (Regression(), POISSON, {}),
        (coin(a=2.0), FLIPS, {"weights": [1, 0, 3] * 3 + [2]}),
        (NonCentred(), SCHOOLS, {}),
        (zoo.BayesianGMM(components=2, covariance="diag"), CLUSTERS, {}),  # its enumerated site is summed out
    ],
    ids=["regression", "weighted coin", "schools", "mixture"],
)
def test_alone_it_is_the_answer_of_the_method(model, data, weights):
    found = svi(model, data, **weights)
    mean, covariance, other = by_the_method(model, data, **weights)
    ours = normal(found)
    np.testing.assert_allclose(ours[0], mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours[1], covariance, rtol=1e-6, atol=1e-6)
    error = math.hypot(found.objective.error, other.objective.error)
    assert abs(found.objective.value - other.objective.value) < 4 * error
    top = found.trace["value"].iloc[-1]  # what climbed: the log density at the mode, without entropy
    gap = 0.5 * (len(mean) * math.log(2 * math.pi) + np.linalg.slogdet(covariance)[1])
    modes = math.log(2) if found.program.enumerated else 0.0  # as many as labellings of two states
    assert top + gap + modes == pytest.approx(other.diagnostics["laplace_evidence"], abs=1e-3)


# -- beside other guides -----------------------------------------------------------------------------------------------


class Measured(zoo.Model):
    """Mean and precision of a Normal: x_i ~ Normal(mu, 1 / sqrt(tau)), mu ~ Normal(0, 2), tau ~ Gamma(2, 1)."""

    x = zoo.Real("row")

    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"batch_size": 4}], ids=["all", "batches"])
def test_the_curvature_is_an_expectation_over_the_others(settings):
    """-H = 1/4 + n E[tau]; q(tau) is log-normal."""
    found = svi(Measured(), ROWS, Laplace("mu") & MeanField(), steps=150, **settings)
    (part,) = parts(found)
    other = next(p for p in found.approximation.q.modules() if hasattr(p, "log_scale"))
    mean, scale = other.start + other.unit * other.loc, other.unit * other.log_scale.exp()
    expected = float((mean + scale.square() / 2).exp())
    error = 4 * expected * float(scale) / math.sqrt(DRAWS)  # of independent draws; these are spread more evenly
    assert float(part.factor) ** -2 == pytest.approx(0.25 + 12 * expected, abs=12 * error)
    assert found.objective.kind == "elbo"
    assert np.ptp(found.sample(50)["mu"].to_numpy()) > 0


@pytest.mark.slow
def test_two_of_them_see_each_other_as_points():
    """The precision of each given the other is 1 + n."""
    found = svi(SumOfTwo(), ROWS, Laplace("a") & Laplace("b"))
    for part in parts(found):
        assert float(part.factor) ** -2 == pytest.approx(13)
    assert len(parts(found)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "guide",
    [
        Laplace("standard") & Point("mu", "tau"),
        Guides({"standard": Encoder(hidden=(4,)), ("mu", "tau"): Laplace()}),
        Encoder(hidden=(4,), globals=Laplace()),
        Laplace("mu", "standard") & MeanField(),
    ],
    ids=repr,
)
def test_it_finishes_wherever_it_stands(guide):
    found = svi(NonCentred(), SCHOOLS, guide, steps=100)
    assert len(parts(found)) == 1
    assert np.isfinite(found.objective.value)
    for name in {s.name for s in found.program.latents} - set(guide.points(found.program)):
        assert np.ptp(found.sample(20)[name].to_numpy()) > 0, name


@pytest.mark.slow
def test_the_importance_weighted_bound_beside_another_guide():
    found = svi(SumOfTwo(), ROWS, Laplace("a") & MeanField(), objective="iwae", particles=3, steps=100)
    assert found.objective.kind == "iwae"
    assert float(parts(found)[0].factor) > 0


# -- the distribution --------------------------------------------------------------------------------------------------


def test_its_density_is_that_of_its_draws():
    program, q = built(Laplace(), EightSchools(), SCHOOLS)
    assert q.noise_shapes(8) == ((0,), (0,))
    draws = [flat(q.draw(program.data)) for _ in range(2)]
    assert torch.equal(draws[0][0], draws[1][0])
    assert float(draws[0][1]) == 0
    square = torch.randn(10, 10, dtype=torch.float64)
    tril = torch.linalg.cholesky(square @ square.T + torch.eye(10))
    q.load_state_dict({**q.state_dict(), "over_globals.factor": tril})
    u, log_q = flat(q.draw(program.data))
    torch.testing.assert_close(log_q, td.MultivariateNormal(draws[0][0], scale_tril=tril).log_prob(u))
    assert q.draw(program.data, torch.tensor([5, 0])).locals.shape == (2, 1)


@pytest.mark.slow
def test_networks_climb_along():
    method = {"steps": 150, "batch_size": 8}
    found = svi(zoo.VAE(latent=1, hidden=(3,)), BITS * 4, **method)  # in single precision
    assert len(parts(found)[0].factor) == 16
    assert np.isfinite(found.objective.value)


@zoo.model(x=zoo.Real("row"))
def branching(x):
    """A branch on a value, which cannot be vectorized."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    scale = 1.0 if a.item() > -100 else 2.0
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a + b, scale), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [Laplace(), Laplace("a") & MeanField()], ids=repr)
def test_models_that_branch_on_values(guide):
    program = prepare(branching(), ROWS[:3])
    bound = Bound(program, guide, several_starts(program, 1))
    q = finished(bound, bound.start, 0, 4)
    (tril,) = (p.factor for p in q.modules() if hasattr(p, "names"))
    precision = torch.linalg.inv(tril @ tril.T)
    torch.testing.assert_close(precision, 3 * torch.ones_like(precision) + torch.eye(len(tril)) / 4)


@pytest.mark.slow
def test_it_is_saved_and_read(tmp_path):
    for i, guide in enumerate([Laplace(), Laplace("standard") & MeanField()]):
        found = svi(NonCentred(), SCHOOLS, guide, steps=100)
        found.save(tmp_path / str(i))
        back = Fit.load(tmp_path / str(i), NonCentred)
        assert repr(back) == repr(found)
        assert back.method.guide == guide
        assert back.log_prob().equals(found.log_prob())


@pytest.mark.slow
def test_a_fit_goes_on_from_a_checkpoint_to_the_same_end(tmp_path, monkeypatch):
    guide, settings = Laplace("mu") & MeanField(), {"steps": 200, "checkpoint_every": 50, "restarts": 2}
    whole = svi(Measured(), ROWS, guide, checkpoint=str(tmp_path / "whole"), **settings)
    step = Climb.step

    def stops(self, *args):
        if self.taken == 120:
            raise KeyboardInterrupt
        return step(self, *args)

    monkeypatch.setattr(Climb, "step", stops)
    with pytest.raises(KeyboardInterrupt):
        svi(Measured(), ROWS, guide, checkpoint=str(tmp_path / "climb"), **settings)
    monkeypatch.undo()
    for _ in range(2):  # the second time nothing is left to climb
        again = svi(Measured(), ROWS, guide, checkpoint=str(tmp_path / "climb"), **settings)
        assert again.objective == whole.objective
        assert again.diagnostics == whole.diagnostics
        assert torch.equal(parts(again)[0].factor, parts(whole)[0].factor)


# -- refusals ----------------------------------------------------------------------------------------------------------


@zoo.model(x=zoo.Real("row"))
def saddle(x):
    """Only the product of `a` and `b` is seen, and the climb begins where neither matters."""
    a = pyro.sample("a", dist.Normal(0.0, 10.0))
    b = pyro.sample("b", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a * b, 1.0), obs=x)


class Saddle(saddle):
    """The same, with a start on the saddle."""

    def initial(self, x):
        return {"a": torch.tensor(0.0), "b": torch.tensor(0.0)}


@pytest.mark.slow
def test_where_there_is_no_maximum_there_is_no_result():
    with pytest.raises(zoo.FitError, match=r"no maximum along '[ab]'.*a saddle"):
        svi(Saddle(), [3.0, 4.0])
    found = svi(Saddle(), [3.0, 4.0], restarts=3, steps=300)
    assert any("1 of 3 starts broke down" in w for w in found.warnings)
    assert any("no maximum along" in w for w in found.warnings)
    assert (np.linalg.eigvalsh(normal(found)[1]) > 0).all()
    with pytest.raises(zoo.FitError, match="along 'tau'"):
        svi(EightSchools(), SCHOOLS, steps=300)


@pytest.mark.slow
def test_what_makes_no_sense_is_refused():
    with pytest.raises(zoo.MethodError, match="1201 coordinates"):
        svi(RandomEffects(), np.zeros(1200))
    with pytest.raises(zoo.MethodError, match="map needs a guide that is a point, not Laplace"):
        MAP(guide=Laplace())
    with pytest.raises(zoo.MethodError, match=r"a point while it climbs.*particles=4"):
        svi(SumOfTwo(), ROWS, particles=4)
    for objective in ("iwae", "renyi", "wake_sleep"):
        with pytest.raises(zoo.MethodError, match=f"{objective}.*only a point"):
            svi(RandomEffects(), ROWS, objective=objective)
    with pytest.raises(zoo.MethodError, match="nonsense"):
        svi(SumOfTwo(), ROWS, Laplace("nonsense") & MeanField())
    assert Laplace("a").why_not(prepare(SumOfTwo(), ROWS)) is not None


def test_it_is_written_as_it_shows_itself():
    for guide in (Laplace(), Laplace("a", "b"), Laplace("a") & MeanField()):
        assert eval(repr(guide)) == guide
    assert SVI(guide="laplace").guide == Laplace()
    assert inference.Laplace is not Laplace
