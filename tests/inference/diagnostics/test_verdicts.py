"""Verdicts about the draws that are handed out, against exact posteriors: skewed, narrow, bimodal, heavy-tailed."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats

import zoo
from inference import NUTS, SVI, Fit, Laplace, Pathfinder, fit
from inference.approximations.corrected import Corrected
from inference.approximations.normals import Normals
from inference.approximations.pareto import khat, smoothed
from inference.approximations.sampled import Sampled
from inference.diagnostics.agreement import with_agreement
from inference.diagnostics.importance import judge
from inference.diagnostics.shifts import Shifts, moments, quantiles, shifts
from inference.diagnostics.verdict import Evidence, is_clear, verdict
from inference.method import Objective, Outcome
from inference.sampling.paths import Normal
from tests.cases.models import FLIPS, SCHOOLS, NonCentred, NormalMean, coin
from tests.cases.spread import spread
from zoo import Positive, Real
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

WAITS = [0.4, 1.9, 0.7]


@zoo.model(wait=Positive("row"))
def skewed(wait):
    """Gamma(1.5 + 3, 1 + 3): its density over log rate is skewed."""
    rate = pyro.sample("rate", dist.Gamma(1.5, 1.0))
    with pyro.plate("row", len(wait)):
        pyro.sample("wait", dist.Exponential(rate), obs=wait)


EXACT = stats.gamma(4.5, scale=1 / (1 + sum(WAITS)))


@pytest.mark.parametrize(
    "method",
    [Laplace(), Pathfinder(), pytest.param(SVI(), marks=pytest.mark.slow)],
    ids=lambda m: type(m).__name__,
)
def test_corrected_draws_are_of_the_posterior(method):
    """A Normal over log rate has a mean too low; weighted it has not."""
    found = fit(skewed(), WAITS, method=method, seed=0, progress=False)
    stats_of = found.posterior["sample_stats"]
    draws, weight = found.posterior["posterior"]["rate"].to_numpy()[0], stats_of["weight"].to_numpy()[0]
    assert len(draws) == found.draw_count == 1000
    worth = 1 / (1 / 1000 + 1 / found.diagnostics["ess"])
    assert abs(draws.mean() - EXACT.mean()) < 4 * EXACT.std() / np.sqrt(worth)
    assert draws.std() == pytest.approx(EXACT.std(), rel=4 * np.sqrt(1.2 / worth))  # kurtosis 3 + 6 / 4.5
    np.testing.assert_allclose(np.quantile(draws, [0.05, 0.5, 0.95]), EXACT.ppf([0.05, 0.5, 0.95]), rtol=0.09)
    assert found.verdict.startswith("trust: ")
    # Each density is of its own: the weight is exp(log p - log q), smoothed in its tail.
    ratio = stats_of["log_p"].to_numpy()[0] - stats_of["log_q"].to_numpy()[0]
    low = ratio < np.quantile(ratio, 0.5)
    assert np.ptp(np.log(weight[low]) - ratio[low]) < 1e-6
    assert abs(found.diagnostics["evidence"] - fit(skewed(), WAITS, method="exact").objective.value) < 0.02
    assert found.sample(7).sizes["draw"] == 7


def test_uncorrected_draws_are_those_of_q():
    found = fit(skewed(), WAITS, method=Laplace(corrected=False), seed=0, progress=False)
    shape, rate = 4.5, 1 + sum(WAITS)
    q = stats.lognorm(shape**-0.5, scale=shape / rate)  # the mode over log rate, with the curvature there
    draws = found.posterior["posterior"]["rate"].to_numpy()[0]
    assert draws.mean() == pytest.approx(q.mean(), rel=0.02)
    row = found.shifts.loc["rate"]
    assert row["mean_shift"] == pytest.approx((q.mean() - EXACT.mean()) / EXACT.std(), abs=5 * row["mean_error"])
    assert row["sd_ratio"] == pytest.approx(q.std() / EXACT.std(), abs=5 * row["sd_error"])
    assert found.diagnostics["mean_shift"] == row["mean_shift"]
    assert found.diagnostics["sd_ratio"] == row["sd_ratio"]
    assert not found.verdict.startswith("trust")
    assert "weight" not in found.posterior["sample_stats"]


@pytest.mark.slow
def test_shifts_are_labelled_as_summaries_are():
    whole = fit(NonCentred(), SCHOOLS, method=Laplace(collapse=False), seed=0, progress=False)
    assert list(whole.shifts.index) == list(whole.summary().index)
    collapsed = fit(NonCentred(), SCHOOLS, method=Laplace(), seed=0, progress=False)
    assert list(collapsed.shifts.index) == ["tau"]  # the rest is drawn exactly given it, and q says nothing of it


@pytest.mark.slow
def test_corrected_draws_are_saved_and_read(tmp_path):
    found = fit(skewed(), WAITS, method=Laplace(), seed=0, progress=False)
    again = Fit.load(found.save(tmp_path / "fit"), skewed)
    assert isinstance(again.approximation, Corrected)
    assert repr(again) == repr(found)
    assert again.shifts.equals(found.shifts)
    assert again.log_prob().equals(found.log_prob())
    for group in ("posterior", "sample_stats", "log_likelihood"):
        assert again.posterior[group].to_dataset().identical(found.posterior[group].to_dataset())


@pytest.mark.slow
def test_a_weight_of_two_is_the_row_twice():
    weights = [2, 1, 3]
    found = fit(skewed(), WAITS, method=Laplace(), seed=0, weights=weights, progress=False)
    twice = fit(skewed(), np.repeat(WAITS, weights), method=Laplace(), seed=0, progress=False)
    exact = stats.gamma(1.5 + 6, scale=1 / (1 + np.dot(weights, WAITS)))
    for each in (found, twice):
        assert abs(float(each.draws.values["rate"].mean()) - exact.mean()) < 4 * exact.std() / np.sqrt(900)
        assert each.verdict.startswith("trust")
    errors = np.hypot(found.diagnostics["evidence_error"], twice.diagnostics["evidence_error"])
    assert abs(found.diagnostics["evidence"] - twice.diagnostics["evidence"]) < 4 * errors
    assert found.diagnostics["laplace_evidence"] == pytest.approx(twice.diagnostics["laplace_evidence"])


def judged(model, data, *normals, **settings):
    """Verdict on a mixture of Normals over the unconstrained vector, given by means and standard deviations."""
    members = [
        Normal(torch.tensor(m, dtype=torch.float64), torch.diag(torch.tensor(s, dtype=torch.float64)))
        for m, s in normals
    ]
    program = prepare(model, data, device="cpu")
    reseed(0)
    return judge(program, Normals.of(members), {}, converged=True, holes=True, **settings)


@zoo.model(x=Real("row"))
def either(x):
    """Two peaks, at about -3 and 3, the right one with 9 times the mass."""
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a.abs() + 0.35 * torch.sigmoid(-5 * a), 0.5), obs=x)


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_a_narrow_approximation_is_not_handed_out_with_trust(share):
    """NormalMean's posterior is a Normal; one that is narrower has a fine k-hat up to 1 - share^2."""
    x = np.array([1.0, 2.5, -0.3, 4.0])
    precision = 1 / 100 + len(x) / 4
    mean, sd = sum(x) / 4 / precision, precision**-0.5
    found = judged(NormalMean(), x, ([mean], [share * sd]), corrected=False)
    assert not found.verdict.startswith("trust") or share >= 0.9
    assert found.diagnostics["sd_ratio"] < 0.97
    exact = judged(NormalMean(), x, ([mean], [sd]))
    assert exact.verdict.startswith("trust")


