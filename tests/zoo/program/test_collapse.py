"""Latents integrated out of a program: the marginal density by other means, and draws of what was integrated out."""

import math

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats as st
import statsmodels.formula.api as smf
import torch
from statsmodels.regression.mixed_linear_model import MixedLMParams

import zoo
from tests.cases.models import SCHOOLS, EightSchools, NonCentred
from tests.cases.spread import spread
from zoo import Category, Count, Positive, Real
from zoo.program.collapse import plan
from zoo.program.collapsed import collapsed
from zoo.program.flat_density import Density
from zoo.program.prepare import prepare

RNG = np.random.default_rng(5)
GROUP = np.repeat(np.arange(7), [1, 2, 3, 5, 8, 2, 4])
X = RNG.normal(size=len(GROUP))
EFFECT = RNG.normal(0, 1.3, (7, 2))
Y = 2.0 + EFFECT[GROUP, 0] + (0.5 + EFFECT[GROUP, 1]) * X + RNG.normal(0, 0.7, len(GROUP))


@zoo.model(y=Real("case"), x=Real("case"), group=Category("case"))
def intercepts(y, x, group, *, centre: float = 0.0):
    """Random intercepts, a slope, half-Normal scales."""
    mu = pyro.sample("mu", dist.Normal(centre, 10.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("groups", 7):
        a = pyro.sample("a", dist.Normal(mu, tau))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(a[group.long()] + beta * x, sigma), obs=y)


@zoo.model(y=Real("case"), x=Real("case"), group=Category("case"))
def slopes(y, x, group):
    """Random intercepts and slopes, correlated."""
    fixed = pyro.sample("fixed", dist.Normal(0.0, 10.0).expand([2]).to_event(1))
    root = pyro.sample("root", dist.LKJCholesky(2, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(2.0).expand([2]).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    with pyro.plate("groups", 7):
        b = pyro.sample("b", dist.MultivariateNormal(fixed, scale_tril=scale[:, None] * root))
    own = b[group.long()]
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(own[:, 0] + own[:, 1] * x, sigma), obs=y)


def data(offset=0.0):
    return {"y": Y + offset, "x": X, "group": GROUP}


def of(value):
    return torch.as_tensor(value, dtype=torch.float64)


def marginal(view, **values):
    return float(view.log_joint({n: of(v) for n, v in values.items()}).total())


def profiled(ratio, formula=None):
    """(sigma, log likelihood): that of statsmodels' mixed model at fixed effects (2.1, 0.4), where sigma is its best.

    statsmodels gives it with sigma^2 = r' V^-1 r / n put in, V = I + Z ratio Z' and r the residuals.
    """
    model = smf.mixedlm("y ~ x", pd.DataFrame(data()), groups=GROUP, re_formula=formula)
    model.reml, model.cov_pen, model.fe_pen = False, None, None
    params = MixedLMParams.from_components(fe_params=np.array([2.1, 0.4]), cov_re=np.array(ratio), vcomp=np.array([]))
    z = np.stack([np.ones(len(X)), X], 1)[:, : len(ratio)]
    v = np.eye(len(X)) + (z @ ratio @ z.T) * (GROUP[:, None] == GROUP)
    r = Y - 2.1 - 0.4 * X
    return math.sqrt(r @ np.linalg.solve(v, r) / len(r)), model.loglike(params, profile_fe=False)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("ratio", [1.5, 1e-4, 1e4])
def test_random_intercepts_are_lme4s_marginal_likelihood(ratio, offset):
    """log m(mu, beta, tau, sigma) is MixedLM's log likelihood plus the priors, far from zero, too."""
    view = collapsed(prepare(intercepts(centre=offset), data(offset)), ["mu", "beta"])
    assert view.found.names == ("a",)
    assert offset or view._sufficient is not None  # sums, used where they say what the general way says
    sigma, oracle = profiled(np.array([[ratio]]))
    tau = sigma * math.sqrt(ratio)
    prior = st.norm.logpdf([2.1, 0.4], 0, 10).sum() + st.halfnorm.logpdf([tau, sigma], scale=2).sum()
    found = marginal(view, mu=2.1 + offset, beta=0.4, tau=tau, sigma=sigma)
    assert found == pytest.approx(oracle + prior, rel=1e-8, abs=1e-8 if not offset else 1e-7)  # y + 1e6 loses 1e-10


def test_random_slopes_are_lme4s_marginal_likelihood():
    """The same with a covariance of intercepts and slopes."""
    view = collapsed(prepare(slopes(), data()), ["fixed"])
    assert view.found.names == ("b",)
    assert view.layout.groups.shape == (7, 2)
    assert view._sufficient is not None
    root, scale = np.array([[1.0, 0.0], [-0.6, 0.8]]), np.array([1.1, 0.6])
    sigma, oracle = profiled(np.diag(scale) @ root @ root.T @ np.diag(scale), "~x")
    prior = st.norm.logpdf([2.1, 0.4], 0, 10).sum() + st.halfnorm.logpdf([*scale * sigma, sigma], scale=2).sum()
    prior += float(dist.LKJCholesky(2, of(1.0)).log_prob(of(root)))
    found = marginal(view, fixed=[2.1, 0.4], root=root, scale=scale * sigma, sigma=sigma)
    assert found == pytest.approx(oracle + prior, rel=0, abs=1e-8)


@pytest.mark.parametrize("model", [intercepts(), slopes()], ids=["intercepts", "slopes"])
def test_fixed_effects_are_integrated_out_with_random_ones(model):
    """y is jointly Normal given the scales: its covariance has the priors of fixed effects in it."""
    view = collapsed(prepare(model, data()))
    z = np.stack([np.ones(len(X)), X], 1)
    own = np.array([[1.3, -0.4], [-0.4, 0.5]]) if "b" in view.found.names else np.diag([1.3, 0.0])
    v = 0.7**2 * np.eye(len(X)) + (z @ own @ z.T) * (GROUP[:, None] == GROUP) + 100.0 * z @ z.T
    expected = st.multivariate_normal.logpdf(Y, np.zeros(len(Y)), v) + st.halfnorm.logpdf(0.7, scale=2)
    if "b" in view.found.names:
        scale = np.sqrt(np.diag(own))
        root = np.linalg.cholesky(own / np.outer(scale, scale))
        values = {"root": root, "scale": scale, "sigma": 0.7}
        expected += st.halfnorm.logpdf(scale, scale=2).sum() + float(dist.LKJCholesky(2, of(1.0)).log_prob(of(root)))
    else:
        values = {"tau": math.sqrt(1.3), "sigma": 0.7}
        expected += st.halfnorm.logpdf(math.sqrt(1.3), scale=2)
    assert marginal(view, **values) == pytest.approx(expected, rel=0, abs=1e-8)


@zoo.model(y=Count("unit"), exposure=Positive("unit"))
def rates(y, exposure):
    """Gamma-Poisson."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("unit", len(y)):
        rate = pyro.sample("rate", dist.Gamma(a, b))
        pyro.sample("y", dist.Poisson(rate * exposure), obs=y)


@zoo.model(y=Count("unit"), n=Count("unit"))
def shares(y, n):
    """Beta-Binomial."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("unit", len(y)):
        share = pyro.sample("share", dist.Beta(a, b))
        pyro.sample("y", dist.Binomial(n, share), obs=y)


@zoo.model(y=Count("unit", "kind"))
def proportions(y):
    """Dirichlet-multinomial."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("unit", len(y)):
        p = pyro.sample("p", dist.Dirichlet(torch.stack([a, b, a + b])))
        pyro.sample("y", dist.Multinomial(10, p), obs=y)


@zoo.model(y=Real("unit"))
def tails(y):
    """Student's t as a Normal with an inverse Gamma variance of its own."""
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    b = pyro.sample("b", dist.LogNormal(0.0, 1.0))
    with pyro.plate("unit", len(y)):
        v = pyro.sample("v", dist.InverseGamma(a, b))
        pyro.sample("y", dist.Normal(0.0, v.sqrt()), obs=y)


COUNTS = np.array([3.0, 0.0, 12.0, 5.0])
TABLE = np.array([[1.0, 2, 7], [10, 0, 0], [3, 3, 4]])
FORMS = {
    "rates": (rates(), {"y": COUNTS, "exposure": [1.0, 2.0, 0.5, 1e4]}, "rate"),
    "shares": (shares(), {"y": COUNTS, "n": [5.0, 3.0, 12.0, 1000.0]}, "share"),
    "proportions": (proportions(), {"y": TABLE}, "p"),
    "tails": (tails(), {"y": [0.0, -3.0, 1e3, 0.2]}, "v"),
}


def closed_form(name, a, b):
    """Log density of the data given a and b."""
    if name == "rates":
        return st.nbinom.logpmf(COUNTS, a, b / (b + np.array([1.0, 2.0, 0.5, 1e4]))).sum()
    if name == "shares":
        return st.betabinom.logpmf(COUNTS, [5, 3, 12, 1000], a, b).sum()
    if name == "proportions":
        return st.dirichlet_multinomial.logpmf(TABLE, [a, b, a + b], 10).sum()
    return st.t.logpdf([0.0, -3.0, 1e3, 0.2], 2 * a, 0, math.sqrt(b / a)).sum()


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(("a", "b"), [(2.0, 0.7), (0.05, 30.0)])
def test_other_families_have_their_compound_distributions(name, a, b):
    """Gamma-Poisson is a negative Binomial, and so on."""
    model, values, site = FORMS[name]
    view = collapsed(prepare(model, values))
    assert view.found.names == (site,)
    expected = closed_form(name, a, b) + st.lognorm.logpdf([a, b], 1.0).sum()
    assert marginal(view, a=a, b=b) == pytest.approx(expected, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", [*FORMS, "intercepts", "slopes"])
def test_draws_have_the_density_that_is_said_of_them(name):
    """log p(x, c, phi) - log p(c | phi, x) is log m(phi) at every draw of c (Chib 1995); others weigh 1."""
    model, values, _ = FORMS.get(name, (globals()[name]() if name not in FORMS else None, data(), ""))
    program = prepare(model, values)
    view = collapsed(program)
    torch.manual_seed(0)
    count = 4000
    with torch.no_grad():
        rest = {s.name: view.initial()[s.name] for s in view.latents}
        stacked = {n: v.expand(count, *v.shape) for n, v in rest.items()}
        drawn, log_q = view.complete(stacked, count, count)
        joint = torch.vmap(lambda c: program.log_joint({**rest, **c}).total())(drawn)
        assert torch.allclose(joint - log_q, view.log_joint(rest).total(), rtol=1e-9, atol=1e-7)
        # Draws of the right density: another density's mean weight over them is 1.
        other, log_other = view.complete({n: v * 1.05 if v.ndim < 2 else v for n, v in stacked.items()}, count, count)
        there = torch.vmap(lambda c: program.log_joint({**rest, **c}).total())(other) - view.log_joint(rest).total()
        weights = (there - log_other).exp()
        assert abs(float(weights.mean()) - 1) < 4 * float(weights.std()) / math.sqrt(count)


@zoo.model(y=Real("case"), x=Real("case"), group=Category("case"))
def awkward(y, x, group, *, kind: str = "absolute"):
    """One latent that is conjugate but for a detail, besides a scale."""
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    prior = dist.Uniform(0.0, 10.0) if kind == "wide" else dist.Normal(0.0, 2.0)
    m = pyro.sample("m", prior)
    loc = {"absolute": m.abs(), "clamped": m.clamp(min=-30.0), "square": m**2, "both": m}.get(kind, m)
    scale = sigma * (1 + m**2).sqrt() if kind == "both" else sigma
    with pyro.plate("case", len(y)):
        family = dist.StudentT(4.0, loc, scale) if kind == "tails" else dist.Normal(loc, scale)
        pyro.sample("y", family, obs=y)


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("absolute", "no closed form"),
        ("clamped", "no closed form"),
        ("square", "no closed form"),
        ("both", "no closed form"),
        ("wide", "its prior is Uniform"),
        ("tails", "y is StudentT given it"),
    ],
)
def test_what_is_not_conjugate_stays(kind, why):
    """Kinks on one side of zero or far out, curves, scales and other families: each says why."""
    program = prepare(awkward(kind=kind), data())
    assert why in plan(program).stays["m"]
    assert collapsed(program) is program


def test_a_product_is_collapsed_in_one_of_its_factors():
    """y ~ Normal(a b, s) is Normal in a given b and in b given a, and not in both."""

    @zoo.model(y=Real("case"))
    def product(y):
        a = pyro.sample("a", dist.Normal(1.0, 1.0))
        b = pyro.sample("b", dist.Normal(1.0, 1.0))
        with pyro.plate("case", len(y)):
            pyro.sample("y", dist.Normal(a * b, 1.0), obs=y)

    found = plan(prepare(product(), {"y": Y}))
    assert found.names == ("b",)
    assert found.stays["a"] == "jointly with b it has no closed form"


def test_of_a_mean_and_its_precision_the_mean_is_integrated_out():
    """Normal-Gamma: given the precision y is jointly Normal."""

    @zoo.model(y=Real("case"))
    def both(y):
        precision = pyro.sample("precision", dist.Gamma(2.0, 1.5))
        mean = pyro.sample("mean", dist.Normal(5.0, (0.3 * precision).rsqrt()))
        with pyro.plate("case", len(y)):
            pyro.sample("y", dist.Normal(mean, precision.rsqrt()), obs=y)

    view = collapsed(prepare(both(), {"y": Y}))
    assert view.found.names == ("mean",)
    assert view.found.stays == {"precision": "jointly with mean it has no closed form"}
    covariance = (np.eye(len(Y)) + 1 / 0.3) / 0.8
    expected = st.multivariate_normal.logpdf(Y, np.full(len(Y), 5.0), covariance)
    expected += st.gamma.logpdf(0.8, 2.0, scale=1 / 1.5)
    assert marginal(view, precision=0.8) == pytest.approx(expected, rel=1e-10)


@zoo.model(y=Real("case"), x=Real("case"))
def shrunk(y, x, *, kind: str = "variance"):
    """Normal-Gamma: coefficients with priors on the scale of the noise, and a scale of theirs that stays."""
    tau = pyro.sample("tau", dist.HalfCauchy(1.0))
    prior = {"variance": dist.InverseGamma(2.0, 1.5), "precision": dist.Gamma(2.0, 1.5)}[kind]
    v = pyro.sample("v", prior)
    sigma = v.sqrt() if kind == "variance" else v.rsqrt()
    b = pyro.sample("b", dist.Normal(torch.zeros(2), tau * sigma).to_event(1))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(b[0] + b[1] * x, sigma), obs=y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["variance", "precision"])
