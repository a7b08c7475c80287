"""Conjugate posteriors and evidences against closed forms, quadrature and published numbers; and what is refused."""

from __future__ import annotations

import itertools
import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.special import betaln, gammaln

import zoo
from inference import EM, MAP, SVI, Exact, Fit, fit
from inference.families import closed_form
from tests.models import FLIPS, ROWS, SCHOOLS, EightSchools, NonCentred, PoissonMixture, coin
from zoo import Binary, Category, Count, DataError, FitError, MethodError, Positive, Real
from zoo.declare.explain import prepare

COUNTS = [3, 0, 2, 7, 1, 4]


def exact(model, data, **settings):
    return fit(model, data, method=Exact(), seed=0, **settings)


def posterior(result, name):
    return result.approximation.distributions[name]


def number(tensor):
    return tensor.detach().numpy()


def log_ratio(result):
    """log p(x, z) - log q(z) of every posterior draw."""
    stats = result.posterior["sample_stats"]
    return (stats["log_p"] - stats["log_q"]).to_numpy()


def references():
    folder = os.environ.get("ZOO_REFERENCES")
    if not folder:
        pytest.skip("ZOO_REFERENCES is not set: no reference values to compare with")
    return json.loads((Path(folder) / "small_exact.json").read_text())


# -- models -----------------------------------------------------------------------------------------------------------


@zoo.model(k=Count("trial"), n=Count("trial"))
def beta_binomial(k, n, *, a: float = 1.0, b: float = 1.0):
    """Successes in n attempts."""
    p = pyro.sample("p", dist.Beta(a, b))
    with pyro.plate("trial", len(k)):
        pyro.sample("k", dist.Binomial(n, p), obs=k)


@zoo.model(y=Count("row"))
def gamma_poisson(y, *, a: float = 2.0, b: float = 0.5):
    """Counts at one rate."""
    rate = pyro.sample("rate", dist.Gamma(a, b))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


@zoo.model(y=Positive("row"))
def gamma_exponential(y, *, a: float = 2.0, b: float = 0.5):
    """Waiting times at one rate."""
    rate = pyro.sample("rate", dist.Gamma(a, b))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Exponential(rate), obs=y)


@zoo.model(y=Real("row"))
def known_scale(y, *, m: float = 1.0, s: float = 3.0, noise: float = 0.7):
    """A mean with one known standard deviation."""
    mu = pyro.sample("mu", dist.Normal(m, s))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, noise), obs=y)


@zoo.model(y=Real("row"), sd=Positive("row"))
def known_scales(y, sd):
    """A mean with a known standard deviation for each row."""
    mu = pyro.sample("mu", dist.Normal(1.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)


@zoo.model(y=Category("row"))
def dirichlet_categorical(y):
    """Shares of categories."""
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


@zoo.model(y=Count("row", "face"))
def dirichlet_multinomial(y):
    """Shares of faces, from several throws a row."""
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Multinomial(5, p), obs=y)


@zoo.model(y=Real("row", "column"))
def columns(y):
    """A mean for each column, as one event."""
    mu = pyro.sample("mu", dist.Normal(torch.zeros(y.shape[1]), 3.0).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 0.7).to_event(1), obs=y)


@zoo.model(y=Count("group"))
def group_rates(y, *, a: float = 2.0, b: float = 0.5):
    """A rate for each group."""
    with pyro.plate("group", len(y)):
        theta = pyro.sample("theta", dist.Gamma(a, b))
        pyro.sample("y", dist.Poisson(theta), obs=y)


@zoo.model(y=Count("group", "member"))
def group_members(y, *, a: float = 2.0, b: float = 0.5):
    """A rate for each group, several members of each."""
    with pyro.plate("group", y.shape[0], dim=-2):
        theta = pyro.sample("theta", dist.Gamma(a, b))
        with pyro.plate("member", y.shape[1], dim=-1):
            pyro.sample("y", dist.Poisson(theta), obs=y)


@zoo.model(y=Binary("person", "item"))
def item_shares(y):
    """A probability for each item, in a plate."""
    with pyro.plate("item", y.shape[1], dim=-1):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("person", y.shape[0], dim=-2):
            pyro.sample("y", dist.Bernoulli(p), obs=y)


