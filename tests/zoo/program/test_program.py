"""The log joint, its parts and its views, against sums over every assignment and against torch.distributions."""

from __future__ import annotations

import itertools
import json
import math
import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import scipy.stats
import torch
from pyro import poutine
from torch import distributions as td
from torch import nn
from torch.distributions import constraints, transform_to

import zoo
from inference import EM, fit
from tests.cases.models import BITS, LATER, OWN_CASES, ROWS, SCHOOLS, ZOO_CASES, EightSchools, PoissonMixture
from tests.cases.spread import spread
from zoo import Binary, Count, ModelError, Real
from zoo.data.bind import bind
from zoo.program.prepare import prepare
from zoo.replay.bijections import CholeskyVector, PositiveDefiniteVector, bijection
from zoo.replay.evaluate import many
from zoo.replay.random import reseed

CASES = {
    f"{type(model).__name__}-{i}": (
        model,
        {n: v[:5] for n, v in data.items()} if isinstance(model, zoo.MixtureOfRegressions) else data,  # few assignments
    )
    for i, (model, data) in enumerate([*(c for cases in ZOO_CASES.values() for c in cases), *OWN_CASES])
}
EVERY_CASE = [pytest.param(n, marks=pytest.mark.slow) if n.rpartition("-")[0] in LATER else n for n in CASES]
every_case = pytest.mark.parametrize("case", EVERY_CASE)
two_places = pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
AT = torch.float64


def references() -> Path:
    folder = os.environ.get("ZOO_REFERENCES")
    if not folder:
        pytest.skip("ZOO_REFERENCES is not set: no reference values to compare with")
    return Path(folder)


def prepared(model, data, seed=0, **settings):
    reseed(seed)
    return prepare(model, data, dtype=torch.float64, **settings)


@cache
def traced_once(case):
    return prepared(*{**CASES, **LAYOUTS}[case])


def program_of(case):
    """The program of a case, which no test changes."""
    reseed(0)
    return traced_once(case)


def anywhere(program, seed=1):
    """Values inside the supports, far from any starting value; network weights are the model's own."""
    reseed(seed)
    values = {n: p.detach() for n, p in program.model.named_parameters() if n in program.networks}
    for site in (*program.latents, *program.parameters):
        values[site.name] = transform_to(site.support)(torch.randn(site.shape, dtype=AT)).detach()
    return values


def traced(program, values, data):
    """Run the model by Pyro alone at given values and return its trace."""
    params = {s.name for s in program.parameters}

    def run():
        return program.model(**data)

    with pyro.get_param_store().scope(), torch.no_grad():
        handled = poutine.condition(run, data={n: v for n, v in values.items() if n not in params})
        handled = poutine.substitute(handled, data={n: v for n, v in values.items() if n in params})
        return poutine.trace(handled).get_trace()


def densities(trace):
    """Sum of each site's log density."""
    trace.compute_log_prob()
    return {n: node["log_prob_sum"] for n, node in trace.nodes.items() if "log_prob_sum" in node}


def assignments(program, values, data):
    """Every assignment of the discrete latents with its log joint, by running the model once for each."""
    torch.set_default_dtype(AT)
    try:
        first = traced(program, values, data)
        free = {
            n: node
            for n, node in first.nodes.items()
            if node["type"] == "sample"
            and not node["is_observed"]
            and n not in values
            and n not in program.structure.plates
            and node["fn"].has_enumerate_support
        }
        if any(site.name not in {**free, **values} for site in program.enumerated):
            pytest.skip("Pyro takes a site with missing labels for observed: test_partly_observed.py sums over them")
        sizes = {n: node["fn"].batch_shape for n, node in free.items()}
        events = {n: node["fn"].event_shape for n, node in free.items()}
        states = {n: node["fn"].enumerate_support(expand=False).reshape(-1, *events[n]) for n, node in free.items()}
        axes = [states[n] for n in free for _ in range(sizes[n].numel())]
        found = []
        for combination in itertools.product(*axes):
            flat, chosen = list(combination), {}
            for n in free:
                count = sizes[n].numel()
                chosen[n], flat = torch.stack(flat[:count]).reshape(sizes[n] + events[n]), flat[count:]
            found.append((chosen, densities(traced(program, {**values, **chosen}, data))))
        return found
    finally:
        torch.set_default_dtype(torch.float32)


@cache
def assigned(case, seed=1):
    """Every assignment in a case, at the values that a seed gives."""
    program = program_of(case)
    if program.integrated is not None:
        pytest.skip("its states are continuous and integrated over: test_state_space.py holds them to statsmodels")
    return assignments(program, anywhere(program, seed), program.data.values)


def total(found):
    """log sum over assignments of exp(log joint)."""
    return torch.stack([sum(d.values()) for _, d in found]).logsumexp(0)


def close(actual, expected, tolerance=1e-9):
    torch.testing.assert_close(
        torch.as_tensor(actual, dtype=AT), torch.as_tensor(expected, dtype=AT), rtol=tolerance, atol=tolerance
    )


