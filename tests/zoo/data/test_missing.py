"""Missing values are summed over exactly: densities, EM, CAVI, starts, answers about rows, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import integrate, stats
from scipy.special import gammaln, logsumexp, multigammaln
from torch.distributions import constraints

import zoo
from inference import CAVI, EM, MAP, SVI, Exact, Fit, fit
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.mixture import Mixture
from inference.coordinate.source import RowSource
from inference.posterior.impute import complete
from tests.cases.models import (
    BernoulliMixture,
    EightSchools,
    LatentClass,
    PoissonMixture,
    RegressionMixture,
    SumMixture,
    TrilMixture,
    coin,
)
from tests.cases.spread import spread
from zoo import Binary, Category, Count, Real
from zoo.data.bind import bind
from zoo.data.patterns import Patterns
from zoo.initial import cluster_moments, column_moments, kmeans
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

COVARIANCES = ("full", "tied", "diag", "spherical")
covariances = pytest.mark.parametrize("covariance", COVARIANCES)


def holes(x, share=0.3, seed=0):
    """Make a share of the cells missing."""
    x = np.array(x, dtype=float)
    x[np.random.default_rng(seed).random(x.shape) < share] = np.nan
    return x


def clusters(n=120, d=3, seed=0):
    """Two correlated clusters."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(2, d, d)) / 2 + np.eye(d)
    z = rng.random(n) < 0.4
    return np.einsum("nd,nde->ne", rng.normal(size=(n, d)), mix[z.astype(int)]) + 3.0 * z[:, None]


X = clusters()
GAPS = holes(X)
BLANK = GAPS.copy()
BLANK[[3, 50]] = np.nan


# -- an implementation of its own: EM for Gaussian mixtures, row by row ------------------------------------------------


def spread_of(covariance, c, k, d):
    return {
        "full": lambda: c[k],
        "tied": lambda: c,
        "diag": lambda: np.diag(c[k]),
        "spherical": lambda: c[k] * np.eye(d),
    }[covariance]()


def densities(x, means, matrices):
    """log Normal(x_o; m_ko, S_koo), (rows, components)."""
    found = np.zeros((len(x), len(means)))
    for i, row in enumerate(x):
        o = ~np.isnan(row)
        for k, (m, s) in enumerate(zip(means, matrices, strict=True)):
            found[i, k] = stats.multivariate_normal(m[o], s[np.ix_(o, o)]).logpdf(row[o]) if o.any() else 0.0
    return found


def conditional(row, m, s):
    """Mean and covariance of a row given what is observed of it."""
    o, mean, cov = ~np.isnan(row), m.copy(), s.copy()
    if o.any():
        gain = np.linalg.solve(s[np.ix_(o, o)], s[o]).T
        mean, cov = m + gain @ (row[o] - m[o]), s - gain @ s[o]
        mean[o], cov[o], cov[:, o] = row[o], 0.0, 0.0
    return mean, cov


def vectors(x, share, means, matrices):
    """M-step where missing entries are completed by their moments: new means, and scatter about them."""
    size = share.sum(0)
    moments = [[conditional(row, m, s) for row in x] for m, s in zip(means, matrices, strict=True)]
    new = np.stack([np.einsum("n,nd->d", r, [m for m, _ in own]) for r, own in zip(share.T, moments, strict=True)])
    new /= size[:, None]
    scatter = [
        sum(w * (np.outer(row - m, row - m) + c) for w, (row, c) in zip(r, own, strict=True))
        for r, own, m in zip(share.T, moments, new, strict=True)
    ]
    return new, np.stack(scatter)


def plain_em(x, weights, means, cov, covariance, steps, counts=None):
    """EM for a Gaussian mixture with missing cells (Ghahramani and Jordan 1994, section 3.2), as it is on paper.

    Where entries are independent, missing ones are left out.
    """
    n, d = x.shape
    counts, values = np.ones(n) if counts is None else counts, []
    for step in range(steps + 1):
        matrices = [spread_of(covariance, cov, k, d) for k in range(len(weights))]
        joint = np.log(weights) + densities(x, means, matrices)
        values.append(float(counts @ logsumexp(joint, axis=1)))
        if step == steps:
            break
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)) * counts[:, None]
        weights = share.sum(0) / counts.sum()
        if covariance in ("full", "tied"):
            means, scatter = vectors(x, share, means, matrices)
            full = covariance == "full"
            cov = scatter / share.sum(0)[:, None, None] if full else scatter.sum(0) / counts.sum()
            continue
        size = share.T @ ~np.isnan(x)
        means = share.T @ np.nan_to_num(x) / size
        squares = np.stack([r @ np.nan_to_num(x - m) ** 2 for r, m in zip(share.T, means, strict=True)])
        cov = squares / size if covariance == "diag" else squares.sum(1) / size.sum(1)
    return values, weights, means, cov


def start_for(covariance, d=3):
    """A start that is the same for everybody."""
    cov = {
        "full": np.stack([np.eye(d), 2 * np.eye(d)]),
        "tied": np.eye(d),
        "diag": np.ones((2, d)),
        "spherical": np.ones(2),
    }
    return {"weights": np.array([0.6, 0.4]), "means": np.array([[-0.5] * d, [2.5] * d]), "covariances": cov[covariance]}


