"""Families: updates against brute force, expectations against quadrature and sampling, on models of every layout."""

from __future__ import annotations

import inspect
import itertools
import math
from dataclasses import replace
from functools import cache

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch.distributions import constraints, kl_divergence, transform_to

import zoo
from inference import EM, Exact, fit
from inference.conjugate import closed_form
from inference.conjugate.coefficients import LinearPosterior
from inference.conjugate.exponential_family import Likelihood, family_named
from inference.conjugate.joint_normal import NormalGamma, NormalInverseGamma, NormalWishart
from inference.conjugate.multivariate_normal import MultivariateNormal
from inference.conjugate.posteriors import Single, read
from inference.conjugate.wishart import inverse
from inference.coordinate.ascent import Coordinates, State, distinct
from tests.cases.conjugate import COUNTS, MATRIX, STORIES, VECTOR, WEIGHTS, V, label
from tests.cases.models import ROWS, ZOO_CASES, BernoulliMixture, PoissonMixture
from tests.cases.spread import spread
from zoo import Count, Positive, Real
from zoo.constant_columns import FLOOR
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

AT = torch.float64
FAITHFUL = zoo.datasets.load("faithful")
DRAWS = 1000
COVARIANCES = ("full", "diag", "tied", "spherical")


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():
        reseed(0)
        yield


def prepared(model, data, **settings):
    with torch.random.fork_rng():
        reseed(0)
        return prepare(model, data, dtype=AT, **settings)


def program_of(name, prior=True, weighted=True):
    return traced(name, prior, weighted)


@cache
def traced(name, prior, weighted):
    story = STORIES[name]
    model = story.model(prior=prior) if story.optional else story.model()
    rows = len(story.data["x"]) if isinstance(story.data, dict) else len(story.data)
    return prepared(model, story.data, weights=WEIGHTS[:rows] if weighted else None)


def anywhere(program, seed=1):
    """Random values of everything unknown, in the supports."""
    with torch.random.fork_rng():
        reseed(seed)
        return {
            s.name: transform_to(s.support)(torch.randn(program.site_shape(s), dtype=AT)).detach()
            for s in (*program.latents, *program.parameters)
        }


def weighted_joint(program, marginals):
    """Return the log joint as a function of values, each entry of each density counting by its weight."""

    def objective(values):
        return sum((marginals[n] * density).sum() for n, density in program.log_probs(values).items())

    return objective


def believed(program, steps=2, seed=1):
    """State after a few updates of every posterior, from anywhere."""
    ascent, state = Coordinates(program), State(anywhere(program, seed), {})
    for _ in range(steps):
        state = ascent.step(state)
    return state


def tensors_of(state):
    """All numbers of a state, by name."""
    found = dict(state.values)
    for name, posterior in state.posteriors.items():
        found.update({f"{name}.{n}": v for n, v in posterior.tensors().items()})
    return found


def assert_same(found, expected, rtol=1e-9, atol=1e-9):
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda m, name=name: f"{name}: {m}")


def assert_within_error(draws, expected, limit=5.0):
    """The mean of draws along dimension 0 is what it should be, within so many standard errors (a tail below 1e-6)."""
    error = draws.std(0) / math.sqrt(len(draws))
    away = (draws.mean(0) - expected).abs()
    assert bool((away <= limit * error + 1e-9 * (1 + expected.abs())).all()), float((away / error).max())


def densities_at(program, values, count):
    """Log densities of every site at each of many values, stacked."""
    try:
        return torch.vmap(program.log_probs)(values)
    except RuntimeError:  # a Multinomial's density branches on its values
        every = [program.log_probs({n: v[i] for n, v in values.items()}) for i in range(count)]
        return {n: torch.stack([one[n] for one in every]) for n in every[0]}


ALL = list(STORIES)
BOTH = [pytest.param(n, True, id=n) for n in ALL] + [
    pytest.param(n, False, id=f"{n}-free") for n, s in STORIES.items() if s.optional
]


# -- updates ----------------------------------------------------------------------------------------------------------


@spread(("name", "prior"), BOTH, part=0)
def test_every_unknown_has_its_update(name, prior):
    plan = closed_form(program_of(name, prior))
    assert plan.rest == []
    assert " ".join(label(b) for b in plan.blocks) == STORIES[name].blocks


def families(of=Likelihood):
    """All families there are."""
    return [c for below in of.__subclasses__() for c in (below, *families(below))]


@spread("name", ALL, part=2)
def test_a_story_is_what_it_is_said_to_be(name):
    program = program_of(name)
    assert bool(program.locals) == STORIES[name].local
    assert (Exact().why_not(program) is None) == STORIES[name].exact


ELSEWHERE = {  # in files of their own
    *("Chain", "FactorLikelihood", "StateFactorLikelihood", "Laplace"),
    *("Student", "MultivariateStudent", "MixedShares", "StickCategory"),
}


@pytest.mark.slow
def test_every_family_is_tried():
    """A family is one class; each has stories of its own."""
    likelihoods, blocks = set(), set()
    for name in ALL:
        plan = closed_form(program_of(name))
        likelihoods |= {type(found).__name__ for found in plan.likelihoods.values()}
        blocks |= {type(block).__name__ for block in plan.blocks}
    own = [c for c in families() if c.__module__.startswith("inference.") and not inspect.isabstract(c)]
    assert {c.__name__ for c in own} - likelihoods <= ELSEWHERE
    assert blocks == {"FixedBlock", "ConjugateBlock", "ScaleBlock", "JointBlock", "RegressionBlock"}


@spread("name", ALL, part=0)
def test_the_joint_over_the_posterior_is_constant(name):
    """Bayes: log p(x, u) - log p(u | x) is log p(x), whatever u; states count with their probability."""
    program = program_of(name)
    values = anywhere(program)
    _, expected = Coordinates(program).expect(State(values, {}))
    objective, shapes = weighted_joint(program, expected.marginals), program.log_probs(values)
    for block in closed_form(program).blocks:
        posterior = block.posterior(expected)
        assert set(posterior.names) == set(block.unknowns)
        for unknown, mean in posterior.mean().items():
            assert mean.shape == values[unknown].shape
        constants = []
        for seed in range(4):
            other = {**values, **{n: v for n, v in anywhere(program, 10 + seed).items() if n in block.unknowns}}
            log_q = posterior.log_prob(other)
            assert {n: v.shape for n, v in log_q.items()} == {n: shapes[n].shape for n in block.unknowns}
            constants.append(objective(other) - sum(program.weigh(n, v) for n, v in log_q.items()))
        found = torch.stack(constants)
        torch.testing.assert_close(found, found[0].expand(4), rtol=1e-10, atol=1e-8)


