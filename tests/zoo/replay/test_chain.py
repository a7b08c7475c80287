"""Hidden Markov chains: sums over all paths by other means, paths drawn, models fitted to published numbers."""

from __future__ import annotations

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from scipy.special import gammaln, logsumexp
from torch.distributions import constraints

import zoo
from inference import EM, MAP, SVI, Fit, fit
from tests.cases.models import ZOO_CASES
from zoo import Count, MarkovChain, Real
from zoo.elimination import blocks, forward_backward
from zoo.elimination.forward_backward import best_path, log_evidence, scan, smooth, viterbi
from zoo.elimination.semirings import Logs, Scaled, arithmetic
from zoo.program.prepare import prepare
from zoo.replay.chain import stationary
from zoo.replay.evaluate import model_context
from zoo.replay.random import reseed
from zoo.structure.discover import made_up


def chain(rows, states, sequences=1, *, forbid=False, seed=0):
    """A table, evidence, and which rows begin a sequence; with `forbid`, states only go up."""
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(states), states) + 0.5 * np.eye(states)
    transition = np.triu(transition) if forbid else transition
    table = np.vstack([rng.dirichlet(np.ones(states)), transition / transition.sum(1, keepdims=True)])
    first = np.zeros(rows, bool)
    first[:: -(-rows // sequences)] = True
    with np.errstate(divide="ignore"):
        log_table = torch.as_tensor(np.log(table))
    return log_table, torch.as_tensor(3 * rng.standard_normal((states, rows))), torch.as_tensor(first)


def paths(table, evidence, first):
    """Every path with its log density, differentiable."""
    states, rows = evidence.shape
    every = torch.tensor(list(itertools.product(range(states), repeat=rows)))
    value = torch.zeros(len(every), dtype=table.dtype)
    for t in range(rows):
        now = every[:, t]
        before = torch.zeros_like(now) if first[t] else every[:, t - 1] + 1
        value = value + table[before, now] + evidence[now, t]
    return every, value


def recursion(table, evidence, first):
    """log p(x_t | x_1 .. x_{t-1}), row by row, in logarithms."""
    table, evidence = table.numpy(), evidence.numpy()
    found, alpha = [], None
    with np.errstate(divide="ignore"):
        for t in range(evidence.shape[1]):
            alpha = (table[0] if first[t] else logsumexp(alpha[:, None] + table[1:], axis=0)) + evidence[:, t]
            found.append(logsumexp(alpha))
            alpha = alpha - found[-1]
    return np.array(found)


SMALL = [(1, 3, 1, False), (6, 2, 1, False), (6, 3, 2, False), (7, 3, 3, False), (6, 3, 1, True), (5, 1, 2, False)]
everywhere = pytest.mark.parametrize(("rows", "states", "sequences", "forbid"), SMALL)


@pytest.fixture(params=["as it comes", "logarithms", "tiny blocks", "tiny blocks of logarithms"])
def layout(request, monkeypatch):
    """Every way in which the same sums are done."""
    if "logarithms" in request.param:
        monkeypatch.setattr(forward_backward, "arithmetic", lambda transition: Logs())
    if "tiny" in request.param:
        monkeypatch.setattr(blocks, "WIDTH", 4)
        monkeypatch.setattr(blocks, "PIECE", 16)


# -- sums over paths ---------------------------------------------------------------------------------------------


@everywhere
def test_sums_are_those_over_all_paths(rows, states, sequences, forbid, layout):
    table, evidence, first = chain(rows, states, sequences, forbid=forbid)
    conditional, smoothed, counts = (x[0] for x in smooth(table[None], evidence[None], first))
    every, value = paths(table, evidence, first)
    torch.testing.assert_close(conditional.sum(), value.logsumexp(0))
    torch.testing.assert_close(conditional, torch.as_tensor(recursion(table, evidence, first)))
    share = value.softmax(0)
    for k in range(states):
        torch.testing.assert_close(smoothed[k], (share[:, None] * (every == k)).sum(0))
    expected = torch.zeros_like(table)
    for t in range(rows):
        before = torch.zeros(len(every)).long() if first[t] else every[:, t - 1] + 1
        expected.index_put_((before, every[:, t]), share, accumulate=True)
    torch.testing.assert_close(counts, expected)


@everywhere
def test_the_most_probable_path_is_the_best_of_all(rows, states, sequences, forbid, layout):
    table, evidence, first = chain(rows, states, sequences, forbid=forbid)
    every, value = paths(table, evidence, first)
    assert torch.equal(viterbi(table, evidence, first), every[value.argmax()])
    torch.testing.assert_close(best_path(table, evidence, first).sum(), value.max())


WEIGHTS = {
    "one": lambda first: torch.ones(len(first)).double(),
    "all alike": lambda first: torch.full((len(first),), -0.25).double(),
    "by sequence": lambda first: -1.0 * first.cumsum(0),
    "but for one sequence": lambda first: 2.0 * (first.cumsum(0) > 1),
    "by row": lambda first: torch.linspace(-1.0, 2.0, len(first)).double(),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("rows", "states", "sequences"), [(1, 3, 1), (5, 2, 2), (6, 3, 1)])
def test_gradients_of_both_orders_are_those_of_the_sum_over_paths(rows, states, sequences, weights, layout):
    table, evidence, first = chain(rows, states, sequences)
    weight = WEIGHTS[weights](first).double()

    def by_paths(table, evidence):
        upto = [paths(table, evidence[:, :t], first[:t])[1].logsumexp(0) for t in range(1, rows + 1)]
        return torch.stack(upto) - torch.stack([torch.zeros(()).double(), *upto[:-1]])

    gradients = []
    for function in (lambda t, e: log_evidence(t, e, first), by_paths):
        inputs = [table.clone().requires_grad_(), evidence.clone().requires_grad_()]
        one = torch.autograd.grad((weight * function(*inputs)).sum(), inputs, create_graph=True)
        size = sum((g * torch.arange(g.numel()).reshape(g.shape)).sum() for g in one)
        gradients.append((*one, *torch.autograd.grad(size, inputs)))
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_chains_are_vectorized(layout):
    table, evidence, first = chain(40, 3, 3)
    tables = torch.log_softmax(table + torch.randn(4, 4, 3, generator=torch.Generator().manual_seed(0)), -1).double()

    def total(table):
        return log_evidence(table, evidence, first).sum()

    both = torch.vmap(torch.func.grad_and_value(total))(tables)
    for i, one in enumerate(tables):
        gradient, value = torch.func.grad_and_value(total)(one)
        torch.testing.assert_close(both[0][i], gradient)
        torch.testing.assert_close(both[1][i], value)
    several = torch.stack([evidence, evidence.flip(1)])
    found = log_evidence(table, several, first)
    torch.testing.assert_close(found[1], log_evidence(table, several[1], first))
    curvature = torch.func.jacrev(torch.func.grad(total))(table)
    torch.testing.assert_close(curvature, torch.autograd.functional.hessian(total, table))


@pytest.mark.slow
@pytest.mark.parametrize("forbid", [False, True])
@pytest.mark.parametrize("sequences", [1, 50])
def test_long_chains_are_the_recursion_row_by_row(forbid, sequences):
    table, evidence, first = chain(20_000, 3, sequences, forbid=forbid)
    found = log_evidence(table, evidence, first)
    np.testing.assert_allclose(found, recursion(table, evidence, first), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scan(table[None], evidence[None], first)[0], found)


def test_nothing_underflows_in_a_hundred_thousand_improbable_rows():
    table, evidence, first = chain(100_000, 4)
    plain = log_evidence(table, evidence, first).sum()
    torch.testing.assert_close(log_evidence(table, evidence - 700.0, first).sum(), plain - 700.0 * 100_000)


def test_a_chain_that_cannot_change_its_state_forgets_none_of_them():
    """Rows favour state 0 by e^4000, then state 1 by e^9000: plain numbers would have lost state 1 by then."""
    with np.errstate(divide="ignore"):
        table = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]]).double().log()
    evidence = torch.zeros(2, 3000).double()
    evidence[1, :1000], evidence[0, 1000:] = -4.0, -4.5
    first = torch.arange(3000) == 0
    _, smoothed, counts = smooth(table[None], evidence[None], first)
    assert float(log_evidence(table, evidence, first).sum()) == pytest.approx(np.log(0.5) - 4000)
    assert smoothed[0, 1].min() == 1
    torch.testing.assert_close(counts[0], torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 2999.0]]).double())