@pytest.mark.slow
@covariances
@pytest.mark.parametrize("x", [GAPS, BLANK], ids=["cells", "rows"])
def test_em_is_that_of_an_implementation_on_paper(covariance, x):
    start = start_for(covariance)
    method = EM(start=start, max_steps=30, tolerance=1e-300, acceleration=None)
    found = fit(zoo.GMM(components=2, covariance=covariance), x, method=method, seed=0)
    assert found.steps > 15
    values, weights, means, cov = plain_em(x, *start.values(), covariance, found.steps)
    np.testing.assert_allclose(found.trace["value"], values, rtol=1e-10)
    np.testing.assert_allclose(found.points["weights"], weights, rtol=1e-8)
    np.testing.assert_allclose(found.points["means"], means, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(found.points["covariances"], cov, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_em_weighs_rows_as_repetitions():
    counts = np.random.default_rng(1).integers(1, 4, len(GAPS))
    for covariance in ("full", "diag"):
        start, model = start_for(covariance), zoo.GMM(components=2, covariance=covariance)
        method = EM(start=start, tolerance=1e-9, acceleration=None)
        weighed = fit(model, GAPS, method=method, seed=0, weights=counts)
        repeated = fit(model, np.repeat(GAPS, counts, 0), method=method, seed=0)
        values, *_ = plain_em(GAPS, *start.values(), covariance, 10, counts)
        np.testing.assert_allclose(weighed.trace["value"][:11], values, rtol=1e-10)
        assert weighed.objective.value == pytest.approx(repeated.objective.value, rel=1e-10)
        for name, value in weighed.points.items():
            np.testing.assert_allclose(value, repeated.points[name], rtol=1e-7, atol=1e-9)
        for new in (None, GAPS[:5]):  # weights say how often a row was seen, not what it is
            np.testing.assert_allclose(weighed.assign(new)[:5], repeated.assign(GAPS)[:5], atol=1e-7)


@pytest.mark.slow
def test_a_covariance_that_differs_by_row():
    """Rows with known covariances of their own have no pattern in common."""

    class Known(zoo.Model):
        x = Real("row", "feature")
        s = Real("row", "feature", "other")

        def forward(self, x, s):
            weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
            means = pyro.param("means", torch.tensor([[-0.5] * 3, [2.5] * 3]))
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Categorical(weights))
                pyro.sample("x", dist.MultivariateNormal(means[z], s), obs=x)

    rng = np.random.default_rng(0)
    root = rng.normal(size=(len(GAPS), 3, 3)) / 3 + np.eye(3)
    s = root @ root.transpose(0, 2, 1)
    start = {"weights": [0.6, 0.4], "means": start_for("full")["means"]}
    found = fit(
        Known(), {"x": GAPS, "s": s}, method=EM(start=start, max_steps=5, tolerance=1e-300, acceleration=None), seed=0
    )
    weights, means, values = np.array([0.6, 0.4]), start["means"], []
    for step in range(6):
        joint = np.log(weights) + np.concatenate(
            [densities(x[None], means, [c, c]) for x, c in zip(GAPS, s, strict=True)]
        )
        values.append(logsumexp(joint, axis=1).sum())
        share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
        if step == 5:
            break
        weights, precision, new = share.mean(0), np.linalg.inv(s), []
        for k, m in enumerate(means):
            filled = np.stack([conditional(x, m, c)[0] for x, c in zip(GAPS, s, strict=True)])
            total = np.einsum("n,nde,ne->d", share[:, k], precision, filled)
            new.append(np.linalg.solve(np.einsum("n,nde->de", share[:, k], precision), total))
        means = np.stack(new)
    np.testing.assert_allclose(found.trace["value"], values, rtol=1e-10)
    np.testing.assert_allclose(found.points["means"], means, rtol=1e-8)


# -- densities ---------------------------------------------------------------------------------------------------------


@covariances
def test_the_density_of_a_row_is_that_of_what_is_observed(covariance):
    program = prepare(zoo.GMM(components=2, covariance=covariance), BLANK)
    values = program.initial()
    matrices = [spread_of(covariance, values["covariances"].numpy(), k, 3) for k in range(2)]
    expected = densities(BLANK, values["means"].numpy(), matrices)
    np.testing.assert_allclose(program.log_probs(values)["x"].mT, expected, atol=1e-10)
    rows = logsumexp(expected + values["weights"].log().numpy(), axis=1)
    np.testing.assert_allclose(program.log_joint(values).rows, rows, atol=1e-10)
    assert rows[[3, 50]] == pytest.approx(0.0, abs=1e-12)


def test_densities_of_several_values_at_once_and_their_gradient():
    program = prepare(zoo.GMM(components=2), BLANK)
    values = program.initial()

    def joint(covariance, mean):
        return program.log_joint({**values, "covariances": covariance, "means": mean}).total()

    many = torch.stack([values["covariances"], 2 * values["covariances"]])
    means = torch.stack([values["means"], values["means"] + 1])
    each = torch.stack([joint(c, m) for c, m in zip(many, means, strict=True)])
    torch.testing.assert_close(torch.vmap(joint)(many, means), each)
    root = torch.linalg.cholesky(values["covariances"]).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda r, m: joint(r.tril() @ r.tril().mT, m), (root, values["means"].clone().requires_grad_())
    )
    gradient = torch.func.grad(lambda m: joint(values["covariances"], m))
    torch.testing.assert_close(
        torch.vmap(gradient)(means), torch.stack([gradient(m) for m in means]), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("most", [1, 2, 512])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_every_row_stands_in_one_place_with_its_own_pattern(most, share):
    missing = torch.rand(83, 4, generator=torch.Generator().manual_seed(0)) < share
    patterns = Patterns.of(missing, most)
    rows = torch.cat([g.rows.flatten() for g in patterns.groups])
    real = torch.cat([g.real.flatten() for g in patterns.groups])
    assert rows[patterns.place].tolist() == list(range(83))
    assert int(real.sum()) == 83
    for group in patterns.groups:
        assert bool((missing[group.rows] == group.missing[:, None]).all())
        assert group.rows.shape[1] <= most


def test_independent_entries_are_left_out():
    counts = np.array([[3.0, np.nan], [np.nan, 1.0], [np.nan, np.nan], [4.0, 0.0]])

    @zoo.model(x=Count("row", "item"))
    def rates(x):
        rate = pyro.sample("rate", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate).to_event(1), obs=x)

    program = prepare(rates(), counts)
    found = program.log_joint({"rate": torch.tensor([2.0, 0.5], dtype=torch.float64)}).rows
    each = np.where(np.isnan(counts), 0.0, stats.poisson([2.0, 0.5]).logpmf(np.nan_to_num(counts)))
    np.testing.assert_allclose(found, each.sum(1), atol=1e-12)


@pytest.mark.slow
def test_plates_of_entries_are_left_out():
    @zoo.model(x=Real("row", "item"))
    def noisy(x):
        loc = pyro.param("loc", torch.zeros(2, x.shape[1]))
        weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
        scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
        with pyro.plate("row", len(x), dim=-2):
            z = pyro.sample("z", dist.Categorical(weights))
            with pyro.plate("item", x.shape[1], dim=-1):
                pyro.sample("x", dist.Normal(loc[z, torch.arange(x.shape[1])], scale), obs=x)

    program = prepare(noisy(), BLANK)
    loc = torch.tensor([[0.0, 0.1, 0.2], [3.0, 2.9, 2.8]])
    values = {"loc": loc.double(), "weights": torch.tensor([0.3, 0.7]).double(), "scale": torch.tensor(1.5).double()}
    each = np.stack([np.nansum(stats.norm(m, 1.5).logpdf(BLANK), 1) for m in loc.double().numpy()], 1)
    np.testing.assert_allclose(program.log_joint(values).rows, logsumexp(each + np.log([0.3, 0.7]), axis=1), atol=1e-12)
    check_monotone(fit(noisy(), BLANK, method=EM(max_steps=30), seed=0))


