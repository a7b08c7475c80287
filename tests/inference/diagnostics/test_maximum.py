"""What is said of a point estimate: saddles, flat directions, starts that agree, and what still rises."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference import CAVI, EM, MAP, fit
from inference.diagnostics.maximum import judge_point
from zoo import Binary, Count, Real
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(-3, 1, 30), RNG.normal(3, 1, 20)])


@zoo.model(x=Real("row"))
def two(x):
    """Two unit Normals; where both means are that of all rows the density has a saddle."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.full((2,), 2.0)))
    with pyro.plate("component", 2):
        mean = pyro.sample("mean", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)


def test_a_saddle_is_no_maximum():
    """Where both components are alike the gradient is 0; along their difference the density rises. EM goes on."""
    middle = X.sum() / (len(X) + 1 / 100 * 2)
    values = {"mean": torch.full((2,), middle).double(), "weights": torch.full((2,), 0.5).double()}
    found = judge_point(prepare(two(), X), values, [0.0], converged=True, reason="")
    start = {n: v.tolist() for n, v in values.items()}
    left = fit(two(), X, method=EM(start=start), seed=0, progress=False)
    assert np.ptp(left.posterior["point_estimate"]["mean"].to_numpy()) > 1
    assert left.diagnostics["curvature"] > 0
    assert found.verdict.startswith("do not trust: a saddle, not a maximum")
    assert "'mean'" in found.verdict
    assert found.diagnostics["curvature"] < 0


@pytest.mark.slow
def test_starts_that_agree_are_trusted_and_one_start_is_not():
    often = fit(two(), X, method=EM(restarts=6), seed=0, progress=False)
    assert often.verdict.startswith("trust")
    assert often.diagnostics["agreeing"] >= 2
    assert often.diagnostics["curvature"] > 0
    assert often.diagnostics["newton_gain"] < 0.01
    once = fit(two(), X, method=EM(), seed=0, progress=False)
    assert once.verdict.startswith("usable with care")
    assert "one start" in once.verdict


def test_what_has_not_converged_is_not_trusted():
    found = fit(two(), X / 3, method=EM(max_steps=3, restarts=3), seed=0, progress=False)
    assert not found.converged
    assert found.verdict.startswith("do not trust: stopped at max_steps=3")


def judged(values, heights=(-1.0, -1.0)):
    program = prepare(two(), X, device="cpu")
    made = {n: torch.tensor(v, dtype=torch.float64) for n, v in values.items()}
    return judge_point(program, made, heights, converged=True, reason="")


def test_a_place_on_the_way_up_is_seen():
    """Whatever a climb says of itself: a Newton step from here gains nats."""
    found = judged({"mean": [-2.7, 2.7], "weights": [0.55, 0.45]})
    assert found.verdict.startswith("do not trust: the objective still rises")
    assert found.diagnostics["newton_gain"] > 0.1


def test_the_highest_of_ends_that_differ_is_used_with_care():
    end = fit(two(), X, method=EM(tolerance=1e-10), seed=0, progress=False).posterior["point_estimate"]
    values = {n: end[n].to_numpy() for n in ("mean", "weights")}
    assert judged(values, [-100.0, -100.001, -130.0]).verdict.startswith("trust: 2 of 3 starts")
    assert judged(values, [-100.0, -120.0]).verdict.startswith("usable with care: the highest of 2 ends")


@zoo.model(x=Real("row"))
def spare(x):
    """Only a sum is seen, of two parameters without priors."""
    a = pyro.param("a", torch.tensor(0.0))
    b = pyro.param("b", torch.tensor(0.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(a + b + z, 1.0), obs=x)


@pytest.mark.slow
def test_a_flat_direction_is_named():
    found = fit(spare(), X, method=EM(restarts=2), seed=0, progress=False)
    assert found.verdict.startswith("usable with care: flat along")


@pytest.mark.slow
def test_maxima_by_gradient_are_judged_alike():
    found = fit(two(), X, method=MAP(restarts=2), seed=0, progress=False)
    assert found.diagnostics["curvature"] > 0
    assert found.verdict.startswith(("trust: ", "usable with care: the highest"))


def test_data_take_the_pole_of_one_entry_away():
    """Beta(2, 1/2) rises without bound towards 1, and a row of 0 takes that away: the mode of Beta(3, 5/2) is 4/7."""
    model = zoo.BetaBernoulli(a=2.0, b=0.5)
    found = fit(model, [0, 0, 1], method=MAP(), seed=0, progress=False)
    assert float(found.posterior["point_estimate"]["p"]) == pytest.approx(4 / 7, abs=1e-3)
    assert "without bound" not in found.verdict
    assert "without bound" in fit(model, [1], method=MAP(steps=20), seed=0, progress=False).verdict


@zoo.model(y=Count("row"))
def zeros(y):
    """A rate that is zero in one state, in which its gradient is 0 / 0."""
    gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        pyro.sample("y", dist.Poisson(rate * (1 - z)), obs=y)


@pytest.mark.slow
def test_a_step_that_cannot_be_taken_is_no_convergence():
    y = np.concatenate([np.zeros(120, int), np.random.default_rng(1).poisson(4, 80)])
    for seed in range(2):
        try:
            found = fit(zeros(), y, method="em", seed=seed, progress=False)
        except zoo.FitError:
            continue
        rate = float(found.posterior["point_estimate"]["rate"])
        assert abs(rate - 3.5611) < 0.02 or (not found.converged and found.verdict.startswith("do not trust"))


@pytest.mark.slow
def test_cavi_is_judged_by_weights():
    """With one component q is all but the posterior; where components overlap it is too narrow."""
    good = fit(zoo.BayesianGMM(components=1), X[:, None], method=CAVI(), seed=0, progress=False)
    assert good.diagnostics["khat"] < 0.7 or np.isnan(good.diagnostics["khat"])
    assert good.verdict.startswith("trust")
    narrow = fit(two(), X / 3, method=CAVI(), seed=0, progress=False)
    assert not narrow.verdict.startswith("trust")
    assert narrow.shifts["sd_ratio"].min() < 0.9


@pytest.mark.parametrize("method", ["cavi", "em"])
def test_mixtures_with_an_empty_component_are_said(method):
    found = fit(zoo.BayesianGMM(components=6), X[:12, None], method=method, seed=0, progress=False)
    assert not found.verdict.startswith("trust")


@zoo.model(x=Real("row"), y=zoo.Binary("row"))
def logistic(x, y):
    a, b = (pyro.param(name, torch.tensor(0.0)) for name in "ab")
    with pyro.plate("row", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=a + b * x), obs=y)


