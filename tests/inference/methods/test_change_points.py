"""Discrete globals with conjugate latents given them: the exact posterior is a mixture; change points."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import betaln, gammaln
from scipy.stats import norm
from torch import Tensor

import zoo
from inference import NUTS, SVI, Exact, Fit, fit
from zoo.errors import DataError, MethodError
from zoo.program.prepare import prepare

# Disasters in British coal mines by year, 1851 to 1961, two of them missing (Jarrett 1979; as in PyMC's documentation).
COAL_TEXT = (
    "4 5 4 0 1 4 3 4 0 6 3 3 4 0 2 6 3 3 5 4 5 3 1 4 4 1 5 5 3 4 2 5 2 2 3 4 2 1 3 -1 2 1 1 1 1 3 0 0 1 0 "
    "1 1 0 0 3 1 0 3 2 2 0 1 1 1 0 1 0 1 0 0 0 2 1 0 0 0 1 1 0 2 3 3 1 -1 2 1 1 1 1 2 4 2 0 0 1 4 0 0 0 1 "
    "0 0 0 0 0 1 0 0 1 0 1 "
)
COAL = np.array([np.nan if n == "-1" else float(n) for n in COAL_TEXT.split()])
A, B = 2.0, 1.0


def log_evidence(part: np.ndarray, weight: float = 1.0) -> float:
    """log p of counts at one rate with a Gamma(A, B) prior, each count `weight` times."""
    part = part[~np.isnan(part)]
    total, count = weight * part.sum(), weight * len(part)
    constant = A * np.log(B) - gammaln(A) - weight * gammaln(part + 1).sum()
    return float(constant + gammaln(A + total) - (A + total) * np.log(B + count))


def enumerated(x: np.ndarray, changes: int) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """All places of changes and log p(x, places) of each, uniform over ordered places in rows 2 to n."""
    places = list(itertools.combinations(range(1, len(x)), changes))
    log_p = [sum(log_evidence(x[i:j]) for i, j in itertools.pairwise((0, *at, len(x)))) for at in places]
    return places, np.array(log_p) - np.log(len(places))


@zoo.model(count=zoo.Count("year"))
def coal(count: Tensor) -> None:
    years = len(count)
    change = pyro.sample("change", dist.Categorical(torch.ones(years) / years))
    early = pyro.sample("early", dist.Gamma(A, B))
    late = pyro.sample("late", dist.Gamma(A, B))
    with pyro.plate("year", years):
        rate = torch.where(torch.arange(years) < change, early, late)
        pyro.sample("count", dist.Poisson(rate), obs=count)


@pytest.mark.slow
def test_coal_disasters_exactly(tmp_path: Any) -> None:
    """Evidence, posterior of the change and means of both rates equal sums over all years in NumPy."""
    years = len(COAL)
    log_p = np.array([log_evidence(COAL[:t]) + log_evidence(COAL[t:]) for t in range(years)]) - np.log(years)
    posterior = np.exp(log_p - np.logaddexp.reduce(log_p))
    found = fit(coal(), COAL, method="exact", seed=0)
    assert found.objective.kind == "log_evidence"
    assert found.objective.value == pytest.approx(np.logaddexp.reduce(log_p), abs=1e-9)
    np.testing.assert_allclose(found.assign().to_numpy()[0], posterior, atol=1e-11)
    assert found.most_probable()["change"].tolist() == [41]
    draws = found.posterior["posterior"]
    for name, part in (("early", [COAL[:t] for t in range(years)]), ("late", [COAL[t:] for t in range(years)])):
        mean = sum(p * (A + np.nansum(x)) / (B + (~np.isnan(x)).sum()) for p, x in zip(posterior, part, strict=True))
        drawn = draws[name].to_numpy().ravel()
        assert drawn.mean() == pytest.approx(mean, abs=5 * drawn.std() / np.sqrt(len(drawn)))
    shares = np.bincount(draws["change"].to_numpy().ravel(), minlength=years) / draws.sizes["draw"]
    assert abs(shares - posterior).max() < 5 * np.sqrt(0.25 / draws.sizes["draw"])
    assert Exact().how(found.program) == "a mixture of conjugate posteriors, by change"
    again = Fit.load(found.save(tmp_path / "fit"), model=coal)
    np.testing.assert_array_equal(again.assign(), found.assign())
    weighed = fit(coal(), COAL[:30], method="exact", weights=[2.0] * 30, seed=0)
    log_p = np.array([log_evidence(COAL[:t], 2.0) + log_evidence(COAL[t:30], 2.0) for t in range(30)]) - np.log(30)
    assert weighed.objective.value == pytest.approx(np.logaddexp.reduce(log_p), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["em", "laplace", SVI(steps=1000), NUTS(chains=2, warmup=300, draws=500)])
def test_coal_disasters_by_other_methods(method: Any) -> None:
    """Other methods sum the change out, and give its posterior and the rates."""
    exact = fit(coal(), COAL, method="exact", seed=0)
    found = fit(coal(), COAL, method=method, seed=0)
    off = 0.03 if method == "em" else 0.01
    np.testing.assert_allclose(found.assign(), exact.assign(), atol=off)
    group = found.posterior["point_estimate" if method == "em" else "posterior"]
    spread = exact.posterior["posterior"]
    for name in ("early", "late"):
        mean, sd = float(spread[name].mean()), float(spread[name].std())
        assert float(group[name].mean()) == pytest.approx(mean, abs=0.3 * sd)


def test_other_conjugate_latents_given_states() -> None:
    """A Beta and a Normal, each by one of two global states, and one state that neither depends on."""
    flips, x = np.array([1, 1, 0, 1]), np.array([0.3, 1.9])

    @zoo.model(flips=zoo.Binary("toss"), x=zoo.Real("row"))
    def both(flips: Tensor, x: Tensor) -> None:
        biased = pyro.sample("biased", dist.Bernoulli(0.4))
        shifted = pyro.sample("shifted", dist.Bernoulli(0.3))
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        mu = pyro.sample("mu", dist.Normal(1.0, 2.0))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(torch.where(biased == 1, p, 0.5)), obs=flips)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu + 3.0 * shifted, 1.0), obs=x)

    found = fit(both(), {"flips": flips, "x": x}, method="exact", seed=0)
    tossed = np.array([4 * np.log(0.5), betaln(2 + flips.sum(), 3 + 1) - betaln(2, 3)]) + np.log([0.6, 0.4])
    covariance = 4.0 * np.ones((2, 2)) + np.eye(2)
    shifted = []
    for k in (0, 1):
        gap = x - 1 - 3 * k
        spread = 0.5 * np.log(np.linalg.det(2 * np.pi * covariance))
        shifted.append(-0.5 * gap @ np.linalg.solve(covariance, gap) - spread)
    moved = np.array(shifted) + np.log([0.7, 0.3])
    assert found.objective.value == pytest.approx(np.logaddexp(*tossed) + np.logaddexp(*moved), abs=1e-9)
    table = found.assign()
    np.testing.assert_allclose(table["biased"], [np.exp(tossed - np.logaddexp(*tossed))], atol=1e-10)
    np.testing.assert_allclose(table["shifted"], [np.exp(moved - np.logaddexp(*moved))], atol=1e-10)


def test_what_is_not_conjugate_given_states_is_refused() -> None:
    """A Normal's unknown mean and scale are dependent, and a state in each row makes a mixture of too many."""

    @zoo.model(x=zoo.Real("row"))
    def scaled(x: Tensor) -> None:
        late = pyro.sample("late", dist.Bernoulli(0.5))
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        scale = pyro.sample("scale", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu + late, scale), obs=x)

    with pytest.raises(MethodError, match="posterior over 'late' and the other latents is a mixture"):
        fit(scaled(), [0.1, 1.2, 0.4], method="exact", seed=0)