@pytest.mark.slow
@pytest.mark.parametrize("way", ["event", "plate"])
def test_several_vectors_to_a_row(way):
    """Of (row, step, feature), steps in one event or in a plate of their own."""

    @zoo.model(x=Real("row", "step", "feature"))
    def steps_of_rows(x):
        weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
        means = pyro.param("means", torch.tensor([[-0.5] * 3, [2.5] * 3]))
        matrix = pyro.param("matrix", torch.eye(3), constraint=constraints.positive_definite)
        if way == "event":
            with pyro.plate("row", len(x)):
                z = pyro.sample("z", dist.Categorical(weights))
                law = dist.MultivariateNormal(means[z][..., None, :], matrix).expand_by([])
                pyro.sample("x", law.expand((*law.batch_shape[:-1], x.shape[1])).to_event(1), obs=x)
        else:
            with pyro.plate("row", len(x), dim=-2):
                z = pyro.sample("z", dist.Categorical(weights))
                with pyro.plate("step", x.shape[1], dim=-1):
                    pyro.sample("x", dist.MultivariateNormal(means[z], matrix), obs=x)

    x = holes(np.stack([X[:40], X[:40] + 0.1], 1))
    program = prepare(steps_of_rows(), x)
    values = {
        "weights": torch.tensor([0.3, 0.7]).double(),
        "means": torch.tensor([[-0.5, 0.0, 0.1], [2.5, 2.0, 3.0]]).double(),
        "matrix": torch.eye(3).double() + 0.4,
    }
    each = densities(x.reshape(-1, 3), values["means"].numpy(), [values["matrix"].numpy()] * 2).reshape(40, 2, 2)
    rows = logsumexp(each.sum(1) + np.log([0.3, 0.7]), axis=1)
    np.testing.assert_allclose(program.log_joint(values).rows, rows, atol=1e-10)
    found = fit(steps_of_rows(), x, method=EM(max_steps=12), seed=0)
    check_monotone(found)
    completed = found.impute(seed=0)["x"]
    assert (completed[~np.isnan(x)] == x[~np.isnan(x)]).all()
    assert np.isfinite(completed).all()
    share = np.exp(each.sum(1) + np.log([0.3, 0.7]) - rows[:, None])
    mean = sum(
        share[:, k, None, None]
        * np.stack(
            [conditional(r, values["means"][k].numpy(), values["matrix"].numpy())[0] for r in x.reshape(-1, 3)]
        ).reshape(x.shape)
        for k in range(2)
    )
    np.testing.assert_allclose(complete(program, values, mean=True)["x"], mean, atol=1e-9)


def test_a_chain_sums_over_missing_steps():
    x = np.array([[1.0, 3.0], [np.nan, np.nan], [5.0, np.nan], [np.nan, 2.0], [7.0, 7.0]])
    program = prepare(zoo.HiddenMarkov(emission="poisson"), x)
    values = program.initial()
    v = {n: t.numpy() for n, t in values.items()}
    each = np.stack([np.where(np.isnan(x), 0.0, stats.poisson(r).logpmf(np.nan_to_num(x))).sum(1) for r in v["rates"]])
    paths = []
    for path in itertools.product(range(2), repeat=len(x)):
        moves = sum(np.log(v["transition"][a, b]) for a, b in itertools.pairwise(path))
        paths.append(np.log(v["initial"][path[0]]) + moves + sum(each[k, t] for t, k in enumerate(path)))
    assert float(program.log_joint(values).total()) == pytest.approx(logsumexp(paths), abs=1e-10)


# -- every step raises the objective -----------------------------------------------------------------------------------

RNG = np.random.default_rng(3)
SPLIT = RNG.random(90) < 0.5
COUNTS = holes(RNG.poisson(np.where(SPLIT, 2, 9)))
BITS = holes(RNG.random((90, 5)) < np.where(SPLIT, 0.2, 0.7)[:, None])
LINES = {"x": X[:90, :2], "y": holes(X[:90, 0] * np.where(SPLIT, 2, -1) + RNG.normal(size=90))}
STEPS = {
    **{f"gmm {c}": (zoo.GMM(components=2, covariance=c), BLANK) for c in COVARIANCES},
    "gmm three": (zoo.GMM(components=3), BLANK),
    **{f"bayesian {c}": (zoo.BayesianGMM(components=2, covariance=c), BLANK) for c in ("full", "diag")},
    "k-means": (zoo.KMeans(clusters=2), BLANK),
    "counts": (zoo.PoissonMixture(), COUNTS),
    "counts with priors": (zoo.PoissonMixture(concentration=2.0, shape=1.5), COUNTS),
    "own counts": (PoissonMixture(), COUNTS),
    "bits": (LatentClass(), BITS),
    "bits with priors": (BernoulliMixture(), BITS),
    "lines": (zoo.MixtureOfRegressions(), LINES),
    "own lines": (RegressionMixture(), {"x": LINES["x"][:, 0], "y": LINES["y"]}),
    **{f"chain {c}": (zoo.HiddenMarkov(covariance=c), BLANK) for c in COVARIANCES},
    "chain of counts": (zoo.HiddenMarkov(emission="poisson"), np.stack([COUNTS, COUNTS[::-1]], 1)),
    "chain of codes": (zoo.HiddenMarkov(emission="categorical"), BITS),
    "factors of covariances": (TrilMixture(), BLANK),
    "by gradient": (SumMixture(), BLANK[:40]),
}
LONGEST = ("by gradient",)
steps = pytest.mark.parametrize("case", [pytest.param(c, marks=pytest.mark.slow) if c in LONGEST else c for c in STEPS])


def check_monotone(found):
    value = found.trace["value"].to_numpy()
    assert len(value) > 2
    assert np.isfinite(value).all()
    assert (np.diff(value) >= -1e-9 * (1 + np.abs(value[1:]))).all(), np.diff(value).min()


CLIMBS = {"em": EM(max_steps=25), "hard": EM(max_steps=25, hard=True), "cavi": CAVI(max_steps=25)}


@spread(
    ("case", "climb"),
    [
        pytest.param(case, climb, marks=[pytest.mark.slow] if case in LONGEST else [])
        for case, climb in itertools.product(STEPS, CLIMBS)
    ],
    part=0,
    of=4,
)
def test_no_step_lowers_the_objective(case, climb):
    (model, data), method = STEPS[case], CLIMBS[climb]
    if method.why_not(prepare(model, data)) is None:
        found = fit(model, data, method=method, seed=0)
        if getattr(method, "hard", False):
            assert (np.diff(found.trace["value"]) >= -1e-9 * (1 + found.trace["value"][1:].abs())).all()
        else:
            check_monotone(found)


