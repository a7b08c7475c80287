"""Closed-form updates against numerical maxima, and conjugate posteriors against the joint density."""

from __future__ import annotations

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import distributions as td
from torch.distributions import constraints, transform_to

import zoo
from inference import EM, fit
from inference.families import closed_form, families
from inference.families.family import Expected
from inference.families.location_scale import FLOOR
from inference.families.multivariate_normal import floored, inverse
from tests.models import BITS, ROWS, BernoulliMixture, PoissonMixture
from zoo import Binary, Category, Count, Positive, Real
from zoo.declare.explain import prepare

AT = torch.float64
FAITHFUL = zoo.datasets.load("faithful")
MATRIX = [[0.2, 1.0], [-0.5, 2.5], [1.5, 0.7], [0.9, -1.1], [2.2, 0.4]]
VECTOR = [0.2, -0.5, 1.5, 0.9, 2.2]
COUNTS = [3, 0, 2, 7, 1]
WEIGHTS = torch.tensor([1.0, 2.5, 0.5, 3.0, 1.0], dtype=AT)


def prepared(model, data, seed=0, **settings):
    torch.manual_seed(seed)
    return prepare(model, data, dtype=AT, **settings)


def anywhere(program, seed=1):
    torch.manual_seed(seed)
    return {
        s.name: transform_to(s.support)(torch.randn(s.shape, dtype=AT)).detach()
        for s in (*program.latents, *program.parameters)
    }


def at(program, values):
    """What an M-step sees at these values."""
    _, marginals = program.expectations(values)
    return Expected(program, values, program.replay(values), marginals)


def updated(program, values):
    """One closed-form update of every block, with the probabilities of the states at `values`."""
    blocks, rest = closed_form(program)
    _, marginals = program.expectations(values)
    start = values
    for block in blocks:
        values = {**values, **block.maximize(Expected(program, values, program.replay(values), marginals))}
    assert all(values[n] is start[n] for n in rest if n in values)
    return values, rest


def expected_joint(program, values):
    """Return the expected log joint as a function of new values, the probabilities of the states being those here."""
    _, marginals = program.expectations(values)

    def objective(new):
        return sum((marginals[n] * log_prob).sum() for n, log_prob in program.log_probs(new).items())

    return objective


def numeric_maximum(program, objective, values, names):
    """Climb by L-BFGS in unconstrained coordinates from `values`."""
    maps = {n: transform_to(program.sites[n].support) for n in names}
    free = {n: maps[n].inv(values[n]).detach().clone().requires_grad_() for n in names}
    climber = torch.optim.LBFGS(
        free.values(),
        max_iter=2000,
        max_eval=4000,
        tolerance_grad=1e-11,
        tolerance_change=1e-15,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def loss():
        climber.zero_grad()
        value = -objective({**values, **{n: maps[n](u) for n, u in free.items()}})
        value.backward()
        return value

    climber.step(loss)
    return {**values, **{n: maps[n](u).detach() for n, u in free.items()}}


def check_maximum(program, objective, start, found, names):
    """The update is as good as what L-BFGS reaches, and is the same point."""
    best = numeric_maximum(program, objective, start, names)
    reached, climbed = float(objective(found)), float(objective(best))
    assert reached >= climbed - 1e-9 * (1 + abs(climbed))
    for name in names:
        torch.testing.assert_close(found[name], best[name], rtol=1e-4, atol=1e-5)


def check_stationary(program, objective, found, names):
    """The gradient in unconstrained coordinates is zero: the update is a stationary point."""
    for name in names:
        to = transform_to(program.sites[name].support)
        u = to.inv(found[name]).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective({**found, name: to(u)}), u)
        assert float(gradient.abs().max()) < 1e-7 * (1 + abs(float(objective(found))))


# -- one unknown, or one location and scale, by hand ------------------------------------------------------------------


def declared(fields, story):
    return zoo.model(**fields)(story)()


def positive(n):
    return pyro.param(n, torch.tensor(1.0), constraint=constraints.positive)


def case_bernoulli():
    def story(x):
        p = pyro.param("p", torch.tensor(0.5), constraint=constraints.unit_interval)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    return declared({"x": Binary("row")}, story), {"x": [1, 0, 1, 1, 0]}, lambda v, x: td.Bernoulli(v["p"]).log_prob(x)


