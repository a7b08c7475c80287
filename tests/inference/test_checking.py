"""Checks name what is planted in the data, and rarely accuse a right model."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
from scipy import stats
from typer.testing import CliRunner

import zoo
from inference import Laplace, check, fit
from inference.cli import app
from inference.diagnostics.quantities import distribution_distances, quantities
from tests.cases.columns import normal
from tests.cases.spread import spread
from zoo import Binary, Category, Count, Real
from zoo.errors import FitError

mpl.use("Agg")


@zoo.model(n=Count("row"))
def poisson(n):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(n)):
        pyro.sample("n", dist.Poisson(rate), obs=n)


@zoo.model(y=Real("row"), clinic=Category("row"))
def pooled(y, clinic):
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)


@zoo.model(flip=Binary("toss"))
def coin(flip):
    p = pyro.sample("p", dist.Beta(1.0, 1.0))
    with pyro.plate("toss", len(flip)):
        pyro.sample("flip", dist.Bernoulli(p), obs=flip)


def checked(model, data, method="exact", **settings):
    return check(fit(model, data, method=method, seed=0, progress=False), **settings)


def wandering(rng: np.random.Generator, n: int) -> np.ndarray:
    x = np.zeros(n)
    for t in range(1, n):
        x[t] = 0.7 * x[t - 1] + rng.normal()
    return x


RNG = np.random.default_rng(1)
CLINIC = np.tile(["a", "b", "c"], 30)
PLANTED = {
    "counts too spread": (poisson, RNG.negative_binomial(2, 0.3, 100), "exact", "n", "variance over mean"),
    "too many zeros": (poisson, RNG.poisson(4, 100) * RNG.integers(0, 2, 100), "exact", "n", "share of zeros"),
    "skewed": (normal, RNG.exponential(2, 100), Laplace(), "y", "skewness"),
    "one far out": (normal, np.append(RNG.normal(size=100), 12.0), Laplace(), "y", "largest value"),
    "rows in a sequence": (normal, wandering(RNG, 150), Laplace(), "y", "correlation of neighbouring rows"),
    "two clusters": (
        normal,
        RNG.choice([-3, 3], 200) + RNG.normal(size=200),
        Laplace(),
        "y",
        "distance of the distribution",
    ),
    "runs": (coin, np.repeat(RNG.integers(0, 2, 20), 6), "exact", "flip", "number of runs"),
    "groups": (
        pooled,
        pd.DataFrame({"y": RNG.normal(size=90) + 2 * (CLINIC == "a"), "clinic": CLINIC}),
        "exact",
        "y",
        "spread of the means by clinic",
    ),
}


@spread("name", PLANTED, part=0, of=2)
def test_what_is_planted_is_named(name):
    model, data, method, site, quantity = PLANTED[name]
    found = checked(model, data, method)
    named = found.table[found.table["misfit"]]
    assert (site, quantity) in set(zip(named["site"], named["quantity"], strict=True))
    assert f"{site}: {quantity} is " in str(found)
    assert "does not reproduce" in str(found)


@pytest.mark.slow
def test_too_few_components_are_named_and_enough_are_not():
    rng = np.random.default_rng(0)
    x = rng.permutation(np.concatenate([rng.normal(c, 0.5, 100) for c in (-4, 0, 4)]))
    few, enough = (checked(zoo.GMM(components=k), x, "em") for k in (2, 3))
    assert any("distance of the distribution" in word for word in few.misfits)
    assert enough.misfits == []
    assert "parameters without one" in str(enough)


@pytest.mark.slow
def test_a_prior_that_did_not_expect_the_data_is_named():
    y = np.random.default_rng(0).normal(200, 1, 30)
    found = checked(normal, y, Laplace())
    assert [word.partition(" is ")[0] for word in found.conflicts] == ["y: mean"]
    assert found.misfits == []
    assert checked(normal(scale=300.0), y, Laplace()).conflicts == []


@pytest.mark.slow
def test_the_sensitivity_to_the_prior_is_that_of_arviz():
    tight = checked(normal(scale=0.3), np.random.default_rng(0).normal(3, 1, 10), Laplace()).sensitivity
    wide = checked(normal(scale=100.0), np.random.default_rng(0).normal(3, 1, 10), Laplace()).sensitivity
    assert tight.loc["m", "prior"] > 0.05 > wide.loc["m", "prior"]


def test_p_values_count_the_tails():
    """One column that is compared with its own replicates, by hand."""
    found = checked(poisson, RNG.poisson(3, 50), replicates=999)
    for at, row in enumerate(found.table.itertuples()):
        drawn = found.drawn[at]
        above, below = (1 + (drawn >= row.observed).sum()) / 1000, (1 + (drawn <= row.observed).sum()) / 1000
        expected = above if row.quantity.startswith("distance") else min(1, 2 * min(above, below))
        assert row.p == pytest.approx(expected)
        assert row.p_error == pytest.approx(np.sqrt(row.p * (1 - row.p) / 999))


def test_the_mean_of_a_poisson_has_its_predictive_distribution():
    """Counts of a Gamma posterior are negative binomial, and so is their sum."""
    n = np.array([3, 5, 2, 4, 4, 6, 1, 3])
    found = checked(poisson, n, replicates=4000)
    at = found.table.index[found.table["quantity"] == "mean"][0]
    sums = found.drawn[at] * len(n)
    shape, rate = 2 + n.sum(), 0.5 + len(n)
    exact = stats.nbinom(shape, rate / (rate + len(n)))
    for q in (0.1, 0.5, 0.9):
        share = exact.cdf(exact.ppf(q))
        assert (sums <= exact.ppf(q)).mean() == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) / 4000))


@pytest.mark.slow
def test_missing_cells_are_left_out_on_both_sides():
    y = np.random.default_rng(0).normal(3, 1, 60)
    gone = np.where(np.arange(60) % 4 == 0, np.nan, y)
    found = checked(normal, gone, Laplace())
    at = found.table.set_index("quantity")["observed"]
    assert at["mean"] == pytest.approx(np.nanmean(gone))
    assert at["largest value"] == pytest.approx(np.nanmax(gone))
    assert found.misfits == []


def test_whole_weights_are_rows_and_others_are_refused():
    n, weights = np.array([2, 3, 4, 9]), np.array([10, 20, 10, 1])
    heavy = fit(poisson, {"n": n}, method="exact", seed=0, weights=weights)
    table = check(heavy).table.set_index("quantity")
    assert table.loc["mean", "observed"] == pytest.approx(np.average(n, weights=weights))
    with pytest.raises(FitError, match="whole numbers"):
        check(fit(poisson, {"n": n}, method="exact", seed=0, weights=weights / 3))


@pytest.mark.slow
def test_sorted_rows_say_nothing_of_their_order():
    found = checked(normal, np.sort(np.random.default_rng(0).normal(size=60)), Laplace())
    assert "correlation of neighbouring rows" not in set(found.table["quantity"])
    assert "y is sorted" in str(found)


def test_level_has_to_be_a_probability():
    with pytest.raises(FitError, match="between 0 and 1"):
        checked(coin, [1, 0, 1], level=5)


@pytest.mark.slow
def test_it_is_drawn_and_shown(tmp_path):
    found = checked(poisson, RNG.negative_binomial(2, 0.3, 60))
    found.plot().savefig(tmp_path / "check.png")
    mpl.pyplot.close("all")
    assert mpl.image.imread(tmp_path / "check.png").std() > 0
    assert "<table" in found._repr_html_()
    assert found.misfits[0] in str(found)


def test_the_command_checks_a_saved_fit(tmp_path):
    found = fit(zoo.GammaPoisson(), RNG.negative_binomial(2, 0.3, 60), method="exact", seed=0, progress=False)
    found.save(tmp_path)
    ran = CliRunner().invoke(app, ["check", str(tmp_path)])
    judged = check(found)
    assert str(judged) in ran.output
    assert judged.misfits
    assert ran.exit_code == 1


def test_distances_are_those_of_distribution_functions():
    rng = np.random.default_rng(0)
    replicated = rng.normal(size=(300, 200))
    at, each = distribution_distances(rng.normal(1, 1, 200), replicated)
    exact = stats.kstest(rng.normal(1, 1, 200), "norm").statistic  # 0.38 apart, as N(0, 1) and N(1, 1) are
    assert abs(at - exact) < 0.15
    assert each.mean() == pytest.approx(0.8687 / np.sqrt(200), rel=0.1)  # mean of Kolmogorov's distribution


@pytest.mark.parametrize("kind", ["real", "count", "binary", "category"])
def test_quantities_do_not_look_at_what_is_missing(kind):
    seen = np.array([0.0, 1, 1, np.nan, 0, 1, 0, 1, 1])
    other = np.nan_to_num(seen, nan=7.0)
    for q in quantities("x", kind, seen, [0], [0, 1], {})[0]:
        known = quantities("x", kind, seen[~np.isnan(seen)], [0], [0, 1], {})[0]
        same = next(k for k in known if k.name == q.name)
        np.testing.assert_array_equal(q.of(other[None]), same.of(seen[~np.isnan(seen)][None]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["poisson", "normal"])
def test_right_models_are_rarely_accused(kind):
    """At level 0.2, of so many data sets from the prior: at most 0.2, by a binomial test."""
    rng, accused, surprised, runs = np.random.default_rng(5), 0, 0, 100 if kind == "poisson" else 40
    for i in range(runs):
        if kind == "poisson":
            model, data, method = poisson, rng.poisson(rng.gamma(2, 2), 40), "exact"
        else:
            model, data, method = normal, rng.normal(rng.normal(0, 10), abs(rng.normal(0, 10)), 40), Laplace()
        found = check(fit(model, data, method=method, seed=i, progress=False), level=0.2, replicates=500)
        accused += bool(found.misfits)
        surprised += bool(found.conflicts)
    for alarms in (accused, surprised):
        assert stats.binomtest(alarms, runs, 0.2, alternative="greater").pvalue > 0.005