def test_one_mode_of_two_is_not_trusted():
    """A Normal at one mode has ratios without any spread to speak of there; the other mode is found from afar."""
    x = [3.2, 2.9, 3.1]
    sd = (3 / 0.25 + 1 / 25) ** -0.5
    centre = np.mean(x) / (1 + 0.25 / 3 / 25)
    one = judged(either(), x, ([centre], [sd]))
    assert one.diagnostics["khat"] < 0.5 or np.isnan(one.diagnostics["khat"])
    assert one.verdict.startswith("do not trust")
    assert "other mode" in one.verdict
    both = judged(either(), x, ([centre], [sd]), ([-centre + 0.35], [sd]))
    assert both.verdict.startswith("trust")


@zoo.model(x=Real("row"))
def humps(x):
    """Two humps at -1 and 1, about half a unit wide."""
    a = pyro.sample("a", dist.Normal(0.0, 1e3))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(a.abs(), 0.5), obs=x)


def test_right_means_and_sds_with_wrong_quantiles_are_not_trusted():
    """The density is that of |a| ~ Normal(1, 1/4), cut off at 0 and mirrored: more of it in the shoulders."""
    half = stats.truncnorm(-2, np.inf, loc=1, scale=0.5)
    sd = np.sqrt(half.var() + half.mean() ** 2)
    beyond = 0.5 * half.sf(stats.norm.ppf(0.95) * sd)
    found = judged(humps(), [1.0], ([0.0], [sd]), corrected=False)
    assert found.diagnostics["sd_ratio"] == pytest.approx(1, abs=0.05)
    assert found.verdict.startswith("usable with care")
    off = re.search(r"quantiles within (.*) % of the mass", found.verdict)
    assert float(off[1]) == pytest.approx(100 * (0.05 - beyond), abs=1.0)  # three errors of 10,000 draws on each side
    assert judged(humps(), [1.0], ([0.0], [sd])).verdict.startswith("trust")