def case_beta_bernoulli():
    def story(x):
        p = pyro.sample("p", dist.Beta(2.5, 1.5))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Bernoulli(p), obs=x)

    prior = td.Beta(torch.tensor(2.5, dtype=AT), torch.tensor(1.5, dtype=AT))
    return (
        declared({"x": Binary("row")}, story),
        {"x": [1, 0, 1, 1, 0]},
        lambda v, x: td.Bernoulli(v["p"]).log_prob(x),
        lambda v: prior.log_prob(v["p"]),
    )


def case_binomial():
    def story(x, n):
        p = pyro.sample("p", dist.Beta(2.5, 1.5))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Binomial(n, p), obs=x)

    prior = td.Beta(torch.tensor(2.5, dtype=AT), torch.tensor(1.5, dtype=AT))
    return (
        declared({"x": Count("row"), "n": Count("row")}, story),
        {"x": COUNTS, "n": [5, 4, 3, 9, 1]},
        lambda v, x, n: x * v["p"].log() + (n - x) * (-v["p"]).log1p(),
        lambda v: prior.log_prob(v["p"]),
    )


def case_poisson():
    def story(x):
        rate = positive("rate")
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    return declared({"x": Count("row")}, story), {"x": COUNTS}, lambda v, x: td.Poisson(v["rate"]).log_prob(x)


def case_exponential():
    def story(x):
        rate = positive("rate")
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Exponential(rate), obs=x)

    x = [0.3, 1.0, 2.5, 0.1, 0.7]
    return declared({"x": Positive("row")}, story), {"x": x}, lambda v, x: td.Exponential(v["rate"]).log_prob(x)


def case_gamma_both():
    def story(x, y):
        rate = pyro.sample("rate", dist.Gamma(2.0, 0.5))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)
            pyro.sample("y", dist.Exponential(rate), obs=y)

    return (
        declared({"x": Count("row"), "y": Positive("row")}, story),
        {"x": COUNTS, "y": [0.3, 1.0, 2.5, 0.1, 0.7]},
        lambda v, x, y: td.Poisson(v["rate"]).log_prob(x) + td.Exponential(v["rate"]).log_prob(y),
        lambda v: v["rate"].log() - 0.5 * v["rate"],
    )


def case_categorical():
    def story(x):
        p = pyro.param("p", torch.ones(3) / 3, constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Categorical(p), obs=x)

    return declared({"x": Category("row")}, story), {"x": [0, 2, 1, 2, 0]}, lambda v, x: v["p"][x].log()


def case_dirichlet():
    def story(x):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0])))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Categorical(p), obs=x)

    power = torch.tensor([0.5, 1.0, 2.0], dtype=AT)
    return (
        declared({"x": Category("row")}, story),
        {"x": [0, 2, 1, 2, 0]},
        lambda v, x: v["p"][x].log(),
        lambda v: (power * v["p"].log()).sum(),
    )


def case_multinomial():
    def story(x):
        p = pyro.sample("p", dist.Dirichlet(torch.tensor([1.5, 2.0, 3.0])))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Multinomial(5, p), obs=x)

    power = torch.tensor([0.5, 1.0, 2.0], dtype=AT)
    return (
        declared({"x": Count("row", "face")}, story),
        {"x": [[5, 0, 0], [1, 2, 2], [0, 4, 1], [3, 1, 1], [2, 2, 1]]},
        lambda v, x: (x * v["p"].log()).sum(-1),
        lambda v: (power * v["p"].log()).sum(),
    )


def case_one_hot():
    def story(x):
        p = pyro.param("p", torch.ones(3) / 3, constraint=constraints.simplex)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.OneHotCategorical(p), obs=x)

    x = [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    return declared({"x": Binary("row", "face")}, story), {"x": x}, lambda v, x: (x * v["p"].log()).sum(-1)


def case_normal_mean():
    def story(x, sd):
        mu = pyro.param("mu", torch.tensor(0.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, sd), obs=x)

    data = {"x": VECTOR, "sd": [0.5, 1.0, 2.0, 0.1, 3.0]}
    fields = {"x": Real("row"), "sd": Positive("row")}
    return declared(fields, story), data, lambda v, x, sd: td.Normal(v["mu"], sd).log_prob(x)


def case_normal_mean_prior():
    def story(x, sd):
        mu = pyro.sample("mu", dist.Normal(1.0, 2.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, sd), obs=x)

    data = {"x": VECTOR, "sd": [0.5, 1.0, 2.0, 0.1, 3.0]}
    fields = {"x": Real("row"), "sd": Positive("row")}
    return (
        declared(fields, story),
        data,
        lambda v, x, sd: td.Normal(v["mu"], sd).log_prob(x),
        lambda v: -0.5 * ((v["mu"] - 1) / 2) ** 2,
    )


def case_normal(argument):
    scale = {"scale": lambda t: t, "variance": lambda t: t.sqrt(), "precision": lambda t: t.rsqrt()}[argument]

    def story(x):
        mu, tau = pyro.param("mu", torch.tensor(0.0)), positive("tau")
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, scale(tau)), obs=x)

    model = declared({"x": Real("row")}, story)
    return model, {"x": VECTOR}, lambda v, x: td.Normal(v["mu"], scale(v["tau"])).log_prob(x)