# -- every model ------------------------------------------------------------------------------------------------------


def test_every_model_of_the_zoo_has_data_here():
    assert sorted(ZOO_CASES) == zoo.models()
    assert all(type(model).__name__ == name for name, cases in ZOO_CASES.items() for model, _ in cases)


@two_places
@every_case
def test_log_joint_is_the_sum_over_every_assignment(case, seed):
    program = program_of(case)
    close(program.log_joint(anywhere(program, seed)).total().detach(), total(assigned(case, seed)))


@every_case
def test_a_row_adds_its_own_log_density(case):
    program = program_of(case)
    if program.chained:  # its rows have densities given the rows before
        return
    values = anywhere(program)
    terms = program.log_joint(values)
    local = {s.name for s in program.locals}
    assert terms.rows.shape == (len(program.data),)
    if program.shared:  # summed out over all rows together: none has a density of its own
        close(terms.rows.detach(), torch.zeros(len(program.data)))
        close(terms.rest.detach(), total(assigned(case)))
        return
    close((terms.rest + terms.rows.sum()).detach(), terms.total().detach())
    for i in range(len(program.data)):
        one = {n: v[i : i + 1] for n, v in program.data.values.items()}
        here = {n: v[i : i + 1] if n in local else v for n, v in values.items()}
        close((terms.rest + terms.rows[i]).detach(), total(assignments(program, here, one)))


@every_case
def test_rebinding_to_other_rows_traces_nothing_and_gives_their_density(case):
    program = program_of(case)
    if program.chained:  # its rows in another order are another sequence
        return
    values = anywhere(program)
    order = torch.tensor([0, 0, *reversed(range(len(program.data)))])
    other = program.rebind(program.data.take(order))
    assert other.structure is program.structure
    there = {n: v[order] if n in {s.name for s in program.locals} else v for n, v in values.items()}
    before, after = program.log_joint(values), other.log_joint(there)
    if program.shared:  # rows have no densities of their own to compare
        close(after.total().detach(), total(assignments(other, there, other.data.values)))
        return
    close(after.rows.detach(), before.rows[order].detach())
    close(after.rest.detach(), before.rest.detach())


@every_case
def test_responsibilities_are_the_posterior_of_each_assignment(case):
    program = program_of(case)
    check_responsibilities(program, anywhere(program), assigned(case))


def check_responsibilities(program, values, found):
    weights = torch.stack([sum(d.values()) for _, d in found])
    weights = (weights - weights.logsumexp(0)).exp()
    given = program.responsibilities(values)
    rowwise = [s for s in program.enumerated if program.row in s.plates]
    assert set(given) == {s.name for s in rowwise}
    for site in rowwise:
        states = given[site.name].shape[1]
        expected = torch.zeros(len(program.data), states, dtype=AT)
        for weight, (chosen, _) in zip(weights, found, strict=True):
            state = chosen[site.name] if site.event_dim == 0 else chosen[site.name].argmax(-1)
            expected += weight * torch.nn.functional.one_hot(state.long().flatten(), states)
        close(given[site.name].detach(), expected)


@every_case
def test_row_weights_are_repetitions(case):
    program = program_of(case)
    values = anywhere(program)
    weights = torch.tensor([2.0, 0.5, 3.0, 1.0, *[1.0] * len(program.data)], dtype=AT)[: len(program.data)]
    if program.shared:
        check_repetitions_of_rows_together(program, values, weights)
        return
    # The same priors on both sides: a model that scales its priors to the data scales them to the weighted data.
    weighted = program.rebind(replace(program.data, weights=weights))
    plain, heavy = program.log_joint(values), weighted.log_joint(values)
    close(heavy.total(weighted.data.weights).detach(), (plain.rest + (weights * plain.rows).sum()).detach())
    for name, given in weighted.responsibilities(values).items():
        close(given.detach(), program.responsibilities(values)[name].detach())


def check_repetitions_of_rows_together(program, values, weights):
    """Weights are powers of the density of a row given shared states: w and k - w of a row twice are k repetitions."""
    rows, counts = torch.arange(len(weights)), weights.ceil() + 1
    twice = replace(program.data.take(rows.repeat(2)), weights=torch.cat([weights, counts - weights]))
    repeated = program.data.take(rows.repeat_interleave(counts.long()))
    given = program.rebind(twice).log_joint(values).total()
    close(given.detach(), total(assignments(program, values, repeated.values)))


@every_case
def test_starting_values_are_inside_their_supports(case):
    program = program_of(case)
    values = program.initial()
    assert set(values) == {s.name for s in (*program.latents, *program.parameters)} | program.networks
    for site in (*program.latents, *program.parameters):
        assert tuple(values[site.name].shape) == site.shape
        assert bool(site.support.check(values[site.name]).all())
        assert values[site.name].dtype == AT
    assert bool(program.log_joint(values).total().isfinite())


