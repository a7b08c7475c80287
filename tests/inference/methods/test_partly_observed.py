"""Labels known for some rows, and missing answers of categories: summed over exactly, whatever the method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.stats import norm
from torch import Tensor
from torch.distributions import constraints

import zoo
from inference import MAP, SVI, Fit, fit
from tests.cases.models import Colours
from zoo.errors import DataError
from zoo.program.prepare import prepare

ROWS = 12
RNG = np.random.default_rng(0)
KIND = RNG.integers(0, 2, ROWS)
X = np.where(KIND == 0, RNG.normal(0.0, 1.0, ROWS), RNG.normal(4.0, 1.0, ROWS)).round(2)
LABEL = np.where(RNG.random(ROWS) < 0.5, np.nan, KIND)
KNOWN = ~np.isnan(LABEL)
DATA = pd.DataFrame({"label": LABEL, "x": X})


@zoo.model(label=zoo.Category("row", levels=2), x=zoo.Real("row"))
def points(label: Tensor, x: Tensor) -> None:
    weights = pyro.param("weights", torch.tensor([0.5, 0.5]), constraint=constraints.simplex)
    mu = pyro.param("mu", torch.tensor([0.0, 1.0]))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        kind = pyro.sample("label", dist.Categorical(weights), obs=label)
        pyro.sample("x", dist.Normal(mu[kind], scale), obs=x)


@zoo.model(label=zoo.Category("row", levels=2), x=zoo.Real("row"))
def bayesian(label: Tensor, x: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("kind", 2):
        mu = pyro.sample("mu", dist.Normal(2.0, 5.0))
    with pyro.plate("row", len(x)):
        kind = pyro.sample("label", dist.Categorical(weights), obs=label)
        pyro.sample("x", dist.Normal(mu[kind], 1.0), obs=x)


def semi_supervised() -> tuple[np.ndarray, np.ndarray, float, np.ndarray, float]:
    """Weights, means, scale, responsibilities and log likelihood at the maximum, by EM written out."""
    weights, mu, scale = np.array([0.5, 0.5]), np.array([0.0, 1.0]), 1.0
    for _ in range(2000):
        log_p = np.log(weights) + norm.logpdf(X[:, None], mu, scale)
        share = np.exp(log_p - np.logaddexp(*log_p.T)[:, None])
        share[KNOWN] = np.eye(2)[LABEL[KNOWN].astype(int)]
        weights, mu = share.mean(0), (share * X[:, None]).sum(0) / share.sum(0)
        scale = float(np.sqrt((share * (X[:, None] - mu) ** 2).sum() / ROWS))
    rows = np.where(KNOWN, np.take_along_axis(log_p, np.nan_to_num(LABEL).astype(int)[:, None], 1)[:, 0], 0.0)
    return weights, mu, scale, share, float(np.where(KNOWN, rows, np.logaddexp(*log_p.T)).sum())


@pytest.mark.parametrize("method", ["em", pytest.param(MAP(), marks=pytest.mark.slow)], ids=["em", "map"])
def test_points_are_those_of_semi_supervised_em(method: Any) -> None:
    """The maximum, its responsibilities and its log likelihood equal those of EM written out in NumPy."""
    weights, mu, scale, share, height = semi_supervised()
    found = fit(points(), DATA, method=method, seed=0)
    at = found.posterior["point_estimate"]
    for name, value in (("weights", weights), ("mu", mu), ("scale", scale)):
        np.testing.assert_allclose(at[name], value, atol=1e-5)
    assert found.objective.value == pytest.approx(height, abs=1e-8)
    table = found.assign().to_numpy()
    np.testing.assert_allclose(table, share, atol=1e-5)
    np.testing.assert_array_equal(table[KNOWN], np.eye(2)[LABEL[KNOWN].astype(int)])
    assert (found.most_probable()["label"].to_numpy() == share.argmax(1)).all()


def grid() -> tuple[float, float, np.ndarray]:
    """E[mu_0], log evidence, and p(label_i = 0 | data) of each row, by sums over a grid of weight and means."""
    mu, w = np.linspace(-3.0, 8.0, 221), np.linspace(0.005, 0.995, 100)
    near = norm.logpdf(X[:, None], mu)  # (rows, grid)
    ones = [np.log(w)[:, None, None] + row[None, :, None] for row in near]
    twos = [np.log(1 - w)[:, None, None] + row[None, None, :] for row in near]
    total = norm.logpdf(mu, 2.0, 5.0)[None, :, None] + norm.logpdf(mu, 2.0, 5.0)[None, None]
    for label, a, b in zip(LABEL, ones, twos, strict=True):
        total = total + (np.logaddexp(a, b) if np.isnan(label) else a if label == 0 else b)
    p = np.exp(total - total.max())
    evidence = np.log(p.sum() * (mu[1] - mu[0]) ** 2 * (w[1] - w[0])) + total.max()
    p /= p.sum()
    shares = [(p / (1 + np.exp(b - a))).sum() for a, b in zip(ones, twos, strict=True)]
    return float((p.sum((0, 2)) * mu).sum()), float(evidence), np.where(KNOWN, LABEL == 0, shares)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cavi", "svi", "nuts", "laplace", "smc"])
def test_posteriors_with_labels_in_some_rows(method: str) -> None:
    """The posterior mean, the evidence and the labels' posteriors are those of sums over a grid."""
    mean, evidence, share = grid()
    found = fit(bayesian(), DATA, method=method, seed=0)
    draws = found.posterior["posterior"]["mu"].to_numpy()[..., 0].ravel()
    assert draws.mean() == pytest.approx(mean, abs=5 * draws.std() / np.sqrt(500) + 0.02)
    if "evidence" in found.diagnostics:
        assert found.diagnostics["evidence"] == pytest.approx(evidence, abs=0.15 if method == "smc" else 0.02)
    table = found.assign()
    np.testing.assert_allclose(table[0], share, atol=5e-3)
    np.testing.assert_allclose(table[0][KNOWN], LABEL[KNOWN] == 0, atol=1e-12)


