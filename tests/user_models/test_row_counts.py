"""Models in which the number of rows stands in a prior, and counts of which no fewer can be than were seen."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import torch

import zoo
from zoo.program.prepare import prepare

YEARS = 80  # more rows than the runs look at that tell what depends on what


@zoo.model(y=zoo.Count("year"))
def changed(y):
    """A rate that changes at some time between the first and the last year."""
    rate = pyro.sample("rate", dist.Gamma(1.0, 0.2).expand([2]).to_event(1))
    time = pyro.sample("time", dist.Uniform(0.0, float(len(y))))
    with pyro.plate("year", len(y)):
        pyro.sample("y", dist.Poisson(torch.where(torch.arange(len(y)) < time, rate[0], rate[1])), obs=y)


def test_a_prior_may_end_with_the_rows():
    program = prepare(changed(), {"y": np.arange(YEARS) % 5})
    assert {p.kind for p in program.sites["time"].args.values()} == {"constant"}
    values = {"rate": torch.tensor([1.0, 2.0], dtype=torch.float64), "time": torch.tensor(70.5, dtype=torch.float64)}
    assert bool(program.log_joint(values).total().isfinite())


@zoo.model(y=zoo.Count("site", "visit"))
def abundance(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("site", len(y), dim=-2):
        n = pyro.sample("n", dist.Poisson(rate))
        with pyro.plate("visit", y.shape[1], dim=-1):
            pyro.sample("y", dist.Binomial(n, 0.5), obs=y)


def test_latent_counts_start_where_what_was_seen_is_possible():
    """The prior's middle is 2 at each site, where up to 40 were seen."""
    seen = np.array([[1, 0], [40, 33], [7, 9]])
    program = prepare(abundance(), {"y": seen})
    start = program.initial()
    assert bool(program.log_joint(start).total().isfinite())
    assert (start["n"][:, 0].numpy() >= seen.max(1)).all()
    assert float(start["n"][0]) < 10