@pytest.mark.parametrize("restarts", [1, 3])
def test_a_model_is_asked_for_starting_values_once_a_start(restarts, monkeypatch):
    """Clusters are the longest part of a fit of few steps: not once more to see what a model proposes."""
    asked = []
    initial = zoo.GMM.initial
    monkeypatch.setattr(zoo.GMM, "initial", lambda self, x: asked.append(len(x)) or initial(self, x))
    fit(zoo.GMM(components=2), ROWS, method=EM(restarts=restarts), seed=0)
    assert asked == [len(ROWS)] * restarts
    program = prepared(zoo.GMM(components=2), ROWS)
    assert program.proposes
    assert program.proposes
    assert program.rebind(program.data).proposes
    assert len(asked) == restarts + 1


@every_case
def test_view_goes_there_and_back(case):
    program = program_of(case)
    values = anywhere(program)
    for view, sites in ((program.view, program.latents), (program.parameter_view, program.parameters)):
        u = view.unconstrain_globals(values)
        assert u.shape == (view.global_size,)
        back, jacobian = view.constrain_globals(u)
        assert jacobian.shape == ()
        if view.locals:
            rows = view.unconstrain_locals(values)
            assert rows.shape == (len(program.data), view.local_size)
            local, row_jacobian = view.constrain_locals(rows)
            assert row_jacobian.shape == (len(program.data),)
            back = {**back, **local}
        assert set(back) == {s.name for s in sites}
        for name, value in back.items():
            close(value, values[name], 1e-8)


@every_case
def test_simulation_keeps_what_is_given_and_draws_the_rest_inside_its_support(case):
    program = program_of(case)
    values = anywhere(program)
    given = {n: v for n, v in values.items() if n in program.networks or program.sites[n].role != "local"}
    seen = program.simulate(given)
    for name, site in program.sites.items():
        if site.role == "parameter":
            continue
        if name in given:
            assert torch.equal(seen[name], given[name])
        assert tuple(seen[name].shape) == site.shape
        if site.role in ("observed", "local", "enumerated"):
            assert bool(site.support.check(seen[name]).all())


def test_simulation_draws_what_the_model_says():
    """The share of ones that a Beta-Bernoulli draws at p = 0.3, within 5 standard errors."""
    program = prepared(zoo.BetaBernoulli(), [1.0] * 20_000)
    drawn = program.simulate({"p": torch.tensor(0.3, dtype=AT)})["x"]
    assert abs(float(drawn.mean()) - 0.3) < 5 * math.sqrt(0.3 * 0.7 / 20_000)
    prior = torch.stack([program.simulate({})["p"] for _ in range(500)])
    assert scipy.stats.kstest(prior.numpy(), "uniform").pvalue > 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_precision_is_the_one_asked_for_and_the_default_is_left(dtype):
    reseed(0)
    program = prepare(zoo.GMM(components=2), ROWS, dtype=dtype)
    values = program.initial()
    assert {v.dtype for v in values.values()} == {dtype}
    assert program.log_joint(values).rows.dtype == dtype
    assert torch.get_default_dtype() == torch.float32


def test_networks_mean_float32():
    assert prepare(zoo.VAE(latent=1, hidden=()), BITS).dtype == torch.float32
    assert prepare(zoo.GMM(), ROWS).dtype == torch.float64


def test_the_param_store_is_left_alone():
    store = pyro.get_param_store()
    with store.scope():
        pyro.param("weights", torch.tensor([9.0]))
        program = prepared(zoo.GMM(components=2), ROWS)
        program.log_joint(program.initial())
        program.simulate(program.initial())
        assert list(store.keys()) == ["weights"]
        assert torch.equal(pyro.param("weights"), torch.tensor([9.0]))


# -- by hand, with torch.distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "diag", "tied", "spherical"])
def test_gmm_against_mixture_same_family(covariance):
    program = prepared(zoo.GMM(components=2, covariance=covariance), ROWS)
    values = anywhere(program)
    means, shape = values["means"], values["covariances"]
    if covariance in ("full", "tied"):
        parts = td.MultivariateNormal(means, shape.expand(2, 2, 2))
    else:
        parts = td.Independent(td.Normal(means, shape.sqrt().reshape(2, -1)), 1)
    mixture = td.MixtureSameFamily(td.Categorical(values["weights"]), parts)
    terms = program.log_joint(values)
    close(terms.rows, mixture.log_prob(torch.tensor(ROWS, dtype=AT)))
    close(terms.rest, 0.0)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_bayesian_gmm_prior_against_scipy(covariance):
    """Wishart and Gamma densities come from scipy; the defaults are those of the model card."""
    program = prepared(zoo.BayesianGMM(components=2, covariance=covariance), ROWS)
    values = anywhere(program)
    x = np.array(ROWS)
    d, kappa, spread = 2, 0.01, np.diag(x.var(0) / 2 ** (2 / 2))
    weights, means, precisions = (values[n].numpy() for n in ("weights", "means", "precisions"))
    prior = scipy.stats.dirichlet.logpdf(weights, [1.0, 1.0])
    for m, p in zip(means, precisions, strict=True):
        if covariance == "full":
            prior += scipy.stats.wishart.logpdf(p, df=d + 2, scale=np.linalg.inv(spread))
            matrix = p
        else:
            prior += scipy.stats.gamma.logpdf(p, 1.5, scale=1 / (0.5 * np.diag(spread))).sum()
            matrix = np.diag(p)
        prior += scipy.stats.multivariate_normal.logpdf(m, x.mean(0), np.linalg.inv(kappa * matrix))
    close(program.log_joint(values).rest, prior)