def test_tails_are_those_of_the_exact_distribution():
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.normal(0, 1.3, 40_000), np.full(40_000, 2.0)])
    ratio = stats.norm.logpdf(x[:, 0]) - stats.norm.logpdf(x[:, 0], scale=1.3)
    weights = np.exp(ratio) / np.exp(ratio).sum()
    cuts = quantiles(x, np.full(len(x), 1 / len(x)))
    assert abs(cuts[:, 0] - 1.3 * stats.norm.ppf([0.05, 0.95])).max() < 4 * 1.3 * 0.0106  # sqrt(pq / n) / density
    found = moments(x, weights, cuts)
    exact = [stats.norm.cdf(cuts[0, 0]), stats.norm.sf(cuts[1, 0])]
    assert (np.abs(found.tail[:, 0] - exact) < 4 * found.tail_error[:, 0]).all()
    assert found.tail_error[:, 0] == pytest.approx(0.0006, abs=0.0004)
    np.testing.assert_allclose(found.tail[:, 1], 0.5, rtol=1e-12)  # what is constant lies on both cuts


def test_moments_of_weighted_draws_have_the_errors_they_say():
    """z-scores of means and sds, and of their shifts, over many pools of a t weighted to a Normal."""
    rng = np.random.default_rng(0)
    scores = []
    for _ in range(300):
        x = rng.standard_t(5, size=(600, 1))
        ratio = (stats.norm.logpdf(x) - stats.t(5).logpdf(x))[:, 0]
        weights = np.exp(ratio) / np.exp(ratio).sum()
        found, off = moments(x, weights), shifts(x, weights)
        scores.append(
            [
                found.mean[0] / found.mean_error[0],
                (found.sd[0] - 1) / found.sd_error[0],
                off.mean[0] / off.mean_error[0],
                (off.sd[0] - np.sqrt(5 / 3)) / off.sd_error[0],
            ]
        )
    spread = np.std(scores, 0)
    assert (np.abs(np.mean(scores, 0)) < 0.5).all()  # the sd of a t with 5 degrees of freedom hardly has an error
    assert (spread > 0.8).all()
    assert (spread < 1.25).all()


NEAR = Shifts(np.array([0.01]), np.array([1.01]), np.array([0.01]), np.array([0.01]))
GOOD = Evidence(0.3, 10_000, 6000.0, True, NEAR, lambda _: "a", True, "", True, "log p(x) = -3.0 +- 0.1")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "trust: k-hat 0.30"),
        ({"shape": float("nan")}, "trust: p / q has no spread"),
        ({"shape": 0.9}, "do not trust: k-hat 0.90 is above 0.7"),
        ({"shape": 0.67, "confirmed": None}, "usable with care"),
        ({"confirmed": None}, "trust"),
        ({"confirmed": False}, "usable with care"),
        ({"shape": 0.67}, "trust"),
        ({"shape": 0.62, "count": 300}, "do not trust: k-hat 0.62 is above 0.6"),
        ({"shape": float("inf")}, "do not trust"),
        ({"worth": 12.0}, "do not trust: a few draws outweigh"),
        ({"missed": "it misses a mode"}, "do not trust: it misses a mode"),
        ({"away": replace(NEAR, mean=np.array([-0.2]))}, "usable with care"),
        ({"away": replace(NEAR, mean=np.array([-0.5]))}, "do not trust"),
        ({"away": replace(NEAR, sd=np.array([0.8]))}, "usable with care"),
        ({"away": replace(NEAR, sd=np.array([0.5]))}, "do not trust"),
        ({"away": replace(NEAR, mean_error=np.array([0.2]))}, "usable with care"),
    ],
)
def test_what_is_said(change, said):
    assert verdict(replace(GOOD, **change)).startswith(said)


def test_a_climb_that_has_not_come_to_its_end_is_said():
    assert "not converged" in verdict(replace(GOOD, converged=False))


