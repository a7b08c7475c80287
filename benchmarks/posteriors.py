"""Posteriors whose means and standard deviations are known: by quadrature here, and by the draws of posteriordb."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import zoo
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, NormalMean, coin
from tests.cases.posteriordb_more import posterior
from zoo import Binary, Count, Positive, Real
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare
from zoo.replay.evaluate import many

GRID = {1: 20_001, 2: 601}  # points along each coordinate
GALORE = 1e9  # effective draws of what is exact


@dataclass
class Known:
    """A posterior: model and data; what turns draws into named scalars; and their means, sds and worth in draws."""

    model: object
    data: object
    named: object = dict
    mean: dict = field(default_factory=dict)
    sd: dict = field(default_factory=dict)
    worth: dict = field(default_factory=dict)


# -- by quadrature -----------------------------------------------------------------------------------------------------


@zoo.model(wait=Positive("row"))
def waits(wait, *, a: float = 1.5):
    """Waiting times with a Gamma prior of their rate."""
    rate = pyro.sample("rate", dist.Gamma(a, 1.0))
    with pyro.plate("row", len(wait)):
        pyro.sample("wait", dist.Exponential(rate), obs=wait)


@zoo.model(x=Real("row"))
def normal(x):
    """Mean and standard deviation of Normal rows."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, sigma), obs=x)


@zoo.model(x=Real("row"))
def cauchy(x):
    """Place of Cauchy rows, which may have several modes."""
    place = pyro.sample("place", dist.Normal(0.0, 20.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Cauchy(place, 1.0), obs=x)


@zoo.model(x=Real("row"))
def sides(x, *, tilt: float = 0.0):
    """Two peaks apart from each other, of mass that the tilt says."""
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a.abs() + tilt * torch.sigmoid(-5 * a), 0.5), obs=x)


@zoo.model(x=Real("row"))
def banana(x):
    """Rows see a sum of one coordinate and the square of the other."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(b + a.square(), 0.6), obs=x)


@zoo.model(x=Real("row"))
def product(x):
    """Rows see a product: two ridges."""
    a = pyro.sample("a", dist.Normal(0.0, 1.5))
    b = pyro.sample("b", dist.Normal(0.0, 1.5))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a * b, 0.7), obs=x)


@zoo.model(x=Real("row"))
def funnel(x):
    """A scale that few rows tell of, and a mean under it."""
    log_scale = pyro.sample("log_scale", dist.Normal(0.0, 1.5))
    mu = pyro.sample("mu", dist.Normal(0.0, log_scale.exp()))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@zoo.model(y=Binary("row"), x=Real("row"))
def logistic(y, x):
    """Logistic regression of few rows."""
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


@zoo.model(y=Count("row"))
def zeros(y):
    """Counts of which some are always zero."""
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        pyro.sample("y", dist.Poisson(rate * (1 - z) + 1e-9), obs=y)


@zoo.model(x=Real("row"))
def share(x):
    """The share of one of two known components."""
    weight = pyro.sample("weight", dist.Beta(1.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(weight))
        pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


@zoo.model(x=Real("row"))
def heavy(x):
    """A Student prior of the mean of one row."""
    mu = pyro.sample("mu", dist.StudentT(4.0, 0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 2.0), obs=x)


@zoo.model(y=Count("row"), x=Real("row"))
def counts(y, x):
    """Poisson regression of few rows."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson((a + b * x).exp()), obs=y)


@zoo.model(x=Real("row"))
def ridge(x):
    """Two means of which rows tell the sum, and hardly the difference."""
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


@zoo.model(x=Positive("row"))
def gammas(x):
    """Shape and rate of Gamma rows."""
    shape = pyro.sample("shape", dist.LogNormal(0.0, 1.0))
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Gamma(shape, rate), obs=x)