@spread(("name", "prior"), BOTH, part=1)
def test_an_update_is_the_maximum(name, prior):
    """Each M-step in turn: the gradient is zero in unconstrained coordinates, and nothing around it is better."""
    program = program_of(name, prior)
    start = anywhere(program)
    _, expected = Coordinates(program).expect(State(start, {}))
    check_each_maximum(program, expected, start)


def check_each_maximum(program, expected, values, rounding=1e-8):
    objective = weighted_joint(program, expected.marginals)
    for block in closed_form(program).blocks:
        found = block.maximize(expected.at(values))
        assert set(found) == set(block.unknowns)
        to = {n: transform_to(program.sites[n].support) for n in found}
        free = {n: to[n].inv(v).detach().requires_grad_() for n, v in found.items()}
        best = objective({**values, **{n: to[n](u) for n, u in free.items()}})
        for gradient in torch.autograd.grad(best, list(free.values())):
            assert float(gradient.abs().max()) < rounding * (1 + float(best.detach().abs()))
        with torch.no_grad():
            for size in (0.01, 0.3):
                for _ in range(3):
                    other = {n: to[n](u + size * torch.randn_like(u)) for n, u in free.items()}
                    assert float(objective({**values, **other})) <= float(best) + rounding * (1 + abs(float(best)))
        values = {**values, **found}


@spread(("name", "prior"), BOTH, part=0)
def test_a_weight_is_a_number_of_repetitions(name, prior):
    program = program_of(name, prior)
    if program.locals:
        return
    plain = replace(program.data, weights=None)
    times = torch.tensor([2, 1, 3, 0, 2, 1])[: len(program.data)]
    weighted = program.rebind(replace(plain, weights=times.to(AT)))
    repeated = program.rebind(plain.take(torch.arange(len(times)).repeat_interleave(times)))
    start = State(anywhere(program), {})
    (one, heavy), (other, long) = (Coordinates(p).expect(start) for p in (weighted, repeated))
    assert float(one) == pytest.approx(float(other), rel=1e-12)
    assert_same(Coordinates(weighted).maximize(heavy), Coordinates(repeated).maximize(long))
    assert_same(tensors_of(Coordinates(weighted).condition(heavy)), tensors_of(Coordinates(repeated).condition(long)))


@pytest.mark.parametrize(
    "name",
    [
        *("rate_for_each_row", "rows_about_a_mean", "plates_about_a_mean"),
        *("normal_gamma_of_each_row", "wishart_of_each_row", "state_of_each_member"),
    ],
)
def test_a_latent_of_a_row_does_not_count_repetitions_of_the_row(name):
    """A row that is repeated has a latent of its own each time, so weights leave each latent's posterior alone."""
    found = []
    for weighted in (False, True):
        program = program_of(name, True, weighted)
        _, expected = Coordinates(program).expect(State(anywhere(program), {}))
        (block,) = (b for b in closed_form(program).blocks if b.unknowns[0] in {s.name for s in program.locals})
        found.append(block.posterior(expected).tensors())
    assert_same(*found)


@pytest.mark.parametrize("name", [n for n, s in STORIES.items() if s.local])
def test_a_row_of_weight_zero_leaves_its_latent_at_the_prior(name):
    program = program_of(name)
    program = program.rebind(replace(program.data, weights=torch.arange(len(program.data), dtype=AT)))
    state = believed(program)
    assert all(bool(v.isfinite().all()) for v in tensors_of(state).values())
    value, _ = Coordinates(program).expect(state)
    assert math.isfinite(float(value))


@spread(("name", "prior"), BOTH, part=2)
def test_every_step_raises_the_objective(name, prior):
    """EM, also with separate priors of mean and precision, whose M-step is one after the other; and the ELBO."""
    program = program_of(name, prior)
    ascent = Coordinates(program)
    for update in (lambda e: State(ascent.maximize(e), {}), ascent.condition):
        state, values = State(anywhere(program), {}), []
        for _ in range(4):
            value, expected = ascent.expect(state)
            values.append(float(value))
            state = update(expected)
        steps = np.diff(values[1:] if state.posteriors else values)  # the first bound is at a point, without entropies
        assert steps.min() >= -1e-10 * abs(values[-1])


# -- expectations -----------------------------------------------------------------------------------------------------


@spread("name", ALL, part=1)
def test_expectations_are_those_of_draws(name):
    """E[log p] of every entry of every site, and KL to the prior, within 5 standard errors."""
    program = program_of(name)
    state = believed(program)
    ascent = Coordinates(program)
    _, expected = ascent.expect(state)
    posteriors = distinct(state.posteriors)
    draws = {n: v for q in posteriors for n, v in q.sample(DRAWS).items()}
    with torch.no_grad():
        sampled, exact = densities_at(program, draws, DRAWS), ascent._factors(expected)
    for posterior in posteriors:
        log_q = posterior.log_prob({n: draws[n] for n in posterior.names})
        terms = [sampled[n].reshape(DRAWS, -1).sum(1) - log_q[n].reshape(DRAWS, -1).sum(1) for n in posterior.names]
        assert_within_error(sum(terms), sum(exact[n].sum() for n in posterior.names))
    for site, factor in exact.items():
        assert factor.shape == sampled[site].shape[1:]
        if site not in state.posteriors:
            assert_within_error(sampled[site], factor, limit=5.5)


LAWS = {
    "bernoulli": lambda q: scipy.stats.beta(float(q["concentration1"]), float(q["concentration0"])),
    "poisson_exposures": lambda q: scipy.stats.gamma(float(q["concentration"]), scale=1 / float(q["rate"])),
    "normal_mean": lambda q: scipy.stats.norm(float(q["loc"]), float(q["scale"])),
}
LAWS["binomial"] = LAWS["bernoulli"]
LAWS["exponential_exposures"] = LAWS["gamma_of_known_shape"] = LAWS["one_rate_for_two"] = LAWS["poisson_exposures"]
LAWS["normal_precision_times_data"] = LAWS["inverse_gamma_of_known_shape"] = LAWS["poisson_exposures"]
LAWS["negative_binomial"] = LAWS["bernoulli"]
LAWS["normal_variance_times_data"] = lambda q: scipy.stats.invgamma(float(q["concentration"]), scale=float(q["rate"]))


