"""Maximum likelihood and modes with everything observed: EM and MAP against the formulas of textbooks."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import digamma
from torch.distributions import constraints

import zoo
from inference import EM, MAP, fit
from zoo.errors import MethodError


class Measurements(zoo.Model):
    """Normal."""

    x = zoo.Real("row")

    def forward(self, x):
        m = pyro.param("m", torch.tensor(0.0))
        s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(m, s), obs=x)


class Line(zoo.Model):
    """Linear regression."""

    x = zoo.Real("row", "covariate")
    y = zoo.Real("row")

    def forward(self, x, y):
        slope, level = pyro.param("slope", torch.zeros(2)), pyro.param("level", torch.tensor(0.0))
        s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(level + x @ slope, s), obs=y)


class Plane(zoo.Model):
    """Multivariate Normal."""

    x = zoo.Real("row", "column")

    def forward(self, x):
        m = pyro.param("m", torch.zeros(2))
        c = pyro.param("c", torch.eye(2), constraint=constraints.positive_definite)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(m, c), obs=x)


class Groups(zoo.Model):
    """A level and a scale for each group."""

    y = zoo.Real("row")
    group = zoo.Category("row")

    def forward(self, y, group):
        m = pyro.param("m", torch.zeros(3))
        s = pyro.param("s", torch.ones(3), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m[group], s[group]), obs=y)


class Waits(zoo.Model):
    """Gamma of known shape."""

    y = zoo.Positive("row")

    def forward(self, y):
        rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Gamma(2.0, rate), obs=y)


class Counts(zoo.Model):
    """Poisson, Bernoulli and Categorical columns."""

    count = zoo.Count("row")
    binary = zoo.Binary("row")
    category = zoo.Category("row")

    def forward(self, count, binary, category):
        rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        p = pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)
        shares = pyro.param("shares", torch.ones(3) / 3, constraint=constraints.simplex)
        with pyro.plate("row", len(count)):
            pyro.sample("count", dist.Poisson(rate), obs=count)
            pyro.sample("binary", dist.Bernoulli(p), obs=binary)
            pyro.sample("category", dist.Categorical(shares), obs=category)


class Shrunk(zoo.Model):
    """Normal with a prior of the mean, and none of the scale."""

    x = zoo.Real("row")

    def forward(self, x):
        m = pyro.sample("m", dist.Normal(0.0, 2.0))
        s = pyro.param("s", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(m, s), obs=x)


class WaitsOfAnyShape(zoo.Model):
    """Gamma."""

    y = zoo.Positive("row")

    def forward(self, y):
        shape = pyro.param("shape", torch.tensor(1.0), constraint=constraints.positive)
        rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Gamma(shape, rate), obs=y)


RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, 50)
XY = RNG.normal(size=(60, 2))
Y = 1 + XY @ [2, -1] + 0.5 * RNG.normal(size=60)
DESIGN = np.c_[np.ones(60), XY]
BETA = np.linalg.lstsq(DESIGN, Y, rcond=None)[0]
ROWS = RNG.normal(size=(80, 2)) @ [[1, 0.5], [0, 2]] + [5, 7]
GROUP = RNG.integers(3, size=90)
LEVEL = 2.0 * GROUP + RNG.normal(size=90) * (1 + GROUP)
WAITS = RNG.gamma(2, 1 / 3, size=70)
COUNT, BINARY, CATEGORY = RNG.poisson(4, size=40), (RNG.random(40) < 0.3).astype(float), RNG.integers(3, size=40)
MEANS, SDS = (np.array([f(LEVEL[k == GROUP]) for k in range(3)]) for f in (np.mean, np.std))
SHARES = np.bincount(CATEGORY) / 40
COUNTS = {"count": COUNT, "binary": BINARY, "category": CATEGORY}

FORMULAS = {
    "normal": (Measurements(), X, {"m": X.mean(), "s": X.std()}),
    "regression": (
        Line(),
        {"x": XY, "y": Y},
        {"level": BETA[0], "slope": BETA[1:], "s": np.sqrt(np.mean((Y - DESIGN @ BETA) ** 2))},
    ),
    "multivariate": (Plane(), ROWS, {"m": ROWS.mean(0), "c": np.cov(ROWS.T, bias=True)}),
    "groups": (Groups(), {"y": LEVEL, "group": GROUP}, {"m": MEANS, "s": SDS}),
    "gamma": (Waits(), WAITS, {"rate": 2 / WAITS.mean()}),
    "counts": (Counts(), COUNTS, {"rate": COUNT.mean(), "p": BINARY.mean(), "shares": SHARES}),
}


@pytest.mark.parametrize("method", [EM(), MAP()], ids=["em", "map"])
@pytest.mark.parametrize("case", FORMULAS)
def test_closed_forms_are_those_of_textbooks(case, method):
    model, data, formulas = FORMULAS[case]
    found = fit(model, data, method=method, seed=0)
    assert found.converged
    assert found.reason.startswith("closed form")
    assert found.objective.kind == "log_likelihood"
    for name, value in formulas.items():
        estimate = found.posterior["point_estimate"][name].to_numpy().reshape(np.shape(value))
        np.testing.assert_allclose(estimate, value, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("method", [EM(), MAP()], ids=["em", "map"])
def test_blocks_in_turn_come_to_the_mode(method):
    """The mode m of the mean solves n (mean - m) / (var + (mean - m)^2) = m / 4, s^2 = var + (mean - m)^2."""
    found = fit(Shrunk(), X, method=method, seed=0)
    mean, var = X.mean(), X.var()
    m = brentq(lambda m: len(X) * (mean - m) / (var + (mean - m) ** 2) - m / 4, 0, mean, xtol=1e-14)
    points = found.posterior["point_estimate"]
    assert found.converged
    assert found.objective.kind == "log_posterior"
    assert float(points["m"].squeeze()) == pytest.approx(m, rel=1e-7)
    assert float(points["s"].squeeze()) == pytest.approx(np.sqrt(var + (mean - m) ** 2), rel=1e-7)


def test_what_has_no_closed_form_takes_tens_of_steps():
    """The shape of a Gamma solves log(shape) - digamma(shape) = log(mean) - mean(log)."""
    found = fit(WaitsOfAnyShape(), WAITS, method=MAP(), seed=0)
    gap = np.log(WAITS.mean()) - np.log(WAITS).mean()
    shape = brentq(lambda a: np.log(a) - digamma(a) - gap, 0.1, 100, xtol=1e-14)
    points = found.posterior["point_estimate"]
    assert found.steps < 50
    assert (found.trace["value"].diff().dropna() >= -1e-9).all()
    assert float(points["shape"].squeeze()) == pytest.approx(shape, rel=1e-9)
    assert float(points["rate"].squeeze()) == pytest.approx(shape / WAITS.mean(), rel=1e-9)


def test_what_has_no_closed_form_is_refused_with_its_name():
    with pytest.raises(MethodError, match=r"'shape' has no closed-form maximum; use map"):
        fit(WaitsOfAnyShape(), WAITS, method=EM())
