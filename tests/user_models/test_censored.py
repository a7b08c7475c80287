"""Truncated and censored likelihoods as users write them, against quadrature."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import zoo
from inference import NUTS, SVI, Laplace, fit
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
FULL = RNG.weibull(1.5, 40) * 2
CENSORED = FULL > 2.5
TIME = np.minimum(FULL, 2.5)
BOTH = {"time": TIME, "censored": CENSORED.astype(float)}
KEPT = (y := RNG.normal(1.0, 2.0, 60))[y > 0]


class PositiveNormal(dist.TorchDistribution):
    """Normal(loc, scale) above 0, as a user writes it."""

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.positive

    def __init__(self, loc, scale, validate_args=None):
        self.loc, self.scale = torch.broadcast_tensors(torch.as_tensor(loc), torch.as_tensor(scale))
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, shape, _instance=None):
        return PositiveNormal(self.loc.expand(shape), self.scale.expand(shape))

    def log_prob(self, value):
        return dist.Normal(self.loc, self.scale).log_prob(value) - torch.special.ndtr(self.loc / self.scale).log()

    def sample(self, sample_shape=()):
        below = torch.special.ndtr(-self.loc / self.scale)
        u = below + (1 - below) * torch.rand(self._extended_shape(torch.Size(sample_shape)), dtype=self.loc.dtype)
        return self.loc + self.scale * torch.special.ndtri(u)


def weibull_priors():
    return pyro.sample("k", dist.Gamma(2.0, 1.0)), pyro.sample("s", dist.Gamma(2.0, 1.0))


@zoo.model(time=zoo.Positive("row"), censored=zoo.Binary("row"))
def by_factor(time, censored):
    k, s = weibull_priors()
    with pyro.plate("row", len(time)):
        survival = -((time / s) ** k)
        pyro.factor("seen", torch.where(censored > 0, survival, dist.Weibull(s, k).log_prob(time)))


@zoo.model(time=zoo.Positive("row"), censored=zoo.Binary("row"))
def by_mask(time, censored):
    k, s = weibull_priors()
    with pyro.plate("row", len(time)):
        with pyro.poutine.mask(mask=censored == 0):
            pyro.sample("time", dist.Weibull(s, k), obs=time)
        with pyro.poutine.mask(mask=censored > 0):
            hazard = (time / s) ** k
            alive = dist.Bernoulli(logits=-hazard - (-torch.expm1(-hazard)).log())
            pyro.sample("alive", alive, obs=torch.ones_like(time))


@zoo.model(time=zoo.Positive("row"), censored=zoo.Binary("row"))
def by_obs_mask(time, censored):
    """Times that were not seen are latents beyond where they were censored."""
    k, s = weibull_priors()
    with pyro.plate("row", len(time)):
        with pyro.poutine.mask(mask=censored == 0):
            pyro.sample("time", dist.Weibull(s, k), obs=time)
        pyro.factor("beyond", torch.where(censored > 0, -((time / s) ** k), torch.zeros(())))


def priors():
    return pyro.sample("k", dist.Normal(0.0, 3.0)), pyro.sample("s", dist.HalfNormal(3.0))


@zoo.model(y=zoo.Positive("row"))
def truncated_by_factor(y):
    m, s = priors()
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)
        pyro.factor("inside", -(1 - dist.Normal(m, s).cdf(torch.zeros(len(y)))).log())


@zoo.model(y=zoo.Positive("row"))
def truncated(y):
    m, s = priors()
    with pyro.plate("row", len(y)):
        pyro.sample("y", PositiveNormal(m, s), obs=y)


@zoo.model(y=zoo.Positive("row"))
def transformed(y):
    m, s = priors()
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.TransformedDistribution(dist.Normal(m, s), [dist.transforms.ExpTransform()]), obs=y)


def weibull(k, s):
    """log p(k, s, data)."""
    seen = [stats.weibull_min.logpdf(t, k, scale=s) for t in TIME[~CENSORED]]
    gone = [stats.weibull_min.logsf(t, k, scale=s) for t in TIME[CENSORED]]
    return np.sum(seen, 0) + np.sum(gone, 0) + stats.gamma.logpdf(k, 2) + stats.gamma.logpdf(s, 2)


def normal_prior(m, s):
    return stats.norm.logpdf(m, 0, 3) + stats.halfnorm.logpdf(s, scale=3)


def above(m, s):
    rows = [stats.norm.logpdf(y, m, s) - stats.norm.logsf(0, m, s) for y in KEPT]
    return np.sum(rows, 0) + normal_prior(m, s)


def lognormal(m, s):
    return np.sum([stats.lognorm.logpdf(y, s, scale=np.exp(m)) for y in KEPT], 0) + normal_prior(m, s)


GRIDS = {"weibull": (0.5, 3.5, 0.8, 4.5), "above": (-8, 4, 0.5, 6), "lognormal": (-0.8, 1.6, 0.3, 2.0)}
STORIES = {
    "a factor": (by_factor, BOTH, weibull),
    "masks": (by_mask, BOTH, weibull),
    "a mask and a factor": (by_obs_mask, BOTH, weibull),
    "truncated by a factor": (truncated_by_factor, {"y": KEPT}, above),
    "truncated": (truncated, {"y": KEPT}, above),
    "transformed": (transformed, {"y": KEPT}, lognormal),
}


def quadrature(height):
    low_k, high_k, low_s, high_s = GRIDS[height.__name__]
    k, s = np.meshgrid(np.linspace(low_k, high_k, 300), np.linspace(low_s, high_s, 300), indexing="ij")
    tall = height(k, s)
    weight = np.exp(tall - tall.max())
    cell = (high_k - low_k) * (high_s - low_s) / 299**2
    return np.log(weight.sum() * cell) + tall.max(), [(v * weight).sum() / weight.sum() for v in (k, s)]


@pytest.mark.parametrize("story", STORIES)
def test_the_density_is_right(story):
    model, data, height = STORIES[story]
    program = prepare(model, data)
    names = [s.name for s in program.globals]
    for at in ((0.9, 1.7), (1.4, 2.2)):
        values = {n: torch.tensor(v, dtype=torch.float64) for n, v in zip(names, at, strict=True)}
        assert float(program.log_joint(values).total()) == pytest.approx(height(*at), rel=1e-9)


METHODS = [
    ("a factor", Laplace()),
    pytest.param("a factor", SVI(steps=600), marks=pytest.mark.slow),
    pytest.param("truncated", NUTS(chains=2, warmup=300, draws=500), marks=pytest.mark.slow),
]


@pytest.mark.slow
@pytest.mark.parametrize(("story", "method"), METHODS, ids=["laplace", "svi", "nuts"])
def test_methods_agree_with_quadrature(story, method):
    model, data, height = STORIES[story]
    evidence, means = quadrature(height)
    found = fit(model, data, method=method, seed=0)
    if "evidence" in found.diagnostics:
        assert abs(found.diagnostics["evidence"] - evidence) < 5 * found.diagnostics["evidence_error"] + 0.05
    for name, mean in zip(("k", "s"), means, strict=True):
        draws = found.posterior["posterior"][name].to_numpy()
        assert abs(draws.mean() - mean) < 6 * draws.std() / np.sqrt(150)


@pytest.mark.parametrize("story", ["a factor", "truncated by a factor"])
def test_what_cannot_be_drawn_says_so(story):
    model, data, _ = STORIES[story]
    found = fit(model, data, method="map", seed=0)
    assert np.isfinite(found.log_prob()).all()
    with pytest.raises(zoo.ZooError, match=r"is a pyro.factor: it says how well data .* but not how to draw them"):
        found.predict()


def test_a_distribution_of_ones_own_is_drawn_from():
    found = fit(truncated, {"y": KEPT}, method="map", seed=0)
    drawn = found.generate(500)["y"].to_numpy()
    m, s = (float(found.posterior["point_estimate"][n]) for n in ("k", "s"))
    wanted = stats.truncnorm(-m / s, np.inf, m, s)
    assert (drawn > 0).all()
    assert abs(drawn.mean() - wanted.mean()) < 5 * wanted.std() / np.sqrt(500)


# -- Factors outside the plate of rows --------------------------------------------------------------------------------


@zoo.model(y=zoo.Positive("row"))
def normalized_at_once(y):
    m = pyro.sample("m", dist.Normal(1.0, 1.0))
    pyro.factor("inside", -len(y) * dist.Normal(m, 1.0).cdf(torch.zeros(())).neg().log1p())
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@zoo.model(y=zoo.Positive("row"))
def normalized_inside(y):
    m = pyro.sample("m", dist.Normal(1.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)
        pyro.factor("inside", -dist.Normal(m, 1.0).cdf(torch.zeros(())).neg().log1p())


@zoo.model(y=zoo.Positive("row"))
def tilted_prior(y):
    m = pyro.sample("m", dist.Normal(1.0, 1.0))
    pyro.factor("tilt", -m.square())
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


def test_a_factor_that_counts_rows_is_part_of_what_data_mean():
    """Draws without it would not be cut off, and rows by themselves would lack their share of it."""
    result = fit(normalized_at_once(), {"y": [0.5, 1.0, 2.0]}, method=Laplace(), seed=0)
    with pytest.raises(zoo.ZooError, match=r"'inside' is a pyro\.factor"):
        result.predict()
    with pytest.raises(zoo.ZooError, match="depends on how many rows there are"):
        result.log_prob()


def test_a_factor_of_the_prior_is_none():
    result = fit(tilted_prior(), {"y": [0.5, 1.0, 2.0]}, method=Laplace(), seed=0)
    assert result.predict(draws=3)["posterior_predictive"]["y"].shape == (1, 3, 3)
    assert len(result.log_prob()) == 3


def test_a_factor_of_one_number_counts_for_each_row():
    result = fit(normalized_inside(), {"y": [0.5, 1.0, 2.0]}, method=Laplace(), seed=0)
    whole = prepare(normalized_at_once(), {"y": [0.5, 1.0, 2.0]}).log_joint({"m": torch.tensor(0.3).double()})
    each = prepare(normalized_inside(), {"y": [0.5, 1.0, 2.0]}).log_joint({"m": torch.tensor(0.3).double()})
    assert float(each.total()) == pytest.approx(float(whole.total()), rel=1e-12)
    assert list(result.posterior["observed_data"].data_vars) == ["y"]