@pytest.mark.slow
def test_every_question_is_answered(tmp_path: Any) -> None:
    """Labels are drawn where they are missing and kept where they are not; new rows may miss all of them."""
    found = fit(points(), DATA, method="em", seed=0)
    _, _, _, share, _ = semi_supervised()
    tables = found.impute(draws=200, seed=0)
    drawn = np.stack([t["label"].to_numpy() for t in tables]).astype(int)
    assert (drawn[:, KNOWN] == LABEL[KNOWN]).all()
    assert abs(drawn.mean(0) - share[:, 1]).max() < 5 * np.sqrt(0.25 / 200)
    assert set(found.generate(20, seed=0)["label"]) == {0, 1}
    complete = fit(points(), DATA.assign(label=KIND), method=MAP(steps=5), seed=0)
    at = {n: v.numpy() for n, v in complete.points.items()}
    log_p = np.log(at["weights"]) + norm.logpdf(X[:, None], at["mu"], at["scale"])
    new = complete.assign(DATA.assign(label=np.nan))
    np.testing.assert_allclose(new, np.exp(log_p - np.logaddexp(*log_p.T)[:, None]), atol=1e-12)
    np.testing.assert_allclose(complete.log_prob(DATA.assign(label=np.nan)), np.logaddexp(*log_p.T), atol=1e-10)
    found.save(tmp_path / "fit")
    pd.testing.assert_frame_equal(Fit.load(tmp_path / "fit", model=points).assign(), found.assign())
    path = tmp_path / "rows.csv"
    DATA.assign(label=["" if np.isnan(v) else ["low", "top"][int(v)] for v in LABEL]).to_csv(path, index=False)
    named = fit(points(), path, method="em", seed=0)
    assert list(named.assign().columns) == ["low", "top"]
    np.testing.assert_allclose(named.assign(), found.assign(), atol=1e-12)


def test_labels_outside_the_plate_of_rows() -> None:
    """A label that all rows share, and that is missing, has the posterior that sums over it give."""

    @zoo.model(kind=zoo.Binary(), x=zoo.Real("row"))
    def shared(x: Tensor, kind: Tensor) -> None:
        chosen = pyro.sample("kind", dist.Bernoulli(0.3), obs=kind)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(2.0 * chosen, 1.0), obs=x)

    x = [0.2, 1.4, 1.9]
    found = fit(shared(), {"kind": None, "x": x}, method="exact", seed=0)
    joint = np.log([0.7, 0.3]) + [norm.logpdf(x, 2.0 * k).sum() for k in (0, 1)]
    assert found.objective.value == pytest.approx(np.logaddexp(*joint), abs=1e-12)
    np.testing.assert_allclose(found.assign(), [np.exp(joint - np.logaddexp(*joint))], atol=1e-12)


