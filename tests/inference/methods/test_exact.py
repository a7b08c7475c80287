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
from scipy.special import betaln, gammaln, multigammaln

import zoo
from inference import EM, MAP, SVI, Exact, Fit, fit
from inference.conjugate import closed_form
from tests.cases.models import FLIPS, ROWS, SCHOOLS, EightSchools, NonCentred, PoissonMixture, coin
from tests.cases.spread import spread
from zoo import Binary, Category, Count, DataError, FitError, MethodError, Positive, Real
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

COUNTS = [3, 0, 2, 7, 1, 4]


def exact(model, data, **settings):
    return fit(model, data, method=Exact(), seed=0, **settings)


def posterior(result, name):
    return result.approximation.distributions[name]


def number(tensor):
    return tensor.detach().numpy()


def numbers(result):
    """All numbers that the posterior is made of, by latent and name."""
    return {
        (q.names, name): number(value) for q in result.approximation.posteriors for name, value in q.tensors().items()
    }


def assert_same_posterior(result, other, rel):
    found, expected = numbers(result), numbers(other)
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rel, atol=rel, err_msg=str(name))


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


@zoo.model(y=Count("row"), e=Positive("row"))
def exposed(y, e):
    """Counts at one rate, each over an exposure of its own."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson(rate * e), obs=y)


@zoo.model(y=Real("row"), group=Category("row"))
def grouped(y, group, *, levels: int = 3):
    """A mean for each group."""
    with pyro.plate("level", levels):
        theta = pyro.sample("theta", dist.Normal(1.0, 3.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(theta[group], 0.7), obs=y)


@zoo.model(y=Real("row"))
def precision_of_known_mean(y):
    """A precision about a known mean."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(0.4, tau.rsqrt()), obs=y)


@zoo.model(y=Real("row"))
def normal_gamma(y):
    """A mean and a precision, whose priors are conjugate together."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    mu = pyro.sample("mu", dist.Normal(1.0, (0.3 * tau).rsqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


@zoo.model(y=Real("row"), group=Category("row"))
def normal_gamma_of_groups(y, group):
    """A mean and a precision for each group."""
    with pyro.plate("level", 3):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
        mu = pyro.sample("mu", dist.Normal(1.0, (0.3 * tau).rsqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu[group], tau[group].rsqrt()), obs=y)


@zoo.model(y=Real("row", "column"))
def normal_wishart(y):
    """A mean vector and a precision matrix, whose priors are conjugate together."""
    precision = pyro.sample("precision", dist.Wishart(torch.tensor(4.5), torch.tensor(V)))
    mu = pyro.sample("mu", dist.MultivariateNormal(torch.ones(2), precision_matrix=0.4 * precision))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=precision), obs=y)


@zoo.model(y=Real("row"))
def sum_of_two(y):
    """Only a sum is seen: the two are dependent given the data, and have one posterior."""
    a = pyro.sample("a", dist.Normal(0.5, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b, 0.7), obs=y)


@zoo.model(x=Real("row", "column"), y=Real("row"))
def regression(x, y):
    """A plane with known noise."""
    a = pyro.sample("a", dist.Normal(0.5, 2.0))
    b = pyro.sample("b", dist.Normal(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0])).to_event(1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + x @ b, 0.7), obs=y)


@zoo.model(x=Real("row", "column"), y=Real("row"))
def regression_with_noise(x, y):
    """A plane with unknown noise, in units of which its priors are."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
    a = pyro.sample("a", dist.Normal(0.5, (0.25 * tau).rsqrt()))
    with pyro.plate("column", 2):
        b = pyro.sample("b", dist.Normal(torch.tensor([1.0, -1.0]), (torch.tensor([0.3, 3.0]) * tau).rsqrt()))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + x @ b, tau.rsqrt()), obs=y)


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


def exposed_evidence(y, e, a, b):
    """Poisson counts over exposures e at a rate that is Gamma(a, b)."""
    y, e = np.asarray(y), np.asarray(e)
    after = a * math.log(b) - gammaln(a) + gammaln(a + y.sum()) - (a + y.sum()) * math.log(b + e.sum())
    return after + (y * np.log(e) - gammaln(y + 1)).sum()


