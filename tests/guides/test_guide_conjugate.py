"""Mean-field in the families of the priors: densities, exact posteriors, and draws from noise."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import special, stats
from torch import distributions as td

import zoo
from guides import Conjugate
from guides.pathwise import log_gamma, noise_shape, push
from inference import SVI, fit
from tests.cases.guides import built, flat
from tests.cases.models import FLIPS, Rate, coin
from zoo.replay.random import reseed

ROWS = np.random.default_rng(3).normal(1, 1, 12)


class Families(zoo.Model):
    """A latent with each prior that has a factor of its own, and a local one."""

    x = zoo.Real("row")

    def forward(self, x):
        one = pyro.sample("gamma", dist.Gamma(torch.tensor([2.0, 0.5]), 1.0).to_event(1))
        two = pyro.sample("inverse", dist.InverseGamma(torch.tensor(3.0), 2.0))
        three = pyro.sample("beta", dist.Beta(torch.tensor(2.0), 0.7))
        four = pyro.sample("uniform", dist.Uniform(-1.0, 3.0))
        with pyro.plate("group", 2):
            five = pyro.sample("dirichlet", dist.Dirichlet(torch.tensor([1.0, 2.0, 0.5])))
        six = pyro.sample("wishart", dist.Wishart(torch.tensor(4.0), torch.eye(2)))
        seven = pyro.sample("vector", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
        eight = pyro.sample("normal", dist.Normal(0.0, 1.0))
        loc = one.sum() + two + three + four + five[0, 0] + six[0, 0] + seven.sum() + eight
        with pyro.plate("row", len(x)):
            scale = pyro.sample("scale", dist.Gamma(2.0, 2.0))
            pyro.sample("x", dist.Normal(loc, scale), obs=x)


def independent(site, factor, rows=slice(None)):
    """The factor of a site from torch's own distributions, read off its parameters; and what it is a density of."""
    p = {n: v[rows] if site.role == "local" else v for n, v in factor.state_dict().items()}
    middle = p["start"] + p["unit"] * p["loc"]
    if site.family == "Gamma":
        a = p["count"] * p["log_shape"].exp()
        return td.Gamma(a, a / middle.exp())
    if site.family == "InverseGamma":
        a = p["count"] * p["log_shape"].exp()
        return dist.InverseGamma(a, a * middle.exp())
    if site.family == "MultivariateNormal":
        tril = p["lower"].tril(-1) + torch.diag_embed(p["log_scale"].exp())
        return td.MultivariateNormal(middle, scale_tril=p["unit"][:, None] * tril)
    if site.family == "Normal":
        return td.Normal(middle, p["unit"] * p["log_scale"].exp())
    n = p["count"] * p["log_count"].exp()
    if site.family == "Dirichlet":
        return td.Dirichlet(n[..., None] * td.biject_to(td.constraints.simplex)(middle))
    if site.family == "Wishart":
        tril = torch.zeros(2, 2).double()
        tril[0, 0], tril[1, 0], tril[1, 1] = middle[0].exp(), middle[1], middle[2].exp()
        return td.Wishart(n + 1, scale_tril=tril / (n + 1).sqrt())
    beta = td.Beta(n * middle.sigmoid(), n * (-middle).sigmoid())
    return beta if site.family == "Beta" else td.TransformedDistribution(beta, td.AffineTransform(-1.0, 4.0))


def few_observations(q):
    """Make spreads wide, so that shapes of densities matter."""
    q.load_state_dict({n: v.clamp(6, 30) if n.endswith(".count") else v for n, v in q.state_dict().items()})


def test_each_factor_has_the_density_of_its_family():
    program, q = built(Conjugate(), Families(), ROWS)
    q.load_state_dict(
        {n: torch.where(torch.tensor("count" in n), v.clamp(1, 30), v) for n, v in q.state_dict().items()}
    )
    noise = q.noise(program.data, 3)
    for i in range(3):
        draw = q.draw(program.data, noise=(noise[0][i], noise[1][i]))
        values, jacobian = program.view.constrain_globals(draw.globals)
        found = zip(program.globals, q.over_globals.factors, strict=True)
        total = sum(independent(site, factor).log_prob(values[site.name]).sum() for site, factor in found)
        torch.testing.assert_close(draw.log_q, total + jacobian)
        values, jacobian = program.view.constrain_locals(draw.locals)
        rows = independent(program.locals[0], q.over_locals.factors[0]).log_prob(values["scale"])
        torch.testing.assert_close(draw.log_q_rows, rows + jacobian)