@pytest.mark.parametrize("name", LAWS)
def test_expected_log_densities_by_quadrature(name):
    program = program_of(name)
    state = believed(program, 1)
    ((unknown, posterior),) = state.posteriors.items()
    law = LAWS[name](posterior.tensors())
    _, expected = Coordinates(program).expect(state)
    for site in program.observed:

        def integrand(u, site=site):
            return law.pdf(u) * program.log_probs({unknown: torch.tensor(u, dtype=AT)})[site.name].numpy()

        integral, _ = scipy.integrate.quad_vec(integrand, *law.interval(1 - 1e-15), epsabs=1e-11, epsrel=1e-11)
        np.testing.assert_allclose(expected.log_density(site).numpy(), integral, rtol=1e-8, atol=1e-8)
    entropy, _ = scipy.integrate.quad(lambda u: -law.pdf(u) * law.logpdf(u), *law.interval(1 - 1e-15))
    assert float(posterior.entropy()[unknown]) == pytest.approx(entropy, abs=1e-7)


@pytest.mark.slow
def test_the_expected_log_density_of_a_normal_gamma_by_quadrature():
    """Over m given t by Gauss-Hermite, exact for a square; over t by adaptive quadrature."""
    program = program_of("normal_gamma")
    state = believed(program, 1)
    q = state.posteriors["mu"]
    law = scipy.stats.gamma(float(q.a), scale=1 / float(q.b))
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)

    def integrand(t):
        tau = torch.tensor(t, dtype=AT)
        at = [{"tau": tau, "mu": q.loc + x * (q.kappa * tau).rsqrt()} for x in nodes]
        values = [program.log_probs(v)["x"].numpy() for v in at]
        return law.pdf(t) * sum(w * v for w, v in zip(weights, values, strict=True)) / weights.sum()

    integral, _ = scipy.integrate.quad_vec(integrand, *law.interval(1 - 1e-15), epsabs=1e-11, epsrel=1e-11)
    _, expected = Coordinates(program).expect(state)
    np.testing.assert_allclose(expected.log_density(program.sites["x"]).numpy(), integral, rtol=1e-8)


# -- posteriors -------------------------------------------------------------------------------------------------------


def positive(*shape):
    return 1.5 + 2 * torch.rand(shape, dtype=AT)


def matrices(*shape, size=2):
    root = torch.randn((*shape, size, size), dtype=AT)
    return torch.linalg.cholesky(root @ root.mT + torch.eye(size, dtype=AT))


def real(*shape):
    return torch.randn(shape, dtype=AT)


POSTERIORS = {
    "beta": lambda: Single("u", dist.Beta(positive(3), positive(3)).to_event(1)),
    "dirichlet": lambda: Single("u", dist.Dirichlet(positive(2, 3))),
    "gamma": lambda: Single("u", dist.Gamma(positive(2), positive(2))),
    "normal": lambda: Single("u", dist.Normal(real(2, 3), positive(2, 3)).to_event(1)),
    "multivariate": lambda: Single("u", dist.MultivariateNormal(real(2, 3), scale_tril=matrices(2, size=3))),
    "wishart": lambda: Single("u", dist.Wishart(2 + positive(2), scale_tril=matrices(2))),
    "normal-gamma": lambda: NormalGamma(("m", "t"), real(), positive(), positive(), positive(), (0, 0)),
    "normal-gamma by column": lambda: NormalGamma(("m", "t"), real(3), positive(3), positive(3), positive(3), (1, 1)),
    "normal-gamma of one": lambda: NormalGamma(("m", "t"), real(2, 3), positive(2, 3), positive(), positive(), (2, 0)),
    "normal-gamma of columns": lambda: NormalGamma(
        ("m", "t"), real(2, 3), positive(2, 3), positive(3), positive(3), (2, 1)
    ),
    "normal-gamma by state": lambda: NormalGamma(
        ("m", "t"), real(2, 3), positive(2, 3), positive(2), positive(2), (1, 0), 1
    ),
    "inverse-gamma": lambda: Single("u", dist.InverseGamma(1 + positive(2), positive(2))),
    "normal-inverse-gamma": lambda: NormalInverseGamma(
        ("m", "t"), real(2, 3), positive(2, 3), 1 + positive(3), positive(3), (2, 1)
    ),
    "normal-wishart": lambda: NormalWishart(("m", "p"), real(3, 2), positive(3), 2 + positive(3), matrices(3)),
    "normal-wishart of one": lambda: NormalWishart(("m", "p"), real(3, 2), positive(3), 2 + positive(), matrices()),
    "linear": lambda: LinearPosterior(("a", "b"), ((), (2,)), (0, 1), real(3), matrices(size=3)),
    "linear in a plate": lambda: LinearPosterior(("a", "b"), ((), (2,)), (0, 0), real(3), matrices(size=3)),
    "linear by state": lambda: LinearPosterior(("a", "b"), ((2,), (2, 2)), (0, 1), real(2, 3), matrices(2, size=3)),
    "linear as one": lambda: LinearPosterior(("a", "b"), ((2,), (2, 2)), (1, 2), real(2, 3), matrices(2, size=3)),
    "linear with precision": lambda: LinearPosterior(
        ("t", "a", "b"), ((), (2, 2)), (0, 2), real(5), matrices(size=5), positive(), positive()
    ),
}
EVERY = pytest.mark.parametrize("name", POSTERIORS)
TORCH_KNOWS = ("beta", "dirichlet", "gamma", "normal", "multivariate")


def whole(values, count):
    """Sum of the entries of each of several draws."""
    return sum(v.reshape(count, -1).sum(1) for v in values.values())


