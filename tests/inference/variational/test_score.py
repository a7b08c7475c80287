"""Latents without a reparameterization: draws as steps of noise, gradients by the score function, exact answers."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import inference.diagnostics.importance
import zoo
from guides import Conjugate, Custom, Encoder, FullRank, MeanField, Point
from guides.counts import NARROWEST, CountFactor
from guides.pathwise import log_ndtr
from guides.steps import drawn, noise_behind, poisson_quantile
from inference import SVI, fit
from inference.approximations.pareto import khat, smoothed
from inference.variational.score import advantages
from tests.inference.variational.test_bounds import ALL, ONE, bound_of, noise_of
from zoo.program.prepare import prepare
from zoo.replay.random import reseed

GRID = torch.arange(200.0, dtype=torch.float64)
X = np.array([4.2, 5.9, 5.1])
RNG = np.random.default_rng(0)
Y = RNG.poisson(4, 30) + 0.7 * RNG.normal(size=30)
DRAWS = 20_000


@zoo.model(x=zoo.Real("row"))
def shared_count(x):
    n = pyro.sample("n", dist.Poisson(3.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(n, 2.0), obs=x)


@zoo.model(x=zoo.Real("row"))
def count_each(x):
    with pyro.plate("row", len(x)):
        n = pyro.sample("n", dist.Poisson(4.0))
        pyro.sample("x", dist.Normal(n, 0.7), obs=x)


@zoo.model(x=zoo.Real("row"))
def unknown_rate(x):
    rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
    with pyro.plate("row", len(x)):
        n = pyro.sample("n", dist.Poisson(rate))
        pyro.sample("x", dist.Normal(n, 0.7), obs=x)


@zoo.model(x=zoo.Real("row"))
def trials_until(x):
    n = pyro.sample("n", zoo_positive())
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(n, 2.0), obs=x)


class ShiftedPoisson(dist.Poisson):
    """1 + Poisson: counts from one."""

    support = constraints.positive_integer

    def log_prob(self, value):
        return super().log_prob(value - 1)

    def sample(self, sample_shape=()):
        return 1 + super().sample(torch.Size(sample_shape))

    def expand(self, batch_shape, _instance=None):
        return ShiftedPoisson(self.rate.expand(batch_shape))


def zoo_positive():
    return ShiftedPoisson(torch.tensor(3.0))


def table_of(values, scale, prior):
    """log p(x, n) on the grid for one latent count that all values share."""
    likelihood = torch.distributions.Normal(GRID[:, None], scale).log_prob(torch.as_tensor(values)).sum(1)
    return prior.log_prob(GRID) + likelihood


SHARED = table_of(X, 2.0, torch.distributions.Poisson(torch.tensor(3.0, dtype=torch.float64)))


def rate_table():
    """log p(y, rate) on a grid, each row's count summed out, and the grid."""
    rates = torch.linspace(0.2, 15.0, 3000, dtype=torch.float64)
    prior = torch.distributions.Poisson(rates[:, None]).log_prob(GRID[:60])
    rows = torch.distributions.Normal(GRID[:60], 0.7).log_prob(torch.as_tensor(Y)[:, None])
    each = torch.stack([(prior + row).logsumexp(1) for row in rows])
    gamma = torch.distributions.Gamma(torch.tensor(2.0).double(), torch.tensor(0.5).double())
    return rates, gamma.log_prob(rates) + each.sum(0) + (rates[1] - rates[0]).log()


# -- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1e-4, 0.1, 1.0, 3.0, 30.0, 1000.0])
def test_the_quantile_of_a_poisson_is_scipys(rate):
    noise = torch.linspace(-7.5, 7.5, 2001, dtype=torch.float64)
    eps = noise.numpy()
    expected = np.where(
        eps < 0, stats.poisson.ppf(stats.norm.cdf(eps), rate), stats.poisson.isf(stats.norm.sf(eps), rate)
    )
    found = torch.vmap(lambda n: poisson_quantile(torch.tensor(rate, dtype=torch.float64), n))(noise)
    np.testing.assert_array_equal(found, expected)


FAMILIES = {
    "poisson": dist.Poisson(torch.tensor(2.5)),
    "geometric": dist.Geometric(torch.tensor(0.2)),
    "negative binomial": dist.NegativeBinomial(torch.tensor(3.0), torch.tensor(0.4)),
    "gamma poisson": dist.GammaPoisson(torch.tensor(2.0), torch.tensor(0.7)),
    "categorical": dist.Categorical(torch.tensor([0.2, 0.5, 0.3])),
    "bernoulli": dist.Bernoulli(torch.tensor(0.3)),
    "binomial": dist.Binomial(5, torch.tensor(0.3)),  # no steps of noise are known for it: it is sampled
}


