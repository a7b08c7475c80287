"""Options of EM: classification, starts, restarts, gradient steps on matrices, mini-batches, single precision."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats
from sklearn.cluster import KMeans
from torch.distributions import constraints

import inference.starts.guess
import zoo
import zoo.bayesian_gmm
import zoo.gmm
from inference import CAVI, EM, SVI, Fit, fit
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.matrices import POSITIVE_DEFINITE
from tests.cases.conjugate import STORIES
from tests.cases.models import BernoulliMixture, LatentClass, PoissonMixture, RegressionMixture, StudentMixture
from tests.cases.spread import spread
from zoo import Count, Real
from zoo.initial import kmeans
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

RNG = np.random.default_rng(0)
MATRICES = ("log_cholesky", "cholesky", "additive", "matrix_log")
COVARIANCES = ("full", "tied", "diag", "spherical")


def never_falls(found):
    """Whether no step lowers the objective by more than rounding."""
    values = found.trace["value"].to_numpy()
    return bool((np.diff(values) >= -1e-9 * np.abs(values[1:])).all())


# -- classification ----------------------------------------------------------------------------------------------------

SETS = {
    "iris": lambda: zoo.datasets.load("iris").to_numpy(),
    "faithful": lambda: zoo.datasets.load("faithful").to_numpy(),
    "random": lambda: np.random.default_rng(1).normal(size=(500, 5)),
    "far": lambda: np.random.default_rng(2).normal(size=(300, 3)) + 1e6,
    "large": lambda: np.random.default_rng(3).random((20_000, 2)),
}


@pytest.mark.parametrize("clusters", [2, 3, 8])
@spread("name", SETS, part=0, of=2)
def test_k_means_is_that_of_scikit_learn(name, clusters):
    x = SETS[name]()
    centers = np.unique(x, axis=0)[np.random.default_rng(clusters).permutation(len(np.unique(x, axis=0)))[:clusters]]
    known = KMeans(clusters, init=centers, n_init=1, algorithm="lloyd", tol=0, max_iter=5000).fit(x)
    found = fit(zoo.KMeans(clusters), x, method=EM(hard=True, start={"centers": centers}, max_steps=5000), seed=0)
    assert found.converged
    assert "keep their states" in found.reason
    assert never_falls(found)
    reached = found.points["centers"].numpy()
    inertia = ((x[:, None] - reached) ** 2).sum(-1).min(1).sum()
    assert inertia == pytest.approx(known.inertia_, rel=1e-9)
    np.testing.assert_array_equal(found.assign().to_numpy().argmax(1), known.labels_)
    # log max_z p(x, z) = -n log k + sum of log Normal, at the variance that is the inertia over n d
    n, d = x.shape
    assert found.objective.kind == "log_posterior"
    assert float(found.points["variance"]) == pytest.approx(inertia / (n * d), rel=1e-9)
    best = -n * np.log(clusters) - 0.5 * n * d * (1 + np.log(2 * np.pi * inertia / (n * d)))
    assert found.objective.value == pytest.approx(best, rel=1e-9)


def test_ties_go_to_one_cluster():
    """Rows half way between two centers: whole rows move, as if one of the two were a little closer."""
    x = np.array([[-1.0], [0.0], [0.0], [0.0], [1.0], [5.0]])
    found = fit(zoo.KMeans(2), x, method=EM(hard=True, start={"centers": [[-1.0], [1.0]]}), seed=0)
    known = KMeans(2, init=[[-1.0], [1.0]], n_init=1, algorithm="lloyd", tol=0).fit(x)
    assert ((x - found.points["centers"].numpy().T) ** 2).min(1).sum() == pytest.approx(known.inertia_, rel=1e-12)
    alike = EM(hard=True, start={"centers": [[0.5], [0.5]]}, max_steps=1)
    centers = fit(zoo.KMeans(2), x, method=alike, seed=0).points["centers"]
    assert centers.flatten().tolist() == pytest.approx([x.mean(), 0.5])  # all rows to the first of two alike


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_classification_of_gaussians_is_a_fixed_point(covariance, faithful):
    found = fit(zoo.GMM(3, covariance=covariance), faithful, method=EM(hard=True), seed=0)
    assert never_falls(found)
    x, point = faithful.to_numpy(), {n: v.numpy() for n, v in found.points.items()}
    full = {
        "full": lambda c: c,
        "tied": lambda c: np.broadcast_to(c, (3, 2, 2)),
        "diag": lambda c: np.stack([np.diag(v) for v in c]),
        "spherical": lambda c: c[:, None, None] * np.eye(2),
    }[covariance](point["covariances"])
    parts = [
        np.log(w) + stats.multivariate_normal(m, c).logpdf(x)
        for w, m, c in zip(point["weights"], point["means"], full, strict=True)
    ]
    assert found.objective.value == pytest.approx(np.max(parts, axis=0).sum(), abs=1e-8)
    z = np.argmax(parts, axis=0)
    np.testing.assert_allclose(point["weights"], np.bincount(z, minlength=3) / len(x), rtol=1e-9)
    np.testing.assert_allclose(point["means"], [x[z == k].mean(0) for k in range(3)], rtol=1e-9)
    if covariance == "full":
        np.testing.assert_allclose(full, [np.cov(x[z == k].T, bias=True) for k in range(3)], rtol=1e-7)


def best_path(start, moves, emission):
    """Maximum over all paths of log start + sum of log moves + sum of log emissions (time, states)."""
    paths = np.array(list(itertools.product(range(len(start)), repeat=len(emission))))
    steps = np.log(start)[paths[:, 0]] + np.log(moves)[paths[:, :-1], paths[:, 1:]].sum(1)
    return float((steps + emission[np.arange(len(emission)), paths].sum(1)).max())


def best_of_two_states(p):
    x = np.asarray(STORIES["table_of_two_states"].data)
    emission = stats.poisson(p["rate"][:, None]).logpmf(x)  # (b, rows)
    with np.errstate(divide="ignore"):
        joint = np.log(p["first"])[:, None, None] + np.log(p["table"])[:, :, None] + emission
    return joint.max((0, 1)).sum()


def best_of_columns(p):
    x = np.asarray(STORIES["columns_of_two_states"].data)
    scale = p["tau"] ** -0.5
    rows = stats.norm(p["loc"][:, :, None], scale[:, None, None, None]).logpdf(x).sum(-1)  # (b, a, rows)
    return (rows + np.log([0.2, 0.8])[:, None] + np.log([0.4, 0.6])[:, None, None]).max((0, 1)).sum()


def best_of_chains(p):
    with np.errstate(divide="ignore"):
        return sum(
            best_path(p["start"], p["moves"], stats.norm(p["means"], 1.0).logpdf(np.asarray(row)[:, None]))
            for row in STORIES["chain_in_each_row"].data
        )


BRUTE = {
    "table_of_two_states": best_of_two_states,
    "columns_of_two_states": best_of_columns,
    "chain_in_each_row": best_of_chains,
}


@pytest.mark.parametrize("steps", [0, 1, 50])
@pytest.mark.parametrize("name", BRUTE)
def test_several_states_are_maximized_together(name, steps):
    story = STORIES[name]
    method = EM(hard=True, max_steps=max(1, steps))
    found = fit(story.model(prior=False), story.data, method=method, seed=1)
    assert never_falls(found)
    values = {n: v.numpy() for n, v in found.points.items()}
    if steps == 0:  # somewhere else: the objective at made-up values
        reseed(3)
        soft = {n: torch.rand(v.shape, dtype=torch.float64) + 0.2 for n, v in found.points.items()}
        simplex = {"first", "table", "start", "moves"}
        soft = {n: v / v.sum(-1, keepdim=True) if n in simplex else v for n, v in soft.items()}
        value, _ = Coordinates(found.program, hard=True).expect(State(soft, {}))
        assert float(value) == pytest.approx(BRUTE[name]({n: v.numpy() for n, v in soft.items()}), abs=1e-9)
        return
    assert found.objective.value == pytest.approx(BRUTE[name](values), abs=1e-8)


def test_a_hidden_chain_is_classified_by_its_best_path():
    x = [1, 0, 2, 7, 9, 6, 1, 8]
    found = fit(zoo.HiddenMarkov(emission="poisson"), x, method=EM(hard=True), seed=0)
    assert never_falls(found)
    point = {n: v.numpy() for n, v in found.points.items()}
    emission = stats.poisson(point["rates"][:, 0]).logpmf(np.asarray(x)[:, None])
    with np.errstate(divide="ignore"):
        assert found.objective.value == pytest.approx(
            best_path(point["initial"], point["transition"], emission), abs=1e-8
        )


@pytest.mark.parametrize("model", [zoo.KMeans(3), zoo.GMM(2), zoo.GMM(2, covariance="diag")], ids=repr)
def test_classification_counts_rows_by_their_weight(model, faithful):
    start = (
        {"centers": faithful.to_numpy()[:3]} if isinstance(model, zoo.KMeans) else {"means": [[2.0, 55.0], [4.0, 80.0]]}
    )
    method = EM(hard=True, start=start)
    doubled = fit(model, faithful, method=method, seed=0, weights=np.full(len(faithful), 2.0))
    repeated = fit(model, pd.concat([faithful, faithful], ignore_index=True), method=method, seed=0)
    if isinstance(model, zoo.KMeans):
        assert doubled.objective.value == pytest.approx(repeated.objective.value, rel=1e-9)
    keep = np.arange(len(faithful)) % 3 > 0
    dropped = fit(model, faithful, method=method, seed=0, weights=keep.astype(float))
    assert dropped.objective.value == fit(model, faithful[keep], method=method, seed=0).objective.value


# -- starts ------------------------------------------------------------------------------------------------------------

KNOWN = {
    "weights": [0.35587286, 0.64412714],
    "means": [[2.03638846, 54.47851644], [4.28966198, 79.96811524]],
    "covariances": [
        [[0.06916768, 0.43516768], [0.43516768, 33.69728242]],
        [[0.16996843, 0.94060923], [0.94060923, 36.04621032]],
    ],
}


@pytest.mark.parametrize("kind", [lambda v: v, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_a_start_at_the_maximum_stays_there(kind, faithful, tmp_path):
    method = EM(start={n: kind(v) for n, v in KNOWN.items()})
    found = fit(zoo.GMM(2), faithful, method=method, seed=0)
    assert found.trace["value"].iloc[0] == pytest.approx(-1130.26396, abs=1e-5)
    assert found.steps <= 4
    torch.testing.assert_close(
        found.points["means"], torch.tensor(KNOWN["means"], dtype=torch.float64), rtol=1e-5, atol=0
    )
    found.save(tmp_path)
    assert Fit.load(tmp_path).method == method


@pytest.mark.slow
def test_a_start_may_be_partial_and_order_the_components(faithful):
    means = np.array([[4.3, 80.0], [2.0, 54.5]])
    found = fit(zoo.GMM(2), faithful, method=EM(start={"means": means}), seed=0)
    assert found.objective.value == pytest.approx(-1130.26396, abs=1e-4)
    assert found.points["means"][0, 0] > found.points["means"][1, 0]
    again = fit(PoissonMixture(), [3, 1, 4, 1, 19, 17, 23], method=EM(start={"rate": [20.0, 3.0]}), seed=0)
    assert again.points["rate"][0] > again.points["rate"][1]
    mode = fit(zoo.BayesianGMM(2), faithful, method=EM(start={"means": means}), seed=0)
    values = mode.posterior["point_estimate"]["means"].to_numpy()
    assert values[0, 0] > values[1, 0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("model", [zoo.GMM(2), zoo.GMM(2, covariance="tied")], ids=repr)
def test_a_random_start_ends_at_the_maximum_too(model, seed, faithful):
    first = fit(model, faithful, method=EM(start="random"), seed=seed)
    assert first.objective.value == pytest.approx(fit(model, faithful, method=EM(), seed=0).objective.value, abs=1e-4)
    assert first.trace["value"].iloc[0] < first.objective.value - 50  # from far away


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ({"mean": [[0.0]]}, "'mean' is no parameter or latent; there are weights, means, covariances"),
        ({"z": [0]}, "'z' is no parameter or latent"),
        ({"weights": [0.2, 0.3, 0.5]}, r"'weights' must have shape \(2,\), not \(3,\)"),
        ({"weights": [0.2, 0.3]}, "'weights' is outside its support, Simplex"),
        ({"means": "here"}, "'means' must be numbers, not 'here'"),
        ({"means": [[1, 2], [3]]}, "'means' must be numbers"),
        ({"means": [[np.nan, 1], [2, 3]]}, "'means' is outside its support"),
        ({"covariances": [[[1, 2], [2, 1]]] * 2}, "'covariances' is outside its support, PositiveDefinite"),
    ],
)
def test_a_start_that_is_none_says_why(start, message, faithful):
    for restarts in (1, 3):
        with pytest.raises(zoo.MethodError, match=message):
            fit(zoo.GMM(2), faithful, method=EM(start=start, restarts=restarts))


@pytest.mark.slow
def test_states_that_are_declared_alike_do_not_stay_alike():
    """States outside the rows' plate cannot be clustered; equal rates would be a stationary point for ever."""

    @zoo.model(x=Real("time"))
    def chain(x):
        start = pyro.param("start", torch.full((2,), 0.5), constraint=constraints.simplex)
        moves = pyro.param("moves", torch.full((2, 2), 0.5), constraint=constraints.simplex)
        mu = pyro.param("mu", torch.zeros(2))
        z = None
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z_{t}", dist.Categorical(start if t == 0 else moves[z]))
            pyro.sample(f"x_{t}", dist.Normal(mu[z], 0.5), obs=x[t])

    x = np.r_[RNG.normal(-1, 0.5, 8), RNG.normal(2, 0.5, 7)]
    found = fit(chain, x, method="em", seed=0)
    assert sorted(found.points["mu"].tolist()) == pytest.approx([x[:8].mean(), x[8:].mean()], abs=0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "method", "runs"),
    [
        (zoo.GMM(2), EM(), 1),
        (zoo.GMM(2), EM(restarts=5), 5),
        (zoo.GMM(2), EM(batch_size=100, max_steps=2), 1),
        (zoo.BayesianGMM(2), CAVI(restarts=3), 3),
        (zoo.BayesianGMM(2), EM(gradient=True, max_steps=2), 1),
        (zoo.BayesianGMM(2), SVI(steps=2, compile=False), 1),
        (StudentMixture(), EM(max_steps=2), 1),
    ],
    ids=repr,
)
def test_rows_are_clustered_once_for_each_start(model, method, runs, faithful, monkeypatch):
    calls = []

    def counted(*args, **settings):
        calls.append(args)
        return kmeans(*args, **settings)

    for module in (zoo.gmm, zoo.bayesian_gmm, inference.starts.guess):
        monkeypatch.setattr(module, "kmeans", counted)
    fit(model, faithful["waiting"] if isinstance(model, StudentMixture) else faithful, method=method, seed=0)
    assert len(calls) == runs


