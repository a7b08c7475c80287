"""The most probable configuration of discrete latents and their posteriors one by one, against brute force."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor

import zoo
from inference import EM, NUTS, fit
from zoo.errors import FitError, UnknownNameError

X = np.array([0.3, 2.1, 2.6, -0.4, 1.1, 3.9])
INITIAL, MOVES, MEANS = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]]), np.array([0.0, 2.5])


def tensor(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@zoo.model(x=zoo.Real("time"), start=zoo.Binary("time"))
def chain(x: Tensor, start: Tensor) -> None:
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", zoo.MarkovChain(tensor(INITIAL), tensor(MOVES), start))
        pyro.sample("x", dist.Normal(tensor(MEANS)[z], 1.0), obs=x)


@zoo.model(x=zoo.Real("time"))
def loop(x: Tensor) -> None:
    z = None
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z{t}", dist.Categorical(tensor(INITIAL) if z is None else tensor(MOVES)[z]))
        pyro.sample(f"x{t}", dist.Normal(tensor(MEANS)[z], 1.0), obs=x[t])


def paths(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every path, (paths, rows), and log p(x, path) of each."""
    every = np.array(list(itertools.product((0, 1), repeat=len(x))))
    log_p = np.log(INITIAL)[every[:, 0]] + norm.logpdf(x, MEANS[every], 1.0).sum(1)
    return every, log_p + np.log(MOVES)[every[:, :-1], every[:, 1:]].sum(1)


@pytest.mark.parametrize("cut", [None, 4])
def test_paths_of_chains(cut: int | None) -> None:
    """Path, its density, evidence and smoothed states equal those of all paths; sequences stand below each other."""
    start = np.zeros(len(X))
    parts = [X] if cut is None else [X[:cut], X[cut:]]
    if cut is not None:
        start[cut] = 1
    data = pd.DataFrame({"x": X, "start": start}, index=list("abcdef"))
    found = fit(chain(), data, method="exact", seed=0)
    best = found.most_probable()
    each = [paths(part) for part in parts]
    assert best["z"].tolist() == [int(k) for every, log_p in each for k in every[log_p.argmax()]]
    assert list(best.index) == list("abcdef")
    assert best.attrs["log_joint"] == pytest.approx(sum(log_p.max() for _, log_p in each), abs=1e-10)
    assert found.objective.value == pytest.approx(sum(np.logaddexp.reduce(log_p) for _, log_p in each), abs=1e-10)
    smoothed = np.concatenate([np.exp(log_p - np.logaddexp.reduce(log_p)) @ every for every, log_p in each])
    np.testing.assert_allclose(found.assign()[1], smoothed, atol=1e-10)
    drawn = found.posterior["posterior"]["z"].to_numpy()[0]
    np.testing.assert_allclose(drawn.mean(0), smoothed, atol=5 * np.sqrt(0.25 / len(drawn)))


def test_paths_of_loops() -> None:
    """A chain written as a loop with pyro.markov, each state a site of its own, has the same path and posteriors."""
    found = fit(loop(), X, method="exact", seed=0)
    every, log_p = paths(X)
    assert found.objective.value == pytest.approx(np.logaddexp.reduce(log_p), abs=1e-10)
    assert found.most_probable().iloc[0].tolist() == every[log_p.argmax()].tolist()
    smoothed = np.exp(log_p - np.logaddexp.reduce(log_p)) @ every
    np.testing.assert_allclose(found.assign().xs(1, axis=1, level="state").to_numpy()[0], smoothed, atol=1e-10)


def test_a_long_path_of_new_rows() -> None:
    """The path of a fitted hidden Markov model on rows never seen equals Viterbi's recursion in NumPy."""
    rng = np.random.default_rng(0)
    state = (rng.random(300) < 0.1).cumsum() % 2
    x = rng.normal(3.0 * state, 1.0)[:, None]
    found = fit(zoo.HiddenMarkov(), x[:200], method=EM(max_steps=20), seed=0)
    at = {n: v.numpy() for n, v in found.points.items()}
    log_e = norm.logpdf(x, at["means"][:, 0], np.sqrt(at["covariances"][:, 0, 0]))
    score, back = np.log(at["initial"]) + log_e[0], []
    for row in log_e[1:]:
        options = score[:, None] + np.log(at["transition"])
        back.append(options.argmax(0))
        score = options.max(0) + row
    path = [int(score.argmax())]
    for before in reversed(back):
        path.append(int(before[path[-1]]))
    best = found.most_probable(x)
    assert best["z"].tolist() == path[::-1]
    assert best.attrs["log_joint"] == pytest.approx(score.max(), abs=1e-8)


RATES, SHIFTS = np.array([0.0, 2.0, 5.0]), np.array([0.0, 1.0])
FIRST, SECOND = np.array([0.5, 0.3, 0.2]), np.array([0.25, 0.75])


@zoo.model(x=zoo.Real("row"))
def two(x: Tensor) -> None:
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(tensor(FIRST)))
        b = pyro.sample("b", dist.Bernoulli(0.75))
        pyro.sample("x", dist.Normal(tensor(RATES)[a] + b, 1.0), obs=x)