@pytest.mark.slow
@steps
def test_the_objective_of_em_is_the_density_of_the_model(case):
    model, data = STEPS[case]
    found = fit(model, data, method=EM(max_steps=25), seed=0)
    latents = {s.name: found.approximation.values[s.name] for s in found.program.latents}
    joint = found.program.log_joint({**found.points, **latents}).total()
    assert found.objective.value == pytest.approx(float(joint), rel=1e-10)


@pytest.mark.parametrize("case", [c for c in STEPS if c not in ("by gradient", "gmm three") and "chain" not in c])
def test_a_sweep_over_the_rows_gives_what_one_by_one_gives(case):
    model, data = STEPS[case]
    program = prepare(model, data)
    ascent = Coordinates(program)
    state = State(program.initial(), {})
    swept = Mixture.of(ascent.plan, RowSource(program), state.values)
    full = isinstance(model, zoo.GMM | zoo.BayesianGMM) and model.covariance in ("full", "tied")
    assert (swept is None) == (full or isinstance(model, TrilMixture))
    if swept is not None:
        value, expected = ascent.expect(state)
        ascent.mixture = swept
        other, summed = ascent.expect(state)
        assert float(other) == pytest.approx(float(value), rel=1e-10)
        for name, new in ascent.maximize(expected).items():
            torch.testing.assert_close(ascent.maximize(summed)[name], new, rtol=1e-9, atol=1e-10)


@pytest.mark.slow
def test_restarts_batches_and_gradients_reach_the_same_end():
    model, bits = zoo.GMM(components=2), LatentClass()
    best = fit(model, BLANK, method=EM(tolerance=1e-8), seed=0).objective.value
    assert fit(model, BLANK, method=EM(restarts=3, tolerance=1e-8), seed=0).objective.value >= best - 1e-5
    assert fit(model, BLANK, method=MAP(), seed=0).objective.value == pytest.approx(best, abs=1e-3)
    climbed = fit(model, BLANK, method=EM(gradient=True, max_steps=20), seed=0).objective.value
    assert climbed == pytest.approx(best, abs=3.0)
    assert fit(model, BLANK, method=EM(batch_size=40, max_steps=40), seed=0).objective.value > best - 3
    one = fit(bits, BITS, method=EM(), seed=0).objective.value
    assert fit(bits, BITS, method=EM(restarts=4), seed=0).objective.value >= one - 1e-6


# -- evidence ----------------------------------------------------------------------------------------------------------


def wishart_evidence(x, m0, kappa, nu, inverse_scale):
    """log p(x) of complete rows under Normal-Wishart (Murphy 2007, equation 266)."""
    n, d = x.shape
    mean, kn, vn = x.mean(0), kappa + n, nu + n
    scatter = (x - mean).T @ (x - mean) + kappa * n / kn * np.outer(mean - m0, mean - m0)
    return (
        -0.5 * n * d * math.log(math.pi)
        + multigammaln(vn / 2, d)
        - multigammaln(nu / 2, d)
        + nu / 2 * np.linalg.slogdet(inverse_scale)[1]
        - vn / 2 * np.linalg.slogdet(inverse_scale + scatter)[1]
        + d / 2 * math.log(kappa / kn)
    )


FEW = np.array([[0.1, 0.3], [0.4, 0.2], [-0.3, np.nan], [0.2, -0.1], [3.1, 3.4], [2.7, 3.0]])


def evidence_of(rows, prior):
    """log p(observed) of rows of which one may miss its second entry: the integral of that of complete rows."""
    if not len(rows):
        return 0.0
    gone = np.isnan(rows)

    def density(cell):
        return math.exp(wishart_evidence(np.where(gone, cell, rows), *prior))

    if not gone.any():
        return wishart_evidence(rows, *prior)
    return math.log(integrate.quad(density, -60, 60, points=[-1, 0, 1, 3], limit=200)[0])


def test_the_elbo_of_vectors_is_below_the_evidence():
    @zoo.model(x=Real("row", "feature"))
    def one(x):
        precision = pyro.sample("precision", dist.Wishart(torch.tensor(4.0), torch.eye(2)))
        mean = pyro.sample("mean", dist.MultivariateNormal(torch.ones(2), precision_matrix=0.1 * precision))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(mean, precision_matrix=precision), obs=x)

    found = fit(one(), FEW, method=CAVI(tolerance=1e-9), seed=0)
    evidence = evidence_of(FEW, (np.ones(2), 0.1, 4.0, np.eye(2)))
    assert evidence - 0.3 < found.objective.value <= evidence
    complete = fit(one(), FEW[~np.isnan(FEW).any(1)], method=CAVI(tolerance=1e-9), seed=0)  # exact there
    prior = (np.ones(2), 0.1, 4.0, np.eye(2))
    assert complete.objective.value == pytest.approx(evidence_of(FEW[~np.isnan(FEW).any(1)], prior), abs=1e-8)


@pytest.mark.slow
def test_the_elbo_of_a_mixture_of_vectors_is_below_the_evidence():
    """The sum over all assignments; one cell is missing, so each evidence is an integral over one number."""
    found = fit(zoo.BayesianGMM(), FEW, method=CAVI(tolerance=1e-9), seed=0)
    prior = (found.model.center.numpy(), found.model.shrinkage, 4.0, np.diag(found.model.spread.numpy()))
    parts = []
    for z in itertools.product(range(2), repeat=len(FEW)):
        groups = [FEW[np.array(z) == k] for k in range(2)]
        weights = gammaln(2) - gammaln(2 + len(FEW)) + sum(gammaln(1 + len(g)) for g in groups)
        parts.append(weights + sum(evidence_of(g, prior) for g in groups))
    assert logsumexp(parts) - 4 < found.objective.value <= logsumexp(parts)


@pytest.mark.slow
def test_the_elbo_of_bits_is_below_the_evidence():
    x = BITS[:8]
    found = fit(BernoulliMixture(), x, method=CAVI(tolerance=1e-9), seed=0)
    parts = []
    for z in itertools.product(range(2), repeat=len(x)):
        size = np.bincount(z, minlength=2)
        value = gammaln(2) - gammaln(2 + len(x)) + gammaln(1 + size).sum()
        for k in range(2):
            ones, zeros = (np.nansum(v[np.array(z) == k], 0) for v in (x, 1 - x))
            value += (
                gammaln(1.5 + ones) + gammaln(1.5 + zeros) - gammaln(3 + ones + zeros) + gammaln(3) - 2 * gammaln(1.5)
            ).sum()
        parts.append(value)
    assert logsumexp(parts) - 4 < found.objective.value <= logsumexp(parts)