def case_normal_columns():
    def story(x):
        mu = pyro.param("mu", torch.zeros(2))
        tau = pyro.param("tau", torch.ones(2), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, tau).to_event(1), obs=x)

    model = declared({"x": Real("row", "feature")}, story)
    return model, {"x": MATRIX}, lambda v, x: td.Normal(v["mu"], v["tau"]).log_prob(x).sum(-1)


def case_normal_gamma():
    def story(x):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
        mu = pyro.sample("mu", dist.Normal(1.0, (0.3 * tau).rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)

    return (
        declared({"x": Real("row")}, story),
        {"x": VECTOR},
        lambda v, x: td.Normal(v["mu"], v["tau"].rsqrt()).log_prob(x),
        lambda v: v["tau"].log() - 0.5 * v["tau"] + td.Normal(1.0, (0.3 * v["tau"]).rsqrt()).log_prob(v["mu"]),
    )


def case_gamma_precision():
    def story(x):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
        mu = pyro.param("mu", torch.tensor(0.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()), obs=x)

    return (
        declared({"x": Real("row")}, story),
        {"x": VECTOR},
        lambda v, x: td.Normal(v["mu"], v["tau"].rsqrt()).log_prob(x),
        lambda v: v["tau"].log() - 0.5 * v["tau"],
    )


def case_normal_gamma_spherical():
    """One precision for all columns, a mean for each."""

    def story(x):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.5))
        mu = pyro.sample("mu", dist.Normal(torch.tensor([1.0, -1.0]), (0.3 * tau).rsqrt()).to_event(1))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(mu, tau.rsqrt()).to_event(1), obs=x)

    center = torch.tensor([1.0, -1.0], dtype=AT)
    return (
        declared({"x": Real("row", "feature")}, story),
        {"x": MATRIX},
        lambda v, x: td.Normal(v["mu"], v["tau"].rsqrt()).log_prob(x).sum(-1),
        lambda v: v["tau"].log() - 0.5 * v["tau"] + td.Normal(center, (0.3 * v["tau"]).rsqrt()).log_prob(v["mu"]).sum(),
    )


def case_multivariate(argument):
    def story(x):
        mu = pyro.param("mu", torch.zeros(2))
        matrix = pyro.param("matrix", torch.eye(2), constraint=constraints.positive_definite)
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(mu, **{argument: matrix}), obs=x)

    model = declared({"x": Real("row", "feature")}, story)
    return model, {"x": MATRIX}, lambda v, x: td.MultivariateNormal(v["mu"], **{argument: v["matrix"]}).log_prob(x)


V = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=AT)


def wishart_kernel(matrix, df):
    d = matrix.shape[-1]
    return 0.5 * (df - d - 1) * matrix.logdet() - 0.5 * (torch.linalg.inv(V) @ matrix).diagonal().sum()


def case_normal_wishart():
    def story(x):
        matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(4.5), V.to(x.dtype)))
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.ones(2), precision_matrix=0.4 * matrix))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(mu, precision_matrix=matrix), obs=x)

    one = torch.ones(2, dtype=AT)
    return (
        declared({"x": Real("row", "feature")}, story),
        {"x": MATRIX},
        lambda v, x: td.MultivariateNormal(v["mu"], precision_matrix=v["matrix"]).log_prob(x),
        lambda v: (
            wishart_kernel(v["matrix"], 4.5)
            + td.MultivariateNormal(one, precision_matrix=0.4 * v["matrix"]).log_prob(v["mu"])
        ),
    )


def case_wishart():
    def story(x):
        matrix = pyro.sample("matrix", dist.Wishart(torch.tensor(4.5), V.to(x.dtype)))
        mu = pyro.param("mu", torch.zeros(2))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.MultivariateNormal(mu, precision_matrix=matrix), obs=x)

    return (
        declared({"x": Real("row", "feature")}, story),
        {"x": MATRIX},
        lambda v, x: td.MultivariateNormal(v["mu"], precision_matrix=v["matrix"]).log_prob(x),
        lambda v: wishart_kernel(v["matrix"], 4.5),
    )