def student_evidence(y, loc, shape, a, b):
    """Rows Normal(loc, shape / t) together, t ~ Gamma(a, b): a multivariate t."""
    return scipy.stats.multivariate_t.logpdf(y, np.broadcast_to(loc, np.shape(y)), b / a * np.asarray(shape), df=2 * a)


def normal_gamma_evidence(y):
    return student_evidence(y, 1.0, np.eye(len(y)) + 1 / 0.3, 2.0, 0.5)


def normal_wishart_evidence(y, m, kappa, nu, scale):
    """Murphy 2007, section 8: a ratio of the normalizers of the posterior and the prior."""
    y, inverse = np.asarray(y), np.linalg.inv(scale)
    n, d = y.shape
    gap = y.mean(0) - m
    after = inverse + (y - y.mean(0)).T @ (y - y.mean(0)) + kappa * n / (kappa + n) * np.outer(gap, gap)
    found = multigammaln((nu + n) / 2, d) - multigammaln(nu / 2, d) + d / 2 * math.log(kappa / (kappa + n))
    return (
        found
        - n * d / 2 * math.log(math.pi)
        + nu / 2 * np.linalg.slogdet(inverse)[1]
        - (nu + n) / 2 * np.linalg.slogdet(after)[1]
    )


def design(x):
    return np.column_stack([np.ones(len(x)), x])


def plane_evidence(x, y):
    d = design(x)
    covariance = d @ np.diag([4.0, 4.0, 9.0]) @ d.T + 0.49 * np.eye(len(y))
    return scipy.stats.multivariate_normal.logpdf(y, d @ [0.5, 1.0, -1.0], covariance)


def plane_evidence_with_noise(x, y):
    d = design(x)
    shape = d @ np.diag([4.0, 1 / 0.3, 1 / 3]) @ d.T + np.eye(len(y))
    return student_evidence(y, d @ [0.5, 1.0, -1.0], shape, 2.0, 0.5)


V = np.array([[1.0, 0.3], [0.3, 0.5]])
PLANE = {"x": np.array([[0.2, 1.0], [-0.5, 2.5], [1.5, 0.7], [0.9, -1.1]]), "y": np.array([1.8, -1.6, 2.7, -1.4])}
GROUPS = [0, 1, 1, 0, 2]
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
    (exposed(), {"y": COUNTS[:5], "e": SCALES}, exposed_evidence(COUNTS[:5], SCALES, 2.0, 0.5)),
    (exposed(), {"y": COUNTS, "e": [1.0] * 6}, poisson_evidence(COUNTS, 2.0, 0.5)),
    (
        grouped(),
        {"y": VALUES, "group": GROUPS},
        sum(normal_evidence(np.array(VALUES)[np.array(GROUPS) == k], 1.0, 3.0, 0.7) for k in range(3)),
    ),
    (precision_of_known_mean(), VALUES, student_evidence(VALUES, 0.4, np.eye(5), 2.0, 0.5)),
    (normal_gamma(), VALUES, normal_gamma_evidence(VALUES)),
    (normal_gamma(), [1e3, 1e3 + 0.1], normal_gamma_evidence([1e3, 1e3 + 0.1])),
    (
        normal_gamma_of_groups(),
        {"y": VALUES, "group": GROUPS},
        sum(normal_gamma_evidence(np.array(VALUES)[np.array(GROUPS) == k]) for k in range(3)),
    ),
    (normal_wishart(), ROWS, normal_wishart_evidence(ROWS, np.ones(2), 0.4, 4.5, V)),
    (sum_of_two(), VALUES, normal_evidence(VALUES, 0.5, math.sqrt(5), 0.7)),
    (regression(), PLANE, plane_evidence(**PLANE)),
    (regression_with_noise(), PLANE, plane_evidence_with_noise(**PLANE)),
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