EXACT = {
    "coin": (zoo.BetaBernoulli(), holes(RNG.random(30) < 0.7)),
    "rate": (zoo.GammaPoisson(a=2.0, b=0.5), COUNTS),
    "mean": (zoo.NormalNormal(scale=2.0, center=1.0, shrinkage=0.5), GAPS[:, 0]),
    "mean and precision": (zoo.NormalNormal(center=1.0, prior_scale=2.0), GAPS[:, 0]),
    "own coin": (coin(), holes(RNG.random(30) < 0.7)),
}


@pytest.mark.parametrize("case", EXACT)
def test_a_missing_number_is_a_dropped_row(case):
    model, data = EXACT[case]
    found, dropped = (fit(model, d, method="exact", seed=0) for d in (data, data[~np.isnan(data)]))
    assert found.objective.value == pytest.approx(dropped.objective.value, rel=1e-12)
    pd.testing.assert_frame_equal(found.summary(), dropped.summary(), rtol=1e-9)


@pytest.mark.slow
def test_a_missing_response_is_a_dropped_row():
    kept = {n: v[~np.isnan(LINES["y"])] for n, v in LINES.items()}
    model = zoo.MixtureOfRegressions(intercept=False)
    found = fit(model, LINES, method=EM(tolerance=1e-9), seed=0)
    again = fit(model, kept, method=EM(start=found.points, tolerance=1e-9), seed=0)
    assert again.objective.value == pytest.approx(found.objective.value, abs=1e-6)

    @zoo.model(x=Real("row"), y=Real("row"))
    def line(x, y):
        slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
        precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(slope * x, precision.rsqrt()), obs=y)

    ends = [fit(line(), {"x": d["x"][:, 0], "y": d["y"]}, method=CAVI(tolerance=1e-9), seed=0) for d in (LINES, kept)]
    assert ends[0].objective.value == pytest.approx(ends[1].objective.value, rel=1e-9)
    for name in ("slope", "precision"):
        torch.testing.assert_close(*(e.approximation.distributions[name].mean for e in ends), rtol=1e-6, atol=1e-8)


# -- rows without a value, and data without gaps -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", [EM(tolerance=1e-9), CAVI(tolerance=1e-9)], ids=repr)
@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_a_row_without_a_value_says_nothing(method, covariance):
    model = zoo.GMM(covariance=covariance) if isinstance(method, EM) else zoo.BayesianGMM(covariance=covariance)
    found = fit(model, BLANK, method=method, seed=0)
    kept = ~np.isnan(BLANK).all(1)
    dropped = fit(model, BLANK[kept], method=method, seed=0)
    if isinstance(method, EM):
        assert found.objective.value == pytest.approx(dropped.objective.value, abs=1e-6)
    else:  # q(weights) is apart from q(z), which costs a little for every row
        assert dropped.objective.value - 0.5 < found.objective.value < dropped.objective.value
    assert any("2 of 120 rows have no observed value" in w for w in found.warnings)
    assert any("of 360 values are missing" in w for w in found.warnings)
    shares = found.posterior["posterior" if isinstance(method, CAVI) else "point_estimate"]["weights"]
    shares = shares.mean(("chain", "draw")) if isinstance(method, CAVI) else shares
    np.testing.assert_allclose(found.assign().iloc[3], np.asarray(shares), atol=0.02)
    if isinstance(method, EM):
        assert found.log_prob().iloc[3] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_data_without_gaps_take_the_same_way_as_ever(covariance):
    model = zoo.GMM(components=2, covariance=covariance)
    program = prepare(model, X)
    assert program.data.missing == {}
    assert program.model.missing == {}
    values = program.initial()
    masked = bind(model, X, like=bind(model, GAPS))  # masks, but nothing is missing
    assert not bool(masked.missing["x"].any())
    other = program.rebind(masked)
    assert float(other.log_joint(values).total()) == pytest.approx(float(program.log_joint(values).total()), rel=1e-12)
    ends = [Coordinates(p).step(State(values, {})).values for p in (program, other)]
    for name, value in ends[0].items():
        torch.testing.assert_close(ends[1][name], value, rtol=1e-10, atol=1e-12)


# -- starts ------------------------------------------------------------------------------------------------------------