@pytest.mark.parametrize("likelihood", ["bernoulli", "binomial", "gaussian"])
def test_vae_against_its_own_decoder(likelihood):
    data = {"bernoulli": BITS, "binomial": [[0, 3, 1], [2, 0, 4]], "gaussian": ROWS}[likelihood]
    program = prepared(zoo.VAE(latent=2, hidden=(4,), likelihood=likelihood), data)
    values = anywhere(program)
    x = torch.tensor(data, dtype=AT)
    with torch.no_grad():
        out = program.model.decoder(values["z"])
    if likelihood == "bernoulli":
        row = td.Bernoulli(logits=out)
    elif likelihood == "binomial":
        row = td.Binomial(4, logits=out)
    else:
        spread = x.std(0, correction=0)
        row = td.Normal(x.mean(0) + spread * out, spread * values["noise"])
    expected = td.Normal(0.0, 1.0).log_prob(values["z"]).sum(1) + row.log_prob(x).sum(1)
    close(program.log_joint(values).rows.detach(), expected)


def test_eight_schools_against_torch_distributions():
    program = prepared(EightSchools(), SCHOOLS)
    values = anywhere(program)
    effect, error = (torch.tensor(SCHOOLS[n], dtype=AT) for n in ("effect", "error"))
    terms = program.log_joint(values)
    prior = scipy.stats.norm.logpdf(values["mu"], 0, 5) + scipy.stats.halfcauchy.logpdf(values["tau"], scale=5)
    rows = td.Normal(values["mu"], values["tau"]).log_prob(values["theta"])
    close(terms.rest, prior)
    close(terms.rows, rows + td.Normal(values["theta"], error).log_prob(effect))


# -- layouts of enumerated sites --------------------------------------------------------------------------------------


@zoo.model(x=Real("row"))
def single_state(x):
    """A mixture of one."""
    loc = pyro.param("loc", torch.zeros(1))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.ones(1)))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@zoo.model(x=Real("row"))
def two_sites(x):
    """Two discrete latents per row, the second depends on the first."""
    table = pyro.sample("table", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
    loc = pyro.param("loc", torch.zeros(2, 3))
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Bernoulli(0.3)).long()
        b = pyro.sample("b", dist.Categorical(table[a]))
        pyro.sample("x", dist.Normal(loc[a, b], 1.0), obs=x)


@zoo.model(x=Real("row"))
def independent_sites(x):
    """Two discrete latents per row that do not depend on each other; x sees their sum."""
    loc = pyro.param("loc", torch.zeros(5))
    with pyro.plate("row", len(x)):
        a = pyro.sample("a", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        b = pyro.sample("b", dist.Categorical(torch.tensor([0.6, 0.3, 0.1])))
        pyro.sample("x", dist.Normal(loc[a + b], 1.0), obs=x)


@zoo.model(x=Real("row"))
def global_site(x):
    """One discrete latent for all rows."""
    loc = pyro.param("loc", torch.zeros(2))
    which = pyro.sample("which", dist.Categorical(torch.tensor([0.25, 0.75])))
    with pyro.plate("row", len(x)):
        pyro.sample("x", dist.Normal(loc[which], 1.0), obs=x)


@zoo.model(x=Real("row"))
def global_and_local_sites(x):
    """A discrete latent for all rows chooses the weights of the rows' own."""
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, 3)).to_event(1))
    loc = pyro.param("loc", torch.zeros(3))
    which = pyro.sample("which", dist.Categorical(torch.tensor([0.25, 0.75])))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(weights[which]))
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


@zoo.model(x=Real("row", "time"))
def chain(x):
    """A short hidden Markov chain in every row."""
    moves = pyro.sample("moves", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("row", len(x)):
        z = torch.zeros((), dtype=torch.long)
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(moves[z]))
            pyro.sample(f"x_{t}", dist.Normal(loc[z], 1.0), obs=x[:, t])


