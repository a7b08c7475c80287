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
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

import zoo
from tests.cases import posteriordb
from tests.cases.models import FLIPS, SCHOOLS, EightSchools, NormalMean, coin
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


@zoo.model(y=Real("row"), x=Real("row", "column"))
def regression(y, x, *, wide: float, scale: float):
    """Linear regression, flat priors being very wide ones."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1]), wide).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@zoo.model(y=Real("row"), x=Real("row", "column"))
def blr(y, x):
    """Linear regression with Normal priors."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(x.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ beta, sigma), obs=y)


@zoo.model(y=Real("row"), x=Real("row", "column"))
def diamonds(y, x):
    """Linear regression on centred columns."""
    b = pyro.sample("b", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    intercept = pyro.sample("Intercept", dist.StudentT(3.0, 8.0, 10.0))
    sigma = pyro.sample("sigma", HalfStudent(3.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(intercept + x @ b, sigma), obs=y)


class Positives(TorchDistribution):
    """A distribution on the real line, cut off at zero."""

    support, has_rsample, arg_constraints = constraints.positive, False, {}

    def __init__(self, whole):
        self.whole = whole
        super().__init__(whole.batch_shape, validate_args=False)

    def expand(self, shape, _instance=None):
        return type(self).of(self.whole.expand(shape))

    @classmethod
    def of(cls, whole):
        made = cls.__new__(cls)
        Positives.__init__(made, whole)
        return made

    def log_prob(self, value):
        return self.whole.log_prob(value) - self.log_mass

    @property
    def log_mass(self):
        return (1 - self.whole.cdf(torch.zeros(()))).log()

    def sample(self, shape=()):
        low = self.whole.cdf(torch.zeros(()))
        at = low + (1 - low) * torch.rand(self.shape(shape))
        return self.whole.icdf(at.clamp(1e-9, 1 - 1e-9)).clamp_min(1e-9)


class HalfStudent(Positives):
    """A Student distribution around zero, the positive half of it."""

    def __init__(self, df, scale):
        super().__init__(dist.StudentT(df, 0.0, scale))

    @property
    def log_mass(self):
        return torch.tensor(0.5).log()

    def sample(self, shape=()):
        return self.whole.sample(shape).abs()


@zoo.model(y=Real("time"))
def arma11(y):
    """err_t = y_t - mu - phi y_{t-1} - theta err_{t-1}, a convolution with powers of -theta."""
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    phi = pyro.sample("phi", dist.Normal(0.0, 2.0))
    theta = pyro.sample("theta", dist.Normal(0.0, 2.0))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    before = torch.cat([mu.reshape(1), y[:-1]])
    plain = y - mu - phi * before
    powers = (-theta) ** torch.arange(len(y))
    error = torch.nn.functional.conv1d(
        torch.cat([torch.zeros(len(y) - 1), plain])[None, None], powers.flip(0)[None, None]
    )[0, 0]
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(y - error, sigma), obs=y)


def covariance(x, alpha, rho):
    """Of a Gaussian process."""
    return alpha**2 * torch.exp(-0.5 * ((x[:, None] - x) / rho).square())


@zoo.model(y=Real("series", "place"), x=Real("series", "place"))
def gp_regr(y, x):
    """A Gaussian process with noise of variance sigma."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    whole = covariance(x[0], alpha, rho) + sigma * torch.eye(x.shape[1])
    with pyro.plate("series", 1):
        pyro.sample("y", dist.MultivariateNormal(torch.zeros(x.shape[1]), whole), obs=y)


@zoo.model(k=Count("place"), x=Real("place"))
def gp_pois_regr(k, x):
    """Counts whose log rate is a Gaussian process."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    standard = pyro.sample("standard", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    root = torch.linalg.cholesky(covariance(x, alpha, rho) + 1e-8 * torch.eye(len(x)))
    f = pyro.deterministic("f", root @ standard)
    with pyro.plate("place", len(k)):
        pyro.sample("k", dist.Poisson(f.exp()), obs=k)


@zoo.model(y=Positive("year", "species"))
def lotka_volterra(y):
    """Hares and lynx, by Runge and Kutta's fourth order with four steps a year; the first row is year 0."""
    rates = pyro.sample("rates", Positives(dist.Normal(torch.ones(2), 0.5)).to_event(1))
    meets = pyro.sample("meets", Positives(dist.Normal(torch.full((2,), 0.05), 0.05)).to_event(1))
    start = pyro.sample("z_init", dist.LogNormal(torch.full((2,), np.log(10.0)), 1.0).to_event(1))
    sigma = pyro.sample("sigma", dist.LogNormal(-torch.ones(2), 1.0).to_event(1))
    sign = torch.tensor([1.0, -1.0])

    def slope(log_z):  # of the logarithms, which stay positive
        return sign * (rates - meets * log_z.flip(-1).exp())

    log_z, path, step = start.log(), [start.log()], 0.25
    for _ in range(len(y) - 1):
        for _ in range(4):
            a = slope(log_z)
            b = slope(log_z + step / 2 * a)
            c = slope(log_z + step / 2 * b)
            log_z = log_z + step / 6 * (a + 2 * b + 2 * c + slope(log_z + step * c))
        path.append(log_z)
    with pyro.plate("year", len(y)):
        pyro.sample("y", dist.LogNormal(torch.stack(path), sigma).to_event(1), obs=y)


def columns(data, *names, one=True):
    """Some columns side by side, with ones before them."""
    made = [np.asarray(data[n], float) for n in names]
    return np.column_stack(([np.ones(len(made[0]))] if one else []) + made)


def lotka(draws):
    """Reference's order of the four rates."""
    r, m = draws["rates"], draws["meets"]
    theta = torch.stack([r[..., 0], m[..., 0], r[..., 1], m[..., 1]], -1)
    return {"theta": theta, "z_init": draws["z_init"], "sigma": draws["sigma"]}


def of_posteriordb(name, data):
    """Model, data and what turns draws into the reference's parameters."""
    flat = {"wide": 1e4, "scale": 1e4}
    if name == "diamonds-diamonds":
        x = np.asarray(data["X"])[:, 1:]
        return diamonds(), {"y": data["Y"], "x": x - x.mean(0)}, dict
    if name == "earnings-earn_height":
        return regression(wide=1e7, scale=1e6), {"y": data["earn"], "x": columns(data, "height")}, dict
    if name == "earnings-logearn_interaction":
        inter = dict(data, inter=np.multiply(data["height"], data["male"]))
        return regression(**flat), {"y": np.log(data["earn"]), "x": columns(inter, "height", "male", "inter")}, dict
    if name == "kidiq-kidscore_interaction":
        inter = dict(data, inter=np.multiply(data["mom_hs"], data["mom_iq"]))
        x = columns(inter, "mom_hs", "mom_iq", "inter")
        return regression(wide=1e4, scale=2.5), {"y": data["kid_score"], "x": x}, dict
    if name == "mesquite-mesquite":
        x = columns(data, "diam1", "diam2", "canopy_height", "total_height", "density", "group")
        return regression(wide=1e6, scale=1e5), {"y": data["weight"], "x": x}, dict
    if name == "mesquite-logmesquite_logvash":
        one, two, high = (np.asarray(data[n]) for n in ("diam1", "diam2", "canopy_height"))
        logs = {"volume": np.log(one * two * high), "area": np.log(one * two), "shape": np.log(one / two)}
        made = {**logs, "total": np.log(data["total_height"]), "group": data["group"]}
        x = columns(made, "volume", "area", "shape", "total", "group")
        return regression(**flat), {"y": np.log(data["weight"]), "x": x}, dict
    if name == "sblrc-blr":
        return blr(), {"y": data["y"], "x": data["X"]}, dict
    if name == "arma-arma11":
        return arma11(), {"y": data["y"]}, dict
    if name == "gp_pois_regr-gp_regr":
        return gp_regr(), {"y": [data["y"]], "x": [data["x"]]}, dict
    if name == "gp_pois_regr-gp_pois_regr":
        return gp_pois_regr(), {"k": data["k"], "x": data["x"]}, dict
    if name == "hudson_lynx_hare-lotka_volterra":
        return lotka_volterra(), {"y": np.vstack([data["y_init"], data["y"]])}, lotka
    short = {"nes1980-nes": "nes2000", "nes2000-nes": "nes2000"}.get(name, name.partition("-")[2])
    return posteriordb.case(short, data)


def references(folder):
    """Posteriors of posteriordb by name."""
    table = pd.read_csv(folder / "posteriordb" / "reference_summary.csv")
    for name, rows in table.groupby("reference_posterior"):
        data = json.loads((folder / "posteriordb" / f"{name.partition('-')[0]}.json").read_text(encoding="utf-8"))
        model, bound, named = of_posteriordb(name, data)
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