def test_a_scale_that_all_share_is_integrated_out_after_normals(kind):
    """y is a multivariate Student t then, with 2 a degrees of freedom (Bernardo and Smith 1994), and draws say so."""
    program = prepare(shrunk(kind=kind), {"y": Y, "x": X})
    view = collapsed(program)
    assert view.collapsed == ("b", "v")
    assert set(view.stays) == {"tau"}
    z = np.stack([np.ones(len(X)), X], 1)
    shape = (np.eye(len(Y)) + 0.6**2 * z @ z.T) * 1.5 / 2.0
    expected = st.multivariate_t.logpdf(Y, np.zeros(len(Y)), shape, df=4.0) + st.halfcauchy.logpdf(0.6)
    assert marginal(view, tau=0.6) == pytest.approx(expected, rel=1e-11)
    torch.manual_seed(0)
    drawn, log_q = view.complete({"tau": of(0.6).expand(500)}, 500, 500)
    joint = torch.vmap(lambda c: program.log_joint({"tau": of(0.6), **c}).total())(drawn)
    assert torch.allclose(joint - log_q, of(expected), rtol=1e-9)


def test_many_entries_that_meet_all_others_stay():
    """Each would take a gradient at every step; effects of groups beside them are integrated out."""

    @zoo.model(y=Real("case"), x=Real("case", "column"), group=Category("case"))
    def wide(y, x, group):
        slopes = pyro.sample("slopes", dist.Normal(0.0, 1.0).expand([x.shape[1]]).to_event(1))
        tau = pyro.sample("tau", dist.HalfNormal(1.0))
        with pyro.plate("groups", 7):
            a = pyro.sample("a", dist.Normal(0.0, tau))
        with pyro.plate("case", len(y)):
            pyro.sample("y", dist.Normal(a[group.long()] + x @ slopes, 1.0), obs=y)

    found = plan(prepare(wide(), {"y": Y, "x": RNG.normal(size=(len(Y), 33)), "group": GROUP}))
    assert found.names == ("a",)
    assert found.stays["slopes"] == "it has no closed form in which at most 32 entries meet all others"