@zoo.model(x=Real("row"))
def students(x):
    """Location and scale of Student rows."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfCauchy(2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.StudentT(3.0, mu, scale), obs=x)


@zoo.model(x=Positive("row"))
def lifetimes(x):
    """Scale and shape of Weibull rows."""
    scale = pyro.sample("scale", dist.Gamma(2.0, 0.5))
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Weibull(scale, shape), obs=x)


@zoo.model(y=Count("row"))
def rates(y):
    """Two rates of which counts tell the product."""
    first = pyro.sample("first", dist.Gamma(2.0, 1.0))
    second = pyro.sample("second", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(first * second), obs=y)


@zoo.model(x=Real("row"))
def spread(x):
    """The standard deviation of very few rows."""
    sd = pyro.sample("sd", dist.HalfNormal(10.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, sd), obs=x)


@zoo.model(x=Real("row"))
def squared(x):
    """A mean that is a square: two modes, one of them lower."""
    a = pyro.sample("a", dist.Normal(0.5, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a**2, 0.7), obs=x)


@zoo.model(x=Real("row"))
def waves(x):
    """A mean that is a sine: a mode in each period."""
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(torch.sin(3 * a), 0.4), obs=x)


@zoo.model(x=Real("row"))
def kink(x):
    """A mean with a Laplace prior."""
    mu = pyro.sample("mu", dist.Laplace(0.0, 0.3))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@zoo.model(x=Real("row"))
def edge(x):
    """A mean with a Uniform prior, which the rows press to an edge."""
    mu = pyro.sample("mu", dist.Uniform(2.0, 5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@zoo.model(x=Real("row"))
def precise(x):
    """Mean and precision of rows, in tiny units."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1e-3))
    tau = pyro.sample("tau", dist.Gamma(1.0, 1e-8))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)


def analytic():
    """Each with the box of unconstrained coordinates that holds its mass."""
    rng = np.random.default_rng(0)
    few = rng.normal(2.0, 1.5, 6)
    slope = np.linspace(-2, 2, 12)
    yield "coin 5 of 10", coin(), FLIPS, [(-9, 9)]
    yield "coin 1 of 15", coin(), [1] + [0] * 14, [(-14, 9)]
    yield "coin 0 of 10", coin(), [0] * 10, [(-25, 9)]
    yield "coin 10 of 10", coin(), [1] * 10, [(-9, 25)]
    yield "coin 2 of 2, Beta(0.5)", coin(a=0.5, b=0.5), [1, 1], [(-20, 60)]
    yield "waits 1", waits(), [0.4], [(-14, 6)]
    yield "waits 3", waits(), [0.4, 1.9, 0.7], [(-10, 5)]
    yield "waits 30", waits(), rng.exponential(0.5, 30), [(-4, 4)]
    yield "normal mean", NormalMean(), few, [(-9, 13)]
    yield "mean and sd 3", normal(), few[:3], [(-45, 45), (-6, 5)]
    yield "mean and sd 6", normal(), few, [(-20, 24), (-3, 5)]
    yield "mean and sd 100", normal(), rng.normal(5, 3, 100), [(1, 9), (0, 2)]
    yield "cauchy together", cauchy(), [0.3, 0.9, -0.5, 1.4], [(-30, 30)]
    yield "cauchy apart", cauchy(), [-4.0, -3.5, 4.0, 4.2, 3.8], [(-30, 30)]
    yield "sides alike", sides(), [3.0, 3.2], [(-12, 12)]
    yield "sides uneven", sides(tilt=0.7), [3.0, 3.2], [(-12, 12)]
    yield "sides far", sides(tilt=0.3), [8.0, 8.2, 7.9], [(-16, 16)]
    yield "banana", banana(), [1.0, 1.4], [(-6, 6), (-25, 12)]
    yield "product", product(), [1.0, 1.6], [(-8, 8), (-8, 8)]
    yield "product near 0", product(), [0.2, -0.1], [(-8, 8), (-8, 8)]
    yield "funnel", funnel(), [0.5, 1.0], [(-8, 7), (-8, 8)]
    yield "logistic", logistic(), {"y": (slope + rng.logistic(size=12) > 0).astype(int), "x": slope}, [(-20, 20)] * 2
    yield "logistic apart", logistic(), {"y": (slope > 0.3).astype(int), "x": slope}, [(-25, 20), (-10, 35)]
    yield "zeros", zeros(), rng.poisson(3, 40) * (rng.random(40) > 0.4), [(-5, 5), (-1, 3)]
    yield "share", share(), rng.normal(1.0, 1.4, 25), [(-14, 14)]
    yield "heavy", heavy(), [3.0], [(-40, 40)]
    yield "counts", counts(), {"y": rng.poisson(np.exp(0.3 + 0.8 * slope)), "x": slope}, [(-6, 5), (-4, 5)]
    yield "counts of none", counts(), {"y": 0 * slope.astype(int), "x": slope}, [(-18, 2), (-11, 11)]
    yield "ridge", ridge(), rng.normal(1.0, 1.0, 3), [(-24, 26), (-24, 26)]
    yield "gammas 4", gammas(), rng.gamma(2.0, 0.5, 4), [(-4, 4), (-5, 5)]
    yield "gammas 40", gammas(), rng.gamma(2.0, 0.5, 40), [(-1, 3), (-1, 3)]
    yield "students", students(), [0.3, 1.1, 0.8, -0.2, 9.0], [(-25, 25), (-7, 6)]
    yield "lifetimes", lifetimes(), rng.weibull(1.5, 8) * 3, [(-3, 4), (-3, 3)]
    yield "rates", rates(), [3, 2, 4], [(-5, 4), (-5, 4)]
    yield "rates of none", rates(), [0, 0], [(-9, 4), (-9, 4)]
    yield "spread", spread(), [0.8, -1.1], [(-3, 5)]
    yield "squared", squared(), [1.6], [(-6, 6)]
    yield "squared near 0", squared(), [0.1], [(-6, 6)]
    yield "waves", waves(), [0.6, 0.3], [(-14, 14)]
    yield "kink", kink(), [0.5, 0.2], [(-5, 6)]
    yield "edge", edge(), [1.2, 1.9, 1.5], [(-20, 14)]
    yield "precise", precise(), 1e-4 * rng.normal(3.0, 1.0, 12), [(-1e-3, 1e-3), (13, 22)]