@EVERY
def test_entropy_and_divergence_are_those_of_draws(name):
    q, p = POSTERIORS[name](), POSTERIORS[name]()
    draws = q.sample(4 * DRAWS)
    log_q, log_p = q.log_prob(draws), p.log_prob(draws)
    entropy, kl = q.entropy(), q.kl(p)
    for unknown in q.names:
        assert entropy[unknown].shape == kl[unknown].shape == log_q[unknown].shape[1:]
        assert_within_error(-log_q[unknown], entropy[unknown])
        assert_within_error(log_q[unknown] - log_p[unknown], kl[unknown])
    assert all(float(v.min()) >= 0 for v in kl.values())
    assert all(float(v.abs().max()) < 1e-12 for v in q.kl(q).values())
    for unknown, mean in q.mean().items():
        assert_within_error(draws[unknown], mean)


@pytest.mark.parametrize("name", TORCH_KNOWS)
def test_entropy_and_divergence_are_torchs(name):
    q, p = POSTERIORS[name](), POSTERIORS[name]()
    torch.testing.assert_close(q.kl(p)["u"], kl_divergence(q.distribution, p.distribution))
    torch.testing.assert_close(q.entropy()["u"], q.distribution.entropy())


@EVERY
def test_a_posterior_is_a_prior_site_by_site(name):
    """Density and draws of each unknown given the ones before it are those of all together."""
    q = POSTERIORS[name]()
    draws = {n: v[0] for n, v in q.sample(1).items()}
    log_q = q.log_prob(draws)
    order = [n for n in q.names if n in ("t", "p")] + [n for n in q.names if n not in ("t", "p")]
    laws = {unknown: q.given(unknown, draws) for unknown in order}
    for unknown, law in laws.items():
        assert law.log_prob(draws[unknown]).shape == log_q[unknown].shape
        if unknown != "p" and name != "wishart":  # torch warns of singular draws of a Wishart
            assert law.sample((5,)).shape == (5, *draws[unknown].shape)
    found = sum(law.log_prob(draws[n]).sum() for n, law in laws.items())
    assert float(found) == pytest.approx(float(sum(v.sum() for v in log_q.values())), rel=1e-10)


@EVERY
def test_a_posterior_is_made_again_from_its_numbers(name):
    q = POSTERIORS[name]()
    again = read(q.kind, q.names, q.describe(), q.tensors())
    draws = q.sample(3)
    assert_same(again.log_prob(draws), q.log_prob(draws))
    assert again.names == q.names


@EVERY
def test_a_blend_is_the_geometric_mean(name):
    """(1 - r) log q + r log p, up to a constant, is in the family again."""
    q, p = POSTERIORS[name](), POSTERIORS[name]()
    draws = q.sample(6)
    log_q, log_p, blended = (whole(one.log_prob(draws), 6) for one in (q, p, q.blend(p, 0.3)))
    constant = blended - 0.7 * log_q - 0.3 * log_p
    torch.testing.assert_close(constant, constant[0].expand(6), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["wishart", "normal-wishart", "normal-wishart of one"])
def test_moments_of_wisharts(name):
    """E[P] and E[log |P|], and E[(m - E m)^T P (m - E m)] of a mean with it."""
    q = POSTERIORS[name]()
    draws = q.sample(4 * DRAWS)
    unknown = q.names[-1]
    moments = q.moments(unknown)
    assert_within_error(draws[unknown], moments["mean"])
    assert_within_error(draws[unknown].logdet(), moments["logdet"])
    if len(q.names) > 1:
        p = draws[unknown] if draws[unknown].ndim > 3 else draws[unknown][:, None]
        gap = draws["m"] - q.loc
        assert_within_error((gap * (p @ gap[..., None])[..., 0]).sum(-1), q.moments("m")["quad"])


# -- in closed form ---------------------------------------------------------------------------------------------------

EXACT = [n for n, s in STORIES.items() if s.exact]


@pytest.mark.parametrize("seen", [[2.0, 3.0, 0.0], [2.0, 2.0, 1.0]])
def test_no_count_of_what_is_impossible_is_no_surprise(seen):
    """0 log 0 is 0, one of what has no chance has no density; under each of several probabilities."""
    p = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.3, 0.2]], dtype=AT)
    x = torch.tensor([seen, [1.0, 4.0, 0.0]], dtype=AT)
    family = family_named("Multinomial")
    fn = dist.Multinomial(5, probs=p[:, None], validate_args=False)
    found = family.log_density(fn, lambda name: family.moments_at(name, p[:, None]), {"mean": x})
    expected = scipy.stats.multinomial.logpmf(x.numpy(), 5, p[:, None].numpy())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_the_evidence_of_a_state_of_all_rows_is_a_sum_over_it():
    """Which no bound of q(z) q(mu) reaches."""
    program = program_of("state_of_all_rows", True, False)
    rows = np.asarray(STORIES["state_of_all_rows"].data)
    covariance = 4 * np.eye(len(rows)) + 9
    each = [scipy.stats.multivariate_normal(np.full(len(rows), m), covariance).logpdf(rows) for m in (0.0, 1.0)]
    expected = np.logaddexp(*(np.log([0.3, 0.7]) + each))
    assert Exact().run(program).objective.value == pytest.approx(expected, rel=1e-12)
    bound, _ = Coordinates(program).expect(believed(program, steps=20))
    assert expected - 1 < float(bound) < expected - 1e-6


@spread("name", [n for n in EXACT if not STORIES[n].local and n != "state_of_all_rows"], part=1)
def test_the_bound_at_the_exact_posterior_is_the_evidence(name):
    """log p(x), also by Chib's identity; and it is a sum over blocks of log p(x, u) - log p(u | x)."""
    program = program_of(name, True, False)
    ascent = Coordinates(program)
    _, expected = ascent.expect(State(anywhere(program), {}))
    state = ascent.condition(expected)
    bound, _ = ascent.expect(state)
    assert float(bound) == pytest.approx(Exact().run(program).objective.value, rel=1e-10, abs=1e-9)


# -- one sweep over the rows ------------------------------------------------------------------------------------------