@zoo.model(y=Count("row"))
def rate(y):
    log = pyro.param("log", torch.tensor(0.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(log.exp()), obs=y)


PLACES = np.array([-2.0, -1.0, -0.5, 0.5, 1.0, 2.0])


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [(logistic, {"x": PLACES, "y": [0, 0, 0, 1, 1, 1]}, "'b'"), (rate, [0, 0, 0, 0], "'log'")],
    ids=["separated by a line", "a count of nothing"],
)
def test_a_maximum_at_infinity_is_no_maximum(model, data, name):
    """Wherever the climb ends the curvature is that of a maximum, and the likelihood rises on to its bound, 1."""
    found = fit(model(), data, method=MAP(), seed=0, progress=False)
    assert not found.verdict.startswith(("trust", "usable"))
    assert "at infinity" in found.verdict
    assert name in found.verdict or not found.converged


@pytest.mark.parametrize(
    ("model", "data"),
    [(logistic, {"x": PLACES, "y": [0, 1, 0, 1, 0, 1]}), (rate, [0, 0, 1, 0])],
    ids=["not separated", "one event"],
)
def test_a_skewed_likelihood_has_its_maximum(model, data):
    found = fit(model(), data, method=MAP(), seed=0, progress=False)
    assert found.verdict.startswith("usable with care: a maximum by its curvature")


def test_components_at_their_floor_are_no_estimate():
    """Twenty components for twenty distinct rows: each can have a row of its own. All are named in one sentence."""
    x = np.random.default_rng(2).normal(size=(20, 1))
    found = fit(zoo.GMM(12), x, method=EM(), seed=0, progress=False)
    said = [w for w in found.warnings if "collapsed" in w]
    assert len(said) == 1
    assert found.verdict == f"do not trust: {said[0]}"


def test_moves_that_a_chain_has_not_are_no_flat_directions():
    """A left-right chain never goes back: its transitions of probability 0 are declared, and not to be determined."""
    x = np.concatenate([RNG.normal(0, 1, 15), RNG.normal(4, 1, 15), RNG.normal(-3, 1, 15)])[:, None]
    found = fit(zoo.HiddenMarkov(components=3, topology="left-right"), x, method="em", seed=0)
    assert "a maximum by its curvature" in found.verdict


@zoo.model(y=Count("site", "visit"))
def counted(y):
    """How many animals live at each site, of which visits see some (Royle 2004)."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("site", len(y), dim=-2):
        n = pyro.sample("n", dist.Categorical(logits=dist.Poisson(rate).log_prob(torch.arange(20.0))))
        with pyro.plate("visit", y.shape[1], dim=-1):
            pyro.sample("y", dist.Binomial(n, p), obs=y)


@pytest.mark.slow
def test_states_that_are_numbers_have_no_parameters_that_rows_would_determine():
    found = fit(counted(), [[2, 3], [0, 1], [4, 2], [1, 1]], method="em", seed=0)
    assert "hardly determined" not in found.verdict


class Switches(zoo.Model):
    """Chances of entries side by side, one event: all of them, or one with a prior that has a pole."""

    x = zoo.Binary("row", "feature")
    low: float = 2.0

    def forward(self, x):
        first = torch.full((x.shape[1],), 2.0)
        first[1] = self.low
        p = pyro.sample("p", dist.Beta(first, 2.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(p).to_event(1), obs=x)


@pytest.mark.parametrize("high", [2.0, 40.0])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_prior_that_levels_off_at_the_edge_has_no_pole(high, dtype):
    """Beta(1, b) rises to b at 0 and no further; entries of a matrix of Betas are looked at as those of a vector."""

    @zoo.model(x=Binary("row", "column"))
    def switches(x):
        p = pyro.sample("p", dist.Beta(1.0, high).expand([2, x.shape[1]]).to_event(2))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Bernoulli(p[z.long()]).to_event(1), obs=x)

    found = fit(switches, RNG.integers(0, 2, (20, 3)), method=EM(max_steps=50), seed=0, dtype=dtype)
    assert "no maximum" not in found.reason


@pytest.mark.slow
@pytest.mark.parametrize("low", [2.0, 0.5])
def test_a_pole_of_one_entry_among_independent_ones_is_seen(low):
    rows = np.array([[1.0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 0, 1]])
    found = fit(Switches(low=low), rows, method=MAP(steps=300), seed=0)
    assert ("no maximum" in found.reason) == (low < 1)