@pytest.mark.slow
def test_draws_come_from_the_density():
    """Means and variances of draws, site by site, are those of the independent construction."""
    program, q = built(Conjugate(), Families(), ROWS[:2])
    q.load_state_dict(
        {n: torch.where(torch.tensor("count" in n), v.clamp(6, 30), v) for n, v in q.state_dict().items()}
    )
    count = 20_000
    with torch.no_grad():
        noise = q.noise(program.data, count)
        u = torch.vmap(lambda n: flat(q.draw(program.data, noise=n))[0])(noise)
        values = torch.vmap(lambda v: program.view.constrain_globals(v)[0])(u[:, : program.view.global_size])
    for site, factor in zip(program.globals, q.over_globals.factors, strict=True):
        exact, z = independent(site, factor), values[site.name]
        mean = exact.mean if site.family != "Uniform" else 4 * exact.base_dist.mean - 1
        variance = exact.variance if site.family != "Uniform" else 16 * exact.base_dist.variance
        if site.family == "MultivariateNormal":
            torch.testing.assert_close(
                torch.cov(z.T), exact.covariance_matrix, rtol=0.1, atol=0.05 * float(variance.max())
            )
        assert ((z.mean(0) - mean).abs() < 5 * (variance / count).sqrt()).all(), site.name
        assert ((z.var(0) / variance).log().abs() < 0.15).all(), site.name


def test_rows_have_factors_of_their_own():
    program, q = built(Conjugate(), Families(), ROWS)
    at = torch.tensor([7, 2])
    whole, noise = q.draw(program.data, noise=(n := q.noise(program.data))), n
    part = q.draw(program.data.take(at), at, (noise[0], noise[1][at]))
    torch.testing.assert_close(part.locals, whole.locals[at])
    torch.testing.assert_close(part.log_q_rows, whole.log_q_rows[at])


# -- exact posteriors --------------------------------------------------------------------------------------------------


def set_middle(q, name, value, count):
    """Put a one-site q where its family is to be."""
    factor = q.over_globals.factors[0]
    with torch.no_grad():
        factor.loc.copy_((value - factor.start) / factor.unit)
        getattr(factor, name).copy_(np.log(count) - factor.count.log())