def check_sweep(program, states):
    """One sweep gives the value, the updates and the posteriors that the log densities of all rows give."""
    for hard in (False, True):
        plain, swift = Coordinates(program, hard=hard), Coordinates(program, hard=hard)
        for state in states:
            swift.prepare(state)
            if swift.mixture is None:
                return False
            (one, slow), (other, fast) = plain.expect(state), swift.expect(state)
            assert fast.sums
            for site, (count, parts) in fast.sums.items():
                all_count, all_parts = slow.statistics(program.sites[site])
                assert_same({"count": count.sum()}, {"count": all_count.sum()})
                assert_same(
                    {str(j): part.sum() for j, part in enumerate(parts)},
                    {str(j): part.sum() for j, part in enumerate(all_parts)},
                    atol=1e-7,
                )
            assert float(other) == pytest.approx(float(one), rel=1e-9, abs=1e-9)
            assert_same(swift.maximize(fast), plain.maximize(slow))
            assert_same(tensors_of(swift.condition(fast)), tensors_of(plain.condition(slow)))
    return True


@spread(("name", "prior"), [c for c in BOTH if c.values[1] or STORIES[c.values[0]].fused], part=2)
def test_one_sweep_gives_what_all_densities_give(name, prior):
    program = program_of(name, prior)
    states = [State(anywhere(program, 3), {}), believed(program)]
    assert check_sweep(program, states) == STORIES[name].fused


SWEPT = {"GMM", "BayesianGMM", "PoissonMixture", "LatentClass", "MixtureOfRegressions", "KMeans"}


@spread(
    ("model", "data"),
    [case for name in sorted(SWEPT) for case in ZOO_CASES[name]],
    part=1,
    of=2,
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_one_sweep_gives_what_all_densities_give_in_the_zoo(model, data):
    rows = len(data["x"]) if isinstance(data, dict) else len(data)
    program = prepared(model, data, weights=torch.linspace(0.5, 2.0, rows))
    if len(program.enumerated) != 1 or program.enumerated[0].cardinality < 2 or closed_form(program).rest:
        return
    start = State(program.initial(), {})
    assert check_sweep(program, [start, Coordinates(program).step(start)])


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_one_sweep_far_from_zero(covariance, offset):
    program = prepared(zoo.GMM(components=3, covariance=covariance), FAITHFUL + offset)
    assert check_sweep(program, [State(program.initial(), {})])


@pytest.mark.parametrize("scale", [1e-1, 1e-5])
def test_a_component_far_tighter_than_its_distance_loses_no_digits(scale):
    """(m / s)^2 - 2 m x / s^2 + (x / s)^2 of m = 500 and s = 1e-5 leaves half a nat of rounding in a row's log density.

    What a row's own distance gives is right to the last digits: such components are left to it.
    """
    x = np.concatenate([np.linspace(-501.0, -499.0, 9), 500.0 + scale * np.linspace(-2.0, 2.0, 9)])
    program = prepared(zoo.GMM(components=2, covariance="diag"), x[:, None])
    ascent = Coordinates(program)
    ascent.prepare(State(program.initial(), {}))
    assert ascent.mixture is not None
    means, scales = torch.tensor([[-500.0], [500.0]], dtype=AT), torch.tensor([[1.0], [scale]], dtype=AT)
    values = {"weights": torch.tensor([0.5, 0.5], dtype=AT), "means": means, "covariances": scales.square()}
    parts = [scipy.stats.norm(float(m), float(s)).logpdf(x) for m, s in zip(means, scales, strict=True)]
    value, _ = ascent.expect(State(values, {}))
    assert float(value) == pytest.approx((np.logaddexp(*parts) - math.log(2)).sum(), abs=1e-5)


# -- what looks conjugate and is not ----------------------------------------------------------------------------------

LONG = {"x": np.linspace(-1, 1, 1000), "rare": (np.arange(1000) == 501).astype(float)}


def normal_rows(wrap=None, loc=lambda mu, x, rare: mu, prior=None, also=lambda mu: None):
    """Rows about one mean, something being off in the likelihood of one row of a thousand, or elsewhere."""

    def story(x, rare):
        mu = (prior or (lambda: pyro.sample("mu", dist.Normal(0.0, 1.0))))()
        also(mu)
        with pyro.plate("row", len(x)):
            fn = dist.Normal(loc(mu, x, rare), 1.0)
            if wrap is None:
                pyro.sample("x", fn, obs=x)
            else:
                wrap(fn, x, rare)

    return zoo.model(x=Real("row"), rare=Real("row"))(story)()


def masked_by_handler(fn, x, rare):
    with pyro.poutine.mask(mask=rare < 0.5):
        pyro.sample("x", fn, obs=x)


def scaled_by_handler(fn, x, rare):
    with pyro.poutine.scale(scale=1.0 + rare):
        pyro.sample("x", fn, obs=x)


def halved(fn, x, rare):
    with pyro.poutine.scale(scale=0.5):
        pyro.sample("x", fn, obs=x)


def masked_prior():
    return pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False))


def scaled_prior():
    with pyro.poutine.scale(scale=2.0):
        return pyro.sample("mu", dist.Normal(0.0, 1.0))


def by_row(x):
    """A covariate that differs from row to row."""
    return torch.linspace(-1, 1, len(x))


NOT_CONJUGATE = {
    "masked by a handler": {"wrap": masked_by_handler},
    "masked": {"wrap": lambda fn, x, rare: pyro.sample("x", fn.mask(rare < 0.5), obs=x)},
    "scaled in a row": {"wrap": scaled_by_handler},
    "scaled": {"wrap": halved},
    "square in a row": {"loc": lambda mu, x, rare: torch.where(rare > 0.5, mu**2, mu)},
    "square in a row, times data": {"loc": lambda mu, x, rare: torch.where(rare > 0.5, mu**2, mu * (2 + by_row(x)))},
    "square in a row, plus data": {"loc": lambda mu, x, rare: torch.where(rare > 0.5, mu**2, mu + by_row(x))},
    "its size": {"loc": lambda mu, x, rare: mu.abs()},
    "bent": {"loc": lambda mu, x, rare: torch.where(mu > 1, 2 * mu - 1, mu)},
    "scaled prior": {"prior": scaled_prior},
    "a factor": {"also": lambda mu: pyro.factor("more", -(mu**4))},
    "a use elsewhere": {"also": lambda mu: pyro.sample("y", dist.Cauchy(mu, 1.0), obs=torch.tensor(1.0))},
    "in the data": {"wrap": lambda fn, x, rare: pyro.sample("x", fn, obs=x - fn.loc)},
}