@zoo.model(x=Binary("row", "item"))
def nested(x):
    """A class per row, and a state per item of a row that depends on it."""
    share = pyro.sample("share", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    p = pyro.param("p", torch.full((2,), 0.5), constraint=constraints.unit_interval)
    rows, items = pyro.plate("row", x.shape[0], dim=-2), pyro.plate("item", x.shape[1], dim=-1)
    with rows:
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        with items:
            u = pyro.sample("u", dist.Categorical(share[z]))
            pyro.sample("x", dist.Bernoulli(p[u]), obs=x)


@zoo.model(x=Binary("row", "item"))
def nested_data(x):
    """A class per row; items are independent given it, in a plate instead of an event."""
    p = pyro.param("p", torch.full((2, x.shape[1]), 0.5), constraint=constraints.unit_interval)
    with pyro.plate("row", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        with pyro.plate("item", x.shape[1], dim=-1):
            pyro.sample("x", dist.Bernoulli(p[z, torch.arange(x.shape[1])]), obs=x)


@zoo.model(x=Binary("row", "item"))
def nested_under_one_state(x):
    """A state for all rows and a class per row, which items depend on both: products over items, then over rows."""
    p = pyro.param("p", torch.full((2, 2), 0.5), constraint=constraints.unit_interval)
    which = pyro.sample("which", dist.Categorical(torch.tensor([0.25, 0.75])))
    with pyro.plate("row", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        with pyro.plate("item", x.shape[1], dim=-1):
            pyro.sample("x", dist.Bernoulli(p[which, z]), obs=x)


@zoo.model(x=Real("row"))
def yes_or_no(x):
    """A discrete latent that is a number, and enters as one."""
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        pyro.sample("x", dist.Normal(z * loc[0] + (1 - z) * loc[1], 1.0 + z), obs=x)


@zoo.model(x=Real("row"))
def counted(x):
    """A number of successes that is not seen."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("row", len(x)):
        n = pyro.sample("n", dist.Binomial(3, p))
        pyro.sample("x", dist.Normal(n, 0.7), obs=x)


@zoo.model(x=Real("row"))
def one_hot(x):
    """A discrete latent whose states are unit vectors."""
    loc = pyro.param("loc", torch.zeros(3))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.OneHotCategorical(torch.tensor([0.2, 0.5, 0.3])))
        pyro.sample("x", dist.Normal(z @ loc, 1.0), obs=x)


@zoo.model(x=Real("row"))
def continuous_too(x):
    """A continuous latent per row that the discrete one depends on."""
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("row", len(x)):
        t = pyro.sample("t", dist.Normal(0.0, 1.0))
        z = pyro.sample("z", dist.Categorical(logits=torch.stack([t, -t], -1)))
        pyro.sample("x", dist.Normal(loc[z] + t, 1.0), obs=x)


@zoo.model(x=Real("row"))
def masked(x):
    """Rows above zero only, by a mask."""
    loc = pyro.param("loc", torch.zeros(2))
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("x", dist.Normal(loc[z], 1.0).mask(x > 0), obs=x)


@zoo.model(x=Real("row"))
def with_factor(x):
    """A factor per row and one for all."""
    loc = pyro.param("loc", torch.zeros(2))
    pyro.factor("shrink", -0.5 * loc.square().sum())
    with pyro.plate("row", len(x)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.factor("tilt", 0.1 * x)
        pyro.sample("x", dist.Normal(loc[z], 1.0), obs=x)


X = [0.3, -1.2, 2.0]
LAYOUTS = {
    made.__name__: (made(), data)
    for made, data in (
        (single_state, X),
        (two_sites, X),
        (independent_sites, X),
        (global_site, X),
        (global_and_local_sites, X),
        (chain, [[0.5, -1.0, 2.0], [1.0, 0.0, -0.3]]),
        (nested, [[1, 0], [1, 1]]),
        (nested_data, BITS),
        (nested_under_one_state, [[1, 0], [1, 1], [0, 0]]),
        (yes_or_no, X),
        (counted, X),
        (one_hot, X),
        (continuous_too, X),
        (masked, X),
        (with_factor, X),
    )
}


@two_places
@spread("case", LAYOUTS, part=0, of=2)
def test_layouts_sum_over_every_assignment(case, seed):
    program = program_of(case)
    assert program.enumerated
    close(program.log_joint(anywhere(program, seed)).total(), total(assigned(case, seed)))


@spread("case", LAYOUTS, part=1, of=2)
def test_the_best_assignment_is_the_highest_of_all(case):
    program = program_of(case)
    values = anywhere(program)
    best = max(float(sum(d.values())) for _, d in assigned(case))
    log_probs = program.log_probs(values)
    close(program.eliminate(log_probs, hard=True).total().detach(), best)
    terms, marginals = program.hard_marginals(log_probs)
    close(terms.total().detach(), best)
    close(sum((marginals[n] * v).sum() for n, v in log_probs.items()).detach(), best)


def test_one_row_of_weight_three_is_three_rows():
    """Of one row no dimension is left in its factor, which a state for all rows needs as often as the weight says."""
    program = prepared(global_site(), [0.7])
    values = anywhere(program)
    heavy = program.rebind(replace(program.data, weights=torch.tensor([3.0], dtype=AT)))
    thrice = program.rebind(program.data.take(torch.zeros(3, dtype=torch.long)))
    close(heavy.log_joint(values).total(heavy.data.weights).detach(), thrice.log_joint(values).total().detach())


@pytest.mark.parametrize("case", [c for c in LAYOUTS if c not in ("nested", "global_site")])
def test_layouts_have_the_posterior_of_each_assignment(case):
    program = program_of(case)
    check_responsibilities(program, anywhere(program), assigned(case))


@pytest.mark.parametrize("case", [*EVERY_CASE, *LAYOUTS])
def test_expectations_are_the_probability_of_each_entry(case):
    """Each entry of a site's log density, times its probability, adds up to the expected log joint."""
    program = program_of(case)
    values = anywhere(program)
    found = assigned(case)
    weights = torch.stack([sum(d.values()) for _, d in found]).softmax(0)
    terms, marginals = program.expectations(values)
    close(terms.total(), total(found))
    for name, log_prob in program.log_probs(values).items():
        expected = sum(w * d[name] for w, (_, d) in zip(weights, found, strict=True) if w > 0)
        entries = torch.where(marginals[name] == 0, 0.0, marginals[name] * log_prob)  # what is impossible is not there
        close(entries.sum().detach(), expected)


@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("case", [*EVERY_CASE, *LAYOUTS])
def test_expectations_are_the_gradient_of_the_log_joint(case, weighted):
    """By whatever road they are computed: for one draw, inside a vectorized call, and with weights."""
    program = program_of(case)
    if weighted:
        program = program.rebind(replace(program.data, weights=0.5 + torch.arange(len(program.data), dtype=AT)))
    values = anywhere(program)
    leaves = {n: v.detach().requires_grad_() for n, v in program.log_probs(values).items()}
    program.eliminate(leaves).total(program.data.weights).backward()
    terms, marginals = program.expectations(values)
    close(terms.rows, program.log_joint(values).rows.detach())
    for name, leaf in leaves.items():
        close(marginals[name], leaf.grad)
    networks = {n: values[n].requires_grad_() for n in program.networks}
    stacked = {n: v[None] for n, v in values.items() if n not in networks}
    if not stacked:  # nothing to vectorize over: all that is unknown are weights of networks
        return
    vectorized = torch.vmap(lambda v: program.expectations({**networks, **v}, vectorized=True)[1])(stacked)
    for name, leaf in leaves.items():
        close(vectorized[name][0], leaf.grad)


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_vectorize_over_draws(case):
    program = program_of(case)
    draws = [anywhere(program, seed) for seed in range(3)]
    stacked = {n: torch.stack([d[n] for d in draws]) for n in draws[0]}
    found = many(lambda v: program.log_joint(v).total(), stacked, 3, 2)
    close(found, torch.stack([program.log_joint(d).total() for d in draws]))


def test_a_row_with_states_inside_it_still_has_a_posterior_of_its_own_state():
    program = prepared(nested(), [[1, 0], [1, 1]])
    values = anywhere(program)
    found = assignments(program, values, program.data.values)
    weights = torch.stack([sum(d.values()) for _, d in found]).softmax(0)
    expected = sum(
        w * torch.nn.functional.one_hot(c["z"].flatten(), 2) for w, (c, _) in zip(weights, found, strict=True)
    )
    close(program.responsibilities(values)["z"], expected)


def test_a_site_used_in_two_plates_side_by_side_is_refused():
    @zoo.model(x=Real("row"), y=Real("other"))
    def crossed(x, y):
        rows, others = pyro.plate("row", len(x), dim=-2), pyro.plate("other", len(y), dim=-1)
        with rows:
            a = pyro.sample("a", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("x", dist.Normal(a.to(x.dtype), 1.0), obs=x[:, None])
        with others:
            b = pyro.sample("b", dist.Categorical(torch.ones(2) / 2))
            pyro.sample("y", dist.Normal(b.to(x.dtype), 1.0), obs=y)
        with rows, others:
            pyro.sample("both", dist.Normal((a + b).to(x.dtype), 1.0), obs=x[:, None] + y)

    program = prepared(crossed(), {"x": X, "y": [0.1, 0.2]})
    with pytest.raises(ModelError, match="neither of which is inside the other"):
        program.log_joint(program.model.initial(**program.data.values))


@pytest.mark.slow
def test_hidden_markov_chain_over_many_steps():
    """posteriordb's hmm_example, 100 steps; its first state has no factor, so a uniform one takes log 2 off."""
    folder = references()
    entry = json.loads((folder / "posteriordb" / "hmm_example.json").read_text())
    y = entry["y"]

    @zoo.model(y=Real("time"))
    def hidden_markov(y):
        moves = pyro.param("moves", torch.full((2, 2), 0.5), constraint=constraints.simplex)
        mu = pyro.param("mu", torch.tensor([3.0, 9.0]))
        z = None
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z_{t}", dist.Categorical(torch.ones(2) / 2 if z is None else moves[z]))
            pyro.sample(f"y_{t}", dist.Normal(mu[z], 1.0), obs=y[t])

    program = prepared(hidden_markov(), y)
    for case in json.loads((folder / "small_exact.json").read_text())["hmm_example_loglik"]:
        values = {"moves": torch.tensor(case["A"], dtype=AT), "mu": torch.tensor(case["mu"], dtype=AT)}
        assert case["sigma"] == 1
        found = float(program.log_joint(values).total())
        assert found == pytest.approx(case["loglik"] - math.log(2), abs=1e-8)


@pytest.mark.parametrize("case", [0, 1])
def test_mixture_log_likelihoods_at_fixed_parameters(case):
    folder = references()
    y = json.loads((folder / "posteriordb" / "low_dim_gauss_mix.json").read_text())["y"]
    given = json.loads((folder / "small_exact.json").read_text())["low_dim_gauss_mix_loglik"][case]

    @zoo.model(y=Real("row"))
    def mixture(y):
        theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        sigma = pyro.sample("sigma", dist.HalfNormal(torch.full((2,), 2.0)).to_event(1))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.stack([theta, 1 - theta])))
            pyro.sample("y", dist.Normal(mu[z], sigma[z]), obs=y)

    program = prepared(mixture(), y)
    values = {n: torch.tensor(given[n], dtype=AT) for n in ("theta", "mu", "sigma")}
    terms = program.log_joint(values)
    assert float(terms.rows.sum()) == pytest.approx(given["loglik"], abs=1e-8)
    prior = scipy.stats.beta.logpdf(given["theta"], 5, 5) + scipy.stats.norm.logpdf(given["mu"], 0, 2).sum()
    prior += scipy.stats.halfnorm.logpdf(given["sigma"], scale=2).sum()
    assert float(terms.rest) == pytest.approx(prior, abs=1e-10)


def test_evidence_of_eight_schools_by_quadrature():
    """theta integrated in closed form, mu and log tau by the trapezoidal rule; the value has an independent source."""

    @zoo.model(effect=Real("school"), error=zoo.Positive("school"))
    def marginal(effect, error):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(effect)):
            pyro.sample("effect", dist.Normal(mu, (tau**2 + error**2).sqrt()), obs=effect)

    program = prepared(marginal(), SCHOOLS)
    mu, u = torch.linspace(-40, 40, 241, dtype=AT), torch.linspace(-18, 12, 361, dtype=AT)
    grid_mu, grid_u = (g.flatten() for g in torch.meshgrid(mu, u, indexing="ij"))
    values = {"mu": grid_mu, "tau": grid_u.exp()}
    joint = many(lambda v: program.log_joint(v).total(), values, len(grid_mu), 20_000)
    evidence = (joint + grid_u).logsumexp(0) + math.log(float(mu[1] - mu[0]) * float(u[1] - u[0]))
    assert float(evidence) == pytest.approx(-31.311347352292778, abs=1e-6)


# -- numerical care ---------------------------------------------------------------------------------------------------


def test_far_outliers_do_not_underflow():
    """Rows 1e6 standard deviations off: exp() of their log densities is 0, and so is that of any product of them."""
    x = torch.tensor([[1e6, -1e6], [0.0, 0.0], [-3e5, 2e6]], dtype=AT)
    program = prepared(zoo.GMM(components=2, covariance="spherical"), x)
    values = {
        "weights": torch.tensor([0.5, 0.5], dtype=AT),
        "means": torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=AT),
        "covariances": torch.tensor([1.0, 2.0], dtype=AT),
    }
    parts = torch.stack(
        [
            math.log(0.5) + td.Normal(values["means"][k], values["covariances"][k].sqrt()).log_prob(x).sum(1)
            for k in range(2)
        ]
    )
    rows = program.log_joint(values).rows
    assert float(rows.min()) < -1e11
    close(rows, parts.logsumexp(0), 1e-14)
    close(program.responsibilities(values)["z"], parts.softmax(0).T)