# -- restarts ----------------------------------------------------------------------------------------------------------

TOGETHER = {
    **{f"gmm-{c}": (zoo.GMM(4, covariance=c), "faithful") for c in COVARIANCES},
    "bayesian": (zoo.BayesianGMM(3), "faithful"),
    "kmeans": (zoo.KMeans(5), "faithful"),
    "poisson": (PoissonMixture(components=3), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 19, 17, 23, 18, 14]),
    "bernoulli": (BernoulliMixture(components=3), RNG.integers(0, 2, (50, 6))),
    "classes": (LatentClass(components=3), RNG.integers(0, 2, (50, 6))),
    "lines": (RegressionMixture(), {"x": RNG.normal(size=60), "y": RNG.normal(size=60)}),
}


@pytest.mark.parametrize("hard", [False, pytest.param(True, marks=pytest.mark.slow)])
@spread("name", TOGETHER, part=0, of=4)
def test_starts_together_are_starts_one_by_one(name, hard):
    model, data = TOGETHER[name]
    data = zoo.datasets.load(data) if isinstance(data, str) else data
    method, ends = EM(restarts=5, max_steps=25, hard=hard, acceleration=None), []
    for together in (True, False):
        with torch.random.fork_rng():
            reseed(5)
            starts = method.starts(prepare(model, data, device="cpu"))
            assert starts.together is not None
            starts = starts if together else replace(starts, together=None)
            ascents, failures = starts.climb_all(progress=False)
            assert not failures
            ends.append(ascents)
    assert len(ends[0]) == len(ends[1]) == 5
    for one, other in zip(*ends, strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9)
        # Steps may differ by one where rounding decides whether the limit is close enough.
        n = min(len(one.monitor.rows), len(other.monitor.rows))
        mine, theirs = (np.array([v for *_, v in end.monitor.rows[:n]]) for end in (one, other))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)
        assert abs(one.steps - other.steps) <= 1
    assert len({round(end.value, 6) for end in ends[0]}) > 1 or name in ("bayesian", "lines", "gmm-tied", "poisson")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gmm-full", "classes", "poisson"])