@pytest.mark.parametrize("name", NOT_CONJUGATE)
def test_what_looks_conjugate_and_is_not_is_left_alone(name):
    assert closed_form(prepared(normal_rows(**NOT_CONJUGATE[name]), LONG)).rest == ["mu"]


def test_a_prior_that_is_masked_is_none():
    with pytest.raises(zoo.ModelError, match=r"'mu' is masked in all entries, so that it has no prior, but site 'x'"):
        prepared(normal_rows(prior=masked_prior), LONG)


def test_its_honest_twin_is_claimed():
    assert closed_form(prepared(normal_rows(), LONG)).rest == []
    assert closed_form(prepared(normal_rows(also=student_elsewhere), LONG)).rest == []
    assert closed_form(prepared(normal_rows(loc=lambda mu, x, rare: mu * (2 + rare)), LONG)).rest == []
    assert closed_form(prepared(normal_rows(loc=lambda mu, x, rare: mu * (1 + rare) + by_row(x)), LONG)).rest == []


def student_elsewhere(mu):
    pyro.sample("y", dist.StudentT(3.0, mu, 1.0), obs=torch.tensor(1.0))


@pytest.mark.slow
def test_a_student_t_elsewhere_is_bounded_closely():
    """log p(x, y) by the trapezoidal rule; among a thousand Normals, one Student t has little to lose to Jensen."""
    model = normal_rows(also=student_elsewhere)
    mu = np.linspace(-0.3, 0.3, 6001)
    log = scipy.stats.norm.logpdf(mu) + scipy.stats.t.logpdf(1.0, 3.0, mu)
    log += scipy.stats.norm.logpdf(LONG["x"][:, None], mu).sum(0)
    evidence = log.max() + math.log(scipy.integrate.trapezoid(np.exp(log - log.max()), mu))
    bound = fit(model, LONG, method="cavi", seed=0, progress=False).objective
    assert bound.kind == "elbo"
    assert evidence - 1e-3 < bound.value <= evidence + 1e-9


def test_a_matrix_times_numbers_entry_by_entry_has_a_determinant_of_its_own():
    @zoo.model(x=Real("row", "feature"))
    def entries(x):
        p = pyro.sample("P", dist.Wishart(torch.tensor(4.5), V))
        factor = torch.tensor([[1.0, 0.5], [0.5, 2.0]])
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(torch.zeros(2), precision_matrix=p * factor), obs=x)

    assert closed_form(prepared(entries(), MATRIX)).rest == ["P"]


def test_a_prior_made_from_all_rows_is_seen_by_a_sweep_over_them():
    """Constants of a prior may come from the data; a sweep runs the model on two rows only."""

    @zoo.model(x=Real("row"))
    def from_data(x):
        with pyro.plate("component", 2):
            tau = pyro.sample("tau", dist.Gamma(2.0, x.var()))
            mu = pyro.sample("mu", dist.Normal(x.mean(), (0.1 * tau).rsqrt()))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(mu[z], tau[z].rsqrt()), obs=x)

    x = FAITHFUL["waiting"].to_numpy()
    program = prepared(from_data(), x)
    assert closed_form(program).rest == []
    state = State(anywhere(program), {})
    plain, swift = Coordinates(program), Coordinates(program)
    swift.prepare(state)
    for _ in range(3):
        (one, slow), (other, fast) = plain.expect(state), swift.expect(state)
        assert float(other) == pytest.approx(float(one), rel=1e-9)
        assert_same(tensors_of(swift.condition(fast)), tensors_of(plain.condition(slow)))
        state = plain.condition(slow)


