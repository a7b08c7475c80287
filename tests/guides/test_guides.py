"""Guides: their densities, what each family can and cannot reach, and what each refuses."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import distributions as td

import zoo
from guides import Encoder, FullRank, MeanField, Point
from guides.guide import Guide
from inference import MAP, SVI, fit
from inference.starts.natural import natural_start
from tests.cases.models import (
    FLIPS,
    SCHOOLS,
    EightSchools,
    LinearFactors,
    NonCentred,
    NormalMean,
    RandomEffects,
    Rate,
    SumOfTwo,
    coin,
    gates,
)
from zoo import catalogue
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

LOSS = 0.05  # nats that a converged fit may be from the best of its family
AWAY = math.sqrt(2 * LOSS)  # a mean that is this many standard deviations off costs LOSS
EVERY = {name: entry.load() for name, entry in catalogue.entries("guide").items()}
NEEDY = {"Custom", "Guides"}  # have a setting without a default

ROWS = np.random.default_rng(3).normal(1, 1, 30)
LOADINGS = LinearFactors.loadings.double().numpy()
MARGINAL = stats.multivariate_normal(np.zeros(4), LOADINGS @ LOADINGS.T + LinearFactors.noise**2 * np.eye(4))
FACTOR_ROWS = MARGINAL.rvs(100, random_state=0)
NEW_ROWS = MARGINAL.rvs(30, random_state=1)


def draws(found, name):
    return found.sample(1000)[name].to_numpy()[0]


def log_evidence(x, covariance):
    return float(
        td.MultivariateNormal(torch.zeros(len(x)).double(), torch.as_tensor(covariance)).log_prob(torch.as_tensor(x))
    )


def mean_field_gap(precision):
    """log evidence - best mean-field ELBO, for a Normal posterior with this precision."""
    return 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])


def near(objective, best):
    """Whether an ELBO is not above the best of its family beyond its error, and at most LOSS below."""
    return best - LOSS - 4 * objective.error < objective.value < best + 4 * objective.error + 1e-6


def built(guide, model, data):
    """A guide's q, jiggled away from its start, and the program."""
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(model, data, dtype=torch.float64, device="cpu")
        q = guide.build(program, natural_start(program, program.initial()))
        with torch.no_grad():
            for parameter in q.parameters():
                parameter += 0.3 * torch.randn_like(parameter)
    return program, q


# -- densities ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_mean_field_density_is_a_diagonal_normal(seed):
    program, q = built(MeanField(), EightSchools(), SCHOOLS)
    reseed(seed)
    draw = q.draw(program.data)
    for part, u, log_q in (
        (q.over_globals, draw.globals, draw.log_q),
        (q.over_locals, draw.locals, draw.log_q_rows),
    ):
        normal = td.Normal(part.start + part.unit * part.loc, part.unit * part.log_scale.exp())
        torch.testing.assert_close(log_q, normal.log_prob(u).sum(-1))
    assert draw.globals.shape == (2,)
    assert draw.locals.shape == (8, 1)
    assert draw.log_q_rows.shape == (8,)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("model", "data"), [(SumOfTwo(), ROWS), (EightSchools(), SCHOOLS)], ids=["globals", "locals"])
def test_full_rank_density_is_a_normal_over_everything(model, data, seed):
    program, q = built(FullRank(), model, data)
    part = q.over_globals
    lower = torch.diag(part.unit) @ (part.lower.tril(-1) + torch.diag(part.log_scale.exp()))
    normal = td.MultivariateNormal(part.start + part.unit * part.loc, scale_tril=lower)
    reseed(seed)
    draw = q.draw(program.data)
    u = torch.cat([draw.globals, draw.locals.reshape(-1)])
    torch.testing.assert_close(draw.log_q + draw.log_q_rows.sum(), normal.log_prob(u))


