"""Every exact log evidence of the references, and those of their models that a quadrature gives, by every estimate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

import zoo
from inference import SMC, Laplace, evidence, fit
from tests.cases import posteriordb
from tests.cases.evidences import (
    HITS,
    batters,
    closed_population,
    galaxies,
    markov_evidence,
    mixture_evidence,
    regression,
    regression_evidence,
    seen_and_unseen,
    tosses,
)
from tests.cases.models import SCHOOLS, EightSchools, NonCentred, coin
from tests.cases.spread import spread
from zoo.program.prepare import prepare

ESTIMATES = ("smc", "bridge", "importance")
LAPLACE, PARTICLES = Laplace(compile=False), SMC(compile=False)
COINS = [(5, 10), (1, 15), (0, 10), (10, 10)]


def hold(table, exact, *, extra=0.0):
    """Each estimate that the table does not warn of is within three errors; returns the kinds of these."""
    kinds = []
    for row in table[table["kind"].isin(ESTIMATES) & (table["note"] == "")].itertuples():
        assert abs(row.log_evidence - exact) < 3 * math.hypot(row.error, extra), row
        kinds.append(row.kind)
    return kinds


def estimates(model, data, *methods):
    return evidence(model, data, methods=methods, seed=0, progress=False).table


def half_cauchy(scale):
    return stats.halfcauchy(0, scale).logpdf


# -- of the references -------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "count"), COINS)
@pytest.mark.parametrize("kind", ["sequence", "binomial"])
def test_coins(reference, heads, count, kind):
    exact = reference("small_exact.json")[f"beta_bernoulli_uniform_n{count}_k{heads}"][f"log_evidence_{kind}"]
    one_by_one = coin(), [1] * heads + [0] * (count - heads)
    model, data = one_by_one if kind == "sequence" else (tosses(count=count), {"heads": [heads]})
    table = estimates(model, data, "exact", LAPLACE, PARTICLES)
    assert table["log_evidence"][0] == pytest.approx(exact, abs=1e-9)
    assert hold(table, exact) == ["importance", "smc", "bridge"]


@pytest.mark.slow
@pytest.mark.parametrize("model", [EightSchools(), NonCentred()], ids=lambda m: type(m).__name__)
def test_eight_schools(reference, model):
    exact = reference("small_exact.json")["eight_schools_posteriordb"]["log_evidence"]
    table = estimates(model, SCHOOLS, LAPLACE, PARTICLES)
    assert hold(table, exact) == ["importance", "smc", "bridge"]  # all but one scale is integrated out


@pytest.mark.slow
def test_animals_that_were_never_seen_by_importance(reference):
    exact = reference("small_exact.json")["M0_data"]["log_evidence"]
    assert hold(estimates(closed_population(), seen_and_unseen(), LAPLACE), exact) == ["importance"]


@pytest.mark.slow
def test_batting_averages(reference):
    exact = reference("small_exact.json")["efron_morris_beta_binomial"]["log_evidence"]
    hold(estimates(batters(), {"hits": HITS}, LAPLACE, PARTICLES), exact)


@pytest.mark.slow
def test_three_clusters_of_galaxies(references):
    """Neal (1999), by simulation; another run by SMC elsewhere gave -226.776 +- 0.023."""
    velocities = np.loadtxt(references / "data" / "galaxies_corrected.csv", skiprows=1) / 1000
    table = estimates(galaxies(), velocities, LAPLACE, SMC(particles=64, compile=False))
    assert "bridge" in hold(table, -226.791, extra=0.02)


# -- of their models, by quadrature ------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_clusters_that_share_a_probability_count_both_labellings(reference):
    """One of two modes is half of the evidence; a weight and its complement are swapped with the labels."""
    y = reference("posteriordb/low_dim_gauss_mix.json")["y"]
    table = estimates(*posteriordb.case("low_dim_gauss_mix", {"y": y})[:2], LAPLACE)
    assert hold(table, mixture_evidence(y)) == ["importance"]


@pytest.mark.slow
def test_a_hidden_markov_chain(reference):
    """Which SMC has to do without chain when it evaluates the prior."""
    y = reference("posteriordb/hmm_example.json")["y"]
    table = estimates(*posteriordb.case("hmm_example", {"y": y})[:2], LAPLACE, SMC(particles=32, compile=False))
    assert hold(table, markov_evidence(y)) == ["importance", "smc", "bridge"]


def columns(rows, *names):
    return np.column_stack([np.ones(len(rows[names[0]])), *(rows[n] for n in names)])


REGRESSIONS = {
    # name: (file, y, x, scale of coefficients, of the noise, half Cauchy)
    "sblrc": ("sblrc", lambda d: d["y"], lambda d: d["X"], 10.0, 10.0, False),
    "kidiq": ("kidiq", lambda d: d["kid_score"], lambda d: columns(d, "mom_iq"), 1e4, 2.5, True),
    "mesquite": (
        "mesquite",
        lambda d: np.log(d["weight"]),
        lambda d: np.column_stack([columns(d, "group"), np.log(d["canopy_height"]), np.log(d["total_height"])]),
        100.0,
        2.5,
        True,
    ),
}


@pytest.mark.slow
@spread("name", ["sblrc", "kidiq", "mesquite"], part=2)
def test_regressions_by_importance(reference, name):
    model, data, exact = regression_case(reference, name)
    assert hold(estimates(model, data, LAPLACE), exact) == ["importance"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sblrc", "mesquite"])
def test_regressions_under_wide_priors_by_particles(reference, name):
    """The scale of the noise falls by orders of magnitude at one temperature; particles have to follow."""
    model, data, exact = regression_case(reference, name)
    assert hold(estimates(model, data, PARTICLES), exact) == ["smc", "bridge"]


def regression_case(reference, name):
    file, y, x, wide, noise, heavy = REGRESSIONS[name]
    rows = reference(f"posteriordb/{file}.json")
    y, x = np.asarray(y(rows), float), np.asarray(x(rows), float)
    law = half_cauchy(noise) if heavy else stats.halfnorm(0, noise).logpdf
    exact = regression_evidence(y, x, 0.0, wide, law, -8.0, 12.0)
    return regression(wide=wide, noise=noise, heavy=heavy), {"y": y, "x": x}, exact


@pytest.mark.slow
def test_particles_that_lag_behind_are_not_trusted(reference):
    """Few moves under a prior of 1e4: all populations agree on a number that is far too low, and the error says so."""
    rows = reference("posteriordb/mesquite.json")
    x = np.log(np.column_stack([rows["diam1"], rows["diam2"], rows["canopy_height"], rows["total_height"]]))
    data = {"y": np.log(rows["weight"]), "x": np.column_stack([np.ones(len(x)), x])}
    exact = regression_evidence(data["y"], data["x"], 0.0, 1e4, half_cauchy(1e4), -8.0, 14.0)
    few = SMC(moves=1, particles=32, compile=False, collapse=False)
    found = fit(regression(wide=1e4, noise=1e4), data, method=few, seed=0, progress=False)
    value, by_bridge = found.objective.value, found.diagnostics["bridge"]
    assert value < exact - 0.3
    assert found.objective.error == pytest.approx(abs(value - by_bridge))
    assert abs(value - exact) < 3 * found.objective.error
    assert not found.converged
    assert any("by bridge sampling from the particles at its end" in w for w in [found.reason, *found.warnings])
    assert abs(found.diagnostics["bridge"] - exact) < 3 * found.diagnostics["bridge_error"] + 0.02


def by_allocations(x, model):
    """Log evidence of BayesianGMM of two components for one column: the sum over all 2^n allocations."""
    center, half_df = float(model.center), 1.5
    rate = 0.5 * max(3.0 - 2.0, 1.0) * float(model.spread)

    def cluster(y):
        n, shrinkage = len(y), model.shrinkage
        if not n:
            return 0.0
        scatter = np.square(y - y.mean()).sum() + shrinkage * n * (y.mean() - center) ** 2 / (shrinkage + n)
        value = math.lgamma(half_df + n / 2) - math.lgamma(half_df) + half_df * math.log(rate)
        value -= (half_df + n / 2) * math.log(rate + scatter / 2)
        return value + 0.5 * math.log(shrinkage / (shrinkage + n)) - 0.5 * n * math.log(2 * math.pi)

    logs = []
    for some in itertools.product((False, True), repeat=len(x)):
        at = np.array(some)
        share = math.lgamma(1 + at.sum()) + math.lgamma(1 + (~at).sum()) - math.lgamma(2 + len(x))
        logs.append(share + cluster(x[at]) + cluster(x[~at]))
    return float(special.logsumexp(logs))


@pytest.mark.slow
def test_two_components_have_the_evidence_of_all_allocations():
    """Of particles in both labellings, and of the bridge from one."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, 5), rng.normal(2, 0.7, 5)])
    model = zoo.BayesianGMM(components=2)
    exact = by_allocations(x, prepare(model, x[:, None]).model)
    found = estimates(model, x[:, None], SMC(particles=32, compile=False))
    assert hold(found, exact) == ["smc", "bridge"]