def test_a_coin_is_trusted():
    assert fit(coin(a=2.0), FLIPS, method=Laplace(), seed=0, progress=False).verdict.startswith("trust")


@pytest.mark.slow
@pytest.mark.parametrize("corrected", [True, False])
def test_there_is_one_khat_with_its_error(corrected):
    """Of 10,000 draws the tail has 300: k-hat is known to (1 + k) / sqrt(300), and other draws agree within it."""
    found = fit(coin(a=2.0), FLIPS, method=Laplace(corrected=corrected), seed=0, progress=False)
    shape, error = found.diagnostics["khat"], found.diagnostics["khat_error"]
    assert found.khat == shape
    assert error == pytest.approx((1 + shape) / np.sqrt(300))
    assert f"k-hat {shape:.2f} +- {error:.2f}" in found.verdict
    others = [fit(coin(a=2.0), FLIPS, method=Laplace(), seed=seed, progress=False).khat for seed in range(1, 6)]
    assert (np.abs(np.array(others) - shape) < 4 * error * np.sqrt(2)).all()


# -- exchangeable states -----------------------------------------------------------------------------------------------


def mixture(components, one_share=False):
    """A mixture of unit Normals with means ~ Normal(0, 3), all states alike; of two there may be one share."""

    @zoo.model(x=Real("row"))
    def alike(x):
        if one_share:
            share = pyro.sample("share", dist.Uniform(0.0, 1.0))
            weights = torch.stack([share, 1 - share], -1)
        else:
            weights = pyro.sample("weights", dist.Dirichlet(torch.ones(components)))
        with pyro.plate("component", components):
            mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(weights))
            pyro.sample("x", dist.Normal(mean[z], 1.0), obs=x)

    return alike()


def evidence_of(x, components):
    """Sum over all assignments: each component's rows have a Normal density, assignments a Dirichlet-multinomial."""
    parts = []
    for states in itertools.product(range(components), repeat=len(x)):
        sizes = np.bincount(states, minlength=components)
        value = special.gammaln(components) - special.gammaln(components + len(x)) + special.gammaln(sizes + 1).sum()
        for k in range(components):
            own = x[np.array(states) == k]
            if len(own):
                value += stats.multivariate_normal(np.zeros(len(own)), np.eye(len(own)) + 9).logpdf(own)
        parts.append(value)
    return special.logsumexp(parts)


LABELLED = {
    "apart": (6.0, 2, False),
    "overlapping": (1.5, 2, False),
    "three": (9.0, 3, False),
    "one share": (6.0, 2, True),
    "one share, overlapping": (1.5, 2, True),
}