def no_prior(values):
    return 0.0


BY_HAND = {
    "BetaFamily": [case_bernoulli(), case_beta_bernoulli(), case_binomial()],
    "GammaFamily": [case_poisson(), case_exponential(), case_gamma_both()],
    "DirichletFamily": [case_categorical(), case_dirichlet(), case_multinomial(), case_one_hot()],
    "NormalMeanFamily": [case_normal_mean(), case_normal_mean_prior()],
    "NormalFamily": [
        *(case_normal(a) for a in ("scale", "variance", "precision")),
        case_normal_columns(),
        case_normal_gamma(),
        case_gamma_precision(),
        case_normal_gamma_spherical(),
    ],
    "MultivariateNormalFamily": [
        *(case_multivariate(a) for a in ("covariance_matrix", "precision_matrix")),
        case_normal_wishart(),
        case_wishart(),
    ],
}
CASES = [
    pytest.param(*case, *([no_prior] if len(case) == 3 else []), id=f"{name}-{i}")
    for name, cases in BY_HAND.items()
    for i, case in enumerate(cases)
]


def test_every_family_is_tried():
    assert {type(f).__name__ for f in families()} == set(BY_HAND)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
@pytest.mark.parametrize(("model", "data", "likelihood", "prior"), CASES)
def test_an_update_is_the_maximum_of_the_weighted_density(model, data, likelihood, prior, weights):
    program = prepared(model, data, weights=weights)
    start = anywhere(program)
    found, rest = updated(program, start)
    assert rest == []
    weight = torch.ones(5, dtype=AT) if weights is None else weights
    fields = list(program.data.values.values())

    def objective(values):
        return (weight * likelihood(values, *fields)).sum() + prior(values)

    check_maximum(program, objective, start, found, list(start))


@pytest.mark.parametrize(("model", "data", "likelihood", "prior"), CASES)
def test_a_weight_of_two_is_a_row_repeated(model, data, likelihood, prior):
    times = torch.tensor([2, 1, 3, 1, 2])
    weighted = prepared(model, data, weights=times.double())
    plain = prepared(model, data)
    repeated = plain.rebind(plain.data.take(torch.arange(5).repeat_interleave(times)))
    start = anywhere(plain)
    for name, value in updated(weighted, start)[0].items():
        torch.testing.assert_close(value, updated(repeated, start)[0][name], rtol=1e-10, atol=1e-12)


# -- conjugate posteriors ---------------------------------------------------------------------------------------------


@zoo.model(count=Count("row"))
def gamma_mixture(count):
    """A mixture of Poissons with conjugate priors."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.tensor([1.5, 3.0])))
    with pyro.plate("component", 2):
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([2.0, 5.0]), 1.5))
    with pyro.plate("row", len(count)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("count", dist.Poisson(rate[z]), obs=count)


@zoo.model(x=Real("row", "feature"))
def mean_mixture(x):
    """A mixture of Normals of known scale, one for both components."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    with pyro.plate("component", 2):
        means = pyro.sample("means", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share)).long()
        pyro.sample("x", dist.Normal(means[z], torch.tensor([0.5, 2.0])).to_event(1), obs=x)


@zoo.model(x=Count("row"))
def two_tables(x):
    """Two discrete latents per row; each row of the table has a prior of its own."""
    first = pyro.sample("first", dist.Dirichlet(torch.tensor([2.0, 1.5])))
    table = pyro.sample("table", dist.Dirichlet(torch.tensor([[1.5, 2.0, 3.0], [4.0, 1.5, 1.5]])).to_event(1))
    rate = pyro.sample("rate", dist.Gamma(torch.full((3,), 2.0), 1.0).to_event(1))
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(first))
        b = pyro.sample("b", dist.Categorical(table[a]))
        pyro.sample("x", dist.Poisson(rate[b]), obs=x)


@zoo.model(x=Real("row", "time"))
def chain(x):
    """A hidden Markov chain of four steps in every row."""
    start = pyro.sample("start", dist.Dirichlet(torch.tensor([2.0, 1.5])))
    moves = pyro.sample("moves", dist.Dirichlet(torch.tensor([[1.5, 2.0], [3.0, 1.5]])).to_event(1))
    means = pyro.sample("means", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("row", len(x)):
        z = None
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(start if t == 0 else moves[z]))
            pyro.sample(f"x_{t}", dist.Normal(means[z], 1.0), obs=x[:, t])