def test_nothing_is_collapsed_where_nothing_would_be_left():
    """A model with a closed form posterior has `Exact`; gradient methods see all of it."""
    found = plan(prepare(zoo.BetaBernoulli(), [1.0, 0.0, 1.0]))
    assert found.layout is None
    assert set(found.stays.values()) == {"nothing would be left to draw"}


@pytest.mark.slow
def test_weights_repeat_rows_of_what_groups_share_and_keep_locals():
    """Weight 2 is a row twice for effects of groups; a latent of each row would be two of them, and stays."""
    weights = RNG.integers(1, 4, len(Y)).astype(float)
    heavy = collapsed(prepare(intercepts(), data(), weights=weights))
    times = np.repeat(np.arange(len(Y)), weights.astype(int))
    long = collapsed(prepare(intercepts(), {n: v[times] for n, v in data().items()}))
    values = {"tau": 0.8, "sigma": 1.1}
    assert marginal(heavy, **values) == pytest.approx(marginal(long, **values), rel=1e-12)
    rows = plan(prepare(rates(), FORMS["rates"][1], weights=[1.0, 2.0, 1.0, 1.0]))
    assert rows.stays["rate"] == "rows have weights, each of which would repeat it"


@zoo.model(y=Real("case", "test"), group=Category("case"))
def several(y, group):
    """Random intercepts of known spread; a cell of several columns is weighed by its row, and may be missing."""
    sigma = pyro.sample("sigma", dist.HalfNormal(2.0).expand([3]).to_event(1))
    with pyro.plate("groups", 7):
        a = pyro.sample("a", dist.Normal(1.0, 0.8))
    with pyro.plate("case", len(y)):
        pyro.sample("y", dist.Normal(a[group.long()][:, None], sigma).to_event(1), obs=y)