def test_an_impossible_state_leaves_the_others():
    """A weight of zero is a log density of -inf, which must not turn into NaN."""
    program = prepared(PoissonMixture(), [0, 3, 1])
    values = {"weights": torch.tensor([0.0, 1.0], dtype=AT), "rate": torch.tensor([5.0, 2.0], dtype=AT)}
    x = torch.tensor([0.0, 3.0, 1.0], dtype=AT)
    close(program.log_joint(values).rows, td.Poisson(torch.tensor(2.0, dtype=AT)).log_prob(x))
    close(program.responsibilities(values)["z"], torch.tensor([[0.0, 1.0]] * 3))


def test_one_row_is_enough_where_the_model_allows_it():
    program = prepared(PoissonMixture(components=3), [4])
    values = anywhere(program)
    close(program.log_joint(values).total(), total(assignments(program, values, program.data.values)))
    check_responsibilities(program, values, assignments(program, values, program.data.values))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", [CholeskyVector, PositiveDefiniteVector])
def test_matrix_bijections_against_autograd(kind, size):
    reseed(size)
    transform, row, column = kind(), *torch.tril_indices(size, size)
    u = torch.randn(size * (size + 1) // 2, dtype=AT)
    matrix = transform(u)
    assert bool(transform.codomain.check(matrix))
    close(transform.inv(matrix), u)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v)[row, column], u)
    close(transform.log_abs_det_jacobian(u, matrix), jacobian.slogdet().logabsdet)
    several = torch.randn(2, 3, len(u), dtype=AT)
    matrices = transform(several)
    assert matrices.shape == transform.forward_shape(several.shape) == (2, 3, size, size)
    assert transform.inverse_shape(matrices.shape) == several.shape
    for i, j in itertools.product(range(2), range(3)):
        close(matrices[i, j], transform(several[i, j]))
        close(
            transform.log_abs_det_jacobian(several, matrices)[i, j],
            transform.log_abs_det_jacobian(several[i, j], matrices[i, j]),
        )