@zoo.model(x=Binary("row", "item"))
def items(x):
    """A probability per item, in a plate."""
    with pyro.plate("item", x.shape[1], dim=-1):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
        with pyro.plate("row", x.shape[0], dim=-2):
            pyro.sample("x", dist.Bernoulli(p), obs=x)


@zoo.model(x=Count("row", "item"))
def local_rates(x):
    """A rate per row."""
    with pyro.plate("row", x.shape[0], dim=-2):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("item", x.shape[1], dim=-1):
            pyro.sample("x", dist.Poisson(rate), obs=x)


@zoo.model(x=Count("row"))
def single_state(x):
    """A mixture of one."""
    with pyro.plate("component", 1):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(1)))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


MIXTURES = [
    pytest.param(gamma_mixture(), COUNTS, id="gamma_mixture"),
    pytest.param(mean_mixture(), MATRIX, id="mean_mixture"),
    pytest.param(two_tables(), COUNTS, id="two_tables"),
    pytest.param(chain(), [[0.5, -1.0, 2.0, 1.0], [1.0, 0.0, -0.3, 0.7]], id="chain"),
    pytest.param(items(), BITS, id="items"),
    pytest.param(local_rates(), [[1, 2], [0, 5], [3, 3]], id="local_rates"),
    pytest.param(single_state(), COUNTS, id="single_state"),
    pytest.param(BernoulliMixture(pseudo=2.0), BITS, id="BernoulliMixture"),
]
SINGLE = ("BetaFamily", "DirichletFamily", "GammaFamily", "NormalMeanFamily")
CONJUGATE = [
    *(pytest.param(*case[:2], id=f"{n}-{i}") for n in SINGLE for i, case in enumerate(BY_HAND[n]) if len(case) > 3),
    *MIXTURES,
]


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize(("model", "data"), CONJUGATE)
def test_joint_over_posterior_is_constant(model, data, weighted):
    """Bayes: log p(x, z) - log p(z | x) is log p(x), whatever z; states count with their probability."""
    program = prepared(model, data)
    if weighted and not program.locals:
        program = program.rebind(replace(program.data, weights=1.0 + torch.arange(len(program.data), dtype=AT)))
    start = anywhere(program)
    objective, expected = expected_joint(program, start), at(program, start)
    blocks, rest = closed_form(program)
    assert rest == []
    posterior = {}
    for block in blocks:
        posterior.update(block.posterior(expected))
    assert set(posterior) == {s.name for s in program.latents}
    constants = []
    for seed in range(4):
        values = anywhere(program, 10 + seed)
        for name, found in posterior.items():
            assert tuple(found.batch_shape + found.event_shape) == program.sites[name].shape
            assert found.event_dim == program.sites[name].event_dim
        constants.append(objective(values) - sum(d.log_prob(values[n]).sum() for n, d in posterior.items()))
    torch.testing.assert_close(torch.stack(constants), constants[0].expand(4), rtol=1e-10, atol=1e-9)


def test_a_local_posterior_does_not_count_repetitions():
    """A row that is repeated has a latent of its own each time, so weights leave each latent's posterior alone."""
    program = prepared(local_rates(), [[1, 2], [0, 5], [3, 3]])
    weighted = prepared(local_rates(), [[1, 2], [0, 5], [3, 3]], weights=[1.0, 2.0, 5.0])
    values = anywhere(program)
    plain, heavy = (closed_form(p)[0][0].posterior(at(p, values))["rate"] for p in (program, weighted))
    torch.testing.assert_close(heavy.concentration, plain.concentration)
    torch.testing.assert_close(heavy.rate, plain.rate)


@pytest.mark.parametrize(("model", "data"), MIXTURES)
def test_an_update_is_the_mode_of_the_expected_joint(model, data):
    program = prepared(model, data)
    start = anywhere(program)
    found, rest = updated(program, start)
    assert rest == []
    check_maximum(program, expected_joint(program, start), start, found, list(start))


def test_location_and_scale_have_no_product_posterior():
    for model, data, *_ in BY_HAND["NormalFamily"][4:] + BY_HAND["MultivariateNormalFamily"][2:3]:
        program = prepared(model, data)
        blocks, _ = closed_form(program)
        assert [b.posterior(at(program, anywhere(program))) for b in blocks] == [None]


# -- layouts of locations and scales ----------------------------------------------------------------------------------

SHAPES = {"one": (), "by column": (2,), "by state": (2, 1), "by both": (2, 2)}


def spread_over(value, layout, z):
    """The unknown as an argument of a distribution over two columns."""
    return value[z] if layout in ("by state", "by both") else value


