"""Rows that are coupled, and data that cannot be drawn from the sites: seen by structure, refused by name."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import EM, MAP, SVI, fit
from inference.methods.laplace import Laplace
from zoo import Real
from zoo.program.prepare import prepare

Y = np.array([0.1, 1.0, 2.0, 1.2, 0.3, -0.4, 0.2, 0.9])


def model(locals_=None, mean=None, obs=None):
    """A Normal model of one field: its mean from a local latent, from the data, and what is observed."""

    def forward(self, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            if locals_ is not None:
                e = pyro.sample("e", dist.Normal(0.0, 1.0))
                m = m + locals_(e)
            m = m + (0.0 if mean is None else mean(y))
            pyro.sample("y", dist.Normal(m, 1.0), obs=y if obs is None else obs(y))

    return type("Declared", (zoo.Model,), {"y": Real("row"), "forward": forward})()


def lagged(y):
    return 0.5 * torch.cat([y.new_zeros(1), y[:-1]])


COUPLED = {
    "sums": lambda e: e.cumsum(-1),
    "neighbours": lambda e: e - e.roll(1, -1),
    "shares": lambda e: e.softmax(-1),
    "the last": lambda e: e + e[-1],
    "two before": lambda e: e + e.roll(2, -1),
}
BY_DATA = {"a lag": lagged, "the mean": lambda y: y.mean(), "standardized": lambda y: (y - y.mean()) / y.std()}


@pytest.mark.parametrize("how", COUPLED)
@pytest.mark.parametrize("rows", [8, 100])
def test_rows_coupled_through_locals_are_taken_as_one_block(how, rows):
    data = {"y": np.resize(Y, rows)}
    program = prepare(model(COUPLED[how]), data)
    assert program.coupled.startswith("rows are coupled: the density of 'y' in a row moves with the local latent 'e'")
    assert "rows are coupled" in SVI(batch_size=4).why_not(program)
    assert SVI().why_not(program) is None


@pytest.mark.parametrize("how", BY_DATA)
def test_rows_coupled_through_data_are_not_taken_apart(how):
    program = prepare(model(mean=BY_DATA[how]), {"y": Y})
    assert not program.coupled
    assert "moves with field 'y' of other rows" in SVI(batch_size=4).why_not(program)
    fitted = fit(model(mean=BY_DATA[how]), {"y": Y}, method=MAP(steps=50), seed=0)
    mean = float(fitted.approximation.values["m"]) + np.asarray(BY_DATA[how](torch.tensor(Y)))
    exact = -0.5 * np.log(2 * np.pi) - 0.5 * (Y - mean) ** 2
    assert fitted.log_prob().to_numpy() == pytest.approx(exact)  # of each row, given the others
    with pytest.raises(zoo.ZooError, match="new rows cannot be looked at by themselves: rows are coupled"):
        fitted.log_prob({"y": Y[:3]})


def test_a_prior_made_from_all_rows_forbids_batches_only():
    @zoo.model(y=Real("row"))
    def centred(y):
        m = pyro.sample("m", dist.Normal(y.mean(), 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    program = prepare(centred, {"y": Y})
    assert not program.chained
    assert "site 'm' is outside the plate of rows and depends on all rows" in SVI(batch_size=4).why_not(program)
    fitted = fit(centred, {"y": Y}, method=MAP(steps=50), seed=0)
    assert len(fitted.log_prob({"y": Y[:3]})) == 3


@pytest.mark.parametrize("how", [None, "own"])
def test_independent_rows_are_left_alone(how):
    program = prepare(model(None if how is None else lambda e: 2 * e), {"y": Y})
    assert program.structure.ties == ()
    assert program.not_drawn == ""
    assert not program.tied


STATES = {
    "a shift": lambda z: z + z.roll(1, -1),
    "sums": lambda z: z.cumsum(-1),
    "a count": lambda z: z + z.sum(-1, keepdim=True),
}


@pytest.mark.parametrize("how", [None, *STATES])
def test_rows_coupled_through_states_are_refused(how):
    @zoo.model(y=Real("row"))
    def states(y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("y", dist.Normal(z if how is None else STATES[how](z), 1.0), obs=y)

    if how is None:
        exact = np.logaddexp(np.log(0.7) - 0.5 * Y**2, np.log(0.3) - 0.5 * (Y - 1) ** 2) - 0.5 * np.log(2 * np.pi)
        assert prepare(states, {"y": Y}).log_joint({}).rows.numpy() == pytest.approx(exact)
        return
    with pytest.raises(zoo.ModelError, match="site 'y': what it makes of the states of 'z' is not the same"):
        prepare(states, {"y": Y})


def test_weights_of_coupled_rows_are_refused():
    with pytest.raises(zoo.DataError, match="weights count each row by itself, and rows are coupled"):
        prepare(model(COUPLED["sums"]), {"y": Y}, weights=[2] + [1] * 7)


def test_a_random_walk():
    """Its density is that of all rows together; its rows have none."""
    fitted = fit(model(COUPLED["sums"]), {"y": Y}, method=Laplace(), seed=0)
    tril = np.tril(np.ones((len(Y), len(Y))))
    cov = tril @ tril.T + np.eye(len(Y)) + 1.0
    exact = -0.5 * (len(Y) * np.log(2 * np.pi) + np.linalg.slogdet(cov)[1] + Y @ np.linalg.solve(cov, Y))
    assert fitted.diagnostics["evidence"] == pytest.approx(exact, abs=1e-6)
    with pytest.raises(zoo.FitError, match="rows have no density of their own: rows are coupled"):
        fitted.log_prob()
    made = fitted.generate(4000, seed=1)["y"].to_numpy()  # one walk: its steps have variance 1 + 2
    assert np.diff(made).var() == pytest.approx(3.0, rel=0.15)
    assert made.var() > 20


@pytest.mark.parametrize("question", ["generate", "predict"])
def test_one_pass_does_not_draw_an_autoregression(question):
    fitted = fit(model(mean=lagged), {"y": Y}, method=MAP(steps=50), seed=0)
    with pytest.raises(zoo.FitError, match=f"{question} cannot draw.*site 'y' reads field 'y'.*explains.*sample"):
        getattr(fitted, question)(5) if question == "generate" else fitted.predict()


TRANSFORMED = {
    "log": lambda y: (y + 5).log(),
    "mirrored": lambda y: 1 - y,
    "rounded": lambda y: y.round(),
    "a multiple": lambda y: 2 * y,
}


@pytest.mark.parametrize("how", TRANSFORMED)
def test_a_transformed_field_is_not_generated(how):
    fitted = fit(model(obs=TRANSFORMED[how]), {"y": Y}, method=MAP(steps=50), seed=0)
    assert fitted.program.sites["y"].field is None
    with pytest.raises(zoo.FitError, match="cannot draw field 'y': site 'y' observes something made from it"):
        fitted.generate(5)
    draws = fitted.predict(draws=500, seed=0)["posterior_predictive"]["y"]
    exact = float(fitted.approximation.values["m"])
    assert float(draws.mean()) == pytest.approx(exact, abs=4 / np.sqrt(500 * len(Y)))


def test_a_field_in_another_type_is_the_field():
    fitted = fit(model(obs=lambda y: y.clone()), {"y": Y}, method=MAP(steps=50), seed=0)
    assert fitted.program.sites["y"].field == "y"
    assert len(fitted.generate(5)) == 5


def joint(returned):
    @zoo.model(x=Real("row"), y=Real("row"))
    def two(x, y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            drawn = pyro.sample("x", dist.Normal(m, 3.0), obs=x)
            pyro.sample("y", dist.Normal(5.0 * (drawn if returned else x), 0.1), obs=y)

    return two


def test_a_site_that_reads_what_was_drawn_is_drawn():
    data = {"x": Y, "y": 5 * Y}
    made = fit(joint(True), data, method=MAP(steps=50), seed=0).generate(300, seed=0)
    assert np.corrcoef(made["x"], made["y"])[0, 1] > 0.99
    with pytest.raises(zoo.FitError, match=r"site 'y' reads field 'x'.*pyro.sample returns"):
        fit(joint(False), data, method=MAP(steps=50), seed=0).generate(300)


def test_a_factor_draws_nothing():
    @zoo.model(y=Real("row"))
    def weighed(y):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.factor("fit", -0.5 * (y - m).square())

    fitted = fit(weighed, {"y": Y}, method=MAP(steps=50), seed=0)
    for ask in (lambda: fitted.generate(3), fitted.predict):
        with pytest.raises(zoo.FitError, match=r"site 'fit' is a pyro.factor"):
            ask()


class Silent(zoo.Model):
    """A regression by a network that starts at zero, or by a zero parameter."""

    x = Real("row")
    y = Real("row")

    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(1, 1)
        torch.nn.init.zeros_(self.net.weight)

    def forward(self, x, y):
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            pyro.sample("y", dist.Normal(self.net(x[:, None])[:, 0], 1.0), obs=y)


def test_a_network_that_starts_at_zero_shows_what_feeds_it():
    program = prepare(Silent(), {"x": Y, "y": Y})
    assert program.sites["y"].args["loc"].data == ("x",)
    with pytest.raises(zoo.DataError, match=r"'x' has missing values.*argument loc of site 'y' reads the field itself"):
        prepare(Silent(), {"x": np.where(Y > 1, np.nan, Y), "y": Y})


@pytest.mark.slow
def test_a_mode_at_a_pole_is_none():
    @zoo.model(y=zoo.Count("row"))
    def counts(y, *, shape: float = 0.5):
        with pyro.plate("component", 2):
            rate = pyro.sample("rate", dist.Gamma(shape, 0.1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Poisson(rate[z.long()]), obs=y)

    data = {"y": [0, 1, 0, 5, 6, 7, 8, 2, 3]}
    for method in (EM(), MAP(steps=100)):
        fitted = fit(counts(shape=0.5), data, method=method, seed=0)
        assert not fitted.converged
        assert "the posterior density has no maximum: it grows without bound as 'rate'" in fitted.reason
        assert any("no maximum" in w for w in fitted.warnings)
    assert fit(counts(shape=1.0), data, method="em", seed=0).converged


@pytest.mark.slow
def test_of_weights_that_may_vanish():
    x = np.r_[np.linspace(-2, -1, 10), np.linspace(1, 2, 10)]
    sparse, even = (zoo.BayesianGMM(components=2, concentration=a) for a in (0.5, 1.0))
    assert "no maximum" in fit(sparse, x, method="em", seed=0).reason
    assert fit(even, x, method="em", seed=0).converged
    assert fit(sparse, x, method="cavi", seed=0).converged  # which averages over them