@spread(("model", "data", "expected"), CASES, part=1, of=2)
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
    reseed(1)
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
        (exposed(), {"y": COUNTS[:4], "e": SCALES[:4]}),
        (grouped(), {"y": VALUES[:4], "group": [0, 1, 1, 2]}),
        (normal_gamma(), VALUES[:4]),
        (normal_wishart(), ROWS),
        (regression(), PLANE),
        (regression_with_noise(), PLANE),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_a_weight_is_a_number_of_repetitions(model, data):
    times = [2, 0, 1, 3]
    weighted = exact(model, data, weights=times)
    rows = np.repeat(np.arange(4), times)
    repeated = {n: np.asarray(v)[rows] for n, v in data.items()} if isinstance(data, dict) else np.asarray(data)[rows]
    plain = exact(model, repeated)
    assert weighted.objective.value == pytest.approx(plain.objective.value, rel=1e-11)
    assert_same_posterior(weighted, plain, 1e-11)


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
        (exposed(), {"y": np.array(COUNTS[:5]), "e": np.array(SCALES)}),
        (normal_gamma(), np.array(VALUES)),
        (normal_wishart(), np.array(ROWS)),
        (sum_of_two(), np.array(VALUES)),
        (regression(), PLANE),
        (regression_with_noise(), PLANE),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
@spread("cuts", [pytest.param([1], marks=pytest.mark.slow), [1, 2, 3]], part=0, of=2, ids=str)
def test_batches_one_after_the_other_are_one_batch(model, data, cuts):
    check_batches(model, data, cuts)


@pytest.mark.parametrize("model", [grouped(), normal_gamma_of_groups()], ids=repr)
def test_batches_of_groups_one_after_the_other_are_one_batch(model):
    """The first has a row of each group: of fewer, nothing tells that rows have groups."""
    check_batches(model, {"y": np.array(VALUES), "group": np.array([0, 1, 2, 0, 1])}, [3])


def check_batches(model, data, cuts):
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
    assert total == pytest.approx(whole.objective.value, rel=1e-9)
    assert_same_posterior(result, whole, 1e-9)


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


@pytest.mark.slow
def test_only_exact_fits_of_global_latents_are_updated():
    approximate = fit(coin(), FLIPS, method=SVI(steps=5), seed=0)
    with pytest.raises(MethodError, match=r"made by Exact\(\) or CAVI\(\); this one was made by SVI"):
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


def product_of_two(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a * b, 1.0), obs=y)


def chain_of_two(y):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(a, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(b, 1.0), obs=y)


def precision_of_another_power(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1 / tau))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


def plane_of_independent_noise(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a + b * torch.arange(len(y)), tau.rsqrt()), obs=y)


def independent_mean_and_precision(y):
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


def student(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.StudentT(4.0, mu, 1.0), obs=y)


def cauchy(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Cauchy(mu, 1.0), obs=y)


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
    (product_of_two, "'a'"),
    (chain_of_two, "'b' depends on several latents"),
    (precision_of_another_power, "'tau' ~ Gamma"),
    (independent_mean_and_precision, "'y' depends on several latents, which are dependent given the data"),
    (plane_of_independent_noise, "'y' depends on several latents"),
    (student, "'mu' has no conjugate posterior: a Normal bounds the StudentT density of 'y'"),
    (cauchy, "no conjugate family is recognised for 'mu' ~ Normal"),
    (laplace_prior, "'mu' has no conjugate posterior: a Normal bounds the Laplace density of 'mu'"),
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
    with pytest.raises(MethodError, match="is a parameter without prior"):
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

    reseed(seed)
    program = prepare(trap(), FLIPS)
    assert closed_form(program).rest == ["heads"]
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
def test_exposures_count(exposure):
    """y_i ~ Poisson(rate * e_i) has the posterior Gamma(a + sum y, b + sum e), however rarely exposures differ."""
    found = posterior(exact(exposed(), {"y": [3] * len(exposure), "e": exposure}), "rate")
    assert float(found.concentration) == pytest.approx(2.0 + 3 * len(exposure))
    assert float(found.rate) == pytest.approx(0.5 + sum(exposure))


def test_groups_are_told_apart_beyond_the_first_rows():
    """Each of 64 groups twice, one after the other: the first 64 rows look like one group each."""
    y = np.linspace(-1, 1, 128)
    found = posterior(exact(grouped(levels=64), {"y": y, "group": list(range(64)) * 2}), "theta")
    precision = 1 / 9 + 2 / 0.49
    assert number(found.mean) == pytest.approx((1 / 9 + (y[:64] + y[64:]) / 0.49) / precision)
    assert number(found.stddev) == pytest.approx(np.full(64, precision**-0.5))