def test_cells_of_several_columns_weights_and_gaps_are_summed():
    """Against one dense Normal of the cells that are there, a row of weight 2 twice."""
    rng = np.random.default_rng(3)
    y, weights = rng.normal(size=(len(Y), 3)), np.where(np.arange(len(Y)) % 4, 1.0, 2.0)
    y[rng.random(y.shape) < 0.2] = np.nan
    view = collapsed(prepare(several(), {"y": y, "group": GROUP}, weights=weights))
    assert view._sufficient is not None
    assert view._sufficient._aside  # the reference is not zero
    sigma = np.array([0.5, 1.1, 2.0])
    rows = np.repeat(np.arange(len(Y)), weights.astype(int))
    at, column = np.nonzero(~np.isnan(y[rows]))
    groups = np.asarray(GROUP)[rows][at]
    covariance = 0.8**2 * (groups[:, None] == groups) + np.diag(sigma[column] ** 2)
    expected = st.multivariate_normal.logpdf(y[rows][at, column], np.ones(len(at)), covariance)
    expected += st.halfnorm.logpdf(sigma, scale=2).sum()
    assert marginal(view, sigma=sigma) == pytest.approx(expected, rel=1e-10)


@pytest.mark.slow
def test_missing_cells_are_left_out():
    """A missing answer says nothing, collapsed or not."""
    holes = data()
    holes["y"] = np.where(np.arange(len(Y)) % 3 == 0, np.nan, Y)
    seen = ~np.isnan(holes["y"])
    values = {"tau": 0.8, "sigma": 1.1}
    some = collapsed(prepare(intercepts(), {n: v[seen] for n, v in data().items()}))
    assert marginal(collapsed(prepare(intercepts(), holes)), **values) == pytest.approx(marginal(some, **values))