@pytest.mark.slow
@pytest.mark.parametrize("guide", [MeanField(), FullRank(), Encoder(hidden=(5,))], ids=repr)
def test_draws_have_the_moments_of_their_density(guide):
    """E[exp(log r - log q)] = 1 for any density r: here r is q itself widened by a tenth."""
    program, q = built(guide, RandomEffects(), ROWS[:3])
    with torch.no_grad():
        reseed(0)
        found = [q.draw(program.data) for _ in range(4000)]
    u = torch.stack([torch.cat([d.globals, d.locals.reshape(-1)]) for d in found])
    log_q = torch.stack([d.log_q + d.log_q_rows.sum() for d in found])
    wide = td.MultivariateNormal(u.mean(0), 1.1 * torch.cov(u.T))
    weights = (wide.log_prob(u) - log_q).exp()
    assert abs(weights.mean() - 1) < 4 * weights.std() / math.sqrt(len(u)) + 0.01


def test_encoder_gives_each_row_a_normal_of_its_own():
    program, q = built(Encoder(hidden=(5,)), RandomEffects(), ROWS)
    with torch.no_grad():
        some = program.data.take(torch.tensor([4, 2, 2]))
        loc = torch.stack([q.over_locals.draw(some, None, torch.zeros(3, 1).double())[0]] * 2)[0]
        up = q.over_locals.draw(some, None, torch.ones(3, 1).double())[0]
        reseed(0)
        u, log_q = q.over_locals.draw(some, None, torch.randn(3, 1).double())
    torch.testing.assert_close(log_q, td.Normal(loc, up - loc).log_prob(u).sum(-1))
    torch.testing.assert_close(loc[1], loc[2])
    assert not torch.isclose(loc[0], loc[1]).all()
    assert q.amortized


@pytest.mark.parametrize("model", [RandomEffects(), NonCentred()], ids=repr)
@pytest.mark.parametrize("guide", [MeanField(), FullRank(), Encoder(hidden=(5,)), Point()], ids=repr)
def test_rows_of_a_draw_are_those_asked_for(guide, model):
    data = ROWS[:8] if isinstance(model, RandomEffects) else SCHOOLS
    program, q = built(guide, model, data)
    at = torch.tensor([5, 0])
    reseed(0)
    part = q.draw(program.data.take(at), at)
    assert part.locals.shape == (2, 1)
    assert part.log_q_rows.shape == (2,)
    if isinstance(guide, Point | FullRank):
        reseed(0)
        torch.testing.assert_close(part.locals, q.draw(program.data).locals[at])


def test_point_is_a_point():
    program, q = built(Point(), EightSchools(), SCHOOLS)
    first, second = (q.draw(program.data) for _ in range(2))
    torch.testing.assert_close(first.globals, second.globals, rtol=0, atol=0)
    torch.testing.assert_close(first.locals, second.locals, rtol=0, atol=0)
    assert float(first.log_q) == 0
    assert (first.log_q_rows == 0).all()
    assert Point.point
    assert not MeanField.point


@pytest.mark.parametrize("guide", [MeanField(), FullRank()], ids=repr)
def test_a_guide_starts_at_the_models_start(guide):
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(zoo.BayesianGMM(), "faithful")
        values = program.initial()
        q = guide.build(program, natural_start(program, values))
        draw = q.draw(program.data, None, [torch.zeros(s).double() for s in q.noise_shapes(len(program.data))])
        found, _ = program.view.constrain_globals(draw.globals)
    for name, value in found.items():
        torch.testing.assert_close(value, values[name])


# -- what a family reaches ---------------------------------------------------------------------------------------------


@cache
def correlated(guide):
    return fit(SumOfTwo(), ROWS, method=SVI(guide=guide, steps=800, corrected=False), seed=0)


SUM_EVIDENCE = log_evidence(ROWS, np.eye(30) + 2)
SUM_PRECISION = np.array([[31.0, 30.0], [30.0, 31.0]])