@pytest.mark.parametrize("changes", [1, 2])
def test_the_model_of_the_zoo(changes: int) -> None:
    """Evidence and posteriors of all places equal sums over all places in NumPy."""
    x = COAL[28:52] if changes == 2 else COAL[20:70]
    places, log_p = enumerated(x, changes)
    found = fit(zoo.ChangePoint(changes=changes), {"x": x, "time": 1.0 + np.arange(len(x))}, method="exact", seed=0)
    total = np.logaddexp.reduce(log_p)
    assert found.objective.value == pytest.approx(total, abs=1e-9)
    for k in range(changes):
        p = np.zeros(len(x))
        np.add.at(p, [at[k] for at in places], np.exp(log_p - total))
        table = found.assign(site=f"change_{k + 1}")
        np.testing.assert_allclose(table.to_numpy()[0], p, atol=1e-10)


@pytest.mark.slow
def test_measurements() -> None:
    """A jump of four standard deviations is found where it is; the posterior at given levels is exact."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0.0, 1.0, 30), rng.normal(4.0, 1.0, 20)])
    found = fit(zoo.ChangePoint(likelihood="normal"), {"x": x, "time": np.arange(50)}, method="map", seed=0)
    level, noise = (found.posterior["point_estimate"][n].to_numpy() for n in ("level", "noise"))
    before, after = (norm.logpdf(x, m, noise) for m in level)
    log_p = np.array([before[:t].sum() + after[t:].sum() for t in range(1, 50)])
    np.testing.assert_allclose(found.assign().to_numpy()[0, 1:], np.exp(log_p - np.logaddexp.reduce(log_p)), atol=1e-9)
    assert found.most_probable()["change_1"].tolist() == [30]
    np.testing.assert_allclose(level, [x[:30].mean(), x[30:].mean()], atol=0.05)


def test_data_that_have_no_changes_are_refused() -> None:
    with pytest.raises(DataError, match="4 segments, but there are 3 times"):
        prepare(zoo.ChangePoint(changes=3), {"x": [1, 2, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match=r"likelihood='poisson' expects counts.*found -1"):
        prepare(zoo.ChangePoint(), {"x": [1, -1, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match="too many"):
        prepare(zoo.ChangePoint(changes=4), {"x": np.ones(500), "time": np.arange(500)})