@pytest.mark.parametrize(
    ("support", "length"),
    [
        (constraints.real, 1),
        (constraints.positive, 1),
        (constraints.unit_interval, 1),
        (constraints.greater_than(2.0), 1),
        (constraints.interval(-1.0, 3.0), 1),
        (constraints.real_vector, 3),
        (constraints.independent(constraints.positive, 1), 3),
    ],
    ids=str,
)
def test_other_bijections_against_autograd(support, length):
    reseed(0)
    transform = bijection(support, "z")
    u = torch.randn(length, dtype=AT)
    value = transform(u)
    assert bool(support.check(value).all())
    close(transform.inv(value), u)
    jacobian = torch.autograd.functional.jacobian(transform, u)
    close(transform.log_abs_det_jacobian(u, value).sum(), jacobian.slogdet().logabsdet)


def test_simplex_bijection_against_autograd():
    """Density on the simplex is with respect to its first coordinates, one fewer than there are."""
    transform = bijection(constraints.simplex, "weights")
    u = torch.randn(3, dtype=AT)
    value = transform(u)
    close(value.sum(), 1.0)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v)[:-1], u)
    close(transform.log_abs_det_jacobian(u, value), jacobian.slogdet().logabsdet)


def test_a_support_without_bijection_is_named():
    with pytest.raises(ModelError, match=r"'n'.*support"):
        bijection(constraints.boolean, "n")