@pytest.mark.slow
def test_full_rank_reaches_the_evidence_of_a_correlated_normal_posterior():
    found = correlated(FullRank())
    assert near(found.objective, SUM_EVIDENCE)
    a, b = draws(found, "a"), draws(found, "b")
    exact = np.linalg.inv(SUM_PRECISION)
    # Correlation -30/31: that of a thousand draws has standard error (1 - rho^2) / sqrt(1000) = 0.002.
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(-30 / 31, abs=0.02)
    assert a.std() == pytest.approx(np.sqrt(exact[0, 0]), rel=0.1)
    assert abs(a.mean() - exact[0] @ np.full(2, ROWS.sum())) < AWAY * np.sqrt(exact[0, 0])
    assert found.khat < 0.7


@pytest.mark.slow
def test_mean_field_stays_below_by_the_price_of_independence():
    found = correlated(MeanField())
    assert near(found.objective, SUM_EVIDENCE - mean_field_gap(SUM_PRECISION))
    assert found.objective.value < SUM_EVIDENCE - 1  # the price is 1.38 nats
    a, b = draws(found, "a"), draws(found, "b")
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.13  # 4 standard errors of a thousand independent draws
    assert a.std() == pytest.approx(31**-0.5, rel=0.1)  # far below the posterior's own 0.71


FEW = ROWS[:12]
# Precision of (mu, effect_1, ..., effect_n) given the rows
EFFECT_PRECISION = np.diag([12 + 0.01] + [2.0] * 12)
EFFECT_PRECISION[0, 1:] = EFFECT_PRECISION[1:, 0] = -1
EFFECT_MEAN = FEW.sum() / 2 / (6 + 0.01)  # of mu


@pytest.mark.slow
@pytest.mark.parametrize("guide", [FullRank(), MeanField(), Encoder(hidden=(16,))], ids=repr)
def test_globals_and_locals_together(guide):
    found = fit(RandomEffects(), FEW, method=SVI(guide=guide, steps=1000, corrected=False), seed=0)
    evidence = log_evidence(FEW, 2 * np.eye(12) + 100)
    covariance = np.linalg.inv(EFFECT_PRECISION)
    joint = isinstance(guide, FullRank)
    assert near(found.objective, evidence - (0 if joint else mean_field_gap(EFFECT_PRECISION)))
    sd = np.sqrt(np.diag(covariance) if joint else 1 / np.diag(EFFECT_PRECISION))
    mu, effect = draws(found, "mu"), draws(found, "effect")
    assert mu.std() == pytest.approx(sd[0], rel=0.1)
    assert abs(mu.mean() - EFFECT_MEAN) < AWAY * sd[0]
    assert effect.shape == (1000, 12)
    # 0.13: four standard errors of the mean of a thousand draws
    assert (np.abs(effect.mean(0) - (EFFECT_MEAN + FEW) / 2) < (AWAY + 0.13) * sd[1:]).all()


@cache
def encoded():
    return fit(LinearFactors(), FACTOR_ROWS, method=SVI(guide=Encoder(hidden=(32,)), steps=2000), seed=0)


@pytest.mark.slow
def test_encoder_bound_on_linear_factors():
    found = encoded()
    exact = MARGINAL.logpdf(FACTOR_ROWS).sum()  # the loadings are orthogonal, so independence costs nothing
    assert found.objective.value < exact + 4 * found.objective.error
    assert found.objective.value > exact - LOSS * 4 - 4 * found.objective.error  # one network for 100 rows


@pytest.mark.slow
@pytest.mark.parametrize("new", [None, NEW_ROWS], ids=["fitted", "new"])
def test_importance_sampling_from_the_encoder_gives_the_exact_density(new):
    found = encoded().log_prob(new, samples=2000)
    exact = MARGINAL.logpdf(FACTOR_ROWS if new is None else new)
    error = np.array(found.attrs["mcse"])
    assert (error > 0).all()
    z = (found.to_numpy() - exact) / error
    assert abs(found.sum() - exact.sum()) < 4 * found.attrs["mcse_total"]
    assert np.sqrt((z**2).mean()) < 1.5  # 1 in expectation; its standard error over 30 rows is 0.13
    assert found.attrs["mcse_total"] == pytest.approx(np.sqrt((error**2).sum()))
    assert found.attrs["mcse_total"] < 0.3