@pytest.mark.parametrize("kappa", [lambda t: 0.3 * t, lambda t: t**2, lambda t: t + 1.0], ids=["0.3 t", "t^2", "t + 1"])
def test_a_joint_prior_is_a_multiple_of_the_precision_or_none(kappa):
    """With one component the precision is one number, and any function of it looks like a multiple."""

    @zoo.model(x=Real("row"))
    def joint(x):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.7))
        loc = pyro.sample("loc", dist.Normal(0.5, kappa(tau).rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(loc, tau.rsqrt()), obs=x)

    plan = closed_form(prepared(joint(), VECTOR))
    multiple = float(kappa(torch.tensor(2.0))) == pytest.approx(0.6)
    assert [label(b) for b in plan.blocks] == (["NormalGamma"] if multiple else ["NormalMean"])
    assert plan.rest == ([] if multiple else ["tau"])


def test_prior_arguments_that_are_wrong_for_a_closed_form_are_not_claimed():
    @zoo.model(x=Count("row"))
    def log_normal_rate(x):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    @zoo.model(x=Count("row"))
    def unknown_shape(x):
        shape = pyro.sample("shape", dist.Exponential(1.0))
        rate = pyro.sample("rate", dist.Gamma(shape, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    @zoo.model(x=Count("row"))
    def used_twice(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)
        pyro.sample("y", dist.Normal(rate, 1.0), obs=torch.tensor(2.0))

    for model in (log_normal_rate, unknown_shape, used_twice):
        assert "rate" in closed_form(prepared(model(), COUNTS)).rest


# -- the zoo, shared parameters ---------------------------------------------------------------------------------------


@spread(
    ("model", "data"),
    [
        case
        for name in ("BayesianGMM", "PoissonMixture", "LatentClass", "MixtureOfRegressions", "BayesianRegression")
        for case in ZOO_CASES[name]
    ]
    + [(zoo.GMM(components=k, covariance=c), FAITHFUL.head(40)) for c, k in itertools.product(COVARIANCES, (1, 2, 3))],
    part=0,
    of=2,
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_updates_of_the_zoo_are_maxima(model, data):
    program = prepared(model, data)
    start = program.initial()
    _, expected = Coordinates(program).expect(State(start, {}))
    assert set(closed_form(program).rest) <= {"weights"}
    check_each_maximum(program, expected, start, rounding=1e-7)


SHAPES = {"one": (), "by column": (2,), "by state": (2, 1), "by both": (2, 2)}


@spread(
    ("argument", "scales", "locations"),
    list(itertools.product(["scale", "variance", "precision"], SHAPES, SHAPES)),  # 3 and 4: each pair is in each part
    part=0,
)
def test_updates_are_maxima_however_locations_and_scales_are_shared(locations, scales, argument):
    """A location shared by cells with scales of their own weighs them by precision, which needs the scales."""
    power = {"scale": 1.0, "variance": 0.5, "precision": -0.5}[argument]

    @zoo.model(x=Real("row", "feature"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(SHAPES[locations]))
        tau = pyro.param("tau", torch.ones(SHAPES[scales]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            spread = (tau[z] if "state" in scales or "both" in scales else tau) ** power
            center = loc[z] if "state" in locations or "both" in locations else loc
            pyro.sample("x", dist.Normal(center, spread.expand(*spread.shape[:-1], 2)).to_event(1), obs=x)

    program = prepared(shared(), MATRIX)
    start = anywhere(program)
    assert closed_form(program).rest == []
    _, expected = Coordinates(program).expect(State(start, {}))
    check_each_maximum(program, expected, start)


@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix", "scale_tril"])
@pytest.mark.parametrize("one", [True, False])
def test_updates_of_matrices_are_maxima_in_each_parameterization(one, argument):
    support = constraints.lower_cholesky if argument == "scale_tril" else constraints.positive_definite

    @zoo.model(x=Real("row", "feature"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(2, 2))
        matrix = pyro.param("matrix", torch.eye(2).expand((2, 2) if one else (2, 2, 2)), constraint=support)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            given = {argument: matrix if one else matrix[z]}
            pyro.sample("x", dist.MultivariateNormal(loc[z], **given), obs=x)

    program = prepared(shared(), MATRIX)
    start = anywhere(program)
    assert closed_form(program).rest == []
    _, expected = Coordinates(program).expect(State(start, {}))
    check_each_maximum(program, expected, start)


# -- cells without data -----------------------------------------------------------------------------------------------


@zoo.model(count=Count("row"))
def gamma_mixture(count):
    """A mixture of Poissons with conjugate priors."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.5, 3.0])))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([2.0, 5.0]), 1.5))
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("count", dist.Poisson(rate[z]), obs=count)


def with_empty_cell(program, values, state):
    """Update with all rows in the other state."""
    site, emptied = program.sites["z"], {}
    _, expected = Coordinates(program).expect(State(values, {}))
    for name, marginal in expected.marginals.items():
        axis = marginal.ndim + site.enum_dim
        if axis >= 0 and marginal.shape[axis] == 2:
            part = torch.zeros_like(marginal)
            part.select(axis, 1 - state).copy_(marginal.sum(axis))
            marginal = part
        emptied[name] = marginal
    return Coordinates(program).maximize(replace(expected, marginals=emptied))


@pytest.mark.parametrize("state", [0, 1])
@pytest.mark.parametrize(
    ("model", "data", "kept"),
    [
        (PoissonMixture(), COUNTS, ["rate"]),
        (zoo.GMM(), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="diag"), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="spherical"), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="tied"), ROWS, ["means"]),
        (zoo.LatentClass(), [[0, 1], [1, 1], [2, 0]], ["p"]),
        (zoo.MixtureOfRegressions(), {"x": [[0.1], [0.5], [2.0]], "y": [1.0, 0.5, 3.0]}, ["slope", "intercept"]),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_a_state_without_rows_keeps_its_values(model, data, kept, state):
    program = prepared(model, data)
    start = anywhere(program)
    found = with_empty_cell(program, start, state)
    assert all(bool(v.isfinite().all()) for v in found.values())
    for name in kept:
        if name in found:
            torch.testing.assert_close(found[name][state], start[name][state], rtol=1e-12, atol=1e-12)
    weights = torch.zeros(2, dtype=AT)
    weights[1 - state] = 1.0
    torch.testing.assert_close(found["weights"], weights)


@pytest.mark.parametrize("state", [0, 1])
def test_a_state_without_rows_takes_the_mode_of_its_prior(state):
    program = prepared(gamma_mixture(), COUNTS)
    found = with_empty_cell(program, anywhere(program), state)
    assert float(found["rate"][state]) == pytest.approx([(2.0 - 1) / 1.5, (5.0 - 1) / 1.5][state])
    bayesian = prepared(zoo.BayesianGMM(covariance="diag", df=4.0), ROWS)
    found = with_empty_cell(bayesian, anywhere(bayesian), state)
    torch.testing.assert_close(found["means"][state], bayesian.model.center)


@pytest.mark.slow
@pytest.mark.parametrize("data", [[0, 0, 0], [1, 1, 1]], ids=["zeros", "ones"])
def test_modes_and_maxima_at_an_edge_stay_finite(data):
    """A flat prior and one-sided data put the mode on the edge, where the density of the next step must be finite."""
    result = fit(BernoulliMixture(pseudo=1.0), [[d, 0] for d in data], method=EM(max_steps=50), seed=0)
    assert math.isfinite(result.objective.value)
    program = prepared(gamma_mixture(), [0, 0, 0])
    _, expected = Coordinates(program).expect(State(anywhere(program), {}))
    assert all(bool(v.isfinite().all()) for v in Coordinates(program).maximize(expected).values())


# -- floors, offsets and units ----------------------------------------------------------------------------------------


def log_likelihood_of(covariance, scatter):
    """Average log likelihood, without constants, of rows with this scatter."""
    return -0.5 * (covariance.logdet() + torch.linalg.solve(covariance, scatter).diagonal().sum())


@pytest.mark.parametrize("unit", [[1.0, 1.0], [1e-3, 50.0]], ids=["one unit", "two units"])
def test_the_floor_is_the_best_covariance_above_it(unit):
    """No covariance whose eigenvalues, in units of the data, are above the floor explains the rows better."""
    unit = torch.tensor(unit, dtype=AT)
    outer = unit[:, None] * unit[None, :]
    flat = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=AT) * outer
    found = MultivariateNormal().bounded(flat, unit.square())
    values = torch.linalg.eigvalsh(found / outer)
    assert float(values.min()) == pytest.approx(FLOOR, rel=1e-6)
    best = float(log_likelihood_of(found, flat))
    for _ in range(200):
        stretch = 10 ** (7 * torch.rand(2, dtype=AT))
        spectrum = FLOOR * (1 + torch.rand(2, dtype=AT) * stretch)
        angle = 0.25 * math.pi + 0.02 * torch.randn(()).double()
        turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
        other = turn @ torch.diag(spectrum) @ turn.T * outer
        assert float(log_likelihood_of(other, flat)) <= best + 1e-6 * abs(best)


def test_the_floor_leaves_what_is_above_it_and_the_inverse_is_the_inverse():
    covariance = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[0.5, 0.0], [0.0, 0.1]]], dtype=AT)
    torch.testing.assert_close(
        MultivariateNormal().bounded(covariance, torch.ones(2, dtype=AT)), covariance, rtol=1e-14, atol=0
    )
    torch.testing.assert_close(inverse(covariance) @ covariance, torch.eye(2, dtype=AT).expand(2, 2, 2))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_component_that_collapses_meets_the_floor_and_the_likelihood_still_rises(covariance):
    """Many copies of one row draw a component onto them, where the likelihood has no maximum."""
    rows = [*FAITHFUL.head(12).to_numpy().tolist(), *[[4.0, 70.0]] * 12]
    result = fit(zoo.GMM(components=2, covariance=covariance), rows, method=EM(max_steps=200), seed=1)
    steps = result.trace["value"].diff().dropna()
    assert float(steps.min()) >= -1e-9 * abs(result.objective.value)
    variance = torch.tensor(rows, dtype=AT).var(0, correction=0)
    shape = result.points["covariances"]
    if covariance == "full":
        unit = variance.sqrt()
        assert float(torch.linalg.eigvalsh(shape / (unit[:, None] * unit)).min()) >= FLOOR * (1 - 1e-6)
    elif covariance == "diag":
        assert float((shape / variance).min()) >= FLOOR * (1 - 1e-6)


@pytest.mark.parametrize(("offset", "unit"), [(-1e7, 1.0), (0.0, 1e-6), (1e6, 1e-2)])
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_an_update_moves_and_scales_with_the_data(covariance, offset, unit):
    """Sums of squares far from the origin lose digits unless they are centred first."""
    x = torch.tensor(FAITHFUL.to_numpy())
    plain = prepared(zoo.GMM(components=2, covariance=covariance), x)
    moved = prepared(zoo.GMM(components=2, covariance=covariance), unit * x + offset)
    start = plain.initial()
    there = {**start, "means": unit * start["means"] + offset, "covariances": unit**2 * start["covariances"]}
    found, other = maximized(plain, start), maximized(moved, there)
    digits = 1e-9 * max(1.0, abs(offset) / unit)  # what rounding the data themselves leaves
    torch.testing.assert_close((other["means"] - offset) / unit, found["means"], rtol=digits, atol=digits)
    torch.testing.assert_close(other["covariances"] / unit**2, found["covariances"], rtol=digits, atol=digits)
    torch.testing.assert_close(other["weights"], found["weights"], rtol=digits, atol=digits)


def test_floors_and_centers_are_those_of_what_is_observed():
    """Where that is made from a field, here its logarithm, the field's own spread would be a floor far too high."""

    @zoo.model(x=Positive("row"))
    def logarithms(x):
        mu = pyro.param("mu", torch.tensor([12.0, 15.0]))
        variance = pyro.param("variance", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("x", dist.Normal(mu[z], variance[z].sqrt()), obs=x.log())

    y = torch.cat([12 + 0.01 * torch.randn(50, dtype=AT), 15 + 0.1 * torch.randn(50, dtype=AT)])
    program = prepared(logarithms(), y.exp().numpy())
    plan = closed_form(program)
    assert plan.rest == []
    seen = program.data.values["x"].log()
    torch.testing.assert_close(plan.centers["x"], seen.mean())
    torch.testing.assert_close(plan.spreads["x"], seen.var(correction=0))
    values = program.initial()
    for _ in range(20):
        values = maximized(program, values)
    expected = torch.stack([part.var(correction=0) for part in (seen[:50], seen[50:])])
    torch.testing.assert_close(values["variance"], expected)


def maximized(program, values):
    _, expected = Coordinates(program).expect(State(values, {}))
    return Coordinates(program).maximize(expected)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_posteriors_far_from_zero_are_those_near_it(covariance):
    """A prior centred on the data moves with them: so do the posterior, its precision and the bound."""
    x, offset = torch.tensor(FAITHFUL.to_numpy()), 1e6
    plain = prepared(zoo.BayesianGMM(components=2, covariance=covariance), x)
    moved = prepared(zoo.BayesianGMM(components=2, covariance=covariance), offset + x)
    start = plain.initial()
    there = {**start, "means": start["means"] + offset}
    one, other = (Coordinates(p) for p in (plain, moved))
    near, far = State(start, {}), State(there, {})
    for _ in range(3):
        near, far = one.step(near), other.step(far)
    for name, value in tensors_of(near).items():
        shift = offset if name == "means" or name.endswith(".loc") else 0.0
        torch.testing.assert_close(tensors_of(far)[name] - shift, value, rtol=1e-6, atol=1e-6)
    assert float(other.expect(far)[0]) == pytest.approx(float(one.expect(near)[0]), abs=1e-3)


@pytest.mark.parametrize("joint", [False, True])
def test_a_regression_far_from_zero_is_that_near_it(joint):
    """Columns and values with an offset of a million: coefficients as accurate as a QR decomposition gives them."""

    @zoo.model(x=Real("row"), y=Real("row"))
    def line(x, y):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.5)) if joint else torch.tensor(4.0)
        unit = tau if joint else torch.tensor(1.0)
        a = pyro.sample("a", dist.Normal(0.0, (1e-24 * unit).rsqrt()))
        b = pyro.sample("b", dist.Normal(0.0, (1e-12 * unit).rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("y", dist.Normal(a + b * x, tau.rsqrt()), obs=y)

    x = np.linspace(-1, 1, 40)
    y = 0.5 + 2.0 * x + 0.1 * np.sin(40 * x)
    slope, intercept = np.polyfit(x, y, 1)
    program = prepared(line(), {"x": x + 1e6, "y": y + 1e6})
    found = Coordinates(program).step(State(program.initial(), {})).values
    assert float(found["b"]) == pytest.approx(slope, rel=1e-6)
    assert float(found["a"] + found["b"] * 1e6 - 1e6) == pytest.approx(intercept, abs=1e-5)