@pytest.mark.slow
@spread(
    ("case", "method"),
    [(case, method) for case in LABELLED for method in (Laplace(), Pathfinder())],
    part=0,
    of=3,
    ids=lambda v: v if isinstance(v, str) else type(v).__name__,
)
def test_the_evidence_counts_every_labelling(case, method):
    gap, components, one_share = LABELLED[case]
    rng = np.random.default_rng(components)
    x = np.concatenate([rng.normal(gap * k, 0.7, 8 // components) for k in range(components)])
    exact = evidence_of(x, components)
    found = fit(mixture(components, one_share), x, method=method, seed=0, progress=False)
    if found.verdict.startswith("trust"):
        assert abs(found.diagnostics["evidence"] - exact) < 4 * found.diagnostics["evidence_error"] + 0.02
    assert f"{components}! labellings of z" in found.verdict
    assert found.diagnostics["log_labellings"] == pytest.approx(special.gammaln(components + 1))
    if gap > 5:
        assert found.verdict.startswith("trust")
        assert found.diagnostics["own_labelling"] > 0.99
        if isinstance(method, Laplace):
            assert abs(found.diagnostics["laplace_evidence"] - exact) < 0.4


@pytest.mark.parametrize(("loc", "scale"), [(2.93, 1.08), (2.95, 1.2), (3.0, 1.3)])
def test_a_plateau_of_ratios_is_no_tail(loc, scale):
    """Normals about a skewed posterior on the logit are worth most of as many draws from it, so k-hat is small."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        u = rng.normal(loc, scale, 10_000)
        p = 1 / (1 + np.exp(-u))
        ratio = stats.beta(11, 1).logpdf(p) + np.log(p * (1 - p)) - stats.norm(loc, scale).logpdf(u)
        weights, shape = smoothed(ratio)
        assert shape < 1
        assert abs(weights @ p - 11 / 12) < 0.01
    narrow = rng.normal(0, 0.4, 10_000)  # 1 - 0.4^2 = 0.84 in theory
    assert khat(stats.norm.logpdf(narrow) - stats.norm(0, 0.4).logpdf(narrow)) > 0.7


@pytest.mark.slow
def test_chains_that_agree_on_one_of_two_modes_are_not_trusted():
    """All start near 3, where R-hat is fine; the other mode has as much mass."""

    class Apart(zoo.Model):
        x = Real("row")

        def initial(self, x):
            return {"a": torch.tensor(8.0)}

        def forward(self, x):
            a = pyro.sample("a", dist.Normal(0.0, 5.0))
            with pyro.plate("row", len(x)):
                pyro.sample("x", dist.Normal(a.abs(), 0.5), obs=x)

    method = NUTS(chains=2, warmup=300, draws=500, compile=False)
    found = fit(Apart(), [8.0, 8.2, 7.9], method=method, seed=0, progress=False)
    assert found.diagnostics["rhat"] < 1.05
    assert not found.verdict.startswith("trust")
    assert "other mode" in found.verdict
    assert fit(NormalMean(), [8.0, 8.2, 7.9], method=method, seed=0, progress=False).verdict.startswith("trust")


@pytest.mark.parametrize(
    ("gap", "error", "clear"),
    [(0.02, 0.02, True), (0.02, 0.05, False), (0.08, 0.03, False), (0.12, 0.03, False), (0.2, 0.04, True)],
    ids=["near", "known roughly", "near the limit", "beyond it perhaps", "beyond"],
)
def test_what_leaves_a_question_open(gap, error, clear):
    one, none = np.array([1.0]), np.array([0.001])
    assert is_clear(Shifts(gap * one, one, error * one, none)) is clear
    assert is_clear(Shifts(0 * one, 1 + gap * one, none, error * one)) is clear


@zoo.model(x=zoo.Real("row"))
def plain(x):
    """A mean with a Normal posterior."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(mu, 1.0), obs=x)


@pytest.mark.parametrize(
    ("count", "moved", "said"),
    [
        (5, 0.0, "trust: R-hat .*; a wider look at the posterior finds means within 0.0. posterior sds"),
        (5, 0.3, "do not trust without a look at this: 5 of 4000 draws ended in a divergence"),
        (50, 0.0, "do not trust without a look at this: 50 of 4000 draws ended in a divergence"),
    ],
    ids=["borne out", "something else is found", "too many"],
)
def test_few_divergences_are_borne_out_by_a_wider_look(count, moved, said):
    program = prepare(plain(), [1.0, 2.0, 0.0], device="cpu")  # mu given x is Normal(3 / 4, 1 / 4)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    diverging = np.zeros(4000, bool)
    diverging[rng.choice(4000, count, replace=False)] = True
    stats = {
        "diverging": diverging.reshape(4, 1000),
        "tree_depth": np.full((4, 1000), 3),
        "energy": rng.standard_normal((4, 1000)),
    }
    draws = torch.from_numpy(0.75 + 0.5 * (moved + rng.standard_normal(4000)))
    sampled = Sampled({"mu": draws}, torch.from_numpy(rng.standard_normal(4000)), {}, stats, "none", 4)
    ended = Outcome(
        approximation=sampled,
        points={},
        objective=Objective(0.0, "log_posterior"),
        trace=None,
        steps=1,
        converged=False,
        reason="",
    )
    found = NUTS().relabelled(program, ended, ended)
    assert re.match(said, found.verdict), found.verdict
    assert found.converged is said.startswith("trust")
    assert any("ended in a divergence" in w for w in found.warnings)


@pytest.mark.parametrize(("confirmed", "begins"), [(False, "usable with care: the 2 starts end"), (True, "trust")])
def test_what_starts_contradict_is_trusted_only_where_a_wider_look_bears_it_out(confirmed, begins):
    program = prepare(either(), [3.2, 2.9, 3.1], device="cpu")
    reseed(0)
    ends = [Normals.of([Normal(torch.tensor([m]).double(), 0.3 * torch.eye(1).double())]) for m in (3.0, -2.0)]
    judgement = judge(program, ends[0], {}, converged=True)
    trusted = replace(judgement, verdict="trust: by its weights", confirmed=confirmed)
    found = with_agreement(program, trusted, [(q, {}) for q in ends])
    assert found.diagnostics["rhat_restarts"] > 1.5
    assert found.verdict.startswith(begins)
    assert any("different places" in w for w in found.warnings)