@zoo.model(x=Count("row"), y=Real("row"))
def two_parts(x, y):
    """Two latents, each with data of its own."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(1.0, 3.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)
        pyro.sample("y", dist.Normal(mu, 0.7), obs=y)


@zoo.model(x=Count("row"), y=Positive("row"))
def one_rate_twice(x, y):
    """One rate behind counts and waiting times."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Poisson(rate), obs=x)
        pyro.sample("y", dist.Exponential(rate), obs=y)


# -- evidences --------------------------------------------------------------------------------------------------------


def poisson_evidence(y, a, b):
    y = np.asarray(y)
    total = y.sum()
    after = a * math.log(b) - gammaln(a) + gammaln(a + total) - (a + total) * math.log(b + len(y))
    return after - gammaln(y + 1).sum()


def exponential_evidence(y, a, b):
    return a * math.log(b) - gammaln(a) + gammaln(a + len(y)) - (a + len(y)) * math.log(b + sum(y))


def normal_evidence(y, m, s, sd):
    y = np.asarray(y)
    covariance = np.diag(np.broadcast_to(np.square(sd), y.shape)) + s**2
    return scipy.stats.multivariate_normal.logpdf(y, np.full(len(y), m), covariance)


def dirichlet_evidence(counts, concentration):
    a = np.asarray(concentration)
    return gammaln(a.sum()) - gammaln(a.sum() + counts.sum()) + (gammaln(a + counts) - gammaln(a)).sum()


VALUES = [0.2, -0.5, 1.5, 0.9, 2.2]
SCALES = [0.5, 1.0, 2.0, 0.1, 3.0]
FACES = np.array([[5, 0, 0], [1, 2, 2], [0, 4, 1], [2, 0, 3]])
MEMBERS = np.array([[1, 2, 0], [4, 9, 5]])
ITEMS = np.array([[1, 0], [1, 1], [0, 0], [1, 0]])
EVIDENCES = [
    (zoo.BetaBernoulli(), FLIPS, betaln(6, 6) - betaln(1, 1)),
    (zoo.BetaBernoulli(a=2.0, b=0.5), FLIPS, betaln(7, 5.5) - betaln(2, 0.5)),
    (coin(a=0.5, b=3.0), FLIPS, betaln(5.5, 8) - betaln(0.5, 3)),
    (
        beta_binomial(a=2.0, b=3.0),
        {"k": [3, 0, 4], "n": [5, 2, 4]},
        betaln(9, 7) - betaln(2, 3) + math.log(math.comb(5, 3)),
    ),
    (gamma_poisson(), COUNTS, poisson_evidence(COUNTS, 2.0, 0.5)),
    (gamma_poisson(a=0.3, b=4.0), COUNTS, poisson_evidence(COUNTS, 0.3, 4.0)),
    (gamma_exponential(), SCALES, exponential_evidence(SCALES, 2.0, 0.5)),
    (known_scale(), VALUES, normal_evidence(VALUES, 1.0, 3.0, 0.7)),
    (known_scales(), {"y": VALUES, "sd": SCALES}, normal_evidence(VALUES, 1.0, 3.0, SCALES)),
    (dirichlet_categorical(), [0, 2, 2, 1, 2], dirichlet_evidence(np.array([1, 1, 3]), [0.5, 1.0, 2.0])),
    (
        dirichlet_multinomial(),
        FACES,
        dirichlet_evidence(FACES.sum(0), [0.5, 1.0, 2.0]) + 4 * gammaln(6) - gammaln(FACES + 1).sum(),
    ),
    (columns(), np.array(ROWS)[:, :1], normal_evidence(np.array(ROWS)[:, 0], 0.0, 3.0, 0.7)),
    (columns(), ROWS, sum(normal_evidence(c, 0.0, 3.0, 0.7) for c in np.array(ROWS).T)),
    (group_rates(), COUNTS, sum(poisson_evidence([y], 2.0, 0.5) for y in COUNTS)),
    (group_members(), MEMBERS, sum(poisson_evidence(y, 2.0, 0.5) for y in MEMBERS)),
    (item_shares(), ITEMS, betaln(2 + 3, 3 + 1) + betaln(2 + 1, 3 + 3) - 2 * betaln(2, 3)),
    (
        two_parts(),
        {"x": COUNTS[:5], "y": VALUES},
        poisson_evidence(COUNTS[:5], 2.0, 0.5) + normal_evidence(VALUES, 1.0, 3.0, 0.7),
    ),
]
CASES = [pytest.param(*case, id=f"{type(case[0]).__name__}-{i}") for i, case in enumerate(EVIDENCES)]