def test_rows_far_from_every_state_are_told_apart():
    """Densities that differ by more than numbers hold decide for the state that is nearest."""
    table, _, first = chain(500, 2)
    evidence = torch.full((2, 500), -1e6).double()
    evidence[0, ::2] -= 1e5
    evidence[1, 1::2] -= 1e5
    np.testing.assert_allclose(log_evidence(table, evidence, first), recursion(table, evidence, first), rtol=1e-12)


def test_arithmetic_follows_the_smallest_transition():
    table, _, _ = chain(1, 3)
    assert type(arithmetic(table[1:])) is Scaled
    assert type(arithmetic(chain(1, 3, forbid=True)[0][1:])) is Logs
    assert type(arithmetic(table[1:].clone().index_fill_(1, torch.tensor([0]), -1e3))) is Logs
    tiny = torch.tensor([[0.0, -50.0], [-50.0, 0.0]]).double()
    assert 1 < arithmetic(tiny).longest < arithmetic(table[1:]).longest


def test_barely_possible_transitions_are_exact():
    table, evidence, first = chain(300, 2)
    table[1:] = torch.tensor([[0.0, -100.0], [-120.0, 0.0]])
    evidence *= 60
    np.testing.assert_allclose(log_evidence(table, evidence, first), recursion(table, evidence, first), rtol=1e-10)


def test_an_impossible_row_has_density_zero_and_nothing_is_not_a_number(layout):
    table, evidence, first = chain(12, 2, 2)
    evidence[:, 4] = -torch.inf
    found = log_evidence(table, evidence, first)
    assert not found.isnan().any()
    assert found[:4].isfinite().all()
    assert float(found.sum()) == -np.inf


def test_single_precision_agrees():
    table, evidence, first = chain(5000, 3)
    single = log_evidence(table.float(), evidence.float(), first)
    np.testing.assert_allclose(single, log_evidence(table, evidence, first), rtol=2e-4, atol=2e-4)


# -- the distribution --------------------------------------------------------------------------------------------

START, MOVES = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])