@pytest.mark.parametrize("name", FAMILIES)
def test_draws_have_the_probabilities_of_their_family(name):
    fn = FAMILIES[name].expand((DRAWS,))
    reseed(0)
    shape, scored = noise_behind(fn)
    assert scored
    draws = drawn(fn, torch.randn(shape))
    counts = torch.arange({"categorical": 3, "bernoulli": 2, "binomial": 6}.get(name, 12))
    p = FAMILIES[name].log_prob(counts.to(draws.dtype)).exp()
    share = torch.stack([(draws == k).double().mean() for k in counts])
    assert ((share - p) / (p * (1 - p) / DRAWS).sqrt()).abs().max() < 4.5


def factor(start, unit, lowest=0, loc=0.3, log_scale=-0.2):
    made = CountFactor(torch.tensor([start]).double(), torch.tensor([unit]).double(), lowest)
    with torch.no_grad():
        made.loc.fill_(loc)
        made.log_scale.fill_(log_scale)
    return made, dict([*made.named_parameters(), *made.named_buffers()])


@pytest.mark.parametrize(("start", "unit", "lowest"), [(0.0, 1.0, 0), (3.0, 1.5, 1), (40.0, 0.2, 0), (1e6, 2.0, 0)])
def test_a_factor_over_counts_is_a_distribution_and_its_draws_follow_it(start, unit, lowest):
    made, p = factor(start, unit, lowest)
    middle = (p["start"] + p["unit"] * p["loc"]).item()
    scale = (p["unit"] * p["log_scale"].exp()).item() + NARROWEST * 0.5 / max(middle, 0.5)
    reseed(0)
    draws = made.draw(p, torch.randn(DRAWS).double())
    span = torch.arange(int(draws.min()) - 3, int(draws.max()) + 4).double()
    span = span[span >= lowest]
    q = made.log_prob(p, span).exp().detach()
    assert q.sum() == pytest.approx(1, abs=1e-3)
    k = span.numpy() - lowest
    low = np.where(k > 0, np.sqrt(k), -np.inf)
    expected = stats.norm.cdf(np.sqrt(k + 1), middle, scale) - stats.norm.cdf(low, middle, scale)
    np.testing.assert_allclose(q, expected, atol=1e-9)
    share = torch.stack([(draws == k).double().mean() for k in span])
    assert ((share - q).abs() < 4.5 * (q * (1 - q) / DRAWS).sqrt() + 1e-3).all()


@pytest.mark.parametrize("count", [0.0, 1.0, 5.0, 400.0])
def test_scores_far_from_the_middle_are_finite(count):
    made, _ = factor(5.0, 0.1)
    live = dict([*made.named_parameters(), *made.named_buffers()])
    value = made.log_prob(live, torch.tensor([count]).double())
    gradient = torch.autograd.grad(value.sum(), [made.loc, made.log_scale])
    assert value.isfinite().all()
    assert all(g.isfinite().all() for g in gradient)