def by_quadrature(model, data, box):
    """Means and sds of every entry of every latent, on a grid over unconstrained coordinates."""
    program = prepare(model, data, device="cpu")
    density = Density(program)
    axes = [torch.linspace(low, high, GRID[len(box)], dtype=torch.float64) for low, high in box]
    u = torch.cartesian_prod(*axes).reshape(-1, len(box))
    with torch.no_grad():
        log_p = many(lambda v: density.log_prob(v["u"]), {"u": u}, len(u), 4096)
        values = density.constrain_all(u)
    weight = torch.softmax(torch.where(log_p.isfinite(), log_p, -torch.inf), 0)
    known = Known(model, data)
    for name, value in values.items():
        mean = (weight * value).sum()
        known.mean[name], known.sd[name] = float(mean), float((weight * (value - mean).square()).sum().sqrt())
        known.worth[name] = GALORE
    return known


# -- of posteriordb ----------------------------------------------------------------------------------------------------


def references(folder):
    """Posteriors of posteriordb by name."""
    table = pd.read_csv(folder / "posteriordb" / "reference_summary.csv")
    for name, rows in table.groupby("reference_posterior"):
        data = json.loads((folder / "posteriordb" / f"{name.partition('-')[0]}.json").read_text(encoding="utf-8"))
        model, bound, named = posterior(name, data)
        known = Known(model, bound, named)
        for row in rows.itertuples():
            known.mean[row.parameter], known.sd[row.parameter] = row.mean, row.sd
            known.worth[row.parameter] = row.ess_bulk
        yield name, known
        if name.startswith("eight_schools"):
            yield "eight_schools-centered", Known(EightSchools(), SCHOOLS, dict, known.mean, known.sd, known.worth)


def everything():
    """All posteriors by name, in the order of their names."""
    found = {name: by_quadrature(model, data, box) for name, model, data, box in analytic()}
    folder = os.environ.get("ZOO_REFERENCES")
    if folder:
        found.update(references(Path(folder)))
    return dict(sorted(found.items()))


def scalar(draws, parameter):
    """One named scalar of draws (chain, draw, ...); posteriordb counts from one."""
    name, _, at = parameter.partition("[")
    value = draws[name]
    return value[(..., *(int(i) - 1 for i in at[:-1].split(",")))] if at else value