@pytest.mark.parametrize(("model", "data", "expected"), CASES)
def test_the_evidence_is_the_closed_form(model, data, expected):
    result = exact(model, data)
    assert result.objective.kind == "log_evidence"
    assert result.objective.error == 0.0
    assert result.objective.value == pytest.approx(float(expected), rel=1e-10, abs=1e-10)
    assert result.converged
    assert result.reason == "closed form"
    assert not result.is_point


@pytest.mark.parametrize(("model", "data", "expected"), CASES)
def test_the_joint_over_the_posterior_is_the_evidence_everywhere(model, data, expected):
    result = exact(model, data)
    ratio = log_ratio(result)
    assert np.abs(ratio - float(expected)).max() < 1e-8 * (1 + abs(float(expected)))
    assert set(result.posterior["posterior"].data_vars) == {s.name for s in result.program.latents}


@pytest.mark.parametrize(
    ("model", "data", "name", "moments"),
    [
        (coin(a=2.0), FLIPS, "heads", (7 / 13, math.sqrt(7 * 6 / (13**2 * 14)))),
        (gamma_poisson(), COUNTS, "rate", (19 / 6.5, math.sqrt(19) / 6.5)),
        (gamma_exponential(), SCALES, "rate", (7 / 7.1, math.sqrt(7) / 7.1)),
        (
            known_scale(),
            VALUES,
            "mu",
            ((1 / 9 + sum(VALUES) / 0.49) / (1 / 9 + 5 / 0.49), (1 / 9 + 5 / 0.49) ** -0.5),
        ),
    ],
    ids=["beta", "gamma", "exponential", "normal"],
)
def test_posterior_moments(model, data, name, moments):
    found = posterior(exact(model, data), name)
    assert (float(found.mean), float(found.stddev)) == pytest.approx(moments, rel=1e-10)


def test_posterior_by_quadrature():
    """One rate behind two likelihoods: evidence and mean by adaptive quadrature of the prior times the likelihood."""
    x, y = [3, 0, 2], [0.3, 1.0, 2.5]

    def density(r):
        prior = scipy.stats.gamma.pdf(r, 2.0, scale=2.0)
        return prior * scipy.stats.poisson.pmf(x, r).prod() * scipy.stats.expon.pdf(y, scale=1 / r).prod()

    evidence, _ = scipy.integrate.quad(density, 0, 60, epsabs=0, epsrel=1e-11)
    mean, _ = scipy.integrate.quad(lambda r: r * density(r), 0, 60, epsabs=0, epsrel=1e-11)
    result = exact(one_rate_twice(), {"x": x, "y": y})
    assert result.objective.value == pytest.approx(math.log(evidence), abs=1e-9)
    assert float(posterior(result, "rate").mean) == pytest.approx(mean / evidence, rel=1e-9)


# -- the reference numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "name"), [(zoo.BetaBernoulli(), "p"), (coin(), "heads")], ids=["zoo", "user"])
def test_ten_tosses_with_five_heads(model, name):
    """Beta(6, 6), whoever declared the model; log evidence log B(6, 6)."""
    result = exact(model, FLIPS)
    found = posterior(result, name)
    assert (float(found.concentration1), float(found.concentration0)) == (6.0, 6.0)
    assert result.objective.value == pytest.approx(-7.927324, abs=1e-6)