def over_columns(value):
    """The same number in both columns where there is only one."""
    return value.expand(*value.shape[:-1], 2)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scales", SHAPES)
@pytest.mark.parametrize("locations", SHAPES)
def test_what_is_claimed_is_the_maximum_however_it_is_shared(locations, scales, seed):
    """A location shared by cells with scales of their own weighs them by precision, which needs the scales."""

    @zoo.model(x=Real("row", "feature"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(SHAPES[locations]))
        variance = pyro.param("variance", torch.ones(SHAPES[scales]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            scale = spread_over(variance, scales, z).sqrt()
            pyro.sample("x", dist.Normal(spread_over(loc, locations, z), over_columns(scale)).to_event(1), obs=x)

    check_claims(prepared(shared(), MATRIX), seed)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scales", ["one", "by state"])
@pytest.mark.parametrize("locations", ["one", "by state"])
def test_what_is_claimed_is_the_maximum_for_one_column(locations, scales, seed):
    @zoo.model(x=Real("row"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(SHAPES[locations][:1]))
        scale = pyro.param("scale", torch.ones(SHAPES[scales][:1]), constraint=constraints.positive)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            pyro.sample("x", dist.Normal(spread_over(loc, locations, z), spread_over(scale, scales, z)), obs=x)

    check_claims(prepared(shared(), VECTOR), seed)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("argument", ["covariance_matrix", "precision_matrix"])
@pytest.mark.parametrize("matrices", ["one", "by state"])
@pytest.mark.parametrize("locations", ["by column", "by both"])
def test_what_is_claimed_is_the_maximum_for_matrices(locations, matrices, argument, seed):
    @zoo.model(x=Real("row", "feature"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(SHAPES[locations]))
        shape = (2, 2, 2) if matrices == "by state" else (2, 2)
        matrix = pyro.param("matrix", torch.eye(2).expand(shape), constraint=constraints.positive_definite)
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            given = {argument: spread_over(matrix, matrices, z)}
            pyro.sample("x", dist.MultivariateNormal(spread_over(loc, locations, z), **given), obs=x)

    check_claims(prepared(shared(), MATRIX), seed)


RATES = {
    "one": torch.tensor(0.7, dtype=AT),
    "by column": torch.tensor([0.7, 1.3], dtype=AT),
    "by state": torch.tensor([[0.7], [1.6]], dtype=AT),
    "by both": torch.tensor([[0.7, 1.3], [1.6, 0.5]], dtype=AT),
}


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scales", SHAPES)
@pytest.mark.parametrize("locations", ["by column", "by both"])
def test_what_is_claimed_is_the_maximum_with_a_prior_on_the_precision(locations, scales, seed):
    @zoo.model(x=Real("row", "feature"))
    def shared(x):
        loc = pyro.param("loc", torch.zeros(SHAPES[locations]))
        tau = pyro.sample("tau", dist.Gamma(2.0, RATES[scales]).to_event(RATES[scales].ndim))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            scale = spread_over(tau, scales, z).rsqrt()
            pyro.sample("x", dist.Normal(spread_over(loc, locations, z), over_columns(scale)).to_event(1), obs=x)

    check_claims(prepared(shared(), MATRIX), seed)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("scales", ["by state", "by both"])
@pytest.mark.parametrize("center", [0.5, [0.5, -0.5], [[0.5, 1.0], [0.0, 2.0]]], ids=["one", "by column", "by both"])
def test_what_is_claimed_is_the_maximum_with_a_joint_prior(center, scales, seed):
    @zoo.model(x=Real("row", "feature"))
    def joint(x):
        with pyro.plate("component", 2):
            rate = RATES[scales] if scales == "by both" else RATES[scales][:, 0]
            tau = pyro.sample("tau", dist.Gamma(2.0, rate).to_event(rate.ndim - 1))
            spread = (0.3 * tau).rsqrt() if scales == "by both" else (0.3 * tau).rsqrt()[:, None].expand(2, 2)
            loc = pyro.sample("loc", dist.Normal(torch.tensor(center), spread).to_event(1))
        with pyro.plate("row", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
            scale = tau[z].rsqrt() if scales == "by both" else tau[z].rsqrt()[..., None].expand(*z.shape, 2)
            pyro.sample("x", dist.Normal(loc[z], scale).to_event(1), obs=x)

    check_claims(prepared(joint(), MATRIX), seed)


@pytest.mark.parametrize("kappa", [lambda t: 0.3 * t, lambda t: t**2, lambda t: t + 1.0], ids=["0.3 t", "t^2", "t + 1"])
def test_a_joint_prior_is_a_multiple_of_the_precision_or_none(kappa):
    """With one component the precision is one number, and any function of it looks like a multiple."""

    @zoo.model(x=Real("row"))
    def joint(x):
        tau = pyro.sample("tau", dist.Gamma(2.0, 0.7))
        loc = pyro.sample("loc", dist.Normal(0.5, kappa(tau).rsqrt()))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Normal(loc, tau.rsqrt()), obs=x)

    for seed in range(3):
        check_claims(prepared(joint(), VECTOR, seed), 5 + seed)


def check_claims(program, seed):
    """Whatever has a closed form is at the maximum after one update, given what has none."""
    start = anywhere(program, seed)
    found, rest = updated(program, start)
    claimed = [n for n in start if n not in rest]
    if claimed:
        before = {**found, **{n: start[n] for n in claimed}}
        check_maximum(program, expected_joint(program, start), before, found, claimed)


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
@pytest.mark.parametrize("components", [1, 2, 3])
def test_gmm_has_a_closed_form_that_is_the_maximum(covariance, components):
    program = prepared(zoo.GMM(components=components, covariance=covariance), FAITHFUL.head(40))
    start = program.initial()
    found, rest = updated(program, start)
    assert rest == ([] if components > 1 else ["weights"])
    check_stationary(program, expected_joint(program, start), found, [n for n in found if n not in rest])


@pytest.mark.parametrize("covariance", ["full", "diag"])
@pytest.mark.parametrize("components", [1, 2, 3])
def test_bayesian_gmm_has_a_closed_form_that_is_the_mode(covariance, components):
    model = zoo.BayesianGMM(components=components, covariance=covariance, concentration=1.5, shrinkage=0.7)
    program = prepared(model, FAITHFUL.head(40))
    start = program.initial()
    found, rest = updated(program, start)
    assert rest == ([] if components > 1 else ["weights"])
    check_stationary(program, expected_joint(program, start), found, [n for n in found if n not in rest])


def test_prior_arguments_that_are_wrong_for_a_closed_form_are_not_claimed():
    """A prior of another kind, or one that another latent feeds, leaves the unknown to the gradient."""

    @zoo.model(x=Count("row"))
    def log_normal_rate(x):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(rate), obs=x)

    @zoo.model(x=Count("row"))
    def hierarchical(x):
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

    @zoo.model(x=Count("row"))
    def scaled(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("row", len(x)):
            pyro.sample("x", dist.Poisson(2.0 * rate), obs=x)

    for model in (log_normal_rate, hierarchical, used_twice, scaled):
        _, rest = closed_form(prepared(model(), COUNTS))
        assert "rate" in rest


# -- cells without data -----------------------------------------------------------------------------------------------


def with_empty_cell(program, values, state):
    """Update with all rows in the other state."""
    blocks, _ = closed_form(program)
    _, marginals = program.expectations(values)
    site = program.sites["z"]
    emptied = {}
    for name, marginal in marginals.items():
        axis = marginal.ndim + site.enum_dim
        if axis >= 0 and marginal.shape[axis] == 2:
            part = torch.zeros_like(marginal)
            part.select(axis, 1 - state).copy_(marginal.sum(axis))
            marginal = part
        emptied[name] = marginal
    for block in blocks:
        values = {**values, **block.maximize(Expected(program, values, program.replay(values), emptied))}
    return values


@pytest.mark.parametrize("state", [0, 1])
@pytest.mark.parametrize(
    ("model", "data", "kept"),
    [
        (PoissonMixture(), COUNTS, ["rate"]),
        (zoo.GMM(), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="diag"), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="spherical"), ROWS, ["means", "covariances"]),
        (zoo.GMM(covariance="tied"), ROWS, ["means"]),
    ],
    ids=lambda v: repr(v) if isinstance(v, zoo.Model) else "",
)
def test_a_state_without_rows_keeps_its_values(model, data, kept, state):
    program = prepared(model, data)
    start = anywhere(program)
    found = with_empty_cell(program, start, state)
    assert all(bool(v.isfinite().all()) for v in found.values())
    for name in kept:
        torch.testing.assert_close(found[name][state], start[name][state], rtol=1e-12, atol=0)
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


# -- the edge of the support ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [[0, 0, 0], [1, 1, 1]], ids=["zeros", "ones"])
def test_modes_and_maxima_at_an_edge_stay_finite(data):
    """A flat prior and one-sided data put the mode on the edge, where the density of the next step must be finite."""
    result = fit(BernoulliMixture(pseudo=1.0), [[d, 0] for d in data], method=EM(max_steps=50), seed=0)
    assert math.isfinite(result.objective.value)
    program = prepared(gamma_mixture(), [0, 0, 0])
    assert all(bool(v.isfinite().all()) for v in updated(program, anywhere(program))[0].values())


# -- floors, offsets and units ----------------------------------------------------------------------------------------


def log_likelihood_of(covariance, scatter):
    """Average log likelihood, without constants, of rows with this scatter."""
    return -0.5 * (covariance.logdet() + torch.linalg.solve(covariance, scatter).diagonal().sum())


@pytest.mark.parametrize("unit", [[1.0, 1.0], [1e-3, 50.0]], ids=["one unit", "two units"])
def test_the_floor_is_the_best_covariance_above_it(unit):
    """No covariance whose eigenvalues, in units of the data, are above the floor explains the rows better."""
    torch.manual_seed(0)
    unit = torch.tensor(unit, dtype=AT)
    outer = unit[:, None] * unit[None, :]
    flat = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=AT) * outer
    found = floored(flat, unit)
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


def test_the_floor_leaves_what_is_above_it():
    covariance = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[0.5, 0.0], [0.0, 0.1]]], dtype=AT)
    torch.testing.assert_close(floored(covariance, torch.ones(2, dtype=AT)), covariance, rtol=1e-14, atol=0)