def test_more_starts_are_never_worse(name):
    model, data = TOGETHER[name]
    data = zoo.datasets.load(data) if isinstance(data, str) else data
    # Plain steps: extrapolated ones end within the tolerance of a limit, in one place or another of it.
    methods = [EM(restarts=n, max_steps=60, acceleration=None) for n in (1, 2, 4, 8)]
    ends = [fit(model, data, method=method, seed=2).objective.value for method in methods]
    assert (np.diff(ends) >= -1e-9).all()


class Moody(zoo.Model):
    """A mixture whose proposals are at times impossible."""

    x = Count("row")
    share: float = 0.5

    def initial(self, x):
        bad = torch.rand(()) < self.share
        rate = torch.tensor([1e200, 1e200]) if bad else torch.tensor([1.0, 2.0]) * (0.5 + torch.rand(()))
        return {"rate": rate, "weights": torch.tensor([0.5, 0.5])}

    def forward(self, x):
        weights = pyro.param("weights", torch.full((2,), 0.5), constraint=constraints.simplex)
        rate = pyro.param("rate", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Poisson(rate[z] ** 2), obs=x)


@pytest.mark.slow
def test_starts_that_break_down_are_counted_and_the_others_go_on():
    found = fit(Moody(), [1, 0, 3, 2, 7, 1], method=EM(restarts=8, max_steps=20), seed=1)
    assert np.isfinite(found.objective.value)
    (said,) = [w for w in found.warnings if "broke down" in w]
    assert 0 < int(said.split()[0]) < 8
    assert "of 8 starts broke down: site 'x': log density is NaN at the starting values" in said
    with pytest.raises(zoo.FitError, match="broke down from every start"):
        fit(Moody(share=1.0), [1, 0, 3], method=EM(restarts=3), seed=0)
    with pytest.raises(zoo.ModelError, match="at the starting values"):
        fit(Moody(share=1.0), [1, 0, 3], method=EM(), seed=0)