@pytest.mark.slow
def test_more_samples_mean_less_error():
    few, many = (encoded().log_prob(NEW_ROWS, samples=n).attrs["mcse_total"] for n in (100, 10_000))
    assert 4 < few / many < 25  # 10 in expectation; single large weights move it


@pytest.mark.slow
def test_encoded_posterior_is_that_of_each_row():
    """z_i | x_i ~ Normal(V L' x_i / noise^2, V), with V = (I + L' L / noise^2)^-1."""
    z = draws(encoded(), "z")
    v = np.linalg.inv(np.eye(2) + LOADINGS.T @ LOADINGS / LinearFactors.noise**2)
    mean = FACTOR_ROWS @ LOADINGS @ v / LinearFactors.noise**2
    off = (z.mean(0) - mean) / np.sqrt(np.diag(v))
    assert np.sqrt((off**2).mean()) < AWAY
    assert (np.abs(z.std(0) / np.sqrt(np.diag(v)) - 1) < 0.25).all()


# -- modes -------------------------------------------------------------------------------------------------------------


NEAR = 0.03  # standard deviations from a mode that cost half a thousandth of a nat


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "site", "posterior", "mode"),
    [
        # (a + heads - 1) / (a + b + n - 2): the mode in the latent's constrained space, without a Jacobian
        (coin(a=3.0, b=2.0), FLIPS, "heads", stats.beta(8, 7), 7 / 13),
        (Rate(a=2.0, b=0.5), [3, 1, 4], "rate", stats.gamma(10, scale=1 / 3.5), 9 / 3.5),
        (NormalMean(), FEW, "mu", stats.norm(FEW.sum() / 4 / 3.01, 3.01**-0.5), FEW.sum() / 4 / 3.01),
    ],
    ids=["beta", "gamma", "normal"],
)
def test_point_finds_the_mode_in_the_latents_constrained_space(model, data, site, posterior, mode):
    found = fit(model, data, method=MAP(), seed=0)
    assert abs(float(found.posterior["point_estimate"][site]) - mode) < NEAR * posterior.std()
    exact = fit(model, data, method="exact", seed=0)
    assert found.objective.value == pytest.approx(exact.objective.value + posterior.logpdf(mode), abs=1e-3)
    assert found.objective.kind == "log_posterior"
    assert found.objective.error == 0
    assert found.is_point


@pytest.mark.slow
def test_point_covers_locals_too():
    """The mode of a joint Normal is its mean."""
    found = fit(RandomEffects(), FEW, method=MAP(), seed=0)
    point = found.posterior["point_estimate"]
    sd = np.sqrt(np.diag(np.linalg.inv(EFFECT_PRECISION)))
    assert abs(float(point["mu"]) - EFFECT_MEAN) < NEAR * sd[0]
    assert (np.abs(point["effect"].to_numpy() - (EFFECT_MEAN + FEW) / 2) < NEAR * sd[1:]).all()


# -- every support -----------------------------------------------------------------------------------------------------


class Supports(zoo.Model):
    """A latent on each of many supports."""

    x = zoo.Real("row")

    def forward(self, x):
        real = pyro.sample("real", dist.Normal(0.0, 1.0))
        positive = pyro.sample("positive", dist.Gamma(2.0, 1.0))
        unit = pyro.sample("unit", dist.Beta(2.0, 2.0))
        interval = pyro.sample("interval", dist.Uniform(-1.0, 3.0))
        simplex = pyro.sample("simplex", dist.Dirichlet(torch.ones(3)))
        matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(4.0), torch.eye(2)))
        loc = real + positive + unit + interval + simplex[0] + matrix[0, 0]
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


