"""Acceleration: the method on maps whose limit is known, fits against optima found by other means, ends off saddles."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, fit
from inference.conjugate.joint_normal import NormalGamma
from inference.coordinate.acceleration import Acceleration
from inference.coordinate.anderson import Anderson
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.chart import Chart, map_of
from zoo.program.prepare import prepare

EYES = np.fromstring(
    """529.0 530.0 532.0 533.1 533.4 533.6 533.7 534.1 534.8 535.3 535.4 535.9 536.1 536.3 536.4 536.6 537.0 537.4 537.5
    538.3 538.5 538.6 539.4 539.6 540.4 540.8 542.0 542.8 543.0 543.5 543.8 543.9 545.3 546.2 548.8 548.7 548.9 549.0
    549.4 549.9 550.6 551.2 551.4 551.5 551.6 552.8 552.9 553.2""",
    sep=" ",
)  # peak sensitivities of 48 monkeys' eyes (Bowmaker et al. 1985; BUGS Examples, volume 2)


@pytest.fixture
def e_steps(monkeypatch):
    """E-steps of one start at a time, counted."""
    count, plain = [0], Coordinates.expect

    def expect(self, state):
        count[0] += 1
        return plain(self, state)

    monkeypatch.setattr(Coordinates, "expect", expect)
    return count


class DawidSkene(zoo.Model):
    """Several people classify the same items."""

    answer = zoo.Category("item", "person")

    def forward(self, answer):
        people = answer.shape[1]
        shares = pyro.param("shares", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
        right = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).repeat(people, 1, 1)
        error = pyro.param("error", right, constraint=constraints.simplex)
        with pyro.plate("item", len(answer)):
            z = pyro.sample("z", dist.Categorical(shares))
            pyro.sample("answer", dist.Categorical(error[torch.arange(people), z[..., None]]).to_event(1), obs=answer)


class Eyes(zoo.Model):
    """The model of the BUGS example, without an order of the means."""

    y = zoo.Real("monkey")

    def forward(self, y):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(2)))
        tau = pyro.sample("tau", dist.Gamma(0.001, 0.001))
        with pyro.plate("component", 2):
            lam = pyro.sample("lam", dist.Normal(0.0, 1000.0))
        with pyro.plate("monkey", len(y)):
            z = pyro.sample("z", dist.Categorical(p))
            pyro.sample("y", dist.Normal(lam[z], tau.rsqrt()), obs=y)


# -- the method, on maps that are known ------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [1.0, 1e6])
def test_an_affine_map_is_seen_through(unit):
    """u -> u* + A (u - u*): after as many steps as dimensions Anderson's method is at u*, and rates are eigenvalues."""
    rates = torch.tensor([[0.999, 0.9, 0.5, 0.1], [0.99, 0.8, 0.3, 0.2]], dtype=torch.float64)  # of two starts
    axes = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))).Q
    units = torch.tensor([unit, 1.0, 1.0, 1.0 / unit], dtype=torch.float64)
    limit = units * torch.tensor([3.0, -1.0, 2.0, 5.0], dtype=torch.float64)
    anderson, u = Anderson(2), torch.zeros(2, 4, dtype=torch.float64)
    for _ in range(6):
        led = limit + units * torch.einsum("ij,sj,kj,sk->si", axes, rates, axes, (u - limit) / units)
        anderson.add(u, led)
        u = led
    torch.testing.assert_close(anderson.extrapolated() / units, (limit / units).expand(2, 4), rtol=0, atol=1e-4)
    np.testing.assert_allclose(anderson.rates(), rates[:, 0], atol=1e-6)


def test_steps_that_grow_are_followed_ahead():
    """Off a saddle, where every step is 1.1 times the last, Anderson's method leads back and the parabola ahead."""
    anderson, gap = Anderson(1), torch.tensor([[1e-3]], dtype=torch.float64)
    for _ in range(3):
        anderson.add(1.0 + gap, 1.0 + 1.1 * gap)
        gap = 1.1 * gap
    assert float(anderson.extrapolated()) == pytest.approx(1.0)
    assert float(anderson.ahead([100.0])) > 1 + 10 * float(gap)
    assert float(anderson.ahead([1.0])) == pytest.approx(1 + float(gap))
    assert anderson.rates() == pytest.approx([1.1])