def test_a_start_that_turns_into_no_number_leaves_the_others(faithful):
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(zoo.GMM(2, covariance="diag"), faithful, device="cpu")
        states = [State(program.initial(), {}) for _ in range(3)]
    states[1].values["means"] = torch.full((2, 2), torch.nan, dtype=torch.float64)
    starts = replace(EM(restarts=3, max_steps=50).starts(program), start=states.__getitem__)
    ascents, failures = starts.climb_all(progress=False)
    assert len(ascents) == 2
    assert all(a.state is not None and a.reason for a in ascents)
    assert failures == ["the objective is not a number after 0 steps"]


# -- matrices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MATRICES)
def test_any_numbers_make_a_positive_semidefinite_matrix_and_any_matrix_comes_back(name):
    to = POSITIVE_DEFINITE[name]()
    reseed(0)
    root = torch.randn(5, 4, 4, dtype=torch.float64)
    matrix = root @ root.mT + 0.01 * torch.eye(4, dtype=torch.float64)
    numbers = to.inv(matrix)
    torch.testing.assert_close(to(numbers), matrix, rtol=1e-9, atol=1e-9)
    assert tuple(to.inverse_shape(matrix.shape)) == tuple(numbers.shape)
    made = to(3 * torch.randn_like(numbers))
    torch.testing.assert_close(made, made.mT, rtol=1e-9, atol=1e-9)
    assert (torch.linalg.eigvalsh(made) >= -1e-9 * made.abs().amax((-1, -2))[:, None]).all()