@zoo.model(z=zoo.Category("row", levels=3))
def shares(z):
    """Shares of three categories."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
    with pyro.plate("row", len(z)):
        pyro.sample("z", dist.Categorical(weights), obs=z)


@zoo.model(x=zoo.Real("row", "feature"))
def precision(x):
    """Rows around zero with an unknown precision matrix."""
    matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(4.0), torch.eye(2)))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), precision_matrix=matrix), obs=x)


LABELS = [0, 2, 2, 1, 2, 0]
PAIRS = ROWS.reshape(-1, 2)


def posteriors():
    """Model, data, log evidence, and where its posterior is."""
    a, b = 1 + 5.0, 1 + 5.0
    yield "beta", coin(), FLIPS, special.betaln(a, b) - special.betaln(1, 1), ("log_count", np.log(a / b), a + b)
    a, b = 2 + 8.0, 0.5 + 3.0
    evidence = (
        special.gammaln(a) - special.gammaln(2) + 2 * np.log(0.5) - a * np.log(b) - special.gammaln([4, 2, 5]).sum()
    )
    yield "gamma", Rate(a=2.0, b=0.5), [3, 1, 4], evidence, ("log_shape", np.log(a / b), a)
    prior, alpha = np.array([0.5, 1, 2]), np.array([2.5, 2, 5])
    evidence = (special.gammaln(alpha) - special.gammaln(prior)).sum()
    evidence += special.gammaln(prior.sum()) - special.gammaln(alpha.sum())
    middle = td.biject_to(td.constraints.simplex).inv(torch.as_tensor(alpha / alpha.sum()))
    yield "dirichlet", shares(), LABELS, evidence, ("log_count", middle, alpha.sum())
    scale, n = np.eye(2) + PAIRS.T @ PAIRS, len(PAIRS)
    evidence = special.multigammaln(0.5 * (4 + n), 2) - special.multigammaln(2, 2) - n * np.log(np.pi)
    evidence -= 0.5 * (4 + n) * np.linalg.slogdet(scale)[1]
    tril = np.linalg.cholesky((4 + n) * np.linalg.inv(scale))
    middle = np.array([np.log(tril[0, 0]), tril[1, 0], np.log(tril[1, 1])])
    yield "wishart", precision(), PAIRS, evidence, ("log_count", middle, 4.0 + n - 1)


CASES = {name: rest for name, *rest in posteriors()}


@pytest.mark.parametrize("name", CASES)
def test_it_holds_the_exact_posterior(name):
    """log p(x, z) - log q(z) is the log evidence at every draw."""
    model, data, evidence, where = CASES[name]
    program, q = built(Conjugate(), model, data)
    set_middle(q, where[0], torch.as_tensor(where[1]), where[2])
    for _ in range(4):
        draw = q.draw(program.data)
        values, jacobian = program.view.constrain_globals(draw.globals)
        weight = program.log_joint(values).total() + jacobian - draw.log_q
        assert float(weight.detach()) == pytest.approx(evidence, abs=1e-8)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steps"), [("beta", 400), ("dirichlet", 400)])
def test_svi_climbs_to_the_evidence(name, steps):
    """To many digits: the gradient has no noise where q is the posterior."""
    model, data, evidence, _ = CASES[name]
    found = fit(model, data, method=SVI(guide=Conjugate(), steps=steps, compile=False), seed=0)
    assert abs(found.objective.value - evidence) < 1e-3
    assert found.objective.error < 1e-3


# -- draws from noise --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concentration", [1e-3, 0.1, 1.0, 7.0, 1e4])
def test_gamma_quantiles(concentration):
    noise = torch.linspace(-6, 6, 25).double()
    found = log_gamma(torch.tensor(concentration, dtype=torch.float64), noise)
    eps = noise.numpy()
    lower = special.gammaincinv(concentration, special.ndtr(eps))
    exact = np.where(eps < 0, lower, special.gammainccinv(concentration, special.ndtr(-eps)))
    tail = (special.log_ndtr(eps) + special.gammaln(concentration + 1)) / concentration
    with np.errstate(divide="ignore"):
        expected = np.where(exact > 1e-200, np.log(exact), tail)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-8, atol=1e-8)


def test_gamma_quantiles_have_the_gradient_of_their_shape():
    noise = torch.tensor([-3.0, -0.5, 0.0, 1.0, 4.0]).double()
    for concentration in (1e-2, 0.4, 3.0, 200.0):
        a = torch.full((5,), concentration).double().requires_grad_()
        (found,) = torch.autograd.grad(log_gamma(a, noise).sum(), a)
        step = 1e-5 * concentration
        ahead, behind = (log_gamma(a.detach() + s, noise) for s in (step, -step))
        torch.testing.assert_close(
            found, (ahead - behind) / (2 * step), rtol=1e-2, atol=1e-9
        )  # torch keeps three digits


def test_gamma_quantiles_vectorize():
    noise, a = torch.randn(3, 4, 2).double(), torch.tensor([0.5, 2.0]).double()
    twice = torch.vmap(torch.vmap(log_gamma, (None, 0)), (None, 0))(a, noise)
    torch.testing.assert_close(twice, log_gamma(a, noise))


POSITIVE = torch.tensor([0.7, 3.0]).double()
TRIL = torch.tensor([[1.0, 0.0], [0.5, 0.8]]).double()
FROM_NOISE = {
    "Normal": dist.Normal(POSITIVE, POSITIVE).to_event(1),
    "MultivariateNormal": dist.MultivariateNormal(POSITIVE, scale_tril=TRIL),
    "LowRank": dist.LowRankMultivariateNormal(POSITIVE, TRIL[:, :1], POSITIVE),
    "LogNormal": dist.LogNormal(POSITIVE, POSITIVE / 5),
    "Gamma": dist.Gamma(POSITIVE, POSITIVE),
    "InverseGamma": dist.InverseGamma(POSITIVE + 2, POSITIVE),
    "Beta": dist.Beta(POSITIVE, POSITIVE + 1),
    "Dirichlet": dist.Dirichlet(POSITIVE),
    "StudentT": dist.StudentT(POSITIVE + 4, POSITIVE, POSITIVE),
    "HalfCauchy": dist.HalfCauchy(POSITIVE),
    "Exponential": dist.Exponential(POSITIVE),
    "Laplace": dist.Laplace(POSITIVE, POSITIVE),
    "Uniform": dist.Uniform(POSITIVE, POSITIVE + 2).expand([3, 2]),
    "logistic": dist.TransformedDistribution(dist.Normal(POSITIVE, POSITIVE), [dist.transforms.SigmoidTransform()]),
}


@pytest.mark.parametrize("name", FROM_NOISE)
def test_pushed_noise_has_the_distribution(name):
    """Kolmogorov and Smirnov's test of each coordinate against the library's own sampler."""
    fn = FROM_NOISE[name]
    reseed(1)
    noise = torch.randn(4000, *noise_shape(fn)).double()
    draws, other = push_all(fn, noise).reshape(4000, -1).numpy(), fn.sample((4000,)).reshape(4000, -1).numpy()
    for found, expected in zip(draws.T, other.T, strict=True):
        assert stats.ks_2samp(found, expected).pvalue > 1e-4


def push_all(fn, noise):
    return torch.vmap(lambda e: push(fn, e))(noise)


def test_what_is_no_function_of_noise_has_no_noise():
    for fn in (dist.Poisson(POSITIVE), dist.VonMises(POSITIVE, POSITIVE), dist.LKJCholesky(3, 1.0)):
        assert noise_shape(fn) is None
