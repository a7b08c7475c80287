"""Twelve more posteriors of posteriordb, each declared in at most 25 lines, and the data of each.

Source: posteriordb (Magnusson et al. 2024), whose reference draws the tests compare with. Flat priors are very wide.
"""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

import zoo
from tests.cases import posteriordb
from zoo import Count, Positive, Real


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


def posterior(name, data):
    """Model, data and what turns draws into the reference's parameters, of any posterior that is declared."""
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
