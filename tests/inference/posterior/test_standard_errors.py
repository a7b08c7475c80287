"""Standard errors of point estimates: closed forms, finite differences, bootstraps against each other, coverage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import zoo
from inference import EM, MAP, Fit, fit
from inference.posterior.rows import row_chunks
from tests.cases.models import FLIPS, coin
from zoo import Binary, Count, Real

GEYSER = zoo.datasets.load("faithful")
EXACTLY = {"rtol": 1e-5, "atol": 0}


@zoo.model(x=Binary("row"))
def toss(x):
    p = pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


@zoo.model(x=Count("row"))
def calls(x):
    rate = pyro.param("rate", torch.tensor(1.0), constraint=constraints.positive)
    pyro.deterministic("log_rate", rate.log())
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)


@zoo.model(x=Real("row"))
def twice(x):
    """Two numbers of which the data know the sum."""
    a = pyro.param("a", torch.tensor(0.1))
    b = pyro.param("b", torch.tensor(0.2))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a + b, 1.0), obs=x)


def climbed(model, data, **options) -> Fit:
    return fit(model, data, method=MAP(steps=1000), seed=0, **options)


def test_of_a_proportion_and_a_rate():
    """sqrt(p (1 - p) / n) and sqrt(rate / n), whatever coordinates they were climbed in; weights count as rows."""
    found = climbed(toss, FLIPS)
    p = np.mean(FLIPS)
    np.testing.assert_allclose(found.standard_errors()["se"], np.sqrt(p * (1 - p) / 10), rtol=1e-3)
    counts = np.array([3, 0, 4, 1, 7])
    found = climbed(calls, counts, weights=[1, 2, 1, 1, 3])
    rate = np.average(counts, weights=[1, 2, 1, 1, 3])
    errors = found.standard_errors()["se"]
    assert errors["rate"] == pytest.approx(np.sqrt(rate / 8), rel=1e-3)
    assert errors["log_rate"] == pytest.approx(1 / np.sqrt(rate * 8), rel=1e-3)


def test_of_a_normal():
    """S / n for means; Var S_jk = (S_jj S_kk + S_jk^2) / n (Anderson 2003, theorem 3.4.4)."""
    found = fit(zoo.GMM(components=1), GEYSER, method="em", seed=0)
    s, errors = np.cov(GEYSER.T, ddof=0), found.summary()["se"].to_numpy()
    np.testing.assert_allclose(errors[1:3], np.sqrt(s.diagonal() / 272), **EXACTLY)
    expected = np.sqrt((np.outer(s.diagonal(), s.diagonal()) + s**2) / 272)
    np.testing.assert_allclose(errors[3:], expected.ravel(), **EXACTLY)
    assert errors[0] == 0  # one weight, which is 1


def test_of_a_mode_with_a_prior():
    """The curvature of Beta(a + h, b + n - h) at its mode."""
    found = climbed(coin(a=3.0, b=2.0), FLIPS)
    a, b = 3 + sum(FLIPS) - 1, 2 + 10 - sum(FLIPS) - 1
    mode = a / (a + b)
    assert found.standard_errors().loc["heads", "se"] == pytest.approx(
        (a / mode**2 + b / (1 - mode) ** 2) ** -0.5, rel=1e-3
    )


def geyser() -> Fit:
    return fit(zoo.GMM(components=2), GEYSER, method=EM(tolerance=1e-10), seed=0)


@pytest.mark.slow
def test_of_a_mixture_by_finite_differences():
    """Second differences of `log_prob` over weights, means and the matrices' entries, symmetric ones together."""
    found = geyser()
    weights, means, matrices = (found.points[n] for n in ("weights", "means", "covariances"))
    at = torch.cat([weights[:1], means.flatten(), *(m[*torch.tril_indices(2, 2)] for m in matrices)])

    def total(v):
        low = torch.zeros(2, 2, 2, dtype=v.dtype)
        for k in range(2):
            low[k][*torch.tril_indices(2, 2)] = v[5 + 3 * k : 8 + 3 * k]
        full = low + low.tril(-1).mT
        values = {"weights": torch.stack([v[0], 1 - v[0]]), "means": v[1:5].reshape(2, 2), "covariances": full}
        return float(found.program.log_joint(values).total())

    step = 1e-4 * at.abs()
    second = np.empty((11, 11))
    for i in range(11):
        for j in range(11):
            e, f = torch.zeros(11), torch.zeros(11)
            e[i], f[j] = step[i], step[j]
            corners = total(at + e + f) - total(at + e - f) - total(at - e + f) + total(at - e - f)
            second[i, j] = corners / (4 * step[i] * step[j])
    expected = np.sqrt(np.linalg.inv(-second).diagonal())
    errors = found.standard_errors()["se"].to_numpy()
    where = [0, 2, 3, 4, 5, 6, 8, 9, 10, 12, 13]
    np.testing.assert_allclose(errors[where], expected, rtol=2e-3)
    assert errors[0] == pytest.approx(errors[1])