def test_the_inverse_is_the_inverse():
    matrix = torch.tensor([[[2.0, 0.3], [0.3, 1.0]], [[5.0, -1.0], [-1.0, 3.0]]], dtype=AT)
    torch.testing.assert_close(inverse(matrix) @ matrix, torch.eye(2, dtype=AT).expand(2, 2, 2))


@pytest.mark.parametrize("covariance", ["full", "diag", "spherical", "tied"])
def test_a_component_that_collapses_meets_the_floor_and_the_likelihood_still_rises(covariance):
    """Many copies of one row draw a component onto them, where the likelihood has no maximum."""
    rows = [*FAITHFUL.head(12).to_numpy().tolist(), *[[4.0, 70.0]] * 12]
    result = fit(zoo.GMM(components=2, covariance=covariance), rows, method=EM(max_steps=200), seed=1)
    steps = result.trace["value"].diff().dropna()
    assert float(steps.min()) >= -1e-9 * abs(result.objective.value)
    x = torch.tensor(rows, dtype=AT)
    variance = x.var(0, correction=0)
    shape = result.points["covariances"]
    if covariance == "full":
        unit = variance.sqrt()
        least = torch.linalg.eigvalsh(shape / (unit[:, None] * unit)).min()
    elif covariance == "diag":
        least = (shape / variance).min()
    else:
        return
    assert float(least) >= FLOOR * (1 - 1e-6)