@pytest.mark.parametrize(
    ("support", "value"),
    [
        (constraints.real, [-2.0, 3.0]),
        (constraints.positive, [0.0, 4.0]),
        (constraints.unit_interval, [0.0, 0.3, 1.0]),
        (constraints.simplex, [[0.2, 0.8, 0.0], [0.5, 0.25, 0.25]]),
        (constraints.positive_definite, [[[2.0, 0.5], [0.5, 1.0]]]),
        (constraints.lower_cholesky, [[2.0, 0.0], [-0.5, 1.0]]),
        (constraints.greater_than(1.0), [1.5, 7.0]),
    ],
    ids=str,
)
def test_any_vector_is_a_value(support, value):
    """There and back is the identity, at the edges of a support too; and wherever a vector goes there is a value."""
    value, way = torch.tensor(value, dtype=torch.float64), map_of(support, "x")
    numbers = way.flat(value)
    torch.testing.assert_close(way.value(numbers), value)
    far = way.value(numbers + torch.linspace(-3, 2, numbers.numel()).reshape(numbers.shape))
    assert bool(support.check(far).all())


def test_posteriors_are_charted_by_their_numbers():
    """A state of CAVI there and back: the numbers of posteriors, and the means that follow from them."""
    program = prepare(zoo.NormalNormal(), np.array([1.0, 2.0, 4.0]))
    ascent = Coordinates(program)
    state = ascent.step(State(program.initial(), {}))
    chart = Chart(program, state)
    vector = chart.vector(state)
    again = chart.state(vector, state)
    assert isinstance(again.posteriors["mean"], NormalGamma)
    for name, number in state.posteriors["mean"].tensors().items():
        torch.testing.assert_close(again.posteriors["mean"].tensors()[name], number)
    moved = chart.state(1.1 * vector, state)
    assert float(moved.values["mean"]) == pytest.approx(1.1 * float(state.values["mean"]))


# -- fits --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_factor_analysis_of_iris(e_steps):
    """A Heywood case: the likelihood rises to -422.377635 (SciPy) as a column's variance goes to 0, ever slower."""
    model, iris, plain = zoo.FactorAnalysis(factors=1), zoo.datasets.load("iris").iloc[:, :4], -422.379134
    found = fit(model, iris, method="em", seed=0)
    assert found.converged
    assert plain - 1e-6 < found.objective.value < -422.377635
    assert (found.trace["value"].diff().dropna() >= 0).all()
    # Where plain steps stand after thousands is reached in under 100 E-steps; to see that this is the end takes more.
    there = int(found.trace["step"][found.trace["value"] >= plain - 1e-6].iloc[0])
    e_steps[0] = 0
    assert fit(model, iris, method=EM(max_steps=there), seed=0).objective.value >= plain - 1e-6
    assert e_steps[0] < 100


@pytest.mark.slow
def test_within_tolerance_is_so_where_steps_are_slow():
    """Dawid and Skene's model of people who are seldom right, against BFGS on its likelihood in NumPy."""
    rng = np.random.default_rng(3)
    truth = rng.integers(2, size=100)
    answers = np.where(rng.random((100, 4)) < 0.6, truth[:, None], rng.integers(2, size=(100, 4)))
    found = fit(DawidSkene(), answers, method="em", seed=0)

    def loss(u):
        """Minus the log likelihood of logits: of class 1, then of the answer 1 in each class by each person."""
        share, error = u[0], u[1:].reshape(2, 4)
        said = np.where(answers[:, None] == 1, -np.logaddexp(0, -error), -np.logaddexp(0, error)).sum(-1)
        shares = -np.logaddexp(0, [share, -share])
        return -logsumexp(said + shares, axis=1).sum()

    points = found.posterior["point_estimate"]
    error = points["error"].to_numpy().reshape(4, 2, 2)[:, :, 1].T
    share = points["shares"].to_numpy().ravel()[1]
    start = np.append(np.log(share / (1 - share)), np.log((error + 1e-12) / (1 - error + 1e-12)))
    assert loss(start) == pytest.approx(-found.objective.value, abs=1e-8)
    best = -minimize(loss, start, method="BFGS", options={"gtol": 1e-9}).fun
    assert found.converged
    assert best - found.objective.value < 3e-6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method", "restarts"),
    [
        (zoo.GMM(components=3), EM, 1),
        pytest.param(zoo.GMM(components=3), EM, 3, marks=pytest.mark.slow),
        (zoo.BayesianGMM(components=3), CAVI, 1),
    ],
    ids=["em", "em, restarts", "cavi"],
)
def test_fewer_steps_to_the_same_end(model, method, restarts):
    """On clusters that overlap; the objective rises all the way."""
    rng = np.random.default_rng(1)
    x = 1.5 * rng.normal(size=(3, 2))[rng.integers(3, size=300)] + rng.normal(size=(300, 2))
    plain = fit(model, x, method=method(restarts=restarts, acceleration=None, max_steps=5000), seed=0)
    fast = fit(model, x, method=method(restarts=restarts), seed=0)
    assert plain.converged
    assert fast.converged
    assert fast.objective.value > plain.objective.value - 2e-6
    assert 3 * fast.steps < plain.steps
    assert (fast.trace["value"].diff().dropna() >= -1e-9).all()


