"""Mixtures that users sum out by hand (`MixtureSameFamily`, `ZeroInflatedPoisson`) have a latent component."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import EM, SVI, Laplace, fit
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
X = np.where(RNG.random(60) < 0.3, RNG.normal(-2, 1, 60), RNG.normal(3, 1, 60))
W = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
A = torch.tensor([0.7, 1.5, 3.0], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.0], [0.4, 0.8]], dtype=torch.float64)
COMPONENTS = {
    "Normal": lambda a: dist.Normal(a, 1 / a),
    "Normal by row": lambda a: dist.Normal(torch.linspace(0, 1, 12)[:, None] * a, 2.0),
    "Poisson": dist.Poisson,
    "Gamma": lambda a: dist.Gamma(a, 2 * a),
    "Beta": lambda a: dist.Beta(a, 2.0 * a),
    "LogNormal": lambda a: dist.LogNormal(a, 0.5),
    "Binomial": lambda a: dist.Binomial(5, probs=a / 4),
    "Bernoulli": lambda a: dist.Bernoulli(logits=a),
    "StudentT": lambda a: dist.StudentT(2.0 + a, a, 1.0),
    "Categorical": lambda a: dist.Categorical(logits=a[:, None] * torch.arange(3)),
    "event": lambda a: dist.Normal(a[:, None] * torch.arange(2), 1.0).to_event(1),
    "vector": lambda a: dist.MultivariateNormal(a[:, None].expand(3, 2), scale_tril=a[:, None, None] * ROOT),
    "covariance": lambda a: dist.MultivariateNormal(a[:, None].expand(3, 2), a[:, None, None] * torch.eye(2)),
}
OPENED = [n for n in COMPONENTS if n != "LogNormal"]


@pytest.mark.parametrize("name", COMPONENTS)
def test_the_density_is_that_of_the_mixture(name):
    """Of any component that is all in its arguments; a transformed one is left as it is."""

    def mixture():
        return dist.MixtureSameFamily(dist.Categorical(W), COMPONENTS[name](A))

    def story(x):
        scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
        with pyro.plate("row", len(x)):
            components = COMPONENTS[name](A * scale)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(W), components), obs=x)

    torch.set_default_dtype(torch.float64)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            x = torch.linspace(-1, 4, 12) if name == "Normal by row" else mixture().sample((12,))
            more = dist.MixtureSameFamily(dist.Categorical(W), COMPONENTS[name](A * 0.9))
            exact = float(more.log_prob(x).sum() + dist.Gamma(2.0, 2.0).log_prob(torch.tensor(0.9)))
    finally:
        torch.set_default_dtype(torch.float32)
    kind = zoo.Real("row", "feature") if x.ndim > 1 else zoo.Real("row")
    program = prepare(zoo.model(x=kind)(story), {"x": x.numpy()})
    at = {"scale": torch.tensor(0.9, dtype=torch.float64)}
    assert float(program.log_joint(at).total()) == pytest.approx(exact, rel=1e-10)
    assert ("x_component" in program.sites) is (name in OPENED)


def by_hand(w, m):
    return dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(m, 1.0))


@zoo.model(x=zoo.Real("row"))
def summed(x):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("k", 2):
        m = pyro.sample("m", dist.Normal(torch.tensor([-2.0, 3.0]), 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", by_hand(w, m), obs=x)


@zoo.model(x=zoo.Real("row"))
def enumerated(x):
    w = pyro.sample("w", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("k", 2):
        m = pyro.sample("m", dist.Normal(torch.tensor([-2.0, 3.0]), 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(w))
        pyro.sample("x", dist.Normal(m[z], 1.0), obs=x)


METHODS = [
    EM(),
    "cavi",
    Laplace(),
    pytest.param("map", marks=pytest.mark.slow),
    pytest.param(SVI(steps=100), marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=str)
def test_every_method_answers_as_for_the_latent_component(method):
    found, wanted = (fit(model, {"x": X}, method=method, seed=0) for model in (summed, enumerated))
    assert found.objective.value == pytest.approx(wanted.objective.value, abs=1e-6)
    np.testing.assert_allclose(found.assign(), wanted.assign(), atol=1e-6)
    np.testing.assert_allclose(found.log_prob(X[:5]), wanted.log_prob(X[:5]), atol=1e-6)
    assert set(found.generate(4)) == {"x"}


@pytest.mark.slow
def test_components_that_priors_tell_apart_are_named_by_them():
    """A clustering does not know which component is meant to be low: the prior does."""
    found = fit(enumerated, {"x": X}, method="em", seed=0)
    assert found.points or found.posterior["point_estimate"]["m"].to_numpy()[0] < 0
    height = fit(enumerated, {"x": X}, method=EM(start={"m": [-2.0, 3.0]}), seed=0).objective.value
    assert found.objective.value == pytest.approx(height, abs=1e-5)


@zoo.model(x=zoo.Real("row"))
def by_likelihood(x):
    w = pyro.param("w", torch.ones(2) / 2, constraint=constraints.simplex)
    m = pyro.param("m", torch.tensor([-1.0, 1.0]))
    s = pyro.param("s", torch.ones(2), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(m, s)), obs=x)


@pytest.mark.slow
def test_em_has_closed_forms_and_missing_values_are_left_out():
    x = np.where(np.arange(60) % 7 == 0, np.nan, X)
    assert "em          yes (closed form: w, m, s)" in zoo.explain(by_likelihood, {"x": x})
    found, gmm = (fit(m, d, method=EM(tolerance=1e-9), seed=0) for m, d in (
        (by_likelihood, {"x": x}),
        (zoo.GMM(components=2), x[~np.isnan(x)][:, None]),
    ))  # fmt: skip
    assert found.objective.value == pytest.approx(gmm.objective.value, abs=1e-5)


@zoo.model(x=zoo.Count("row"))
def inflated(x):
    gate = pyro.param("gate", torch.tensor(0.5), constraint=constraints.unit_interval)
    rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.ZeroInflatedPoisson(rate, gate=gate), obs=x)


@pytest.mark.slow
def test_em_of_a_zero_inflated_poisson():
    """At the maximum p + (1 - p) exp(-r) is the share of zeros, and (1 - p) r the mean."""
    x = np.where(RNG.random(200) < 0.4, 0, RNG.poisson(3.0, 200)).astype(float)
    found = fit(inflated, {"x": x}, method=EM(tolerance=1e-10), seed=0)
    p, r = (float(found.points[n]) for n in ("gate", "rate"))
    assert p + (1 - p) * np.exp(-r) == pytest.approx((x == 0).mean(), abs=1e-5)
    assert (1 - p) * r == pytest.approx(x.mean(), abs=1e-4)
    np.testing.assert_allclose(found.assign()[1][x == 0], p / (p + (1 - p) * np.exp(-r)), atol=1e-9)


SHARES, FEW = torch.tensor([0.3, 0.7], dtype=torch.float64), np.array([0.3, 1.1, 2.0, 1.4])
PRIORS = {
    "global": lambda: dist.MixtureSameFamily(
        dist.Categorical(SHARES), dist.Normal(torch.tensor([-2.0, 2.0]), torch.tensor([1.0, 0.5]))
    ),
    "positive": lambda: dist.MixtureSameFamily(
        dist.Categorical(SHARES), dist.LogNormal(torch.tensor([-2.0, 1.0]), torch.tensor([1.0, 0.5]))
    ),
}


def with_prior(name, by_row=False):
    @zoo.model(x=zoo.Real("row"))
    def story(x):
        shared = 0.0 if by_row else pyro.sample("t", PRIORS[name]())
        with pyro.plate("row", len(x)):
            own = pyro.sample("t", PRIORS[name]()) if by_row else shared
            pyro.sample("x", dist.Normal(own, 1.5 if name == "global" else own), obs=x)

    return story


def on_a_grid(name, x, by_row=False):
    """The log density at points of a fine grid, per row if each has a latent of its own; and the points."""
    low = -8.0 if name == "global" else 1e-4
    t = torch.linspace(low, 40.0 if low > 0 else 8.0, 40_001, dtype=torch.float64)
    prior = PRIORS[name]().log_prob(t)
    rows = dist.Normal(t, 1.5 if name == "global" else t).log_prob(torch.tensor(x)[:, None])
    return t, prior + (rows if by_row else rows.sum(0))


def moments(t, log_density):
    weight = (log_density - log_density.max()).exp()
    mass = torch.trapezoid(weight, t)
    mean = torch.trapezoid(weight * t, t) / mass
    sd = (torch.trapezoid(weight * (t - mean) ** 2, t) / mass).sqrt()
    return float(mass.log() + log_density.max()), float(mean), float(sd)


def test_a_mixture_as_a_prior_is_summed_out_exactly():
    evidence, mean, sd = moments(*on_a_grid("global", FEW))
    exact = fit(with_prior("global"), {"x": FEW}, method="exact", seed=0)
    assert exact.objective.value == pytest.approx(evidence, abs=1e-6)
    draws = exact.posterior["posterior"]["t"].to_numpy().ravel()
    assert abs(draws.mean() - mean) < 4 * sd / len(draws) ** 0.5
    t, log_density = on_a_grid("global", FEW, by_row=True)
    each = fit(with_prior("global", by_row=True), {"x": FEW}, method="exact", seed=0)
    assert each.objective.value == pytest.approx(sum(moments(t, row)[0] for row in log_density), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
def test_a_mixture_as_a_prior_is_climbed(name):
    """Also one of components whose values are no function of their arguments alone: its density is the mixture's."""
    t, log_density = on_a_grid(name, FEW)
    found = fit(with_prior(name), {"x": FEW}, method="map", seed=0)
    jacobian = t.log() if name == "positive" else torch.zeros_like(t)  # the mode of what MAP climbs: unconstrained
    best = int((log_density + jacobian).argmax())
    value = float(found.posterior["point_estimate"]["t"])
    assert min(abs(value - float(t[best])), abs(value - float(t[log_density.argmax()]))) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("method", ["nuts", "svi", "laplace"])
def test_methods_under_a_mixture_as_a_prior_find_its_posterior(name, method):
    """Chains have its mean; bounds of one Normal stay below the evidence, by what a second mode and skewness cost."""
    evidence, mean, _ = moments(*on_a_grid(name, FEW))
    found = fit(with_prior(name), {"x": FEW}, method=method, seed=0)
    if method == "nuts":
        summary = found.summary()
        assert abs(float(summary["mean"].iloc[0]) - mean) < 4 * float(summary["mcse_mean"].iloc[0])
    else:
        assert evidence - 0.1 < found.objective.value < evidence + 0.01