def test_moments_leave_missing_cells_out():
    missing = torch.tensor(np.isnan(GAPS))
    weights = torch.tensor(np.random.default_rng(0).random(len(GAPS)))
    x = torch.where(missing, 7.0, torch.tensor(np.nan_to_num(GAPS)))
    mean, variance = column_moments(x, None, missing)
    np.testing.assert_allclose(mean, np.nanmean(GAPS, 0))
    np.testing.assert_allclose(variance, np.nanvar(GAPS, 0))
    mean, variance = column_moments(x, weights, missing)
    for j in range(3):
        seen = ~np.isnan(GAPS[:, j])
        expected = np.average(GAPS[seen, j], weights=weights[seen])
        assert float(mean[j]) == pytest.approx(expected)
        assert float(variance[j]) == pytest.approx(np.average((GAPS[seen, j] - expected) ** 2, weights=weights[seen]))
    labels = torch.tensor(X[:, 0] > 1.5).long()
    shares, means, matrices = cluster_moments(x, labels, 2, missing)
    for k in range(2):
        np.testing.assert_allclose(means[k], np.nanmean(GAPS[labels == k], 0))
        assert bool((torch.linalg.eigvalsh(matrices[k]) > 0).all())
    assert float(shares.sum()) == pytest.approx(1.0)
    whole = cluster_moments(torch.tensor(X), labels, 2)
    for a, b in zip(whole, cluster_moments(torch.tensor(X), labels, 2, torch.zeros_like(missing)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
def test_clusters_are_found_in_what_is_observed(share):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 400)
    x = rng.normal(size=(400, 6)) + 12.0 * np.eye(3, 6)[truth] + 12.0 * np.eye(3, 6, 3)[truth]
    x[:, 5] = 1e6 + 100 * x[:, 5]
    gaps = holes(x, share)
    gaps[7] = np.nan
    missing = torch.tensor(np.isnan(gaps))
    filled = torch.where(missing, torch.tensor(np.nanmedian(gaps, 0)), torch.tensor(np.nan_to_num(gaps)))
    reseed(0)
    labels = kmeans(filled, 3, missing=missing).numpy()
    some = (~np.isnan(gaps)).sum(1) >= 2
    # a row may miss every column that tells its cluster from another: these are few
    agree = max(np.mean(np.array(order)[labels[some]] == truth[some]) for order in itertools.permutations(range(3)))
    assert agree > {0.0: 0.999, 0.3: 0.93, 0.6: 0.8}[share]


def test_no_gaps_give_the_same_clusters():
    x = torch.tensor(X)
    found = []
    for missing in (None, torch.zeros_like(x, dtype=torch.bool)):
        reseed(4)
        found.append(kmeans(x, 3, missing=missing))
    assert torch.equal(*found)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_models_without_a_start_of_their_own_find_one(offset):
    """What is missing is guessed from its column and not from made-up first values."""
    found = fit(TrilMixture(), GAPS + offset, method=EM(max_steps=200), seed=0)
    best = fit(zoo.GMM(), GAPS, method=EM(restarts=5), seed=0)
    assert found.objective.value == pytest.approx(best.objective.value, abs=1e-3 if offset == 0 else 0.1)


# -- answers about rows ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixture():
    table = pd.DataFrame(BLANK, columns=list("abc"), index=[f"r{i}" for i in range(len(BLANK))])
    return fit(zoo.GMM(components=2), table, method=EM(), seed=0)


def of_rows(found, x):
    """Responsibilities, and conditional mean and covariance of each row in closed form."""
    weights, means, matrices = (found.points[n].numpy() for n in ("weights", "means", "covariances"))
    joint = np.log(weights) + densities(x, means, matrices)
    share = np.exp(joint - logsumexp(joint, axis=1, keepdims=True))
    each = [[conditional(row, m, s) for m, s in zip(means, matrices, strict=True)] for row in x]
    mean = np.stack([sum(r * m for r, (m, _) in zip(p, e, strict=True)) for p, e in zip(share, each, strict=True)])
    second = [
        sum(r * (c + np.outer(m, m)) for r, (m, c) in zip(p, e, strict=True)) for p, e in zip(share, each, strict=True)
    ]
    return share, logsumexp(joint, axis=1), mean, np.stack(second) - mean[:, :, None] * mean[:, None]


def test_rows_with_gaps_are_answered_in_closed_form(mixture):
    share, density, mean, _ = of_rows(mixture, BLANK)
    np.testing.assert_allclose(mixture.assign(), share, atol=1e-9)
    np.testing.assert_allclose(mixture.log_prob(), density, atol=1e-9)
    completed = mixture.impute(mean=True)
    np.testing.assert_allclose(completed, mean, atol=1e-9)
    assert list(completed.index[:2]) == ["r0", "r1"]
    new = holes(clusters(7, seed=9), 0.5, seed=2)
    new[0, 1] = np.nan
    share, density, mean, _ = of_rows(mixture, new)
    np.testing.assert_allclose(mixture.assign(new), share, atol=1e-9)
    np.testing.assert_allclose(mixture.log_prob(new), density, atol=1e-9)
    np.testing.assert_allclose(mixture.impute(new, mean=True), mean, atol=1e-9)
    one = pd.DataFrame({"a": [np.nan], "b": [1.0], "c": [np.nan]})  # columns of which nothing is observed
    assert mixture.impute(one, mean=True)["b"].tolist() == [1.0]
    assert mixture.assign(one).shape == (1, 2)


def z_tests(draws, mean, variance, missing):
    """Compare the mean and the variance of draws of each missing cell with what they should be."""
    count = len(draws)
    for i, j in zip(*np.nonzero(missing), strict=True):
        own = draws[:, i, j]
        assert abs(own.mean() - mean[i, j]) < 5 * math.sqrt(variance[i, j] / count)
        fourth = ((own - own.mean()) ** 4).mean() - own.var() ** 2
        assert abs(own.var() - variance[i, j]) < 5 * math.sqrt(fourth / count) + 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("which", ["fitted", "new"])
def test_draws_of_missing_cells_have_their_moments(mixture, which):
    x = BLANK if which == "fitted" else BLANK[:20]
    _, _, mean, covariance = of_rows(mixture, x)
    tables = mixture.impute(None if which == "fitted" else x, draws=600, seed=1)
    draws = np.stack([t.to_numpy() for t in tables])
    missing = np.isnan(x)
    assert (draws[:, ~missing] == x[~missing]).all()
    z_tests(draws[:, :20], mean[:20], covariance.diagonal(axis1=1, axis2=2)[:20], missing[:20])
    blank = draws[:, 3]
    expected = covariance[3]
    assert np.abs(np.cov(blank.T) - expected).max() < 0.2 * np.abs(expected).max()
    assert mixture.impute(seed=1).equals(mixture.impute(seed=1))
    assert not mixture.impute(seed=1).equals(mixture.impute(seed=2))


@pytest.mark.slow
def test_counts_and_bits_are_drawn_as_such():
    found = fit(zoo.PoissonMixture(), COUNTS, method=EM(), seed=0)
    tables = found.impute(draws=400, seed=0)
    assert tables[0]["counts"].dtype == np.int64
    gone = np.isnan(COUNTS)
    drawn = np.stack([t["counts"].to_numpy() for t in tables])[:, gone]
    weights, rates = (found.points[n].numpy() for n in ("weights", "rates"))
    mean = weights @ rates
    assert np.allclose(found.impute(mean=True)["counts"].to_numpy()[gone], mean)
    spread = weights @ (rates + rates**2) - mean**2
    assert abs(drawn.mean() - mean) < 5 * math.sqrt(spread / drawn.size)
    bits = fit(BernoulliMixture(), BITS, method=CAVI(), seed=0).impute()
    assert set(np.unique(bits)) == {0, 1}


@pytest.mark.slow
def test_draws_carry_the_uncertainty_of_the_latents():
    """Of a mean under known noise: given n others, a missing number is Normal(mean, noise^2 + variance)."""
    data = holes(RNG.normal(5.0, 2.0, 8), 0.4, seed=5)
    found = fit(zoo.NormalNormal(scale=2.0, center=0.0, shrinkage=0.5), data, method="exact", seed=0)
    seen = data[~np.isnan(data)]
    mean, variance = seen.sum() / (0.5 + len(seen)), 4 / (0.5 + len(seen))
    gone = np.isnan(data)
    draws = np.stack([t["x"].to_numpy() for t in found.impute(draws=800, seed=0)])[:, gone]
    for own in draws.T:
        assert abs(own.mean() - mean) < 5 * math.sqrt((4 + variance) / len(own))
        assert abs(own.var() / (4 + variance) - 1) < 5 * math.sqrt(2 / len(own))
    together = np.cov(draws.T)[0, 1]  # one draw of the mean for all of a table
    assert abs(together - variance) < 5 * (4 + variance) / math.sqrt(len(draws))
    apart = np.stack([t["x"].to_numpy() for t in found.impute([9.0, np.nan, np.nan], draws=300, seed=0)])
    assert (apart[:, 0] == 9.0).all()
    assert abs(apart[:, 1].mean() - mean) < 5 * math.sqrt((4 + variance) / 300) + 0.2


def test_nothing_is_imputed_where_nothing_is_missing(mixture):
    table = pd.DataFrame(X[:4], columns=list("abc"))
    pd.testing.assert_frame_equal(mixture.impute(table), table)


@pytest.mark.slow
@pytest.mark.parametrize("method", [SVI(steps=300), CAVI(), EM()], ids=lambda m: type(m).__name__)
def test_generated_rows_are_complete(method):
    found = fit(zoo.BayesianGMM(), BLANK, method=method, seed=0)
    assert not found.generate(50).isna().any(axis=None)
    assert np.isfinite(found.summary().astype(float)).all(axis=None)
    predicted = found.predict(draws=3)
    assert np.isfinite(predicted["posterior_predictive"]["x"]).all()
    assert np.isnan(predicted["observed_data"]["x"].to_numpy()[np.isnan(BLANK)]).all()
    assert found.impute().shape == BLANK.shape


def test_a_fit_comes_back_from_its_files(mixture, tmp_path):
    again = Fit.load(mixture.save(tmp_path / "fit"))
    assert torch.equal(again.program.data.missing["x"], mixture.program.data.missing["x"])
    assert again.warnings == mixture.warnings
    assert again.log_prob().equals(mixture.log_prob())
    assert again.impute().equals(mixture.impute())
    seen = again.posterior["observed_data"]["x"].to_numpy()
    assert np.array_equal(seen, BLANK[~np.isnan(BLANK).all(1)], equal_nan=True)  # rows without any value are left out


@pytest.mark.slow
def test_latents_of_rows_take_what_is_observed():
    """x_i ~ Normal(m + W z_i, noise): the density is that of the observed block of a Normal with W W^T + noise."""
    found = fit(zoo.FactorAnalysis(), X, method="em", seed=0)
    loadings, means, variances = (found.points[n].numpy() for n in ("loadings", "means", "variances"))
    matrix = loadings @ loadings.T + np.diag(variances)
    new = holes(X[:10], 0.4, seed=1)
    exact = densities(new, [means], [matrix])[:, 0]
    log_prob = found.log_prob(new, samples=4000)
    assert np.abs(log_prob - exact).max() < 1e-9  # the posterior of the latents is exact, gaps or not
    expected = np.stack([conditional(row, means, matrix)[0] for row in new])
    assert np.abs(found.impute(new, mean=True) - expected).to_numpy().max() < 0.6
    climbed = fit(zoo.FactorAnalysis(), GAPS, method=SVI(steps=50), seed=0)
    assert math.isfinite(climbed.objective.value)


@pytest.mark.slow
def test_networks_take_gaps():
    model = zoo.VAE(latent=1, hidden=(3,), likelihood="gaussian")
    found = fit(model, BLANK, method=SVI(guide="encoder", steps=30), seed=0)
    assert math.isfinite(found.objective.value)
    assert not found.impute().isna().any(axis=None)
    assert found.log_prob(BLANK[:4]).notna().all()


@pytest.mark.slow
def test_single_precision_agrees():
    start = start_for("full")
    found = [fit(zoo.GMM(), GAPS, method=EM(start=start, max_steps=20), seed=0, dtype=t) for t in (torch.float32, None)]
    assert found[0].objective.value == pytest.approx(found[1].objective.value, rel=1e-4)


# -- a file read in chunks ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_chunks_may_have_gaps_where_a_sample_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.data.stream.SAMPLE", 50)
    x = clusters(2000, seed=5)
    x[[700, 1500], [0, 2]] = np.nan
    x[900] = np.nan
    frame = pd.DataFrame(x, columns=list("abc"))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for covariance in ("full", "diag"):
        method = EM(start=start_for(covariance), max_steps=20)
        whole = fit(zoo.GMM(covariance=covariance), frame, method=method, seed=0)
        chunks = zoo.stream(tmp_path / "rows.csv", chunk=333)
        streamed = fit(zoo.GMM(covariance=covariance), chunks, method=method, seed=0)
        assert streamed.objective.value == pytest.approx(whole.objective.value, rel=1e-10)
        torch.testing.assert_close(streamed.points["means"], whole.points["means"], rtol=1e-8, atol=1e-8)


def test_rows_with_gaps_go_on_from_rows_without():
    """More rows by `update`: the objective stays finite, and conditioning row by row is conditioning at once."""
    first = fit(zoo.BetaBernoulli(), [1, 0, 1], method=Exact(), seed=0)
    more = Exact().update(first, [1.0, np.nan, 0.0])
    whole = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0], method=Exact(), seed=0)
    assert first.objective.value + more.objective.value == pytest.approx(whole.objective.value)
    before = fit(zoo.GMM(), X, method=EM(), seed=0)
    after = EM().update(before, GAPS)
    assert math.isfinite(after.objective.value)