def test_scaled_priors_are_what_they_are():
    """`poutine.scale` on a latent multiplies its log density; the integral is that of the product."""

    @zoo.model(y=Real("case"))
    def scaled(y):
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        with pyro.poutine.scale(scale=3.0):
            m = pyro.sample("m", dist.Normal(0.0, sigma))
        with pyro.plate("case", len(y)):
            pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    view = collapsed(prepare(scaled(), {"y": Y[:3]}))
    assert view.found.names == ("m",)
    grid = np.linspace(-20, 20, 400_001)
    height = 3 * st.norm.logpdf(grid, 0, 0.6) + st.norm.logpdf(Y[:3, None], grid).sum(0)
    expected = np.log(np.trapezoid(np.exp(height), grid)) + st.halfnorm.logpdf(0.6)
    assert marginal(view, sigma=0.6) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("model", [EightSchools(), NonCentred()], ids=lambda m: type(m).__name__)
@spread("tau", [1e-9, 1.0, 1e6, 1e12, 1e20], part=0, of=2)
def test_what_a_latent_that_stays_scales_is_exact_far_out(model, tau):
    """m(tau) is one Normal with variances e_j^2 + tau^2 and covariances 25, however the effects are written."""
    view = collapsed(prepare(model, SCHOOLS))
    assert {s.name for s in view.latents} == {"tau"}
    y, variance = np.array(SCHOOLS["effect"]), np.square(SCHOOLS["error"]) + tau**2
    weight = 1 / variance  # matrix determinant lemma, and Sherman and Morrison's formula
    shrunk = 25 * (weight @ y) ** 2 / (1 + 25 * weight.sum())
    height = -0.5 * (np.log(2 * math.pi * variance).sum() + np.log1p(25 * weight.sum()) + weight @ y**2 - shrunk)
    exact = height + st.halfcauchy.logpdf(tau, scale=5)
    assert marginal(view, tau=tau) == pytest.approx(exact, rel=1e-12)


def test_a_draw_without_a_density_leaves_the_others_in_one_call():
    """Where no factorization exists the density is NaN, and nothing is raised that would part the draws."""
    density = Density(collapsed(prepare(NonCentred(), SCHOOLS)))
    u = torch.tensor([[0.0], [800.0]], dtype=torch.float64)  # the logarithm of tau, which is infinite in the second
    both = torch.vmap(density.log_prob)(u)
    assert both[0] == pytest.approx(float(density.log_prob(u[0])), rel=1e-14)
    assert not both[1].isfinite()