def test_two_latents_of_each_row() -> None:
    """Both by name, with labels of rows; jointly most probable states are not always those one by one."""
    joint = (
        np.log(FIRST)[:, None] + np.log(SECOND) + norm.logpdf(X[:, None, None], RATES[:, None] + SHIFTS, 1.0)
    )  # (rows, a, b)
    data = pd.Series(X, index=list("uvwxyz"), name="x")
    found = fit(two(), data, method="exact", seed=0)
    p = np.exp(joint - np.logaddexp.reduce(joint, (1, 2), keepdims=True))
    table = found.assign()
    assert list(table.index) == list("uvwxyz")
    assert table.columns.names == ["site", "state"]
    np.testing.assert_allclose(table["a"], p.sum(2), atol=1e-12)
    np.testing.assert_allclose(table["b"], p.sum(1), atol=1e-12)
    pd.testing.assert_frame_equal(found.assign(site="b"), table["b"], check_names=False)
    np.testing.assert_allclose(found.assign([9.0, 0.1])["a"].iloc[0, 2], 1.0, atol=0.01)
    at = [np.unravel_index(one.argmax(), one.shape) for one in joint]
    assert found.most_probable().to_numpy().tolist() == [list(map(int, pair)) for pair in at]
    with pytest.raises(UnknownNameError, match="'c'"):
        found.assign(site="c")


@pytest.mark.slow
def test_a_latent_in_two_plates() -> None:
    """A state for each cell of a table has labels of rows and columns; here beside one for each row."""
    x = np.array([[0.1, 2.2, 4.0], [1.0, 3.1, 2.0]])

    @zoo.model(x=zoo.Real("row", "item"))
    def cells(x: Tensor) -> None:
        items = pyro.plate("item", x.shape[1], dim=-1)
        rows = pyro.plate("row", len(x), dim=-2)
        with rows:
            a = pyro.sample("a", dist.Bernoulli(0.4))
            with items:
                w = pyro.sample("w", dist.Categorical(tensor([[0.7, 0.3], [0.2, 0.8]])[a.long()]))
                pyro.sample("x", dist.Normal(tensor(MEANS)[w], 1.0), obs=x)

    frame = pd.DataFrame(x, index=["p", "q"], columns=["i", "j", "k"])
    found = fit(cells(), frame, method="exact", seed=0)
    prior = np.log([[0.7, 0.3], [0.2, 0.8]])
    log_cell = prior[:, None, None] + norm.logpdf(x[..., None], MEANS, 1.0)  # (a, row, item, w)
    log_row = np.log([0.6, 0.4])[:, None] + np.logaddexp.reduce(log_cell, -1).sum(-1)
    share = np.exp(log_row - np.logaddexp.reduce(log_row, 0))
    p = (share[..., None, None] * np.exp(log_cell - np.logaddexp.reduce(log_cell, -1, keepdims=True))).sum(0)
    assert found.objective.value == pytest.approx(np.logaddexp.reduce(log_row, 0).sum(), abs=1e-10)
    np.testing.assert_allclose(found.assign(), share.T, atol=1e-12)
    table = found.assign(site="w")
    np.testing.assert_allclose(table.loc[("q", "k")], p[1, 2], atol=1e-12)
    np.testing.assert_allclose(table.to_numpy().reshape(2, 3, 2), p, atol=1e-12)
    best = np.log([0.6, 0.4])[:, None] + log_cell.max(-1).sum(-1)  # (a, row)
    assert found.most_probable()["a"].tolist() == best.argmax(0).tolist()
    chosen = log_cell[best.argmax(0), [0, 1]].argmax(-1)
    assert found.most_probable(site="w")["w"].tolist() == chosen.ravel().tolist()
    assert found.most_probable().attrs["log_joint"] == pytest.approx(best.max(0).sum(), abs=1e-10)


@pytest.mark.slow
def test_with_posterior_draws() -> None:
    """With draws of the means: the draw and states at which the joint density is highest, looked at one by one."""

    @zoo.model(x=zoo.Real("row"))
    def mixture(x: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(2.0, 3.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(mu * z, 1.0), obs=x)

    found = fit(mixture(), X, method=NUTS(chains=1, warmup=100, draws=50), seed=0)
    mu = found.posterior["posterior"]["mu"].to_numpy().ravel()
    joint = np.log(0.5) + norm.logpdf(X[None, :, None], mu[:, None, None] * [0.0, 1.0], 1.0)
    height = joint.max(-1).sum(-1) + norm.logpdf(mu, 2.0, 3.0)
    best = found.most_probable()
    assert best["z"].tolist() == joint[height.argmax()].argmax(-1).tolist()
    assert best.attrs["log_joint"] == pytest.approx(height.max(), abs=1e-8)


def test_models_without_discrete_latents_are_refused() -> None:
    with pytest.raises(FitError, match="no discrete latent"):
        fit(zoo.BetaBernoulli(), [0, 1, 1], method="exact", seed=0).most_probable()


@pytest.mark.slow
def test_more_sites_than_a_tensor_has_dimensions() -> None:
    """Seventy states, each a site, in a loop with pyro.markov: evidence and path by recursions in NumPy."""
    x = np.random.default_rng(1).normal(2.5 * (np.arange(70) // 10 % 2), 1.0)
    log_e = norm.logpdf(x[:, None], MEANS, 1.0)
    filtered = score = np.log(INITIAL) + log_e[0]
    for row in log_e[1:]:
        filtered = np.logaddexp.reduce(filtered[:, None] + np.log(MOVES), 0) + row
        score = (score[:, None] + np.log(MOVES)).max(0) + row
    found = fit(loop(), x, method="exact", seed=0)
    assert found.objective.value == pytest.approx(np.logaddexp.reduce(filtered), abs=1e-9)
    assert found.most_probable().attrs["log_joint"] == pytest.approx(score.max(), abs=1e-9)