def test_a_path_is_as_probable_as_its_moves():
    path = torch.tensor([1, 2, 0, 0, 2, 1])
    plain = MarkovChain(START, MOVES).expand([6]).log_prob(path)
    expected = [START[1], MOVES[1, 2], MOVES[2, 0], MOVES[0, 0], MOVES[0, 2], MOVES[2, 1]]
    torch.testing.assert_close(plain, torch.stack(expected).log())
    cut = MarkovChain(START, MOVES, start=torch.tensor([0, 0, 0, 1, 0, 0])).expand([6]).log_prob(path)
    torch.testing.assert_close(cut[3], START[0].log())
    torch.testing.assert_close(torch.cat([cut[:3], cut[4:]]), torch.cat([plain[:3], plain[4:]]))
    several = torch.stack([path, path.flip(0)])
    assert MarkovChain(START, MOVES).expand([6]).log_prob(several).shape == (2, 6)


def test_states_as_they_are_enumerated_have_the_table_as_their_density():
    table = torch.cat([START[None], MOVES]).log()
    for rows in (1, 5):
        law = MarkovChain(START, MOVES).expand([rows])
        states = law.enumerate_support(expand=False)
        assert states.shape == (3, 1)
        torch.testing.assert_close(law.log_prob(states), table)
        assert law.enumerate_support().shape == (3, rows)
    assert law.has_enumerate_support
    assert law.support.check(torch.arange(3)).all()


@pytest.mark.parametrize("start", [None, [1, 0, 0, 0, 1, 0, 0]])
def test_paths_are_drawn_as_often_as_they_are_probable(start):
    """Each move's share of 40,000 paths is within five standard errors; no impossible move is ever made."""
    start = None if start is None else torch.tensor(start)
    law = MarkovChain(START, MOVES, start).expand([7])
    reseed(0)
    drawn = law.sample((40_000,))
    assert drawn.shape == (40_000, 7)
    first = law.first
    for t in range(7):
        for j in range(1 if first[t] else 3):
            now = drawn[:, t] if first[t] else drawn[drawn[:, t - 1] == j, t]
            share = torch.bincount(now, minlength=3) / len(now)
            p = START if first[t] else MOVES[j]
            assert ((share - p).abs() <= 5 * (p * (1 - p) / len(now)).sqrt()).all()
            assert (share[p == 0] == 0).all()


def test_a_chain_without_plate_is_its_first_state():
    reseed(0)
    drawn = MarkovChain(START, MOVES).sample((20_000,))
    assert drawn.shape == (20_000,)
    share = torch.bincount(drawn) / 20_000
    assert ((share - START).abs() <= 5 * (START * (1 - START) / 20_000).sqrt()).all()