def stretched(n=300):
    """Two clusters, each a hundred times as long as wide."""
    rng = np.random.default_rng(3)
    long = rng.normal(size=(n, 1)) * [3.0, 3.0] + rng.normal(size=(n, 2)) * 0.03
    return long + np.where(np.arange(n) % 3 == 0, 0.0, 1.0)[:, None] * [8.0, -8.0]


def plain_gradient(x, rate, steps=200):
    """Smallest eigenvalue along gradient ascent of a Gaussian's mean log likelihood in the covariance's entries."""
    gaps = x - x.mean(0)
    scatter, covariance = gaps.T @ gaps / len(x), np.diag(x.var(0))
    for _ in range(steps):
        inverse = np.linalg.inv(covariance)
        covariance = covariance + rate * 0.5 * (inverse @ scatter @ inverse - inverse)
        low = np.linalg.eigvalsh(covariance)[0]
        if low <= 0:
            return low
    return low


@pytest.mark.slow
@pytest.mark.parametrize("name", MATRICES)
def test_gradient_steps_stay_positive_definite_where_entries_leave_the_cone(name):
    x = stretched()
    own = x[np.arange(len(x)) % 3 == 0]
    assert plain_gradient(own, rate=1.0) < 0
    assert plain_gradient(own, rate=0.01, steps=20_000) < 0
    best = fit(zoo.GMM(2), x, method=EM(tolerance=1e-9), seed=0)
    found = fit(zoo.GMM(2), x, method=EM(gradient=True, matrices=name, max_steps=400), seed=0)
    eigenvalues = torch.linalg.eigvalsh(found.points["covariances"])
    assert (eigenvalues > 0).all()
    assert never_falls(found)
    assert best.objective.value - 5e-2 < found.objective.value < best.objective.value + 1e-3
    torch.testing.assert_close(
        eigenvalues.sort(0).values, torch.linalg.eigvalsh(best.points["covariances"]).sort(0).values, rtol=0.02, atol=0
    )