def test_the_log_of_the_normal_distribution_function_is_scipys():
    x = torch.linspace(-30, 8, 200, dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(log_ndtr(x).detach(), stats.norm.logcdf(x.detach()), rtol=1e-12, atol=1e-15)
    (gradient,) = torch.autograd.grad(log_ndtr(x).sum(), x)
    np.testing.assert_allclose(
        gradient, np.exp(stats.norm.logpdf(x.detach()) - stats.norm.logcdf(x.detach())), rtol=1e-9
    )


# -- gradients -------------------------------------------------------------------------------------------------------


def exact_elbo(bound, coordinates, table):
    """ELBO of a count's factor with everything summed over the grid; `table` is log p(x, n), (grid, counts)."""
    part = bound.q.over_globals if bound.program.globals else bound.q.over_locals
    names = bound.coordinates.unpack(coordinates)[0]
    made = part.factors[0]
    prefix = ("over_globals" if bound.program.globals else "over_locals") + ".factors.0."
    live = {n: names[prefix + n] for n, _ in made.named_parameters()} | dict(made.named_buffers())
    log_q = torch.stack([made.log_prob(live, k.expand(live["loc"].shape)).reshape(-1) for k in GRID])
    return (log_q.exp() * (table - log_q)).nan_to_num(0.0).sum()


@pytest.mark.slow
@pytest.mark.parametrize("model", [shared_count, count_each])
def test_the_mean_of_the_score_gradients_is_the_exact_gradient(model):
    rows = X if model is shared_count else Y[:5]
    if model is shared_count:
        table = SHARED[:, None]
    else:
        prior = torch.distributions.Poisson(torch.tensor(4.0).double())
        table = torch.stack([table_of(rows[i : i + 1], 0.7, prior) for i in range(len(rows))], 1)
    bound = bound_of(model, rows)
    at = bound.start
    leaf = at.coordinates[0].clone().requires_grad_()
    value = exact_elbo(bound, leaf, table)
    (expected,) = torch.autograd.grad(value, leaf)
    found = []
    values = []
    for seed in range(200):
        bounds, gradient, _ = bound.gradient(
            at.coordinates, at.weights, at.fixed, noise_of(bound, 1, 50, seed=seed), ONE, ALL
        )
        found.append(gradient[0])
        values.append(bounds[0])
    found, values = torch.stack(found), torch.stack(values)
    assert abs(values.mean() - value) < 4.5 * values.std() / 200**0.5
    moved = expected.abs() > 0
    assert moved.any()
    z = (found.mean(0) - expected) / (found.std(0) / 200**0.5)
    assert z[moved].abs().max() < 4.5
    assert found[:, ~moved].abs().sum() == 0


def test_a_baseline_of_the_other_draws_adds_up_to_nothing():
    reseed(0)
    rest, rows, weights = torch.randn(2, 4), torch.randn(2, 4, 3), torch.tensor([1.0, 2.0, 0.0])
    total, each = advantages(rest, rows, weights, together=False)
    signal = rest + (weights * rows).sum(-1)
    others = (signal.sum(1, keepdim=True) - signal) / 3
    torch.testing.assert_close(total, (signal - others) / 4)
    torch.testing.assert_close(each.sum(1), torch.zeros(2, 3), atol=1e-6, rtol=0)
    assert (each[..., 2] == 0).all()
    _, together = advantages(rest, rows, weights, together=True)
    torch.testing.assert_close(together, total[..., None].expand(2, 4, 3))


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_fit():
    return fit(shared_count, X, method=SVI(steps=800), seed=0)


@pytest.mark.slow
def test_a_global_count_has_its_exact_posterior(shared_fit):
    evidence = SHARED.logsumexp(0)
    posterior = (SHARED - evidence).exp()
    mean = (posterior * GRID).sum()
    sd = (posterior * GRID.square()).sum().sub(mean**2).sqrt()
    found = shared_fit.diagnostics
    assert abs(found["evidence"] - evidence) < 3 * found["evidence_error"]
    assert found["khat"] < 0.5
    assert shared_fit.objective.value < evidence + 3 * shared_fit.objective.error
    assert shared_fit.objective.value > evidence - 0.02  # a rounded square is nearly the shape of this posterior
    summary = shared_fit.summary().loc["n"]
    assert abs(summary["mean"] - mean) < 0.05 * sd
    assert abs(summary["sd"] - sd) < 0.05 * sd
    draws = shared_fit.posterior["posterior"]["n"].to_numpy()
    assert (draws == np.floor(draws)).all()
    assert (draws >= 0).all()


GUIDES = [
    MeanField(),
    *(pytest.param(g, marks=pytest.mark.slow) for g in (Conjugate(), FullRank("rate") & MeanField())),
]


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=repr)
def test_counts_of_rows_beside_a_continuous_global(guide):
    rates, table = rate_table()
    evidence = table.logsumexp(0)
    posterior = (table - evidence).exp()
    mean = (posterior * rates).sum()
    sd = (posterior * rates.square()).sum().sub(mean**2).sqrt()
    found = fit(unknown_rate, Y, method=SVI(guide=guide, steps=500), seed=0)
    assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]
    assert found.objective.value < evidence
    assert abs(found.summary().loc["rate", "mean"] - mean) < 0.1 * sd
    assert np.isfinite(found.log_prob()).all()
    assert len(found.generate(3)) == 3


@pytest.mark.slow
def test_mini_batches_come_to_the_same_answer():
    whole, parts = (fit(unknown_rate, Y, method=SVI(batch_size=b, steps=800), seed=0) for b in (None, 10))
    slack = 4 * (whole.objective.error + parts.objective.error)
    assert abs(whole.objective.value - parts.objective.value) < slack + 0.05