def test_the_stationary_distribution_is_kept():
    found = stationary(MOVES.double())
    torch.testing.assert_close(found @ MOVES.double(), found)
    torch.testing.assert_close(found.sum(), torch.ones(()).double())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((START, MOVES[:2]), r"shape \(states, states\), not \(3,\) and \(2, 3\)"),
        ((START[:2], MOVES), r"not \(2,\) and \(3, 3\)"),
        ((START[None], MOVES), r"not \(1, 3\) and \(3, 3\)"),
        ((START[:0], MOVES[:0, :0]), r"not \(0,\)"),
        ((START, MOVES, torch.ones(2, 2)), r"has shape \(2, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(zoo.ModelError, match=message):
        MarkovChain(*arguments)


def test_a_start_of_another_length_is_refused():
    with pytest.raises(zoo.ModelError, match="the plate has 4 rows; give one entry per row"):
        MarkovChain(START, MOVES, torch.tensor([1, 0, 0])).expand([4])


# -- declared models ---------------------------------------------------------------------------------------------

COUNTS = [3, 0, 7, 8, 1, 2]
VALUES = {
    "first": torch.tensor([0.3, 0.7]).double(),
    "move": torch.tensor([[0.8, 0.2], [0.35, 0.65]]).double(),
    "rate": torch.tensor([1.5, 6.0]).double(),
}


def parameters(states):
    first = pyro.param("first", torch.full((states,), 1 / states), constraint=constraints.simplex)
    move = pyro.param("move", torch.full((states, states), 1 / states), constraint=constraints.simplex)
    return first, move, pyro.param("rate", torch.linspace(1.0, 2.0, states), constraint=constraints.positive)


class Chain(zoo.Model):
    """Counts whose rate follows a chain, in one statement; `ids` says which sequence a row is of."""

    x = Count("time")
    ids = Real("time")

    def initial(self, x, ids):
        return {n: v.to(x) for n, v in VALUES.items()}

    def forward(self, x, ids):
        first, move, rate = parameters(2)
        start = torch.cat([ids.new_ones(1), (ids[1:] != ids[:-1]).to(ids)])
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", MarkovChain(first, move, start))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)


@zoo.model(x=Count("time"))
def step_by_step(x):
    """The same for one sequence, one site per step."""
    first, move, rate = parameters(2)
    z = None
    for t in pyro.markov(range(len(x))):
        z = pyro.sample(f"z_{t}", dist.Categorical(first if z is None else move[z]))
        pyro.sample(f"x_{t}", dist.Poisson(rate[z]), obs=x[t])


def one_sequence(x):
    return {"x": x, "ids": [0.0] * len(x)}


def test_a_chain_in_one_statement_is_that_of_one_site_per_step():
    together, apart = prepare(Chain(), one_sequence(COUNTS)), prepare(step_by_step(), COUNTS)
    values = [{n: v.clone().requires_grad_() for n, v in VALUES.items()} for _ in range(2)]
    totals = [p.log_joint(v).total() for p, v in zip((together, apart), values, strict=True)]
    torch.testing.assert_close(*totals)
    gradients = [torch.autograd.grad(t, list(v.values())) for t, v in zip(totals, values, strict=True)]
    for name, mine, theirs in zip(VALUES, *gradients, strict=True):
        if name != "rate":  # along the simplex, where alone probabilities can move
            mine, theirs = mine - mine.mean(-1, keepdim=True), theirs - theirs.mean(-1, keepdim=True)
        torch.testing.assert_close(mine, theirs)
    _, marginals = together.expectations(VALUES)
    _, steps = apart.expectations(VALUES)
    smoothed = together.responsibilities(VALUES)["z"]
    torch.testing.assert_close(smoothed, torch.stack([steps[f"x_{t}"].flatten() for t in range(len(COUNTS))]))
    torch.testing.assert_close(marginals["x"].mT, smoothed)
    moves = sum(steps[f"z_{t}"].reshape(2, 2) if t % 2 == 0 else steps[f"z_{t}"].reshape(2, 2).mT for t in range(1, 6))
    torch.testing.assert_close(marginals["z"][0], smoothed[0])
    torch.testing.assert_close(marginals["z"][1:], moves)


def test_what_a_program_finds_is_the_same_in_and_out_of_vectorized_calls():
    program = prepare(Chain(), {"x": COUNTS, "ids": [0.0, 0.0, 1.0, 1.0, 1.0, 2.0]})
    for vectorized in (False, True):
        terms, marginals = program.expectations(VALUES, vectorized=vectorized)
        torch.testing.assert_close(terms.total(), program.log_joint(VALUES).total())
        torch.testing.assert_close(marginals["z"].sum(), torch.tensor(6.0).double())
        torch.testing.assert_close(marginals["z"][0].sum(), torch.tensor(3.0).double())
    stacked = {n: torch.stack([v, v.flip(0)]) for n, v in VALUES.items()}
    found = torch.vmap(lambda v: program.responsibilities(v, vectorized=True)["z"])(stacked)
    torch.testing.assert_close(found[0], program.responsibilities(VALUES)["z"])


def test_sequences_below_each_other_are_sequences_apart():
    cut = [2, 1, 3]
    ids = np.repeat([5.0, 1.0, 7.0], cut)
    program = prepare(Chain(), {"x": COUNTS, "ids": ids})
    parts = [prepare(Chain(), one_sequence(part)) for part in np.split(np.array(COUNTS), np.cumsum(cut)[:-1])]
    torch.testing.assert_close(program.log_joint(VALUES).rows, torch.cat([p.log_joint(VALUES).rows for p in parts]))
    counts = [p.expectations(VALUES)[1]["z"] for p in (program, *parts)]
    torch.testing.assert_close(counts[0], sum(counts[1:]))


def test_a_weight_of_two_is_a_sequence_twice():
    data = {"x": COUNTS, "ids": [0.0, 0.0, 1.0, 1.0, 1.0, 2.0]}
    weighted = prepare(Chain(), data, weights=[2.0, 2.0, 1.0, 1.0, 1.0, 0.0])
    twice = prepare(Chain(), {"x": [3, 0, 3, 0, 7, 8, 1], "ids": [0.0, 0.0, 9.0, 9.0, 1.0, 1.0, 1.0]})
    terms, marginals = weighted.expectations(VALUES)
    expected, plain = twice.expectations(VALUES)
    torch.testing.assert_close(terms.total(weighted.data.weights), expected.total())
    torch.testing.assert_close(marginals["z"], plain["z"])
    assert weighted.responsibilities(VALUES)["z"].sum(1).numpy() == pytest.approx(np.ones(5))


def test_weights_of_single_rows_are_refused():
    with pytest.raises(zoo.DataError, match="row 1 and the first row of its sequence have different weights"):
        prepare(Chain(), one_sequence(COUNTS), weights=[1.0, 2.0, 1.0, 1.0, 1.0, 1.0])


class Mixed(zoo.Model):
    """Two chains at once, and a component within the first: x is Normal about the sum of what they say."""

    x = Real("time")

    def forward(self, x):
        with pyro.plate("time", len(x)):
            a = pyro.sample("a", MarkovChain(START, MOVES))
            b = pyro.sample("b", MarkovChain(torch.tensor([0.4, 0.6]), torch.tensor([[0.7, 0.3], [0.1, 0.9]])))
            w = pyro.sample("w", dist.Categorical(torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])[a]))
            pyro.sample("x", dist.Normal(a + 2.0 * b - 3.0 * w, 1.0), obs=x)


@pytest.mark.slow
def test_several_chains_are_a_chain_over_the_combinations_of_their_states():
    x = [0.3, -2.0, 1.5]
    program = prepare(Mixed(), x)
    a = MarkovChain(START.double(), MOVES.double()).expand([3])
    b = MarkovChain(torch.tensor([0.4, 0.6]).double(), torch.tensor([[0.7, 0.3], [0.1, 0.9]]).double()).expand([3])
    given = np.log([[0.5, 0.5], [0.2, 0.8], [0.9, 0.1]])
    total, share = [], {n: np.zeros((3, k)) for n, k in (("a", 3), ("b", 2), ("w", 2))}
    for p, q, w in itertools.product(*(list(itertools.product(range(k), repeat=3)) for k in (3, 2, 2))):
        value = float(a.log_prob(torch.tensor(p)).sum() + b.log_prob(torch.tensor(q)).sum())
        value += given[list(p), list(w)].sum()
        value += stats.norm(np.array(p) + 2.0 * np.array(q) - 3.0 * np.array(w)).logpdf(x).sum()
        total.append(value)
        for name, path in (("a", p), ("b", q), ("w", w)):
            share[name][range(3), path] += np.exp(value)
    assert float(program.log_joint({}).total()) == pytest.approx(logsumexp(total))
    found = program.responsibilities({})
    for name, value in share.items():
        np.testing.assert_allclose(found[name], value / np.exp(logsumexp(total)), rtol=1e-5)
    hard, _ = program.hard_marginals(program.log_probs({}))
    assert float(hard.total()) == pytest.approx(max(total))