@pytest.mark.parametrize(("n", "k"), [(10, 5), (15, 1), (10, 0), (10, 10)])
def test_reference_rates(n, k):
    case = references()[f"beta_bernoulli_uniform_n{n}_k{k}"]
    sequence = exact(zoo.BetaBernoulli(), [1] * k + [0] * (n - k))
    binomial = exact(beta_binomial(), {"k": [k], "n": [n]})
    assert sequence.objective.value == pytest.approx(case["log_evidence_sequence"], abs=1e-10)
    assert binomial.objective.value == pytest.approx(case["log_evidence_binomial"], abs=1e-10)
    for result in (sequence, binomial):
        found = posterior(result, "p")
        assert (float(found.concentration1), float(found.concentration0)) == (case["post_a"], case["post_b"])
        assert float(found.mean) == pytest.approx(case["mean"], rel=1e-12)
        assert float(found.stddev) == pytest.approx(case["sd"], rel=1e-12)


def test_every_reference_rate_is_tried():
    names = [n for n in references() if n.startswith("beta_bernoulli")]
    assert len(names) == 4


# -- what a fit answers -----------------------------------------------------------------------------------------------


def test_draws_and_summary_agree_with_the_posterior():
    """Mean and sd of independent draws, within 5 standard errors; the order of draws carries nothing."""
    result = exact(coin(), FLIPS)
    draws = result.posterior["posterior"]["heads"].to_numpy().ravel()
    sd = 0.1386750490563073
    assert abs(draws.mean() - 0.5) < 5 * sd / math.sqrt(len(draws))
    assert abs(draws.std() / sd - 1) < 5 / math.sqrt(2 * len(draws))
    assert scipy.stats.kstest(draws, scipy.stats.beta(6, 6).cdf).pvalue > 1e-6
    assert result.summary().loc["heads", "mean"] == pytest.approx(draws.mean(), rel=1e-6)


def test_predictive_density_of_new_rows():
    """p(next toss is heads | data) is the posterior mean, within 5 Monte Carlo standard errors."""
    result = exact(coin(a=2.0), FLIPS)
    log_prob = result.log_prob([1, 0], samples=4000)
    for value, expected, error in zip(log_prob, (7 / 13, 6 / 13), log_prob.attrs["mcse"], strict=True):
        assert 0 < error < 0.02
        assert abs(value - math.log(expected)) < 5 * error


def test_the_same_seed_gives_the_same_answer_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, two = exact(coin(), FLIPS), exact(coin(), FLIPS)
    assert torch.equal(before, torch.get_rng_state())
    assert np.array_equal(one.posterior["posterior"]["heads"], two.posterior["posterior"]["heads"])


def test_float32_is_enough_for_a_coin():
    result = exact(coin(), FLIPS, dtype=torch.float32)
    assert result.objective.value == pytest.approx(-7.927324, abs=1e-4)
    assert posterior(result, "heads").mean.dtype == torch.float32


def test_dims_of_local_posteriors():
    frame = pd.DataFrame({"y": COUNTS}, index=list("abcdef"))
    result = exact(group_rates(), frame)
    array = result.posterior["posterior"]["theta"]
    assert array.dims == ("chain", "draw", "group")
    assert list(array["group"].to_numpy()) == list("abcdef")
    assert number(posterior(result, "theta").mean) == pytest.approx((np.array(COUNTS) + 2) / 1.5)
    shares = exact(item_shares(), ITEMS).posterior["posterior"]["p"]
    assert shares.dims == ("chain", "draw", "item")


def test_no_row_is_an_outlier_too_far():
    """A million counts, or a mean a million standard deviations away, are updated without loss."""
    result = exact(gamma_poisson(), [10**6] * 3)
    assert result.objective.value == pytest.approx(poisson_evidence([10**6] * 3, 2.0, 0.5), rel=1e-9)
    result = exact(known_scale(noise=1e-3), [1e3, 1e3 + 1e-3])
    assert float(posterior(result, "mu").mean) == pytest.approx(1e3, abs=1e-3)


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (zoo.BetaBernoulli(), [1, 0, 1, 1]),
        (gamma_poisson(), [3, 0, 2, 7]),
        (known_scales(), {"y": VALUES[:4], "sd": SCALES[:4]}),
        (dirichlet_categorical(), [0, 2, 2, 1]),
        (columns(), ROWS),
        (item_shares(), ITEMS),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_a_weight_is_a_number_of_repetitions(model, data):
    times = [2, 0, 1, 3]
    weighted = exact(model, data, weights=times)
    rows = np.repeat(np.arange(4), times)
    repeated = {n: np.asarray(v)[rows] for n, v in data.items()} if isinstance(data, dict) else np.asarray(data)[rows]
    plain = exact(model, repeated)
    assert weighted.objective.value == pytest.approx(plain.objective.value, rel=1e-12)
    for name, found in plain.approximation.distributions.items():
        assert number(posterior(weighted, name).mean) == pytest.approx(number(found.mean), rel=1e-12)
        assert number(posterior(weighted, name).stddev) == pytest.approx(number(found.stddev), rel=1e-12)