@pytest.mark.slow
def test_counts_may_begin_at_one():
    prior = torch.distributions.Poisson(torch.tensor(3.0).double())
    table = prior.log_prob(GRID) + torch.distributions.Normal(GRID[:, None] + 1, 2.0).log_prob(torch.as_tensor(X)).sum(
        1
    )
    found = fit(trials_until, X, method=SVI(steps=500), seed=0)
    assert abs(found.diagnostics["evidence"] - table.logsumexp(0)) < 3 * found.diagnostics["evidence_error"]
    assert found.posterior["posterior"]["n"].min() >= 1


def poisson_guide(x):
    rate = pyro.param("rate", torch.tensor(4.0), constraint=constraints.positive)
    pyro.sample("n", dist.Poisson(rate))


def negative_binomial_guide(x):
    total = pyro.param("total", torch.tensor(20.0), constraint=constraints.positive)
    logits = pyro.param("logits", torch.tensor(-1.5))
    pyro.sample("n", dist.NegativeBinomial(total, logits=logits))


def table_guide(x):
    probs = pyro.param("probs", torch.ones(13) / 13, constraint=constraints.simplex)
    pyro.sample("n", dist.Categorical(probs))


WRITTEN = [poisson_guide, *(pytest.param(g, marks=pytest.mark.slow) for g in (negative_binomial_guide, table_guide))]


@pytest.mark.slow
@pytest.mark.parametrize("guide", WRITTEN)
def test_a_hand_written_guide_may_draw_counts(guide):
    found = fit(shared_count, X, method=SVI(guide=Custom(guide), steps=500), seed=0)
    if guide is table_guide:  # it has no mass beyond 12, so it is weighed against the posterior below that
        evidence = SHARED[:13].logsumexp(0)
        assert found.objective.value > evidence - 0.5
    else:
        evidence = SHARED.logsumexp(0)
    assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]
    assert found.objective.value < evidence + 3 * found.objective.error


@zoo.model(x=zoo.Real("row"))
def direction(x):
    angle = pyro.sample("angle", dist.VonMises(0.0, 1.0))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(angle.sin(), 1.0), obs=x)


def around(x):
    loc = pyro.param("loc", torch.tensor(0.3))
    width = pyro.param("width", torch.tensor(2.0), constraint=constraints.positive)
    pyro.sample("angle", dist.VonMises(loc, width))


@pytest.mark.slow
def test_a_density_that_can_only_be_sampled_climbs_too(monkeypatch):
    monkeypatch.setattr(inference.diagnostics.importance, "DRAWS", 2000)  # each by itself
    values = torch.tensor([0.4, 0.7, 0.2, 0.9], dtype=torch.float64)
    angles = torch.linspace(-np.pi, np.pi, 20_001, dtype=torch.float64)[:-1]
    prior = torch.distributions.VonMises(torch.tensor(0.0).double(), torch.tensor(1.0).double())
    table = prior.log_prob(angles) + torch.distributions.Normal(angles[:, None].sin(), 1.0).log_prob(values).sum(1)
    evidence = table.logsumexp(0) + np.log(2 * np.pi / 20_000)
    found = fit(direction, values.numpy(), method=SVI(guide=Custom(around), steps=250), seed=0)
    assert abs(found.diagnostics["evidence"] - evidence) < 4 * found.diagnostics["evidence_error"]
    assert found.objective.value < evidence
    assert found.objective.value > evidence - 0.3


class Tight(zoo.Model):
    """A count that is all but known, far from where its prior is."""

    x = zoo.Real("row")
    rate: float = 6.0

    def forward(self, x):
        n = pyro.sample("n", dist.Poisson(self.rate))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(n, 0.1), obs=x)


@pytest.mark.slow
@pytest.mark.parametrize("values", [[13.02, 12.97], [3.02, 2.97], [151.02, 150.97]], ids=str)
def test_q_finds_the_right_count_where_one_has_all_the_mass(values):
    table = table_of(values, 0.1, torch.distributions.Poisson(torch.tensor(6.0).double()))
    found = fit(Tight(), values, method=SVI(steps=500), seed=0)
    assert found.summary().loc["n", "mean"] == pytest.approx(round(values[0]), abs=0.1)
    assert abs(found.diagnostics["evidence"] - table.logsumexp(0)) < 4 * found.diagnostics["evidence_error"]