@zoo.model(x=Real("time", "item"))
def several_items(x):
    """Several columns in a plate of their own inside that of time."""
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", MarkovChain(START[:2] / START[:2].sum(), torch.tensor([[0.8, 0.2], [0.3, 0.7]])))
        with pyro.plate("item", x.shape[1]):
            pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x.T)


def test_what_a_chain_explains_may_have_plates_of_its_own():
    x = np.array([[0.1, 0.4], [1.2, 0.7], [0.9, -0.3], [2.0, 1.0]])
    program = prepare(several_items(), x)
    table = np.vstack([START[:2] / START[:2].sum(), [[0.8, 0.2], [0.3, 0.7]]])
    evidence = np.stack([stats.norm(k).logpdf(x).sum(1) for k in (0, 1)])
    rows = recursion(torch.as_tensor(np.log(table)), torch.as_tensor(evidence), [True, False, False, False])
    np.testing.assert_allclose(program.log_joint({}).rows, rows, rtol=1e-6)


@pytest.mark.slow
def test_states_may_be_observed():
    @zoo.model(z=zoo.Category("time", levels=3))
    def visible(z):
        move = pyro.param("move", torch.full((3, 3), 1 / 3), constraint=constraints.simplex)
        with pyro.plate("time", len(z)):
            pyro.sample("z", MarkovChain(torch.full((3,), 1 / 3), move), obs=z)

    path = [0, 0, 1, 2, 2, 2, 1, 0, 0]
    found = fit(visible(), path, method=MAP(steps=3000), seed=0, device="cpu")
    moves = np.zeros((3, 3))
    np.add.at(moves, (path[:-1], path[1:]), 1)
    np.testing.assert_allclose(found.points["move"], moves / moves.sum(1, keepdims=True), atol=0.02)


def refused(body, **fields):
    def forward(self, **data):
        return body(**data)

    made = type("Refused", (zoo.Model,), {**(fields or {"x": Real("time")}), "forward": forward})
    return made()


def outside(x):
    z = pyro.sample("z", MarkovChain(START, MOVES))
    with pyro.plate("time", len(x)):
        pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x)


def in_another_plate(x):
    with pyro.plate("time", len(x)), pyro.plate("other", 2):
        z = pyro.sample("z", MarkovChain(START, MOVES))
        pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x.expand(2, -1))


def masked(x):
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", MarkovChain(START, MOVES).mask(x > 0))
        pyro.sample("x", dist.Normal(z.to(x), 1.0), obs=x)


def with_a_switch(x):
    on = pyro.sample("on", dist.Bernoulli(0.5))
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", MarkovChain(START, MOVES))
        pyro.sample("x", dist.Normal(z * on, 1.0), obs=x)