@pytest.mark.parametrize("model", [EightSchools(), zoo.BayesianGMM(components=2), zoo.BayesianGMM(covariance="diag")])
def test_view_jacobian_is_that_of_its_parts(model):
    data = SCHOOLS if isinstance(model, EightSchools) else ROWS
    program = prepared(model, data)
    view, values = program.view, anywhere(program)
    u = view.unconstrain_globals(values)

    def coordinates(v):
        parts = []
        for name, value in view.constrain_globals(v)[0].items():
            if name == "weights":
                value = value[:-1]
            elif value.ndim == 3:
                value = value[:, *torch.tril_indices(2, 2)]
            parts.append(value.reshape(-1))
        return torch.cat(parts)

    jacobian = torch.autograd.functional.jacobian(coordinates, u)
    close(view.constrain_globals(u)[1], jacobian.slogdet().logabsdet)


def test_data_bound_before_is_taken_as_it_is():
    model = zoo.BetaBernoulli()
    bound = bind(model, [1, 0, 1])
    assert bind(model, bound) is bound


def test_counts_and_categories_reach_the_model_as_declared():
    seen = {}

    @zoo.model(n=Count("row"), kind=zoo.Category("row"))
    def kinds(n, kind):
        seen.update({} if seen else {"n": n, "kind": kind})
        rate = pyro.param("rate", torch.ones(3), constraint=constraints.positive)
        with pyro.plate("row", len(n)):
            pyro.sample("n", dist.Poisson(rate[kind]), obs=n)

    prepared(kinds(), {"n": [1, 2, 0], "kind": ["b", "a", "c"]})
    assert seen["n"].dtype == AT
    assert seen["kind"].dtype == torch.long
    assert sorted(seen["kind"].tolist()) == [0, 1, 2]


class Painter(nn.Module):
    """One convolution of 9 products and as many codes as pixels; it counts how often it is called."""

    calls = 0

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 3, padding=1)

    def forward(self, z):
        Painter.calls += 1
        return self.layer(z.reshape(-1, 1, 4, 5)).sum(1)


def test_starts_of_latents_take_one_look_at_the_networks_behind_them():
    program = prepare(zoo.VAE(latent=20, decoder=Painter), torch.ones(6, 4, 5))
    before = Painter.calls
    program.initial()
    assert Painter.calls == before + 1  # whether the density is finite there; draws of the prior end at the codes


def test_products_are_counted_and_not_weights():
    program = prepare(zoo.VAE(latent=20, decoder=Painter), torch.ones(6, 4, 5))
    assert program.structure.products == 2 * 9 * 20
    assert prepare(zoo.VAE(latent=3, hidden=(7,)), torch.ones(6, 5)).structure.products == 3 * 7 + 7 * 5
    assert prepare(zoo.PPCA(factors=1), torch.randn(6, 3)).structure.products == 0
