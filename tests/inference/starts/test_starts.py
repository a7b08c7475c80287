"""Starts of models that say nothing of where to start: against fits that start at the truth."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import EM, fit
from inference.conjugate import closed_form
from inference.runtime.random import seeded
from inference.starts.fed import columns_fed, covariates
from inference.starts.values import few_rows, starting_values
from zoo.program.prepare import prepare

CLOSE = 1e-3  # nats
SIMPLEX, POSITIVE, UNIT = constraints.simplex, constraints.positive, constraints.unit_interval


class Columns(zoo.Model):
    """Normal mixture of several columns, declared at constants that are the same in all components."""

    x = zoo.Real("row", "column")
    k: int = 4

    def forward(self, x):
        shares = pyro.param("shares", torch.ones(self.k) / self.k, constraint=SIMPLEX)
        loc = pyro.param("loc", torch.zeros(self.k, x.shape[1]))
        scale = pyro.param("scale", torch.ones(self.k, x.shape[1]), constraint=POSITIVE)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(shares))
            pyro.sample("x", dist.Normal(loc[z], scale[z]).to_event(1), obs=x)


class Trials(zoo.Model):
    """Binomial mixture of several columns."""

    y = zoo.Count("row", "column")
    k: int = 3

    def forward(self, y):
        shares = pyro.param("shares", torch.ones(self.k) / self.k, constraint=SIMPLEX)
        p = pyro.param("p", torch.full((self.k, y.shape[1]), 0.5), constraint=UNIT)
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(shares))
            pyro.sample("y", dist.Binomial(20, p[z]).to_event(1), obs=y)


class Mixed(zoo.Model):
    """What a state feeds, of three kinds, with a covariate of one and a field that it does not feed."""

    t = zoo.Real("row")
    x = zoo.Real("row")
    y = zoo.Count("row", "column")
    label = zoo.Category("row")
    other = zoo.Real("row")

    def forward(self, t, x, y, label, other):
        slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        rate = pyro.sample("rate", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        probs = pyro.sample("probs", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5)).long()
            pyro.sample("x", dist.Normal(slope[z] * t, 1.0), obs=x)
            pyro.sample("y", dist.Poisson(rate[z][..., None].expand(*z.shape, 2)).to_event(1), obs=y)
            pyro.sample("label", dist.Categorical(probs[z]), obs=label)
            pyro.sample("other", dist.Normal(t, 1.0), obs=other)


class Lines(zoo.Model):
    """Lines that cross, with priors."""

    t = zoo.Real("row")
    y = zoo.Real("row")

    def forward(self, t, y):
        with pyro.plate("line", 2):
            a, b = pyro.sample("a", dist.Normal(0.0, 10.0)), pyro.sample("b", dist.Normal(0.0, 10.0))
        precision = pyro.sample("precision", dist.Gamma(1.0, 1.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("y", dist.Normal(a[z] + b[z] * t, precision.rsqrt()), obs=y)


class Levels(zoo.Model):
    """One-way layout, declared at a level of zero."""

    y = zoo.Real("batch", "measurement")

    def forward(self, y):
        center = pyro.param("center", torch.tensor(0.0))
        between = pyro.param("between", torch.tensor(1.0), constraint=POSITIVE)
        within = pyro.param("within", torch.tensor(1.0), constraint=POSITIVE)
        with pyro.plate("batch", len(y)):
            level = pyro.sample("level", dist.Normal(center, between))
            pyro.sample("y", dist.Normal(level[..., None], within).expand(y.shape).to_event(1), obs=y)


def columns(seed):
    """Clusters in units of a million and of a thousandth, and where they come from."""
    rng, units = np.random.default_rng(seed), np.array([1e6, 1e-3])
    center = 3 * rng.normal(size=(4, 2))
    x = (center[rng.integers(4, size=400)] + rng.normal(size=(400, 2))) * units
    return x, {"loc": center * units, "scale": np.tile(units, (4, 1)), "shares": np.full(4, 0.25)}


def trials(seed):
    """Successes of three kinds of rows, and their probabilities."""
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 2, size=(3, 3))
    return rng.binomial(20, p[rng.integers(3, size=300)]), {"p": p, "shares": np.full(3, 1 / 3)}


def crossing(seed, n=300):
    """Lines that cross at zero."""
    rng = np.random.default_rng(seed)
    t, z = rng.normal(size=n), rng.integers(2, size=n)
    return {"t": t, "y": np.where(z == 1, 2 * t, -2 * t) + 0.3 * rng.normal(size=n)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("model", "data"), [(Columns(), columns), (Trials(), trials)], ids=["columns", "trials"])
def test_a_start_from_the_data_is_as_good_as_one_from_the_truth(model, data, seed):
    x, truth = data(seed)
    found = fit(model, x, method=EM(), seed=0).objective.value
    assert found > fit(model, x, method=EM(start=truth), seed=0).objective.value - CLOSE


def test_states_are_looked_for_in_what_they_feed():
    rng = np.random.default_rng(0)
    data = {
        "t": rng.normal(size=50),
        "x": rng.normal(size=50),
        "y": rng.poisson(4.0, size=(50, 2)),
        "label": np.arange(50) % 3,
        "other": 1e6 * rng.normal(size=50),
    }
    program = prepare(Mixed(), data)
    state = program.assigned[0]
    fed = columns_fed(program, state)
    expected = np.column_stack([data["x"], np.sqrt(data["y"]), np.eye(3)[data["label"]]])
    np.testing.assert_allclose(fed.x.numpy(), expected, rtol=1e-12)
    assert fed.missing is None
    assert covariates(program, state) == ["t"]


@pytest.mark.slow
def test_missing_cells_of_what_is_fed_count_for_nothing():
    x, truth = columns(1)
    x[::5, 0] = np.nan
    program = prepare(Columns(), x)
    fed = columns_fed(program, program.assigned[0])
    np.testing.assert_array_equal(fed.missing.numpy(), np.isnan(x))
    found = fit(Columns(), x, method=EM(), seed=0).objective.value
    assert found > fit(Columns(), x, method=EM(start=truth), seed=0).objective.value - CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_other_methods_start_on_the_lines_that_cross(seed):
    with seeded(seed):
        values = starting_values(prepare(Lines(), crossing(seed)))
    np.testing.assert_allclose(sorted(values["b"].tolist()), [-2, 2], atol=0.15)
    np.testing.assert_allclose(values["a"].tolist(), [0, 0], atol=0.15)


@pytest.mark.slow
def test_many_rows_are_screened_by_a_part_of_them():
    program = prepare(Lines(), crossing(0, n=6000))
    assert len(few_rows(program).data) == 5000
    assert few_rows(prepare(Lines(), crossing(0))).data.values["t"].shape == (300,)
    found = fit(Lines(), crossing(0, n=6000), method=EM(), seed=0)
    np.testing.assert_allclose(sorted(found.approximation.values["b"].tolist()), [-2, 2], atol=0.05)


def test_middles_of_priors_are_inside_of_their_supports():
    program = prepare(
        Mixed(),
        {"t": np.arange(6.0), "x": np.zeros(6), "y": np.ones((6, 2)), "label": [0, 1, 2] * 2, "other": np.zeros(6)},
    )
    torch.testing.assert_close(program.initial()["probs"].sum(-1), torch.ones(2, dtype=torch.float64))


def test_random_effects_far_from_where_they_are_declared():
    rng = np.random.default_rng(0)
    y = 1e3 + rng.normal(size=(40, 1)) + 2 * rng.normal(size=(40, 4))
    found = fit(Levels(), y, method=EM(), seed=0)
    # Balanced, so that the maximum has a closed form (Searle, Casella and McCulloch 1992, section 3.7).
    within = ((y - y.mean(1, keepdims=True)) ** 2).sum() / (40 * 3)
    between = y.mean(1).var() - within / 4
    expected = {"center": y.mean(), "between": between**0.5, "within": within**0.5}
    for name, value in expected.items():
        np.testing.assert_allclose(float(found.points[name]), value, rtol=1e-4)


@zoo.model(x=zoo.Real("row"))
def levels(x, *, chained: bool = False):
    """Two Normal levels, in rows that are independent or follow each other, with spreads of their own."""
    loc = pyro.param("loc", torch.zeros(2))
    scale = pyro.param("scale", torch.ones(2), constraint=POSITIVE)
    shares = pyro.param("shares", torch.ones(2) / 2, constraint=SIMPLEX)
    moves = pyro.param("moves", torch.ones(2, 2) / 2, constraint=SIMPLEX) if chained else None
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(shares) if moves is None else zoo.MarkovChain(shares, moves))
        pyro.sample("x", dist.Normal(loc[z], scale[z]), obs=x)


@pytest.mark.parametrize("chained", [False, True], ids=["mixture", "chain"])
@pytest.mark.parametrize("far", [1e4, 1e6])
def test_tight_groups_far_apart_keep_their_spread(far, chained):
    """Where no row can be of the other group, the maximum has each group's own mean and standard deviation."""
    rng = np.random.default_rng(0)
    group = np.arange(60) // 10 % 2
    x = far * group + rng.normal(size=60) * np.array([1.0, 0.3])[group]
    model = levels(chained=chained)
    assert not closed_form(prepare(model, x)).rest
    found = fit(model, x, method="em", seed=0, progress=False)
    order = found.points["loc"].argsort()
    own = np.array([[x[group == k].mean(), x[group == k].std()] for k in (0, 1)])
    np.testing.assert_allclose(found.points["loc"][order], own[:, 0], atol=1e-3)
    np.testing.assert_allclose(found.points["scale"][order], own[:, 1], rtol=1e-3)