def begun_apart(x):
    with pyro.plate("time", len(x)):
        a = pyro.sample("a", MarkovChain(START, MOVES))
        b = pyro.sample("b", MarkovChain(START, MOVES, start=torch.tensor([1, 0, 1, 0])))
        pyro.sample("x", dist.Normal((a + b).to(x), 1.0), obs=x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (outside, r"has to be in the plate 'time' and no other \(its plates: none\)"),
        (in_another_plate, r"its plates: \['time', 'other'\]"),
        (masked, "cannot be masked, scaled or made part of an event"),
        (with_a_switch, "'on' is discrete and outside the plate of a MarkovChain"),
        (begun_apart, "must begin at the same rows"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_chains_that_cannot_be_summed_out_are_refused(body, message):
    with pytest.raises(zoo.ModelError, match=message):
        prepare(refused(body), [0.1, 2.0, 0.5, 1.0]).initial()


# -- the model of the zoo ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1])
def test_log_likelihoods_of_the_example_of_posteriordb(which, reference, references):
    case = reference("small_exact.json")["hmm_example_loglik"][which]
    x = reference("posteriordb/hmm_example.json")["y"]
    program = prepare(zoo.HiddenMarkov(components=2, covariance="spherical"), x)
    values = {
        "initial": torch.full((2,), 0.5),
        "transition": torch.tensor(case["A"]),
        "means": torch.tensor(case["mu"])[:, None],
        "covariances": torch.full((2,), float(case["sigma"]) ** 2),
    }
    found = program.log_joint({n: v.double() for n, v in values.items()}).total()
    # There the first state has no probability of its own, which is a factor of 2 to a uniform one.
    assert float(found) + np.log(2) == pytest.approx(case["loglik"], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "value", "rates"),
    [(2, 342.3183, [15.472, 26.125]), (3, 329.4603, [13.146, 19.721, 29.714])],
)
def test_earthquakes_have_the_published_likelihood(states, value, rates, reference):
    """Zucchini, MacDonald and Langrock (2016), table 3.1 and section 3.3: stationary Poisson chains."""
    model = zoo.HiddenMarkov(components=states, emission="poisson", stationary=True)
    found = fit(model, reference("data/earthquakes.json")["counts"], method=EM(restarts=3), seed=0, device="cpu")
    assert found.converged
    assert -found.objective.value == pytest.approx(value, abs=2e-4)
    assert sorted(found.points["rates"].flatten().tolist()) == pytest.approx(rates, abs=5e-3)


HIDDEN = ZOO_CASES["HiddenMarkov"]
hidden = pytest.mark.parametrize("case", range(len(HIDDEN)))


def anywhere(program, seed=0):
    """Random values of the parameters, inside their supports."""
    with torch.random.fork_rng(), model_context(program.dtype, program.device):
        reseed(seed)
        return {s.name: made_up(s.support, s.shape, s.name) for s in program.parameters}


def told(model, v, x):
    """Log density of each row in each state as the card has it, (states, rows)."""
    x = np.asarray(x, float).reshape(len(x), -1)
    states, d = model.components, x.shape[1]
    if model.emission == "poisson":
        return np.stack([stats.poisson(v["rates"][k]).logpmf(x).sum(1) for k in range(states)])
    if model.emission == "categorical":
        return np.stack([np.log(v["probs"][k, range(d), x.astype(int)]).sum(1) for k in range(states)])
    spread = {
        "full": lambda c, k: c[k],
        "tied": lambda c, k: c,
        "diag": lambda c, k: np.diag(c[k]),
        "spherical": lambda c, k: c[k] * np.eye(d),
    }[model.covariance]
    laws = [stats.multivariate_normal(v["means"][k], spread(v["covariances"], k)) for k in range(states)]
    return np.stack([law.logpdf(x) for law in laws])


@hidden
@pytest.mark.parametrize("seed", range(2))
def test_the_log_joint_of_a_hidden_markov_model_is_that_of_its_story(case, seed):
    model, data = HIDDEN[case]
    program = prepare(model, data)
    values = anywhere(program, seed)
    v = {n: t.numpy() for n, t in values.items()}
    initial = v["initial"] if "initial" in v else stationary(values["transition"]).numpy()
    table = torch.as_tensor(np.log(np.vstack([initial, v["transition"]])))
    first = np.zeros(len(data), bool)
    first[np.cumsum([0, *(model.lengths or ())])[: len(model.lengths or (1,))]] = True
    every, value = paths(table, torch.as_tensor(told(model, v, data)), first)
    assert float(program.log_joint(values).total()) == pytest.approx(float(value.logsumexp(0)))
    found = program.responsibilities(values)["z"]
    for k in range(model.components):
        np.testing.assert_allclose(found[:, k], (value.softmax(0)[:, None] * (every == k)).sum(0), atol=1e-12)


@pytest.mark.slow
@hidden
def test_expectation_maximization_climbs_to_where_its_gradient_vanishes(case):
    model, data = HIDDEN[case]
    if model.emission == "normal":  # few rows have no maximum: a state closes in on one
        data = np.random.default_rng(1).normal(size=(60, 2)) + np.repeat([[0.0, 0.0], [3.0, 2.0], [0.0, 0.0]], 20, 0)
    method = EM(tolerance=1e-10, max_steps=5000)
    found = fit(model, data, method=method, seed=0, device="cpu", progress=False)
    steps = found.trace["value"].to_numpy()
    assert (np.diff(steps) >= -1e-9 * np.abs(steps[1:])).all()
    view = found.program.parameter_view
    u = view.unconstrain_globals(found.points).clone().requires_grad_()
    gradient = torch.autograd.grad(found.program.log_joint(view.constrain_globals(u)[0]).total(), u)[0]
    assert float(gradient.abs().max()) < 1e-3
    assert found.objective.value == pytest.approx(float(found.log_prob().sum()), rel=1e-10)


def test_what_counts_the_moves_is_the_closed_form():
    program = prepare(*HIDDEN[0])
    text = zoo.explain(*HIDDEN[0])
    assert "MarkovChain(initial=initial, transition=transition)" in text
    assert "closed form: transition, initial, means, covariances)" in text
    assert "gradient: transition" in zoo.explain(zoo.HiddenMarkov(stationary=True), HIDDEN[0][1])
    values = program.initial()
    _, marginals = program.expectations(values)
    climbed = fit(*HIDDEN[0], method=EM(max_steps=1), seed=0, device="cpu").program
    assert climbed.chained
    counts = marginals["z"]
    assert counts.shape == (3, 2)
    torch.testing.assert_close(counts.sum(), torch.tensor(float(len(HIDDEN[0][1]))).double())


def regimes(rows=400, seed=0):
    """Rows about 0 or 4 that stay where they are nine times in ten, with the states they came from."""
    rng = np.random.default_rng(seed)
    z = np.cumsum(rng.random(rows) < 0.1) % 2
    return 4.0 * z[:, None] + rng.normal(size=(rows, 1)), z


def test_states_are_found_and_rows_assigned():
    x, z = regimes()
    found = fit(zoo.HiddenMarkov(), x, method="em", seed=0, device="cpu")
    assert found.converged
    states = found.assign().to_numpy().argmax(1)
    assert max((states == z).mean(), (states != z).mean()) > 0.98
    stays = sorted((z[1:][z[:-1] == k] == k).mean() for k in (0, 1))
    assert sorted(found.points["transition"].diagonal().tolist()) == pytest.approx(stays, abs=0.02)
    alone = found.assign(x[:50]).to_numpy()  # a sequence of its own, of which the rest is not known
    assert (states[:50] == alone.argmax(1)).mean() > 0.9
    pointwise = found.log_prob(x[:50])
    np.testing.assert_allclose(pointwise, found.log_prob()[:50], rtol=1e-9)


@pytest.mark.slow
def test_gradient_ascent_ends_where_expectation_maximization_does():
    x, _ = regimes(150)
    best = fit(zoo.HiddenMarkov(covariance="diag"), x, method="em", seed=0, device="cpu").objective.value
    found = fit(zoo.HiddenMarkov(covariance="diag"), x, method="map", seed=0, device="cpu", progress=False)
    assert found.objective.value == pytest.approx(best, abs=0.05)
    assert found.objective.value < best + 1e-6


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_a_row_with_missing_cells_counts_by_what_it_has(covariance):
    x = np.array([[0.1, 1.0], [np.nan, 2.0], [np.nan, np.nan], [3.0, np.nan], [2.5, 0.4], [0.3, 1.2]])
    program = prepare(zoo.HiddenMarkov(covariance=covariance), x)
    values = program.initial()
    evidence = np.zeros((2, 6))
    for (k, t), seen in zip(np.ndindex(2, 6), np.tile(~np.isnan(x), (2, 1)), strict=True):
        spread = values["covariances"][k].numpy()
        spread = np.diag(spread) if covariance == "diag" else spread
        if seen.any():
            law = stats.multivariate_normal(values["means"][k].numpy()[seen], spread[seen][:, seen])
            evidence[k, t] = law.logpdf(x[t, seen])
    table = torch.cat([values["initial"][None], values["transition"]]).log()
    expected = recursion(table, torch.as_tensor(evidence), np.arange(6) == 0)
    np.testing.assert_allclose(program.log_joint(values).rows, expected, atol=1e-10)


def test_lengths_are_sequences():
    x, _ = regimes(60)
    model = zoo.HiddenMarkov(lengths=(20, 25, 15))
    program = prepare(model, x)
    values = program.initial()
    parts = [prepare(zoo.HiddenMarkov(), part) for part in np.split(x, [20, 45])]
    torch.testing.assert_close(
        program.log_joint(values).rows, torch.cat([p.log_joint(values).rows for p in parts]), rtol=1e-9, atol=1e-9
    )
    weighted = fit(model, x, method="em", seed=0, device="cpu", weights=np.repeat([2.0, 1.0, 1.0], [20, 25, 15]))
    twice = zoo.HiddenMarkov(lengths=(20, 20, 25, 15))
    repeated = fit(twice, np.vstack([x[:20], x]), method="em", seed=0, device="cpu")
    assert weighted.objective.value == pytest.approx(repeated.objective.value, rel=1e-6)


def test_hard_em_counts_the_most_probable_path():
    x, _ = regimes()
    found = fit(zoo.HiddenMarkov(covariance="spherical"), x, method=EM(hard=True), seed=0, device="cpu")
    path = found.program.hard_marginals(found.program.log_probs(found.points))[1]["x"].argmax(0)
    moves = np.zeros((2, 2))
    np.add.at(moves, (path[:-1], path[1:]), 1)
    np.testing.assert_allclose(found.points["transition"], moves / moves.sum(1, keepdims=True), rtol=1e-6)
    for k in (0, 1):
        np.testing.assert_allclose(found.points["means"][k], x[path.numpy() == k].mean(0), rtol=1e-6)


def test_a_saved_fit_gives_the_same_answers(tmp_path):
    x, _ = regimes(80)
    found = fit(zoo.HiddenMarkov(lengths=(50, 30)), x, method="em", seed=0, device="cpu")
    loaded = Fit.load(found.save(tmp_path / "fit"))
    assert loaded.log_prob().equals(found.log_prob())
    assert loaded.assign(x[:9]).equals(found.assign(x[:9]))
    assert loaded.model.lengths == (50, 30)


BAD = {
    "lengths": (zoo.HiddenMarkov(lengths=(2, 3)), np.arange(6.0), "lengths add up to 5, but there are 6 rows"),
    "counts": (zoo.HiddenMarkov(emission="poisson"), [1.0, 2.5, 3.0], r"expects counts 0, 1, 2, \.\.\., found 2.5"),
    "codes": (zoo.HiddenMarkov(emission="categorical"), [0.0, -1.0, 3.0], "expects category codes .*, found -1"),
    "large codes": (zoo.HiddenMarkov(emission="categorical"), [0.0, 5e6], r"codes below 1000, found 5e\+06"),
    "no counts": (zoo.HiddenMarkov(emission="poisson"), [[0, 1], [0, 2], [0, 0]], "column 0: all counts are 0"),
    "states": (zoo.HiddenMarkov(4), np.arange(3.0), r"more components \(4\)"),
    "states of counts": (zoo.HiddenMarkov(4, emission="poisson"), [1, 2, 2, 1], r"components \(4\)"),
}


@pytest.mark.parametrize("what", BAD)
def test_data_that_the_emission_cannot_explain_are_refused(what):
    model, data, message = BAD[what]
    with pytest.raises(zoo.DataError, match=message):
        prepare(model, data)


# -- methods over long chains --------------------------------------------------------------------------------------


class Flat(zoo.Model):
    """A chain whose model proposes no start, so that one has to be found."""

    x = Count("time")

    def forward(self, x):
        first, move, rate = parameters(2)
        with pyro.plate("time", len(x)):
            z = pyro.sample("z", MarkovChain(first, move))
            pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def counts_in_regimes(rows, seed=0):
    rng = np.random.default_rng(seed)
    return rng.poisson(np.where(np.cumsum(rng.random(rows) < 0.1) % 2, 12.0, 2.0))


@pytest.mark.slow
def test_a_chain_without_a_proposed_start_starts_from_a_clustering():
    x = counts_in_regimes(300)
    found = fit(Flat(), x, method=EM(restarts=2), seed=0, device="cpu", progress=False)
    assert sorted(found.points["rate"].tolist()) == pytest.approx([2.0, 12.0], abs=0.8)
    best = fit(zoo.HiddenMarkov(emission="poisson"), x, method="em", seed=0, device="cpu").objective.value
    assert found.objective.value == pytest.approx(best, abs=1e-4)


def test_generated_rows_are_a_sequence():
    """Rows that follow each other are as often of one state as the chain stays: within five standard errors."""
    found = fit(zoo.HiddenMarkov(), regimes()[0], method="em", seed=0, device="cpu")
    drawn = found.generate(20_000, seed=1)
    z = found.assign(drawn).to_numpy().argmax(1)
    move = found.points["transition"].numpy()
    for k in (0, 1):
        stays = (z[1:][z[:-1] == k] == k).mean()
        size = (z[:-1] == k).sum()
        # A row in thirty is nearer to the other state, which smoothing makes up for but for about 0.005.
        assert abs(stays - move[k, k]) < 5 * np.sqrt(move[k, k] * (1 - move[k, k]) / size) + 0.01


@pytest.mark.slow
def test_no_method_takes_a_chain_apart():
    x = counts_in_regimes(6000)
    data = {"x": x, "ids": np.zeros(6000)}
    for method in (MAP(batch_size=100), SVI(batch_size=100), EM(batch_size=100)):
        with pytest.raises(
            zoo.MethodError, match=r"batch_size takes rows apart, and site .* is a chain along the rows; leave it out"
        ):
            fit(Chain(), data, method=method, device="cpu")
    climbed = fit(Chain(), data, method=MAP(steps=100), seed=0, device="cpu", progress=False)
    assert climbed.objective.value == pytest.approx(float(climbed.log_prob().sum()), rel=1e-9)


@pytest.mark.slow
def test_questions_about_many_rows_are_answered_about_all_at_once(monkeypatch):
    monkeypatch.setattr("inference.posterior.rows.CELLS", 100)
    x = counts_in_regimes(3000)
    found = fit(Flat(), x, method="em", seed=0, device="cpu", progress=False)
    assert float(found.log_prob().sum()) == pytest.approx(found.objective.value, rel=1e-10)
    whole = found.program.responsibilities(found.points)["z"]
    np.testing.assert_allclose(found.assign(), whole, rtol=1e-10)


# -- with priors -------------------------------------------------------------------------------------------------


@zoo.model(x=Count("time"))
def believed(x, *, a: float = 2.0, b: float = 0.5):
    """Counts whose rate follows a chain, all of it unknown with conjugate priors."""
    first = pyro.sample("first", dist.Dirichlet(torch.tensor([1.5, 2.5])))
    with pyro.plate("state", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.tensor([2.0, 1.25])))
        rate = pyro.sample("rate", dist.Gamma(torch.tensor([2.0, 8.0]), b))
    with pyro.plate("time", len(x)):
        z = pyro.sample("z", MarkovChain(first, move))
        pyro.sample("x", dist.Poisson(rate[z]), obs=x)