def fixed_guide(x):
    pyro.param("unused", torch.tensor(0.0))
    pyro.sample("n", dist.Poisson(1.0))


def test_a_q_whose_draws_miss_the_posterior_is_not_to_be_trusted():
    found = fit(Tight(), [25.0, 26.2], method=SVI(guide=Custom(fixed_guide), steps=20), seed=0)
    assert found.khat == np.inf or found.diagnostics["khat"] == np.inf
    assert "do not trust" in found.verdict.lower()


def test_a_guide_that_ends_where_the_model_does_not_says_so():
    found = fit(shared_count, X, method=SVI(guide=Custom(table_guide), steps=50), seed=0)
    assert any("draws 'n' up to a largest count" in said for said in found.warnings)


class Thinned(zoo.Model):
    """Of n_i ~ Poisson(6) each is seen with probability 0.4."""

    x = zoo.Count("row")

    def forward(self, x):
        with pyro.plate("row", len(x)):
            n = pyro.sample("n", dist.Poisson(6.0))
            pyro.sample("x", dist.Binomial(n, 0.4), obs=x)


def more_than_seen(x):
    rate = pyro.param("rate", torch.tensor(3.0), constraint=constraints.positive)
    with pyro.plate("row", len(x)):
        shift = torch.distributions.AffineTransform(x, 1.0)
        pyro.sample("n", dist.TransformedDistribution(dist.Poisson(rate), [shift]))


@pytest.mark.slow
def test_a_guide_on_the_possible_counts_is_exact():
    """Given x, what is not seen is Poisson(6 (1 - 0.4)) and x itself Poisson(6 0.4)."""
    seen = np.array([2, 0, 5, 3, 1, 3])
    found = fit(Thinned(), seen, method=SVI(guide=Custom(more_than_seen), steps=500), seed=0)
    assert found.diagnostics["evidence"] == pytest.approx(stats.poisson.logpmf(seen, 2.4).sum(), abs=1e-3)


@pytest.mark.slow
def test_impossible_counts_are_explained():
    for x in ([2, 0, 5, 3, 1, 3], [2, 0, 50]):  # the start has enough of all of them, wherever the prior is
        with pytest.raises(zoo.FitError, match=r"Binomial\(n, p\): make what is left over the latent"):
            fit(Thinned(), x, method="svi", seed=0)


@pytest.mark.slow
def test_angles_stay_on_the_circle():
    values = torch.tensor([5.5, 6.5, 6.2, 6.8], dtype=torch.float64)
    program = prepare(direction, values.numpy(), device="cpu")
    assert program.sites["angle"].support.upper_bound == pytest.approx(np.pi)
    found = fit(direction, values.numpy(), method=SVI(steps=300), seed=0)
    assert abs(found.posterior["posterior"]["angle"]).max() <= np.pi


# -- refusals --------------------------------------------------------------------------------------------------------


def test_what_the_score_function_cannot_do_is_refused():
    with pytest.raises(zoo.MethodError, match="for objective='elbo' only, not 'iwae'"):
        fit(shared_count, X, method=SVI(objective="iwae"), seed=0)
    with pytest.raises(zoo.MethodError, match="particles=2 or more"):
        fit(shared_count, X, method=SVI(particles=1), seed=0)


@pytest.mark.parametrize("guide", [Point(), FullRank(), Encoder()], ids=repr)
def test_guides_without_counts_name_one_that_has_them(guide):
    model, rows = (unknown_rate, Y) if isinstance(guide, Encoder) else (shared_count, X)
    with pytest.raises(zoo.MethodError, match=r"has no family for 'n', a count.*MeanField\('n'\)"):
        fit(model, rows, method=SVI(guide=guide), seed=0)


def test_a_delta_at_a_count_is_refused():
    def guide(x):
        pyro.sample("n", dist.Delta(torch.tensor(3.0)))

    with pytest.raises(zoo.MethodError, match="'n' is a Delta, which cannot climb"):
        fit(shared_count, X, method=SVI(guide=Custom(guide)), seed=0)


# -- weights ---------------------------------------------------------------------------------------------------------


def test_ratios_that_have_a_largest_value_have_no_tail():
    ratio = np.log(np.where(np.arange(1000) < 400, 2.0, 1 / 3))
    assert khat(ratio) == 0.0
    weights, shape = smoothed(ratio)
    assert shape == 0.0
    np.testing.assert_allclose(weights, np.exp(ratio) / np.exp(ratio).sum(), rtol=1e-9)