@pytest.mark.slow
def test_plain_steps_are_those_of_plain_em():
    """Where tolerance is 0 every step is one of EM's, and so they are with few steps to go."""
    x = zoo.datasets.load("faithful")
    fast, plain = (fit(zoo.GMM(components=2), x, method=EM(acceleration=a), seed=0) for a in ("auto", None))
    pairs = zip(fast.trace["value"], plain.trace["value"], strict=False)
    assert all(a == b for a, b in pairs)
    fast, plain = (
        fit(zoo.GMM(components=3), x, method=EM(acceleration=a, tolerance=0, max_steps=30), seed=0)
        for a in ("auto", None)
    )
    assert list(fast.trace["value"]) == list(plain.trace["value"])


@pytest.mark.slow
def test_a_fit_that_stops_early_says_what_is_left():
    """By the ratio of its last gains; the limit is -1119.213971."""
    x = zoo.datasets.load("faithful")
    found = fit(zoo.GMM(components=3), x, method=EM(acceleration=None, max_steps=210), seed=0)
    told = re.fullmatch(r"stopped at max_steps=210 .*: by its rate (\S+) nats are left to the limit", found.reason)
    assert told is not None
    assert 0.5 < float(told[1]) / (-1119.2139706 - found.objective.value) < 2


def test_what_is_left_counts_the_slowest_mode():
    """Gains of a fast and of a slow mode: the ratio of the last two tells of the fast one, the steps of both."""
    program = prepare(zoo.NormalNormal(), np.array([1.0, 2.0, 4.0]))
    acceleration = Acceleration(program, 1e-4)
    rates, gap = torch.tensor([0.3, 0.99], dtype=torch.float64), torch.tensor([1.0, 0.02], dtype=torch.float64)
    place = program.initial()

    def state(gap):
        return State({"mean": 1 + gap[0], "precision": 1 + gap[1]}, {})

    assert set(place) == {"mean", "precision"}
    left = []
    for _ in range(7):
        acceleration.reached([-0.5 * float(gap.square().sum())])
        left.append((acceleration.left(0), 0.5 * float(gap.square().sum())))
        acceleration.stepped(state(gap), state(rates * gap))
        gap = rates * gap
    told, true = left[-1]
    assert 0.3 * true < told < 5 * true
    acceleration.anderson = SimpleNamespace(rates=lambda: [0.9])
    acceleration._judge()
    assert acceleration.courses[0].rates[-1] == pytest.approx(0.81)  # of gains: the square of that of steps


class Loadings(zoo.Model):
    """One factor, its loadings 0 to begin with."""

    x = zoo.Real("row", "column")

    def forward(self, x):
        size = x.shape[1]
        means, loadings = pyro.param("means", torch.zeros(size)), pyro.param("loadings", torch.zeros(size, 1))
        variances = pyro.param("variances", torch.ones(size), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(means + z @ loadings.T, variances.sqrt()).to_event(1), obs=x)


# -- saddles -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [EM(), EM(start={"lam": [541.5, 541.5], "p": [0.5, 0.5]}), CAVI()], ids=str)
def test_eyes_are_of_two_kinds(method):
    """BUGS has means of 536.8 and 548.9; where both are 541.5, at a saddle, the fit is 5 nats lower."""
    found = fit(Eyes(), EYES, method=method, seed=0)
    draws = found.posterior["point_estimate" if "point_estimate" in found.posterior.children else "posterior"]["lam"]
    means = np.sort(draws.to_numpy().reshape(-1, 2).mean(0))
    np.testing.assert_allclose(means, [536.8, 548.9], atol=0.2)
    if isinstance(method.start, dict):
        assert "told apart" in found.reason


@pytest.mark.slow
def test_loadings_of_zero_are_left():
    """Where all are 0 no step moves them; the zoo's own model starts along the principal axis."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 1)) @ rng.normal(size=(1, 5)) + rng.normal(size=(100, 5))
    found = fit(Loadings(), x, method="em", seed=0)
    own = fit(zoo.FactorAnalysis(factors=1), x, method="em", seed=0)
    assert found.objective.value == pytest.approx(own.objective.value, abs=2e-6)