def test_weights_of_rows_with_latents_of_their_own():
    """Two groups with the same count: each has its own rate, so the evidence doubles and the posterior stays."""
    result = exact(group_rates(), [3, 1], weights=[2, 1])
    expected = 2 * poisson_evidence([3], 2.0, 0.5) + poisson_evidence([1], 2.0, 0.5)
    assert result.objective.value == pytest.approx(expected, rel=1e-10)
    assert number(posterior(result, "theta").mean) == pytest.approx([5 / 1.5, 3 / 1.5])


# -- update -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (coin(a=2.0), np.array(FLIPS)),
        (beta_binomial(), {"k": np.array([3, 0, 4, 1]), "n": np.array([5, 2, 4, 1])}),
        (gamma_poisson(), np.array(COUNTS)),
        (gamma_exponential(), np.array(SCALES)),
        (known_scale(), np.array(VALUES)),
        (known_scales(), {"y": np.array(VALUES), "sd": np.array(SCALES)}),
        (dirichlet_categorical(), np.array([2, 0, 1, 2, 2])),
        (dirichlet_multinomial(), FACES),
        (columns(), np.array(ROWS)),
        (item_shares(), ITEMS),
        (two_parts(), {"x": np.array(COUNTS[:5]), "y": np.array(VALUES)}),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
@pytest.mark.parametrize("cuts", [[1], [3], [1, 2, 3]], ids=str)
def test_batches_one_after_the_other_are_one_batch(model, data, cuts):
    def part(a, b):
        return {n: v[a:b] for n, v in data.items()} if isinstance(data, dict) else data[a:b]

    whole = exact(model, data)
    edges = [0, *cuts, None]
    result = exact(model, part(0, cuts[0]))
    total = result.objective.value
    for a, b in itertools.pairwise(edges[1:]):
        result = Exact().update(result, part(a, b))
        assert result.objective.kind == "log_evidence"
        total += result.objective.value
    assert total == pytest.approx(whole.objective.value, rel=1e-10)
    for name, found in whole.approximation.distributions.items():
        assert number(posterior(result, name).mean) == pytest.approx(number(found.mean), rel=1e-10)
        assert number(posterior(result, name).stddev) == pytest.approx(number(found.stddev), rel=1e-10)


def test_an_update_changes_nothing_of_the_earlier_fit():
    first = exact(coin(), FLIPS)
    before = first.posterior["posterior"]["heads"].to_numpy().copy()
    second = Exact().update(first, [1, 1, 1])
    assert isinstance(second, Fit)
    assert float(posterior(first, "heads").concentration1) == 6.0
    assert float(posterior(second, "heads").concentration1) == 9.0
    assert np.array_equal(first.posterior["posterior"]["heads"], before)
    assert first.objective.value == pytest.approx(-7.927324, abs=1e-6)
    assert second.posterior["observed_data"].sizes["toss"] == 3


def test_an_updated_fit_answers_like_any_other():
    result = Exact().update(exact(coin(), FLIPS), [1] * 10)
    draws = result.posterior["posterior"]["heads"].to_numpy().ravel()
    assert abs(draws.mean() - 16 / 22) < 5 * math.sqrt(16 * 6 / (22**2 * 23)) / math.sqrt(len(draws))
    log_prob = result.log_prob([1], samples=4000)
    assert abs(log_prob.iloc[0] - math.log(16 / 22)) < 5 * log_prob.attrs["mcse"][0]
    assert math.isfinite(result.trace["value"].iloc[-1])
    assert list(result.trace["step"]) == [1, 2]
    assert np.ptp(log_ratio(result)) < 1e-8