def test_what_cannot_be_summed_over_is_refused() -> None:
    """Counts that feed others have no last state; a model that reads the field itself does not see what is summed."""

    @zoo.model(count=zoo.Count("row"), x=zoo.Real("row"))
    def counts(count: Tensor, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            n = pyro.sample("count", dist.Poisson(2.0), obs=count)
            pyro.sample("x", dist.Normal(n, 1.0), obs=x)

    with pytest.raises(DataError, match=r"'count' has missing values.*feeds.*'x'.*Poisson.*cannot be listed"):
        prepare(counts(), {"count": [1, np.nan, 3], "x": [1.0, 2.0, 3.0]})

    @zoo.model(label=zoo.Category("row", levels=2), x=zoo.Real("row"))
    def raw(label: Tensor, x: Tensor) -> None:
        mu = pyro.param("mu", torch.zeros(2))
        with pyro.plate("row", len(x)):
            kind = pyro.sample("label", dist.Categorical(torch.ones(2) / 2), obs=label)
            pyro.sample("x", dist.Normal(mu[kind] + mu[label], 1.0), obs=x)

    with pytest.raises(DataError, match=r"'label' has missing values.*reads the field itself.*pyro.sample\('label'"):
        prepare(raw(), DATA)

    @zoo.model(label=zoo.Category("row", levels=2), x=zoo.Real("row"))
    def unread(label: Tensor, x: Tensor) -> None:
        mu = pyro.param("mu", torch.zeros(2))
        with pyro.plate("row", len(x)):
            pyro.sample("label", dist.Categorical(torch.ones(2) / 2), obs=label)
            pyro.sample("x", dist.Normal(mu[label], 1.0), obs=x)

    with pytest.raises(DataError, match=r"'label' has missing values.*reads the field itself.*pyro.sample\('label'"):
        prepare(unread(), DATA)

    @zoo.model(pair=zoo.Real("row", "side"), x=zoo.Real("row"))
    def events(pair: Tensor, x: Tensor) -> None:
        with pyro.plate("row", len(x)):
            both = pyro.sample("pair", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)), obs=pair)
            pyro.sample("x", dist.Normal(both.sum(-1), 1.0), obs=x)

    with pytest.raises(DataError, match=r"'pair' has missing values.*feeds.*'x'.*MultivariateNormal.*are one event"):
        prepare(events(), {"pair": [[1.0, np.nan], [2.0, 3.0]], "x": [1.0, 2.0]})


@pytest.mark.parametrize(
    "method", ["exact", "cavi", *(pytest.param(m, marks=pytest.mark.slow) for m in ("map", "nuts", "laplace"))]
)
def test_missing_answers_say_nothing(method: str) -> None:
    """Where nothing depends on a category, a fit with missing ones is the fit of the rows that have one."""
    answers = np.random.default_rng(1).integers(0, 3, 30).astype(float)
    gone = np.arange(30) % 4 == 1
    with_gaps = fit(Colours(), np.where(gone, np.nan, answers), method=method, seed=0)
    without = fit(Colours(), answers[~gone], method=method, seed=0)
    assert with_gaps.objective.value == pytest.approx(without.objective.value, abs=1e-9)
    group = "point_estimate" if method == "map" else "posterior"
    np.testing.assert_allclose(with_gaps.posterior[group]["p"], without.posterior[group]["p"], atol=1e-9)


@pytest.mark.slow
def test_missing_answers_in_a_matrix_of_categories() -> None:
    """The density of a row of latent classes is the sum over classes of products over the answers that were given."""

    @zoo.model(x=zoo.Category("row", "item", levels=3))
    def survey(x: Tensor) -> None:
        weights = pyro.param("weights", torch.tensor([0.3, 0.7]), constraint=constraints.simplex)
        p = pyro.param("p", torch.full((2, 3, 3), 1 / 3), constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Categorical(p[z]).to_event(1), obs=x)

    rng = np.random.default_rng(0)
    x = rng.integers(0, 3, (20, 3)).astype(float)
    x[rng.random(x.shape) < 0.3] = -1
    weights, p = np.array([0.3, 0.7]), rng.dirichlet(np.ones(3), (2, 3))
    program = prepare(survey(), x)
    found = program.log_joint({"weights": torch.tensor(weights), "p": torch.tensor(p)}).rows
    expected = np.log(weights)[None].repeat(len(x), 0)
    for i, j in zip(*np.nonzero(x >= 0), strict=True):
        expected[i] += np.log(p[:, j, int(x[i, j])])
    np.testing.assert_allclose(found, np.logaddexp(*expected.T), atol=1e-12)
    rising = fit(survey(), x, method="em", seed=0).trace["value"]
    assert (rising.diff().dropna() > -1e-9).all()
    assert fit(survey(), x, method=SVI(steps=5), seed=0).objective.value < 0