@pytest.mark.slow
def test_bootstraps_are_near_the_information():
    """The ratio of two standard errors of one estimate, each known to 1 / sqrt(2 draws), where n = 272 is large."""
    found = geyser()
    information = found.standard_errors()["se"].to_numpy()
    for kind in ("parametric", "bootstrap"):
        refits = found.standard_errors(kind, draws=60, seed=1)
        assert refits["value"].equals(found.summary()["value"])
        ratio = refits["se"].to_numpy()[:6] / information[:6]
        assert np.all(np.abs(np.log(ratio)) < 4 / np.sqrt(120)), kind
        again = found.standard_errors(kind, draws=60, seed=1)
        assert again.equals(refits)


def test_refits_together_are_those_one_by_one():
    """The weighted bootstrap by hand: the same weights, EM from the estimate."""
    from inference.posterior import bootstrap

    found = fit(zoo.PoissonMixture(components=2), np.array([1, 0, 2, 9, 12, 8, 1, 3, 11, 7] * 3), method="em", seed=0)
    program, point = found.program, found.points
    torch_weights = torch.as_tensor(np.random.default_rng(0).exponential(size=(3, 30)))
    together = bootstrap._together(program, point, {"": torch_weights}, 3)
    for i in range(3):
        one = program.rebind(replace(program.data, weights=torch_weights[i]))
        alone = EM(start=dict(point), tolerance=1e-12).run(one).points
        for name, value in alone.items():
            np.testing.assert_allclose(together[name][i].numpy(), value.numpy(), rtol=1e-3)


@pytest.mark.slow
def test_what_the_data_do_not_determine_is_named():
    found = fit(twice, [0.3, 0.4, 1.1], method=MAP(steps=300), seed=0)
    with pytest.raises(zoo.FitError, match=r"singular along '[ab]'"):
        found.standard_errors()
    assert list(found.summary().columns) == ["value"]
    assert "singular" in found.summary().attrs["note"]


def test_what_is_no_maximum_has_none():
    early = fit(zoo.GMM(components=3), GEYSER, method=EM(max_steps=2), seed=0)
    with pytest.raises(zoo.FitError, match=r"maximum|singular"):
        early.standard_errors()
    hard = fit(zoo.KMeans(clusters=3), GEYSER, method=EM(hard=True), seed=0)
    for kind in ("information", "bootstrap", "parametric"):
        with pytest.raises(zoo.FitError, match="maximized another function"):
            hard.standard_errors(kind)
    for kind in ("information", "bootstrap", "parametric"):
        with pytest.raises(zoo.FitError, match="draws"):
            fit(coin, FLIPS, method="exact", seed=0).standard_errors(kind)
    with pytest.raises(zoo.FitError, match="nonsense"):
        early.standard_errors("nonsense")


def test_saved_summaries_hold_them(tmp_path):
    from inference.posterior.store import read_summary

    found = geyser()
    found.save(tmp_path / "fit")
    assert read_summary(tmp_path / "fit")[1].equals(found.summary())
    assert Fit.load(tmp_path / "fit").summary().equals(found.summary())


@pytest.mark.slow
def test_intervals_cover():
    """95 % intervals of two components' weights and means over 120 simulated data sets: within 4 standard errors."""
    generator = np.random.default_rng(3)
    truth = {"weights[0]": 0.4, "means[0, x]": -2.0, "means[1, x]": 2.0}
    start = {
        "weights": torch.tensor([0.4, 0.6]),
        "means": torch.tensor([[-2.0], [2.0]]),
        "covariances": torch.ones(2, 1, 1),
    }
    hits = []
    for _ in range(120):
        x = np.where(generator.random(200) < 0.4, -2.0, 2.0) + generator.normal(size=200)
        table = fit(zoo.GMM(components=2), x[:, None], method=EM(start=start, tolerance=1e-9), seed=0).summary()
        near = table.to_numpy()[[0, 2, 3]]
        hits.append(np.abs(near[:, 0] - np.array(list(truth.values()))) < 1.96 * near[:, 1])
    share = np.mean(hits, 0)
    assert np.all(np.abs(share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 120)), share


def test_rows_that_do_not_fit_at_once_add_up(monkeypatch):
    rng = np.random.default_rng(0)
    counts = rng.poisson(np.array([1.0, 6.0])[rng.integers(2, size=2500)])
    whole, pieces = (
        fit(zoo.PoissonMixture(components=2), counts, method="em", weights=1.0 + np.arange(2500) % 2, seed=0)
        for _ in range(2)
    )
    expected = whole.standard_errors()
    monkeypatch.setattr("inference.posterior.rows.DRAWN_CELLS", 1)
    assert len(list(row_chunks(pieces.program, whole=False))) == 3
    np.testing.assert_allclose(pieces.standard_errors(), expected, rtol=1e-10)