@pytest.mark.parametrize(("offset", "unit"), [(1e6, 1.0), (-1e7, 1.0), (0.0, 1e-6), (0.0, 1e6), (1e6, 1e-2)])
@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
def test_an_update_moves_and_scales_with_the_data(covariance, offset, unit):
    """Sums of squares far from the origin lose digits unless they are centred first."""
    x = torch.tensor(FAITHFUL.to_numpy())
    plain = prepared(zoo.GMM(components=2, covariance=covariance), x)
    moved = prepared(zoo.GMM(components=2, covariance=covariance), unit * x + offset)
    start = plain.initial()
    there = {**start, "means": unit * start["means"] + offset, "covariances": unit**2 * start["covariances"]}
    found, other = updated(plain, start)[0], updated(moved, there)[0]
    digits = 1e-9 * max(1.0, abs(offset) / unit)  # what rounding the data themselves leaves
    torch.testing.assert_close((other["means"] - offset) / unit, found["means"], rtol=digits, atol=digits)
    torch.testing.assert_close(other["covariances"] / unit**2, found["covariances"], rtol=digits, atol=digits)
    torch.testing.assert_close(other["weights"], found["weights"], rtol=digits, atol=digits)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_a_prior_scaled_to_the_data_makes_the_mode_move_with_them(covariance):
    x = torch.tensor(FAITHFUL.to_numpy())
    plain = prepared(zoo.BayesianGMM(components=2, covariance=covariance), x)
    moved = prepared(zoo.BayesianGMM(components=2, covariance=covariance), 1e6 + x)
    start = plain.initial()
    found = updated(plain, start)[0]
    other = updated(moved, {**start, "means": start["means"] + 1e6})[0]
    torch.testing.assert_close(other["means"] - 1e6, found["means"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(other["precisions"], found["precisions"], rtol=1e-6, atol=1e-6)