@pytest.mark.slow
@spread(
    ("name", "covariance"),
    [(name, c) for i, name in enumerate(MATRICES) for c in (("full", "tied"), ("tied", "full"))[i % 2]],
    part=0,
    of=2,
)
def test_every_map_ends_at_the_maximum_of_the_closed_form(name, covariance, faithful):
    model = zoo.GMM(2, covariance=covariance)
    best = fit(model, faithful, method=EM(tolerance=1e-9), seed=0)
    found = fit(model, faithful, method=EM(gradient=True, matrices=name), seed=0)
    assert found.objective.value == pytest.approx(best.objective.value, abs=1e-3)
    assert never_falls(found)
    assert found.converged


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (zoo.BayesianGMM(2, covariance="diag"), "faithful"),
        (PoissonMixture(), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 19, 17, 23, 18, 14]),
        (BernoulliMixture(), RNG.integers(0, 2, (40, 4))),
    ],
    ids=["gaussian", "poisson", "bernoulli"],
)
def test_by_gradient_it_ends_where_closed_forms_end(model, data):
    data = zoo.datasets.load(data) if isinstance(data, str) else data
    ends = [fit(model, data, method=EM(gradient=g, tolerance=1e-9), seed=0).objective.value for g in (False, True)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-4)


def zero_inflated(opened):
    """Counts of rate `opened(rate, z)`, which is 0 in one state."""

    @zoo.model(y=Count("row"))
    def story(y):
        gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(gate))
            pyro.sample("y", dist.Poisson(opened(rate, z)), obs=y)

    return story()


@pytest.mark.slow
def test_a_rate_of_zero_is_climbed_to_the_maximum():
    counts = np.r_[np.zeros(60, int), np.random.default_rng(0).poisson(4, 40)]

    def cost(u):
        gate, rate = 1 / (1 + np.exp(-u[0])), np.exp(u[1])
        shares = gate * (counts == 0) + (1 - gate) * stats.poisson(rate).pmf(counts)
        return -np.log(shares).sum() - stats.gamma(2, scale=2).logpdf(rate)

    found = fit(zero_inflated(lambda rate, z: rate * (1 - z)), counts, method=EM(), seed=0)
    assert found.converged
    assert found.objective.value == pytest.approx(-optimize.minimize(cost, [0.0, 1.0]).fun, abs=1e-5)


@pytest.mark.slow
def test_a_gradient_that_is_no_number_is_not_taken_for_convergence():
    """inf * 0, of the root in the branch where it is 0: an unknown that cannot move stands still, at no maximum."""
    counts = np.r_[np.zeros(60, int), RNG.poisson(4, 40)]
    found = fit(zero_inflated(lambda rate, z: (rate * (1 - z)).sqrt()), counts, method=EM(), seed=0)
    assert not found.converged
    assert "rate cannot move" in found.reason
    assert found.reason in found.warnings


def test_gradient_options_say_what_they_are_not():
    with pytest.raises(zoo.ModelError, match="matrices='inverse'"):
        EM(matrices="inverse")
    with pytest.raises(zoo.MethodError, match="climbed by gradient"):
        fit(zoo.GMM(2), "faithful", method=EM(gradient=True, batch_size=50))
    with pytest.raises(zoo.MethodError, match="'rate' is climbed by gradient"):
        fit(zero_inflated(lambda rate, z: rate * (1 - z)), [0, 0, 3, 5], method=EM(batch_size=2))
    with pytest.raises(zoo.MethodError, match="do not depend on unknowns, and those of 'x' ~ StudentT do"):
        fit(StudentMixture(), [0.0, 1.0, 5.0, 6.0], method=EM(batch_size=2))