# -- data in -----------------------------------------------------------------------------------------------------------


def one_field(kind, *dims):
    return type("OneField", (zoo.Model,), {"x": kind(*(dims or ("row",)))})()


MARKED = {
    "NaN": [1.0, np.nan, 0.0],
    "None": [1.0, None, 0.0],
    "array of objects": np.array([1, None, 0], dtype=object),
    "NA": pd.DataFrame({"x": pd.Series([1, pd.NA, 0], dtype="Int64")}),
    "boolean NA": pd.DataFrame({"x": pd.Series([True, pd.NA, False], dtype="boolean")}),
    "None in a column": pd.DataFrame({"x": pd.Series([1, None, 0], dtype="object")}),
    "NA among objects": {"x": np.array([1, pd.NA, 0], dtype=object)},
    "masked": np.ma.masked_array([1, 5, 0], mask=[False, True, False]),
    "masked NaN": np.ma.masked_array([1.0, np.nan, 0.0], mask=[False, True, False]),
    "tensor": torch.tensor([1.0, math.nan, 0.0]),
    "series": pd.Series([1.0, np.nan, 0.0], name="x"),
}


@pytest.mark.parametrize("kind", [Real, Count, Binary, zoo.UnitInterval])
@pytest.mark.parametrize("marked", MARKED)
def test_however_it_is_marked_a_value_is_missing(kind, marked):
    data = bind(one_field(kind), MARKED[marked])
    assert data.missing["x"].tolist() == [False, True, False]
    assert data.values["x"][[0, 2]].tolist() == [1.0, 0.0]
    assert bool(kind.support.check(data.values["x"]).all())