def test_an_update_keeps_the_labels_of_the_first_data():
    first = exact(dirichlet_categorical(), ["low", "top", "mid"])
    second = Exact().update(first, ["top", "top"])
    assert number(posterior(second, "p").concentration) == pytest.approx([1.5, 2.0, 5.0])
    with pytest.raises(DataError, match="unknown category 'odd'"):
        Exact().update(first, ["odd"])


def test_an_update_of_no_rows_is_refused():
    with pytest.raises(DataError, match="empty"):
        Exact().update(exact(coin(), FLIPS), [])


def test_only_exact_fits_of_global_latents_are_updated():
    approximate = fit(coin(), FLIPS, method=SVI(steps=5), seed=0)
    with pytest.raises(MethodError, match=r"continues a fit made by Exact\(\); this one was made by SVI"):
        Exact().update(approximate, [1])
    point = fit(coin(), FLIPS, method=MAP(), seed=0)
    with pytest.raises(MethodError, match="made by MAP"):
        Exact().update(point, [1])
    with pytest.raises(MethodError, match="'theta' is local"):
        Exact().update(exact(group_rates(), COUNTS), [3])


# -- refused, with the reason -----------------------------------------------------------------------------------------


def refused(story, fields):
    return zoo.model(**fields)(story)()


def normal_with_unknown_scale(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sd = pyro.sample("sd", dist.HalfCauchy(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)


def sum_of_two(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


def chain_of_two(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def normal_gamma(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, tau.rsqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


def independent_mean_and_precision(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


def student(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(4.0, mu, 1.0), obs=y)


def laplace_prior(y):
    mu = pyro.sample("mu", dist.Laplace(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def mean_as_parameter(y):
    mu = pyro.param("mu", torch.tensor(0.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def scale_as_parameter(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    sd = pyro.param("sd", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, sd), obs=y)


def mixture(y):
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.5)).long()
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def unused_latent(y):
    pyro.sample("idle", dist.Normal(0.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def with_factor(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    pyro.factor("more", -(mu**4))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def truncated_by_factor(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.factor("more", -(mu**2) * y)
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


REFUSED = [
    (normal_with_unknown_scale, "mu|sd"),
    (sum_of_two, "'a'"),
    (chain_of_two, "'a'|'b'"),
    (normal_gamma, "joint posterior of mu and tau is not a product|mu|tau"),
    (independent_mean_and_precision, "mu|tau"),
    (student, "no conjugate family is recognised for 'mu' ~ Normal"),
    (laplace_prior, "no conjugate family is recognised for 'mu' ~ Laplace"),
    (mean_as_parameter, "no latent"),
    (scale_as_parameter, "'sd' is a parameter without prior"),
    (mixture, "'z'.*mixture"),
    (with_factor, "mu"),
    (truncated_by_factor, "mu"),
]


@pytest.mark.parametrize(("story", "reason"), REFUSED, ids=[s.__name__ for s, _ in REFUSED])
def test_what_is_not_conjugate_is_refused_with_the_reason(story, reason):
    model = refused(story, {"y": Real("row")})
    why = Exact().why_not(prepare(model, VALUES))
    assert why is not None
    with pytest.raises(MethodError, match=reason) as caught:
        exact(model, VALUES)
    assert "exact is not legal for" in str(caught.value)
    legal = str(caught.value).partition("Legal here: ")[2]
    assert "svi" in legal


def test_a_latent_that_nothing_depends_on_is_named():
    with pytest.raises(MethodError, match="'idle'"):
        exact(refused(unused_latent, {"y": Real("row")}), VALUES)


@pytest.mark.parametrize("model", [EightSchools(), NonCentred()], ids=repr)
def test_eight_schools_is_refused(model):
    with pytest.raises(MethodError, match=r"no conjugate family.*Legal here: .*svi"):
        exact(model, SCHOOLS)


def test_models_with_states_or_networks_are_refused():
    with pytest.raises(MethodError, match="'z'"):
        exact(zoo.BayesianGMM(), ROWS)
    with pytest.raises(MethodError, match="no latent"):
        exact(PoissonMixture(), COUNTS)
    with pytest.raises(MethodError, match="decoder"):
        exact(zoo.VAE(latent=1), [[0, 1], [1, 0]])


TRAPS = [
    ("squared", lambda p: p**2),
    ("halved", lambda p: 0.5 * p),
    ("mirrored", lambda p: 1 - p),
    ("squeezed", lambda p: 0.25 + 0.5 * p),
    ("bounded", lambda p: p.clamp(max=0.5)),
    ("bounded below", lambda p: p.clamp(min=0.5)),
    ("branch", lambda p: torch.where(p > 0.5, p, p**2)),
    ("root", lambda p: p.sqrt()),
]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("name", "function"), TRAPS, ids=[n for n, _ in TRAPS])
def test_a_function_of_a_conjugate_latent_is_not_conjugate(name, function, seed):
    """It looks like one: a Beta prior, one latent, a Bernoulli likelihood; but the argument is not the latent."""

    @zoo.model(flips=Binary("toss"))
    def trap(flips):
        heads = pyro.sample("heads", dist.Beta(2.0, 2.0))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(function(heads)), obs=flips)

    torch.manual_seed(seed)
    program = prepare(trap(), FLIPS)
    assert closed_form(program)[1] == ["heads"]
    assert "'heads' ~ Beta" in Exact().why_not(program)


def test_logits_that_are_the_latent_are_no_probability():
    @zoo.model(flips=Binary("toss"))
    def trap(flips):
        heads = pyro.sample("heads", dist.Beta(2.0, 2.0))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(logits=heads), obs=flips)

    assert "'heads' ~ Beta" in Exact().why_not(prepare(trap(), FLIPS))


def test_probabilities_by_another_road_are_the_latent():
    """logits = logit(p) is the same likelihood, and conjugacy is a matter of the likelihood."""

    @zoo.model(flips=Binary("toss"))
    def detour(flips):
        heads = pyro.sample("heads", dist.Beta(1.0, 1.0))
        with pyro.plate("toss", len(flips)):
            pyro.sample("flips", dist.Bernoulli(logits=torch.logit(heads)), obs=flips)

    result = exact(detour(), FLIPS)
    assert result.objective.value == pytest.approx(-7.927324, abs=1e-6)


@pytest.mark.parametrize(
    "exposure", [[1.0] * 6, [1.0] * 69 + [50.0], [2.0, 1.0, 1.0, 3.0]], ids=["all one", "last differs", "differing"]
)
def test_exposures_are_either_refused_or_right(exposure):
    """y_i ~ Poisson(rate * e_i) has a conjugate posterior Gamma(a + sum y, b + sum e), which uses the exposures."""

    @zoo.model(y=Count("row"), e=Positive("row"))
    def exposed(y, e):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Poisson(rate * e), obs=y)

    program = prepare(exposed(), {"y": [3] * len(exposure), "e": exposure})
    if Exact().why_not(program) is None:
        found = Exact().run(program).approximation.distributions["rate"]
        assert float(found.rate) == pytest.approx(0.5 + sum(exposure))


def test_group_means_are_either_refused_or_right():
    """Each of 64 groups twice, one after the other: the first 64 rows look like one group each."""

    @zoo.model(y=Real("row"), group=Category("row"))
    def grouped(y, group):
        with pyro.plate("level", 64):
            theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(theta[group], 1.0), obs=y)

    y = np.linspace(-1, 1, 128)
    program = prepare(grouped(), {"y": y, "group": list(range(64)) * 2})
    if Exact().why_not(program) is None:
        found = Exact().run(program).approximation.distributions["theta"]
        assert number(found.mean) == pytest.approx((y[:64] + y[64:]) / 3)


def test_assignments_are_refused_where_there_is_nothing_to_assign():
    with pytest.raises(FitError, match="no discrete latent per row"):
        exact(coin(), FLIPS).assign()


def test_other_methods_agree_with_the_exact_answer():
    """The mode of Beta(7, 6) by gradient, and em refuses for want of a discrete latent."""
    point = fit(coin(a=2.0), FLIPS, method=MAP(), seed=0)
    assert float(point.posterior["point_estimate"]["heads"]) == pytest.approx(6 / 11, abs=0.02)
    with pytest.raises(MethodError, match=r"nothing to enumerate.*Legal here: .*exact"):
        fit(coin(), FLIPS, method=EM(), seed=0)