# -- mini-batches ------------------------------------------------------------------------------------------------------


def clusters(n=4000, seed=4):
    rng = np.random.default_rng(seed)
    parts = (
        rng.normal(0, 1, (n // 2, 3)),
        rng.normal([4, 0, 0], 0.5, (n // 4, 3)),
        rng.normal([0, 5, 2], 1, (n // 4, 3)),
    )
    return np.concatenate(parts)[rng.permutation(n // 2 + 2 * (n // 4))]


@pytest.mark.slow
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_mini_batches_end_next_to_the_maximum(covariance):
    x = clusters()
    best = fit(zoo.GMM(3, covariance=covariance), x, method=EM(restarts=3), seed=0)
    found = fit(zoo.GMM(3, covariance=covariance), x, method=EM(batch_size=250), seed=0)
    assert found.converged
    assert found.trace["value"].iloc[-1] == found.objective.value == found.trace["value"].max()
    assert -0.5 < found.objective.value - best.objective.value < 1e-3


@pytest.mark.slow
def test_mini_batches_of_weighted_rows():
    x = clusters(2000)
    weights = np.random.default_rng(0).integers(0, 3, len(x))
    best = fit(zoo.GMM(3), np.repeat(x, weights, axis=0), method=EM(restarts=3), seed=0)
    found = fit(zoo.GMM(3), x, method=EM(batch_size=200), seed=0, weights=weights)
    assert -0.5 < found.objective.value - best.objective.value < 1e-3
    mode = fit(zoo.BayesianGMM(3), np.repeat(x, weights, axis=0), method=EM(restarts=3), seed=0)
    stepwise = fit(zoo.BayesianGMM(3), x, method=EM(batch_size=200), seed=0, weights=weights)
    assert -0.5 < stepwise.objective.value - mode.objective.value < 1e-3


@pytest.mark.slow
def test_mini_batches_of_counts_and_of_classified_rows():
    counts = np.random.default_rng(1).poisson(np.repeat([2.0, 15.0], 1500))
    best = fit(PoissonMixture(), counts, method="em", seed=0)
    found = fit(PoissonMixture(), counts, method=EM(batch_size=100), seed=0)
    assert -0.05 < found.objective.value - best.objective.value < 1e-3
    x = clusters(2000)
    hard = fit(zoo.KMeans(3), x, method=EM(hard=True, restarts=3), seed=0)
    some = fit(zoo.KMeans(3), x, method=EM(hard=True, batch_size=200), seed=0)
    assert -5 < some.objective.value - hard.objective.value < 1e-3


@pytest.mark.parametrize("size", [1000, 10_000])
def test_batches_of_all_rows_are_plain_steps_at_first(size):
    x = clusters(1000)
    plain = fit(zoo.GMM(3), x, method=EM(max_steps=2), seed=0)
    found = fit(zoo.GMM(3), x, method=EM(batch_size=size, max_steps=1), seed=0)
    assert found.trace["value"].iloc[0] == pytest.approx(plain.trace["value"].iloc[1], rel=1e-12)
    assert not found.converged


# -- empty components, and single precision ----------------------------------------------------------------------------


def test_a_cluster_without_rows_is_named():
    x = np.random.default_rng(0).normal(size=(60, 2))
    start = {"centers": [[-1.0, 0.0], [1.0, 0.0], [1e4, 1e4]]}
    for hard in (True, False):
        found = fit(zoo.KMeans(3), x, method=EM(hard=hard, start=start), seed=0)
        assert any(w.startswith("component 2 of 'z' holds 0.00 rows in effect") for w in found.warnings)
        assert found.points["centers"].isfinite().all()
        assert np.isfinite(found.objective.value)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_component_started_out_of_reach_is_named(covariance, faithful):
    start = {"means": [[2.0, 54.0], [4.3, 80.0], [1e4, -1e4]]}
    found = fit(zoo.GMM(3, covariance=covariance), faithful, method=EM(start=start), seed=0)
    assert np.isfinite(found.trace["value"]).all()
    assert all(v.isfinite().all() for v in found.points.values())
    sizes = found.assign().sum(axis=0)
    for k in np.flatnonzero(sizes < 2):
        assert any(w.startswith(f"component {k} of 'z' holds {sizes[k]:.2f} rows in effect") for w in found.warnings)


@pytest.mark.parametrize("rows", [2, 3, 5])
def test_tiny_clusters_collapse_with_a_warning_and_no_nan(rows):
    x = np.r_[
        np.random.default_rng(0).normal(size=(50, 3)), 30 + 1e-9 * np.random.default_rng(1).normal(size=(rows, 3))
    ]
    found = fit(zoo.GMM(2), x, method=EM(restarts=2), seed=0)
    assert np.isfinite(found.objective.value)
    assert never_falls(found)
    assert any("collapsed" in w or "rows in effect" in w for w in found.warnings)


@pytest.mark.slow
@pytest.mark.parametrize(
    "method", [EM(), EM(hard=True), EM(restarts=3), EM(batch_size=10)], ids=["plain", "hard", "restarts", "batches"]
)
def test_constant_columns_are_kept(method):
    x = np.c_[np.random.default_rng(0).normal(size=40), np.full(40, 3.0)]
    found = fit(zoo.GMM(2), x, method=method, seed=0)
    assert any(w.startswith("column 1 is constant") for w in found.warnings)
    np.testing.assert_allclose(found.points["means"][:, 1], 3.0)
    np.testing.assert_allclose(found.points["covariances"][:, 1, 1], 1e-6 * x[:, 0].var())


@pytest.mark.parametrize(
    "method",
    [EM(), EM(restarts=3), EM(hard=True), pytest.param(EM(batch_size=100), marks=pytest.mark.slow)],
    ids=["plain", "restarts", "hard", "batches"],
)
@spread("covariance", COVARIANCES, part=0, of=2)
def test_single_precision_far_from_zero(covariance, method):
    rng = np.random.default_rng(1)
    rows = np.r_[rng.normal([0, 0], [1, 0.5], (600, 2)), rng.normal([3, 2], [0.7, 1], (400, 2))]
    far, near = 1e6 + 1e3 * rows, rows / rows.std()
    model = zoo.GMM(2, covariance=covariance)
    single = fit(model, far, method=method, seed=0, dtype=torch.float32)
    double = fit(model, near, method=method, seed=0)
    assert single.points["means"].dtype == torch.float32
    assert np.isfinite(single.trace["value"]).all()
    by, others = (f.points["means"][:, 0].argsort().numpy() for f in (single, double))
    np.testing.assert_allclose(single.assign().to_numpy()[:, by], double.assign().to_numpy()[:, others], atol=1e-2)
    expected = 1e6 + 1e3 * double.points["means"].numpy()[others] * rows.std()
    # Rounding of the objective, 1e-7 of 16,000 nats, hides shifts of a mean by 6 % of its standard error of 50.
    np.testing.assert_allclose(single.points["means"].numpy()[by], expected, atol=3.0)


@zoo.model(x=Real("row"))
def all_alike(x):
    """Components that differ in nothing that is observed."""
    with pyro.plate("row", len(x)):
        pyro.sample("z", dist.Categorical(torch.tensor([0.1, 0.4, 0.5])))
        pyro.sample("x", dist.Normal(0.0, 0.5), obs=x)


def test_components_that_are_all_alike():
    x = np.array([0.25, np.nan, 0.3])
    found = fit(all_alike(), x, method="em", seed=0)
    assert found.objective.value == pytest.approx(stats.norm(0, 0.5).logpdf(x[[0, 2]]).sum())
    np.testing.assert_allclose(found.assign().to_numpy(), [[0.1, 0.4, 0.5]] * 3, rtol=1e-6)


@zoo.model(x=Real("row"))
def at_a_corner(x):
    """A prior of which nothing is seen, and whose density has its maximum, infinity, at a corner."""
    pyro.sample("side", dist.Bernoulli(0.1))
    pyro.sample("shares", dist.Dirichlet(torch.tensor([0.5, 0.25, 0.25])))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(0.0, 0.5), obs=x)


@pytest.mark.parametrize(("restarts", "why"), [(1, "has a pole at its edge"), (2, "'shares', .* at a pole")])
def test_a_prior_without_a_mode_is_refused(restarts, why):
    with pytest.raises(zoo.FitError, match=why):
        fit(at_a_corner(), np.array([0.1, 0.2]), method=EM(restarts=restarts), seed=0)
