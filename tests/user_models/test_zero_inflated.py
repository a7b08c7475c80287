"""Zero-inflated counts, written in each of the ways that users write them: one density, and one answer, for all."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, special, stats

import zoo
from inference import EM, MAP, NUTS, SMC, SVI, Laplace, fit
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
COUNTS = np.where(RNG.random(60) < 0.35, 0, RNG.poisson(3.0, 60)).astype(float)


def gated(likelihood):
    """Make a model of one way to write the likelihood, the gate z being a latent."""

    @zoo.model(y=zoo.Count("row"))
    def zip_(y):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(p))
            pyro.sample("y", likelihood(z, rate), obs=y)

    return zip_


def summed(likelihood):
    """Make a model of one way to write the likelihood with the gate summed out."""

    @zoo.model(y=zoo.Count("row"))
    def zip_(y):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", likelihood(p, rate), obs=y)

    return zip_


GATED = {
    "times": gated(lambda z, rate: dist.Poisson(rate * (1 - z))),
    "where": gated(lambda z, rate: dist.Poisson(torch.where(z == 1, torch.zeros(()), rate))),
    "masked mixture": gated(
        lambda z, rate: dist.MaskedMixture(z.bool(), dist.Poisson(rate), dist.Poisson(torch.zeros(())))
    ),
}
SUMMED = {
    "zero-inflated Poisson": summed(lambda p, rate: dist.ZeroInflatedPoisson(rate, gate=p)),
    "zero-inflated distribution": summed(lambda p, rate: dist.ZeroInflatedDistribution(dist.Poisson(rate), gate=p)),
}
ALL = {**GATED, **SUMMED}


def log_joint(p, rate):
    """log p(y, p, rate) by scipy, of numbers or arrays."""
    zero = np.log(p + (1 - p) * np.exp(-rate))
    more = [np.log1p(-p) + stats.poisson.logpmf(k, rate) for k in COUNTS[COUNTS > 0]]
    prior = stats.beta.logpdf(p, 2, 2) + stats.gamma.logpdf(rate, 2.0)
    return prior + (COUNTS == 0).sum() * zero + np.sum(more, 0)


def posterior():
    """log p(y), and mean of p and rate, on a fine grid."""
    p, rate = np.meshgrid(np.linspace(0.001, 0.8, 400), np.linspace(0.5, 7, 400), indexing="ij")
    height = log_joint(p, rate)
    weight = np.exp(height - height.max())
    cell = 0.799 / 399 * 6.5 / 399
    evidence = np.log(weight.sum() * cell) + height.max()
    return evidence, {n: (v * weight).sum() / weight.sum() for n, v in {"p": p, "rate": rate}.items()}


def best():
    """The mode of p and rate, and the height there."""
    found = optimize.minimize(lambda u: -log_joint(special.expit(u[0]), np.exp(u[1])), [0.0, 0.0], tol=1e-12)
    return {"p": special.expit(found.x[0]), "rate": np.exp(found.x[1])}, -found.fun


@pytest.mark.parametrize("way", ALL)
def test_every_way_has_the_same_density_and_a_gradient(way):
    program = prepare(ALL[way], {"y": COUNTS})
    p, rate = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, 2.5))
    value = program.log_joint({"p": p, "rate": rate}).total()
    assert value.item() == pytest.approx(log_joint(0.3, 2.5), abs=1e-9)
    slopes = [float(g) for g in torch.autograd.grad(value, [p, rate])]
    h = 1e-5
    expected = [
        (log_joint(0.3 + h, 2.5) - log_joint(0.3 - h, 2.5)) / (2 * h),
        (log_joint(0.3, 2.5 + h) - log_joint(0.3, 2.5 - h)) / (2 * h),
    ]
    assert slopes == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("way", GATED)
def test_em_comes_to_the_mode(way):
    mode, height = best()
    found = fit(GATED[way], {"y": COUNTS}, method=EM(tolerance=1e-10), seed=0)
    assert found.objective.value == pytest.approx(height, abs=1e-6)
    for name, value in mode.items():
        assert float(found.posterior["point_estimate"][name]) == pytest.approx(value, abs=1e-3)


@pytest.mark.slow
def test_responsibilities_of_the_gate_are_bayes_rule():
    found = fit(GATED["times"], {"y": COUNTS}, method=EM(tolerance=1e-10), seed=0)
    p, rate = (float(found.posterior["point_estimate"][n]) for n in ("p", "rate"))
    closed = p / (p + (1 - p) * np.exp(-rate))
    assert found.assign()[1].to_numpy() == pytest.approx(np.where(COUNTS == 0, closed, 0.0), abs=1e-9)


@pytest.mark.slow
def test_evidence_is_that_of_quadrature():
    evidence, mean = posterior()
    found = fit(GATED["times"], {"y": COUNTS}, method=Laplace(), seed=0)
    assert abs(found.diagnostics["evidence"] - evidence) < 5 * found.diagnostics["evidence_error"] + 1e-3
    for name, value in mean.items():
        draws = found.posterior["posterior"][name].to_numpy()
        assert abs(draws.mean() - value) < 5 * draws.std() / np.sqrt(draws.size)


@pytest.mark.slow
@pytest.mark.parametrize("method", [NUTS(chains=2, warmup=500, draws=1000), SMC(), SVI(), MAP()], ids=repr)
@pytest.mark.parametrize("way", ALL)
def test_every_method_is_right(way, method):
    found = fit(ALL[way], {"y": COUNTS}, method=method, seed=0)
    evidence, mean = posterior()
    if found.is_point:
        mode, height = best()
        assert found.objective.value == pytest.approx(height, abs=1e-3)
        assert float(found.posterior["point_estimate"]["rate"]) == pytest.approx(mode["rate"], rel=1e-2)
        return
    if isinstance(method, SMC):
        assert abs(found.objective.value - evidence) < 5 * found.objective.error
    for name, value in mean.items():
        draws = found.posterior["posterior"][name].to_numpy()
        assert abs(draws.mean() - value) < 6 * draws.std() / np.sqrt(400)


@zoo.model(y=zoo.Count("row"))
def exposed(y, *, exposure: float = 0.0):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    share = torch.where(torch.arange(len(y)) == 0, exposure, 1.0)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate * share), obs=y)


def test_a_row_that_is_not_exposed_says_nothing():
    found = fit(exposed(), {"y": [0.0, 2.0, 4.0]}, method=Laplace(), seed=0)
    exact = stats.gamma(2 + 6, scale=1 / (1 + 2))
    draws = found.posterior["posterior"]["rate"].to_numpy()
    assert abs(draws.mean() - exact.mean()) < 5 * exact.std() / np.sqrt(draws.size)


@zoo.model(y=zoo.Real("row"))
def zero_inflated_normal(y):
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.MaskedMixture(z.bool(), dist.Normal(m, 1.0), dist.Normal(0.0, 0.1)), obs=y)


def test_zero_inflated_normal_has_the_density_of_a_mixture():
    y = np.where(RNG.random(40) < 0.4, RNG.normal(0, 0.1, 40), RNG.normal(2, 1, 40))
    program = prepare(zero_inflated_normal, {"y": y})
    value = program.log_joint({"p": torch.tensor(0.3), "m": torch.tensor(1.5)}).total()
    rows = np.log(0.7 * stats.norm.pdf(y, np.float32(1.5), 1) + 0.3 * stats.norm.pdf(y, 0, 0.1)).sum()
    expected = rows + stats.beta.logpdf(0.3, 2, 2) + stats.norm.logpdf(1.5, 0, 5)
    assert float(value) == pytest.approx(expected, abs=1e-4)