class Correlation(zoo.Model):
    """A correlation matrix, by its Cholesky factor: fewer numbers than its shape has entries."""

    x = zoo.Real("row", "feature")

    def forward(self, x):
        factor = pyro.sample("factor", dist.LKJCholesky(x.shape[1], torch.tensor(1.0)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(x.shape[1]), scale_tril=factor), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("guide", [MeanField(), FullRank(), Point()], ids=repr)
@pytest.mark.parametrize(
    ("model", "data"), [(Supports(), ROWS), (Correlation(), ROWS.reshape(-1, 3))], ids=["many", "LKJ"]
)
def test_values_stay_inside_every_support(model, data, guide):
    found = fit(model, data, method=SVI(guide=guide, steps=150), seed=0)
    values, _ = found.approximation.draw(found.program, 50)
    assert set(values) == {s.name for s in found.program.latents}
    for name, value in values.items():
        assert found.program.sites[name].support.check(value).all(), name
    assert np.isfinite(found.objective.value)
    assert np.isfinite(found.trace["value"]).all()


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "data"), [(coin, FLIPS), (zoo.BayesianGMM(), "faithful"), (NormalMean(), ROWS)])
def test_encoder_needs_local_latents(model, data):
    with pytest.raises(zoo.MethodError, match="local latents") as caught:
        fit(model, data, method=SVI(guide=Encoder()))
    assert "MeanField()" in str(caught.value)
    assert "map" in str(caught.value).partition("Legal here")[2]


def test_encoder_does_not_encode_globals():
    with pytest.raises(zoo.MethodError, match="guide for global latents"):
        fit(RandomEffects(), ROWS, method=SVI(guide=Encoder(globals=Encoder())))


@pytest.mark.slow
@pytest.mark.parametrize("inner", [FullRank(), Point()], ids=repr)
def test_encoder_takes_another_guide_for_globals(inner):
    found = fit(EightSchools(), SCHOOLS, method=SVI(guide=Encoder(hidden=(4,), globals=inner), steps=100), seed=0)
    assert np.isfinite(found.objective.value)
    if isinstance(inner, Point):
        assert np.ptp(draws(found, "mu")) == 0
    assert draws(found, "theta").std() > 0


def test_full_rank_refuses_what_would_not_fit_in_memory():
    with pytest.raises(zoo.MethodError, match="1201 coordinates"):
        fit(RandomEffects(), np.zeros(1200), method=SVI(guide=FullRank()))


@pytest.mark.parametrize("name", sorted(NEEDY))
def test_a_guide_without_defaults_says_what_it_needs(name):
    with pytest.raises(zoo.MethodError, match=rf"{name}\(\w+\)"):
        SVI(guide=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(EVERY) - NEEDY))
def test_every_guide_has_defaults_and_goes_by_name(name):
    guide = EVERY[name]()
    assert isinstance(guide, Guide)
    assert guide.__doc__
    method = SVI(guide=name, steps=20)
    assert method.guide == guide
    assert repr(method.guide) == repr(guide)
    beside = name in ("ByState", "ClassifyingEncoder")  # these are for locals beside a discrete latent
    model = gates() if beside else RandomEffects()
    found = fit(model, ROWS, method=method, seed=0)
    assert np.isfinite(found.objective.value)
    assert found.is_point is guide.point


@pytest.mark.parametrize(
    "make",
    [
        lambda: Encoder(hidden=(0,)),
        lambda: Encoder(hidden=("wide",)),
        lambda: Encoder(globals=3),
        lambda: SVI(guide=3),
        lambda: SVI(guide=coin()),
        lambda: SVI(guide="mean_feild"),
        lambda: SVI(steps=0),
        lambda: SVI(learning_rate=-1.0),
        lambda: SVI(learning_rate=float("nan")),
        lambda: SVI(batch_size=0),
        lambda: SVI(particles=1.5),
    ],
)
def test_settings_are_checked(make):
    with pytest.raises(zoo.ZooError):
        make()
