"""Models of posteriordb, declared as a user would; priors that are flat there are very wide here.

Source: posteriordb (Magnusson et al. 2024), whose reference draws the tests compare with.
"""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch

import zoo
from tests.cases.models import EightSchools, NonCentred
from zoo import Category, MarkovChain, Real

WIDE = 1e4


@zoo.model(y=Real("row"))
def low_dim_gauss_mix(y):
    """Two clusters on a line."""
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    with pyro.plate("component", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.stack([theta, 1 - theta])))
        pyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)


class HMMExample(zoo.Model):
    """A hidden Markov chain of two states with unit noise, the lower one first."""

    y = Real("time")

    def initial(self, y):
        return {"theta": torch.full((2, 2), 0.5), "mu": torch.tensor([3.0, 10.0])}

    def forward(self, y):
        with pyro.plate("state", 2):
            theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
            mu = pyro.sample("mu", dist.Normal(torch.tensor([3.0, 10.0]), 1.0))
        with pyro.plate("time", len(y)):
            z = pyro.sample("z", MarkovChain(torch.full((2,), 0.5), theta))
            pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


@zoo.model(y=Real("time"), before=Real("time", "lag"))
def ark(y, before):
    """An autoregression of order five."""
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(before.shape[1]), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(alpha + before @ beta, sigma), obs=y)


@zoo.model(kid_score=Real("child"), mom_iq=Real("child"))
def kidscore_momiq(kid_score, mom_iq):
    """Test scores of children by their mothers' IQ."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), WIDE).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("child", len(kid_score)):
        pyro.sample("kid_score", dist.Normal(beta[0] + beta[1] * mom_iq, sigma), obs=kid_score)


@zoo.model(y=Real("year"), x=Real("year"))
def kilpisjarvi(y, x, *, alpha_loc: float, alpha_scale: float, beta_loc: float, beta_scale: float):
    """Summer temperatures by year, whose origin is far away."""
    alpha = pyro.sample("alpha", dist.Normal(alpha_loc, alpha_scale))
    beta = pyro.sample("beta", dist.Normal(beta_loc, beta_scale))
    sigma = pyro.sample("sigma", dist.HalfCauchy(WIDE))
    with pyro.plate("year", len(y)):
        pyro.sample("y", dist.Normal(alpha + beta * x, sigma), obs=y)


@zoo.model(y=Real("time"))
def garch11(y, *, sigma1: float):
    """A variance that follows the last square and itself: v_t = a0 + a1 (y_{t-1} - mu)^2 + b1 v_{t-1}."""
    mu = pyro.sample("mu", dist.Normal(0.0, WIDE))
    alpha0 = pyro.sample("alpha0", dist.HalfCauchy(WIDE))
    shares = pyro.sample("shares", dist.Dirichlet(torch.ones(3)))  # uniform over a1 + b1 < 1
    news = alpha0 + shares[0] * (y - mu).square()
    news = torch.cat([torch.zeros(len(y) - 1), torch.full((1,), sigma1**2), news[:-1]])
    powers = shares[1] ** torch.arange(len(y))  # the recursion is a convolution with these
    variance = torch.nn.functional.conv1d(news[None, None], powers.flip(0)[None, None])[0, 0]
    with pyro.plate("time", len(y)):
        pyro.sample("y", dist.Normal(mu, variance.sqrt()), obs=y)


@zoo.model(party=Real("person"), x=Real("person", "column"), age=Category("person"))
def nes2000(party, x, age):
    """Party identification by ideology, race, age group, education, gender and income."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(9), WIDE).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(WIDE))
    groups = (age[:, None] == torch.arange(1, 4)).to(x)
    columns = torch.cat([torch.ones(len(x), 1), x[:, :2], groups, x[:, 2:]], 1)
    with pyro.plate("person", len(party)):
        pyro.sample("party", dist.Normal(columns @ beta, sigma), obs=party)


def case(name, data):
    """Model, data, and what turns its draws into the reference's parameters, for the data of one posterior."""
    tensor = {n: torch.tensor(v, dtype=torch.float64) for n, v in data.items() if isinstance(v, list)}
    if name.startswith("eight_schools"):
        model = NonCentred() if name.endswith("noncentered") else EightSchools()
        given = {"effect": tensor["y"], "error": tensor["sigma"]}
        if name.endswith("centered") and not name.endswith("noncentered"):
            return model, given, dict
        return model, given, lambda d: {**d, "theta": d["mu"][..., None] + d["tau"][..., None] * d["standard"]}
    if name == "low_dim_gauss_mix":
        return low_dim_gauss_mix(), {"y": tensor["y"]}, _ordered
    if name == "hmm_example":

        def states(d):
            return {"theta1": d["theta"][..., 0, :], "theta2": d["theta"][..., 1, :], "mu": d["mu"]}

        return HMMExample(), {"y": tensor["y"]}, states
    if name == "arK":
        y, order = tensor["y"], data["K"]
        before = torch.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], 1)
        return ark(), {"y": y[order:], "before": before}, dict
    if name == "kidscore_momiq":
        return kidscore_momiq(), {n: tensor[n] for n in ("kid_score", "mom_iq")}, dict
    if name == "kilpisjarvi":
        priors = {"alpha_loc": "pmualpha", "alpha_scale": "psalpha", "beta_loc": "pmubeta", "beta_scale": "psbeta"}
        model = kilpisjarvi(**{ours: data[theirs] for ours, theirs in priors.items()})
        return model, {"y": tensor["y"], "x": tensor["x"]}, dict
    if name == "garch11":

        def shares(d):
            return {"mu": d["mu"], "alpha0": d["alpha0"], "alpha1": d["shares"][..., 0], "beta1": d["shares"][..., 1]}

        return garch11(sigma1=data["sigma1"]), {"y": tensor["y"]}, shares
    columns = ["real_ideo", "race_adj", "educ1", "gender", "income"]
    x = torch.stack([tensor[c] for c in columns], 1)
    return nes2000(), {"party": tensor["partyid7"], "x": x, "age": tensor["age_discrete"].long() - 1}, dict


def _ordered(d):
    """Draws of a mixture with the left cluster first."""
    first = d["mu"][..., 0] < d["mu"][..., 1]
    theta = torch.where(first, d["theta"], 1 - d["theta"])
    at = torch.where(first, 0, 1)
    at = torch.stack([at, 1 - at], -1)
    return {"theta": theta, **{n: d[n].gather(-1, at) for n in ("mu", "sigma")}}