def test_the_posterior_of_a_normal_gamma():
    """Murphy 2007, section 3: kappa + n, (kappa m + sum y) / (kappa + n), a + n / 2, and b with both scatters."""
    result = exact(normal_gamma(), VALUES)
    y = np.array(VALUES)
    found = numbers(result)
    names = ("mu", "tau")
    kappa = 0.3 + 5
    b = 0.5 + 0.5 * ((y - y.mean()) ** 2).sum() + 0.5 * 0.3 * 5 / kappa * (y.mean() - 1.0) ** 2
    assert found[names, "kappa"] == pytest.approx(kappa)
    assert found[names, "loc"] == pytest.approx((0.3 + y.sum()) / kappa)
    assert found[names, "a"] == pytest.approx(2.0 + 2.5)
    assert found[names, "b"] == pytest.approx(b)


def test_a_line_through_zero_is_a_student_t():
    """With one coefficient and no intercept: p(y) is a t of 1 degree of freedom, its shape 1 and the prior's part."""
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, 1.0, 8)
    y = 2 * x + rng.normal(size=8)
    result = exact(zoo.BayesianRegression(intercept=False, prior_scale=2.0), {"x": x[:, None], "y": y})
    shape = 4.0 * (np.eye(8) + np.outer(x, x) / (1e-4 * (x**2).mean()))
    expected = scipy.stats.multivariate_t(np.zeros(8), shape, df=1).logpdf(y)
    assert result.objective.value == pytest.approx(expected, rel=1e-9)


def test_the_posterior_of_a_plane():
    """The weighted least-squares line of data and prior together."""
    d = design(PLANE["x"])
    precision = np.diag([1 / 4, 1 / 4, 1 / 9]) + d.T @ d / 0.49
    loc = np.linalg.solve(precision, np.diag([1 / 4, 1 / 4, 1 / 9]) @ [0.5, 1.0, -1.0] + d.T @ PLANE["y"] / 0.49)
    result = exact(regression(), PLANE)
    found = numbers(result)
    assert found[("a", "b"), "loc"] == pytest.approx(loc, rel=1e-10)
    root = found[("a", "b"), "tril"]
    np.testing.assert_allclose(root @ root.T, np.linalg.inv(precision), rtol=1e-9, atol=1e-12)
    draws = result.posterior["posterior"]
    both = np.column_stack([draws["a"].to_numpy().ravel(), draws["b"].to_numpy().reshape(-1, 2)])
    away = np.linalg.solve(np.linalg.cholesky(np.linalg.inv(precision)), (both - loc).T)
    assert np.abs(away.mean(1)).max() < 5 / math.sqrt(len(both))
    assert np.abs(np.cov(away) - np.eye(3)).max() < 5 * math.sqrt(2 / len(both))


def test_a_plane_through_values_made_from_the_data():
    """What is observed may be a function of a field: here standardized."""

    @zoo.model(x=Real("row", "column"), y=Real("row"))
    def standardized(x, y):
        a = pyro.sample("a", dist.Normal(0.5, 2.0))
        b = pyro.sample("b", dist.Normal(torch.tensor([1.0, -1.0]), torch.tensor([2.0, 3.0])).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a + x @ b, 0.7), obs=(y - 3e5) / 1e6)

    data = {"x": PLANE["x"], "y": 1e6 * PLANE["y"] + 3e5}
    result = exact(standardized(), data)
    assert result.objective.value == pytest.approx(plane_evidence(**PLANE), rel=1e-8)


def test_assignments_are_refused_where_there_is_nothing_to_assign():
    with pytest.raises(FitError, match="no discrete latent to assign"):
        exact(coin(), FLIPS).assign()


@pytest.mark.slow
def test_other_methods_agree_with_the_exact_answer():
    """The mode of Beta(7, 6) by gradient, and em refuses for want of a discrete latent."""
    point = fit(coin(a=2.0), FLIPS, method=MAP(), seed=0)
    assert float(point.posterior["point_estimate"]["heads"]) == pytest.approx(6 / 11, abs=0.02)
    with pytest.raises(MethodError, match=r"nothing to enumerate.*Legal here: .*exact"):
        fit(coin(), FLIPS, method=EM(), seed=0)