def evidence_over_paths(x, b=0.5):
    """log p(x): for each path, the evidence of its counts in closed form."""

    def dirichlet(prior, counts):
        return (
            gammaln(sum(prior)) - gammaln(sum(prior) + counts.sum()) + (gammaln(prior + counts) - gammaln(prior)).sum()
        )

    total, x = [], np.asarray(x)
    for path in itertools.product(range(2), repeat=len(x)):
        path = np.array(path)
        moves = np.zeros((2, 2))
        np.add.at(moves, (path[:-1], path[1:]), 1)
        value = dirichlet(np.array([1.5, 2.5]), np.eye(2)[path[0]])
        value += sum(dirichlet(np.array([2.0, 1.25]), row) for row in moves)
        for k, a in enumerate((2.0, 8.0)):
            mine = x[path == k]
            value += a * np.log(b) - gammaln(a) + gammaln(a + mine.sum()) - (a + mine.sum()) * np.log(b + len(mine))
        total.append(value - gammaln(x + 1).sum())
    return logsumexp(total)


@pytest.mark.slow
def test_bounds_are_below_the_evidence_over_all_paths():
    exact = evidence_over_paths(COUNTS)
    found = fit(believed(), COUNTS, method="cavi", seed=0, device="cpu", progress=False)
    steps = found.trace["value"].to_numpy()
    assert (np.diff(steps) >= -1e-9 * np.abs(steps[1:])).all()
    assert exact - 2.0 < found.objective.value < exact
    climbed = fit(believed(), COUNTS, method=SVI(steps=1500), seed=0, device="cpu", progress=False)
    assert climbed.objective.value < exact + 4 * climbed.objective.error
    assert climbed.objective.value > exact - 2.0


@pytest.mark.slow
def test_the_mode_under_priors_is_where_the_gradient_vanishes():
    found = fit(believed(), COUNTS, method=EM(tolerance=1e-11), seed=0, device="cpu", progress=False)
    assert "closed form: first, move, rate" in zoo.explain(believed(), COUNTS)
    values = {n: v[0].clone().requires_grad_() for n, v in found.approximation.draw(found.program, 1)[0].items()}
    gradients = torch.autograd.grad(found.program.log_joint(values).total(), list(values.values()))
    for name, gradient in zip(values, gradients, strict=True):
        along = gradient if name == "rate" else gradient - gradient.mean(-1, keepdim=True)
        assert float(along.abs().max()) < 1e-4, name
