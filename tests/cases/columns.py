"""Models of several observed sites, with gaps, counts, categories and groups, and data for them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import torch

import zoo
from zoo import Category, Count, Real

RNG = np.random.default_rng(0)
N = 40


@zoo.model(x=Real("row"), y=Real("row"))
def two_columns(x, y):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    s = pyro.sample("s", dist.HalfNormal(5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(m, 1.0), obs=x)
        pyro.sample("y", dist.Normal(0.0, s), obs=y)


@zoo.model(x=Real("row"), y=Real("row"))
def mixed_columns(x, y):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("x", dist.Normal(m + z, 1.0), obs=x)
        pyro.sample("y", dist.Normal(m - z, 1.0), obs=y)


@zoo.model(n=Count("row"), kind=Category("row"), site=Category("row"))
def trees(n, kind, site):
    with pyro.plate("place", int(site.max()) + 1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    height = pyro.sample("height", dist.Normal(0.0, 1.0))
    share = pyro.sample("share", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("row", len(n)):
        pyro.sample("n", dist.Poisson(rate[site] * height.exp()), obs=n)
        pyro.sample("kind", dist.Categorical(share), obs=kind)


COLUMNS = pd.DataFrame({"x": RNG.normal(1, 1, N), "y": RNG.normal(0, 2, N)}, index=[f"r{i}" for i in range(N)])
GAPS = COLUMNS.assign(
    x=COLUMNS["x"].where(~COLUMNS.index.isin(["r3", "r7"])), y=COLUMNS["y"].where(COLUMNS.index != "r0")
)
TREES = pd.DataFrame(
    {
        "n": RNG.poisson(4, N),
        "kind": RNG.choice(["ash", "beech", "oak"], N),
        "site": np.tile(["north", "south"], N // 2),
    }
)
CASES = {
    "two": (two_columns, COLUMNS),
    "gaps": (two_columns, GAPS),
    "mixed": (mixed_columns, COLUMNS),
    "trees": (trees, TREES),
}


@zoo.model(y=Real("row"))
def normal(y, *, scale: float = 10.0):
    m = pyro.sample("m", dist.Normal(0.0, scale))
    s = pyro.sample("s", dist.HalfNormal(10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, s), obs=y)