def test_masks_go_with_their_rows():
    data = bind(zoo.GMM(), BLANK)
    assert data.missing["x"].tolist() == np.isnan(BLANK).tolist()
    rows = torch.tensor([5, 3, 3])
    for part in (
        data.take(rows),
        data.batch(rows, torch.ones(3)),
        data.take(rows).to(torch.float32, torch.device("cpu")),
    ):
        assert torch.equal(part.missing["x"], data.missing["x"][rows])
        assert torch.equal(part.missing_cells("x").missing, part.missing["x"])
    assert data.missing_cells("x") is data.missing_cells("x")
    assert bind(zoo.GMM(), X).missing_cells("x") is None
    weighed = prepare(zoo.GMM(), BLANK, weights=np.arange(120) % 2).data
    assert torch.equal(weighed.missing["x"], data.missing["x"][1::2])
    assert torch.equal(bind(zoo.GMM(), BLANK[:4], like=data).missing["x"], data.missing["x"][:4])


def test_explain_counts_what_is_missing():
    assert f"(120, 3)  {int(np.isnan(BLANK).sum())}" in zoo.explain(zoo.GMM(), BLANK)
    assert "missing" not in zoo.explain(zoo.GMM(), X)


# -- what is refused ---------------------------------------------------------------------------------------------------


def refused(call, *words):
    with pytest.raises(zoo.ZooError) as caught:
        call()
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))


def test_columns_without_a_value_are_refused():
    for gaps in ([np.nan, 0.0], np.ma.masked_array([1, 0], mask=[True, False]), ["", None]):
        assert bind(one_field(Category), gaps).missing["x"].sum() == 1
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [np.nan, np.nan]})
    refused(lambda: bind(zoo.GMM(), frame), "column 'b'", "no observed value", "drop it")
    refused(lambda: bind(zoo.GMM(), frame.to_numpy()), "column 1", "no observed value")
    refused(lambda: bind(one_field(Real), [None, None]), "field 'x'", "no observed value")
    known = bind(zoo.GMM(), frame.fillna(1.0))
    assert bind(zoo.GMM(), frame, like=known).missing["x"].sum() == 2
    refused(lambda: bind(zoo.GMM(), frame * np.nan, like=known), "'x'", "every value is missing")
    frame = pd.DataFrame({"a": [1.0, 2.0, 4.0, 3.0], "b": [np.nan, np.nan, 1.0, 2.0]})
    refused(lambda: fit(zoo.GMM(), frame, method="em", weights=[1, 1, 0, 0]), "column 'b'", "no observed value")


COVARIATE = "feeds the argument"


@pytest.mark.slow
def test_covariates_are_refused():
    schools = {"effect": [28.0, 8.0, -3.0], "error": [15.0, np.nan, 16.0]}
    refused(
        lambda: fit(EightSchools(), schools, method="map"), "field 'error'", COVARIATE, "scale", "'effect'", "school 1"
    )
    refused(lambda: fit(RegressionMixture(), {"x": LINES["y"], "y": X[:90, 0]}, method="em"), "field 'x'", "loc", "'y'")
    found = fit(RegressionMixture(), {"x": X[:90, 0], "y": LINES["y"]}, method="em", seed=0)
    refused(lambda: found.log_prob({"x": [1.0, np.nan], "y": [1.0, 2.0]}), "field 'x'", COVARIATE)
    assert fit(EightSchools(), {"effect": [28.0, np.nan, -3.0], "error": [15.0, 10.0, 16.0]}, method="map", seed=0)


def declared(kind, story, *dims):
    def forward(self, x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            story(x, mu)

    return type("Declared", (zoo.Model,), {"x": kind(*(dims or ("row",))), "forward": forward})()


WRONG = {
    "a function of the field": (
        Real,
        lambda x, mu: pyro.sample("x", dist.Normal(mu, 1.0), obs=2 * x),
        [1.0, np.nan, 2.0],
        "observes a function of a field",
    ),
    "no site": (
        Real,
        lambda x, mu: pyro.sample("y", dist.Normal(mu, 1.0), obs=torch.ones(len(x))),
        [1.0, np.nan],
        "no site",
    ),
    "a step before": (
        Real,
        lambda x, mu: pyro.sample("x", dist.Normal(mu * x.roll(1), 1.0), obs=x),
        [1.0, np.nan, 2.0],
        COVARIATE,
    ),
    "rows that depend on each other": (
        Count,
        lambda x, mu: pyro.sample(
            "x", zoo.MarkovChain(torch.tensor([0.5, 0.5]), torch.tensor([[0.6, 0.4], [0.4, 0.6]])), obs=x
        ),
        [1.0, np.nan, 0.0],
        "cannot be summed over",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_summed_over_is_refused(case):
    kind, story, data, word = WRONG[case]
    refused(lambda: fit(declared(kind, story), data, method=MAP()), "'x'", "missing values (NaN)", word)


def test_vectors_that_are_not_normal_are_refused():
    counts = [[3.0, np.nan, 1.0], [2.0, 2.0, 2.0]]
    refused(
        lambda: fit(zoo.DirichletMultinomial(), counts, method="exact"), "'counts'", "Multinomial", "MultivariateNormal"
    )


def test_exact_needs_complete_vectors():
    @zoo.model(x=Real("row", "feature"))
    def mean(x):
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(3), 9.0 * torch.eye(3)))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(mu, torch.eye(3) + 0.5), obs=x)

    refused(lambda: fit(mean(), GAPS, method="exact"), "'x'", "missing values", "cavi")
    found = fit(mean(), GAPS, method=CAVI(tolerance=1e-10), seed=0)
    check_monotone(found)
    sigma, precision, right = np.eye(3) + 0.5, np.eye(3) / 9, np.zeros(3)
    for row in GAPS:
        o = ~np.isnan(row)
        own = np.zeros((3, 3))
        own[np.ix_(o, o)] = np.linalg.inv(sigma[np.ix_(o, o)])
        precision, right = precision + own, right + own @ np.nan_to_num(row)
    middle = np.linalg.solve(precision, right)  # mean field has the right mean of a Normal
    np.testing.assert_allclose(found.approximation.distributions["mu"].mean, middle, atol=1e-4)
    values = {"mu": torch.as_tensor(middle)}
    evidence = float(found.program.log_joint(values).total()) - stats.multivariate_normal(
        middle, np.linalg.inv(precision)
    ).logpdf(middle)
    assert evidence - 2 < found.objective.value < evidence


@pytest.mark.slow
def test_impute_is_asked_rightly(mixture):
    refused(lambda: mixture.impute(draws=0), "draws")
    refused(lambda: mixture.impute(draws=2, mean=True), "mean")
    heavy = declared(Real, lambda x, mu: pyro.sample("x", dist.Cauchy(mu, 1.0), obs=x))
    found = fit(heavy, [0.0, np.nan, 1.0], method=MAP(), seed=0)
    assert found.impute().notna().all(axis=None)
    refused(lambda: found.impute(mean=True), "'x'", "no mean")
