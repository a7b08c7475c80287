"""Sites of which some rows are observed (`obs_mask`), and masks on latents, against sums over all assignments."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from scipy import stats
from scipy.special import logsumexp

import zoo
from inference import CAVI, EM, NUTS, SVI, fit
from inference.methods.laplace import Laplace
from zoo import Binary, Category, Real
from zoo.program.prepare import prepare

X, LABEL, SEEN = [-1.0, -2.0, 1.5, 2.0, 0.3], [0, 0, 1, 1, 0], [1, 0, 1, 0, 0]
FRAME = pd.DataFrame({"x": X, "y": LABEL, "seen": SEEN})
PI, MU = torch.tensor([0.3, 0.7], dtype=torch.float64), torch.tensor([-1.0, 2.0], dtype=torch.float64)


class Semi(zoo.Model):
    """Two clusters, some of whose rows are labelled."""

    x = Real("row")
    y = Category("row", levels=2)
    seen = Binary("row")

    def forward(self, x, y, seen):
        pi = pyro.sample("pi", dist.Dirichlet(torch.full((2,), 2.0)))
        with pyro.plate("component", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(pi), obs=y, obs_mask=seen.bool())
            pyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def by_hand(pi, mu):
    """log p(x_i, y_i where it is seen) and p(z_i | x_i, y_i) of each row."""
    joint = np.log(pi) + stats.norm.logpdf(np.asarray(X)[:, None], mu)
    known = np.array([[not s or k == y for k in (0, 1)] for s, y in zip(SEEN, LABEL, strict=True)])
    joint = np.where(known, joint, -np.inf)
    rows = logsumexp(joint, 1)
    return rows, np.exp(joint - rows[:, None])


def evidence():
    """log p(x, labels): over every assignment of rows without a label, a Polya urn and Normal marginals."""
    total = []
    for states in itertools.product((0, 1), repeat=len(X)):
        if any(s and z != y for s, z, y in zip(SEEN, states, LABEL, strict=True)):
            continue
        log_p = math.lgamma(4) - math.lgamma(4 + len(X))
        for k in (0, 1):
            mine = [x for x, z in zip(X, states, strict=True) if z == k]
            log_p += math.lgamma(2 + len(mine)) - math.lgamma(2)
            if mine:
                log_p += stats.multivariate_normal(np.zeros(len(mine)), np.eye(len(mine)) + 9.0).logpdf(mine)
        total.append(log_p)
    return logsumexp(total)


def test_rows_with_a_label_are_conditioned_on_and_others_summed_over():
    program = prepare(Semi(), FRAME)
    values = {"pi": PI, "mu": MU}
    rows, states = by_hand(PI.numpy(), MU.numpy())
    assert program.log_joint(values).rows.numpy() == pytest.approx(rows)
    assert program.responsibilities(values)["z_unobserved"].numpy() == pytest.approx(states)


@pytest.mark.slow
@pytest.mark.parametrize("method", [EM(tolerance=1e-10), EM(gradient=True), CAVI()], ids=["em", "gradient", "cavi"])
def test_ascents_know_the_labels(method):
    fitted = fit(Semi(), FRAME, method=method, seed=0)
    assigned = fitted.assign().to_numpy()
    assert assigned[[0, 2]] == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))
    if isinstance(method, CAVI):
        assert fitted.objective.value < evidence()
        assert fitted.objective.value > evidence() - 0.5
        return
    values = fitted.approximation.values
    rows, states = by_hand(values["pi"].numpy(), values["mu"].numpy())
    prior = stats.dirichlet([2, 2]).logpdf(values["pi"].numpy()) + stats.norm(0, 3).logpdf(values["mu"].numpy()).sum()
    assert fitted.objective.value == pytest.approx(rows.sum() + prior)
    assert assigned == pytest.approx(states)
    assert fitted.log_prob().to_numpy() == pytest.approx(rows)
    # Stationary: pi_k = (1 + sum_i r_ik) / (2 + n), mu_k = sum_i r_ik x_i / (sum_i r_ik + 1 / 9).
    tolerance = 1e-4 if method.gradient is False else 1e-2
    assert values["pi"].numpy() == pytest.approx((1 + states.sum(0)) / 7, abs=tolerance)
    assert values["mu"].numpy() == pytest.approx(states.T @ X / (states.sum(0) + 1 / 9), abs=tolerance)


@pytest.mark.slow
def test_the_evidence_of_labelled_rows():
    fitted = fit(Semi(), FRAME, method=Laplace(), seed=0)
    error = fitted.diagnostics["evidence_error"]
    assert fitted.diagnostics["evidence"] == pytest.approx(evidence(), abs=4 * error)
    assert error < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("method", [SVI(), NUTS()], ids=["svi", "nuts"])
def test_draws_know_the_labels(method):
    fitted = fit(Semi(), FRAME, method=method, seed=0)
    assert fitted.assign().to_numpy()[[0, 2]] == pytest.approx(np.array([[1.0, 0.0], [0.0, 1.0]]))
    if isinstance(method, SVI):
        assert fitted.diagnostics["evidence"] == pytest.approx(evidence(), abs=4 * fitted.diagnostics["evidence_error"])


def test_generated_labels_belong_to_generated_rows():
    """Labels are those that rows were made from: where mu is far apart the sign says which."""
    frame = FRAME.assign(x=[-30.0, -31.0, 30.0, 31.0, -29.0])
    fitted = fit(Semi(), frame, method="em", seed=0)
    made = fitted.generate(500, seed=1)
    assert ((made["x"] > 0) == (made["y"] == 1)).all()
    assert 0.2 < made["y"].mean() < 0.8


class More(Semi):
    """Labels of three kinds, and two states."""

    y = Category("row", levels=3)

    def forward(self, x, y, seen):
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5), obs=y, obs_mask=seen.bool())
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def test_a_label_that_is_no_state_is_refused():
    with pytest.raises(zoo.ZooError, match="'z_observed': 1 observed values are outside the support of its Bernoulli"):
        prepare(More(), FRAME.assign(y=[2, 0, 1, 1, 0])).initial()


class Partly(zoo.Model):
    """A covariate that is missing in some rows, by `obs_mask`."""

    x = Real("row")
    y = Real("row")
    seen = Binary("row")
    matters: bool = True

    def forward(self, x, y, seen):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            x = pyro.sample("x", dist.Normal(m, 1.0), obs=x, obs_mask=seen.bool())
            pyro.sample("y", dist.Normal(x if self.matters else m, 1.0), obs=y)


def partly_by_hand(matters):
    """log p(y, x where it is seen) of one joint Normal."""
    n = len(X)
    y = np.linspace(-1, 1, n)
    # x = m + e, y = x + f or m + f; m, e, f standard Normal.
    own = np.eye(n)
    cov_x = 1 + own
    cov_y = 1 + own + (own if matters else 0)
    cov = np.block([[cov_x, 1 + (own if matters else 0 * own)], [1 + (own if matters else 0 * own), cov_y]])
    keep = np.r_[np.flatnonzero(SEEN), n + np.arange(n)]
    return y, stats.multivariate_normal(np.zeros(len(keep)), cov[np.ix_(keep, keep)]).logpdf(np.r_[X, y][keep])


@pytest.mark.parametrize("matters", [True, False], ids=["a parent", "a leaf"])
def test_a_continuous_site_that_is_seen_in_some_rows(matters):
    y, exact = partly_by_hand(matters)
    data = {"x": X, "y": y, "seen": SEEN}
    fitted = fit(Partly(matters=matters), data, method=Laplace(), seed=0)  # the posterior is Normal
    assert fitted.diagnostics["evidence"] == pytest.approx(exact, abs=1e-6)
    assert ("x_unobserved" in fitted.program.sites) is matters


class Padded(zoo.Model):
    """Sequences of unequal length in a matrix, the rest masked: a discrete latent for every cell."""

    x = Real("row", "time")
    length = zoo.Count("row")
    child: bool = False

    def forward(self, x, length):
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        cells = torch.arange(x.shape[1]) < length[:, None]
        with pyro.plate("time", x.shape[1], dim=-1), pyro.plate("row", len(x), dim=-2):
            with poutine.mask(mask=cells):
                z = pyro.sample("z", dist.Bernoulli(p))
            with poutine.mask(mask=cells | self.child):
                pyro.sample("x", dist.Normal(2.0 * z, 1.0), obs=x)


PADDED = {"x": [[0.1, 2.0, 9.0], [1.0, 9.0, 9.0]], "length": [2, 1]}


@pytest.mark.parametrize("by_distribution", [False, True], ids=["handler", "distribution"])
def test_a_masked_state_is_not_there(by_distribution):
    model = Padded()
    if by_distribution:

        class Other(Padded):
            """The same with masks on the distributions."""

            def forward(self, x, length):
                p = pyro.sample("p", dist.Beta(2.0, 2.0))
                cells = torch.arange(x.shape[1]) < length[:, None]
                with pyro.plate("time", x.shape[1], dim=-1), pyro.plate("row", len(x), dim=-2):
                    z = pyro.sample("z", dist.Bernoulli(p).mask(cells))
                    pyro.sample("x", dist.Normal(2.0 * z, 1.0).mask(cells), obs=x)

        model = Other()
    program = prepare(model, PADDED)
    value = float(program.log_joint({"p": torch.tensor(0.3, dtype=torch.float64)}).total())
    cells = np.array([0.1, 2.0, 1.0])
    rows = np.logaddexp(np.log(0.7) + stats.norm.logpdf(cells), np.log(0.3) + stats.norm.logpdf(cells, 2.0))
    assert value == pytest.approx(rows.sum() + stats.beta(2, 2).logpdf(0.3))


class Chains(zoo.Model):
    """Chains of unequal length, the rest masked, by `pyro.markov`."""

    x = Real("row", "time")
    length = zoo.Count("row")

    def forward(self, x, length):
        moves, z = torch.tensor([[0.7, 0.3], [0.2, 0.8]]), None
        with pyro.plate("row", len(x)):
            for t in pyro.markov(range(x.shape[1])):
                with poutine.mask(mask=t < length):
                    z = pyro.sample(f"z{t}", dist.Categorical(moves[0] if z is None else moves[z]))
                    pyro.sample(f"x{t}", dist.Normal(2.0 * z, 1.0), obs=x[:, t])


def test_masked_ends_of_chains():
    x, lengths, moves = [[0.1, 2.0, 1.0], [1.0, 9.0, 9.0]], [3, 1], np.array([[0.7, 0.3], [0.2, 0.8]])
    total = []
    for row, length in zip(x, lengths, strict=True):
        p = 0.0
        for path in itertools.product((0, 1), repeat=length):
            steps = moves[[0, *path[:-1]], list(path)].prod()
            p += steps * stats.norm.pdf(row[:length], 2 * np.array(path)).prod()
        total.append(math.log(p))
    rows = prepare(Chains(), {"x": x, "length": lengths}).log_joint({}).rows
    assert rows.numpy() == pytest.approx(total)


def test_a_masked_latent_that_others_depend_on_is_refused():
    with pytest.raises(zoo.ModelError, match=r"'z' is masked in some entries.*site 'x' depends"):
        prepare(Padded(child=True), PADDED)


def test_a_scaled_sum_over_states_is_refused():
    @zoo.model(x=Real("row"))
    def scaled(x):
        with pyro.plate("row", len(x)), poutine.scale(scale=2.0):
            z = pyro.sample("z", dist.Bernoulli(0.3))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    with pytest.raises(zoo.ModelError, match=r"'z' is scaled.*weights="):
        prepare(scaled, {"x": X})


def test_what_is_derived_from_states_is_left_out_of_the_groups():
    @zoo.model(x=Real("row"))
    def derived(x):
        with pyro.plate("component", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        pyro.deterministic("gap", mu[1] - mu[0])
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.deterministic("level", mu[z.long()])
            pyro.sample("x", dist.Normal(mu[z.long()], 1.0), obs=x)

    point = fit(derived, {"x": X}, method="em", seed=0).posterior["point_estimate"]
    assert float(point["gap"]) == pytest.approx(float(point["mu"][1] - point["mu"][0]))
    assert "level" not in point
