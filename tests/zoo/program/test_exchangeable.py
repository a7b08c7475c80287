"""Exchangeable states are found from what densities do, and only where labels mean nothing."""

from __future__ import annotations

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import constraints

import zoo
from tests.cases.models import BernoulliMixture, PoissonMixture
from zoo import Category, Count, Real
from zoo.program.exchangeable import exchangeable
from zoo.program.prepare import prepare
from zoo.program.program import Program
from zoo.program.solve import Relation, solve
from zoo.replay.evaluate import model_context
from zoo.structure.discover import made_up

ROWS = torch.tensor([[0.1, 2.0], [1.3, -0.4], [-2.0, 0.7], [0.4, 0.9], [3.1, -1.0]], dtype=torch.float64)
LINE = [0.3, -1.2, 4.0, 3.6, 0.1, 5.5, -0.7]


@zoo.model(y=Real("n"))
def mixture(y, *, components: int = 2, prior: str = "same"):
    """A mixture whose prior does or does not tell components apart."""
    k = components
    concentration = torch.ones(k) if prior != "dirichlet" else torch.arange(1.0, k + 1)
    center = torch.arange(1.0, k + 1) if prior == "centers" else torch.zeros(k)
    if prior == "two of three":
        center = torch.tensor([0.0, 0.0, 1.0])
    weights = pyro.sample("share", dist.Dirichlet(concentration))
    spread = pyro.sample("spread", dist.Gamma(2.0, 1.0))
    with pyro.plate("group", k):
        level = pyro.sample("level", dist.Normal(center, 3.0))
    if prior == "ordered":
        level = pyro.deterministic("sorted", level.exp().cumsum(-1))
    pyro.deterministic("log_share", weights.log())
    with pyro.plate("n", len(y)):
        which = pyro.sample("which", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(level[which], spread), obs=y)


@zoo.model(y=Real("n"), u=Real("n"))
def two_mixtures(y, u, *, shared: bool = False):
    """Two independent mixtures with as many components, or two columns with one state per row."""
    with pyro.plate("group", 2):
        a = pyro.sample("a", dist.Normal(0.0, 3.0))
        b = pyro.sample("b", dist.Normal(0.0, 3.0))
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2)))
    q = pyro.sample("q", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("n", len(y)):
        i = pyro.sample("i", dist.Categorical(p))
        j = i if shared else pyro.sample("j", dist.Categorical(q))
        pyro.sample("y", dist.Normal(a[i], 1.0), obs=y)
        pyro.sample("u", dist.Normal(b[j], 1.0), obs=u)


@zoo.model(y=Real("n"))
def coin_mixture(y, *, a: float = 1.0):
    """Two components chosen by a Bernoulli."""
    p = pyro.sample("p", dist.Beta(a, 1.0))
    m = pyro.sample("m", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Bernoulli(p))
        pyro.sample("y", dist.Normal(m[z.long()], 1.0), obs=y)


@zoo.model(y=Real("n"))
def one_share(y, *, a: float = 1.0, b: float = 1.0, written: str = "beta"):
    """Two components of which one has a share by name, and the other the rest."""
    if written == "logit":
        v = pyro.sample("v", dist.Normal(a - b, 1.5))
        share = torch.stack([v, torch.zeros_like(v)], -1).softmax(-1)
    else:
        edges = {"beta": dist.Beta(a, b), "uniform": dist.Uniform(0.0, 1.0), "wider": dist.Uniform(-0.1, 1.1)}
        v = pyro.sample("v", edges[written])
        share = torch.stack([v, 1 - v], -1) if written != "wider" else torch.stack([v + 0.1, 1.1 - v], -1) / 1.2
        pyro.deterministic("rest", 2 * (1 - v))
        pyro.deterministic("square", v**2)
    pyro.deterministic("share", share)
    with pyro.plate("group", 2):
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
    with pyro.plate("n", len(y)):
        which = pyro.sample("which", dist.Categorical(share))
        pyro.sample("y", dist.Normal(level[which], 1.0), obs=y)


@zoo.model(y=Real("sheet", "n"))
def share_by_sheet(y):
    """Sheets of rows, each with a share of its own."""
    with pyro.plate("sheets", len(y)):
        v = pyro.sample("v", dist.Beta(2.0, 2.0))
    level = pyro.sample("level", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("sheet", len(y), dim=-2), pyro.plate("n", y.shape[1], dim=-1):
        which = pyro.sample("which", dist.Categorical(torch.stack([v, 1 - v], -1)[:, None]))
        pyro.sample("y", dist.Normal(level[which], 1.0), obs=y)


@zoo.model(y=Real("n"), label=Category("n"), known=Real("n"))
def some_labels(y, label, known):
    """Labels of some rows are known."""
    p = pyro.param("p", torch.ones(3) / 3, constraint=constraints.simplex)
    m = pyro.param("m", torch.zeros(3))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(p))
        pyro.factor("seen", torch.where((known > 0) & (label != z), -1000.0, 0.0))
        pyro.sample("y", dist.Normal(m[z], 1.0), obs=y)


@zoo.model(words=Count("document", "place"))
def topics(words):
    """Latent Dirichlet allocation: shares of topics are local."""
    topic = pyro.param("topic", torch.full((2, 3), 1 / 3), constraint=constraints.simplex)
    with pyro.plate("document", len(words), dim=-2):
        shares = pyro.sample("shares", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("place", words.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(shares))
            pyro.sample("words", dist.Categorical(topic[z]), obs=words)


@zoo.model(y=Real("n"))
def by_hand(y):
    """A hidden Markov model in the words of pyro.markov would be one site per row; here two rows."""
    start = pyro.sample("start", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("from", 2):
        move = pyro.sample("move", dist.Dirichlet(torch.ones(2)))
        level = pyro.sample("level", dist.Normal(0.0, 3.0))
    first = pyro.sample("first", dist.Categorical(start))
    second = pyro.sample("second", dist.Categorical(move[first]))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(level[first] + level[second], 1.0), obs=y)


CASES = [
    (zoo.BayesianGMM(components=2), ROWS, [{"weights": (-1,), "precisions": (-3,), "means": (-2,)}]),
    (zoo.BayesianGMM(components=3, covariance="diag"), ROWS, [{"weights": (-1,), "precisions": (-2,), "means": (-2,)}]),
    (zoo.GMM(components=2, covariance="tied"), ROWS, [{"weights": (-1,), "means": (-2,)}]),
    (zoo.LatentClass(components=2), [[0, 1], [1, 1], [0, 0], [1, 0]], [{"weights": (-1,), "probs": (-3,)}]),
    (
        zoo.HiddenMarkov(components=2),
        ROWS,
        [{"transition": (-2, -1), "initial": (-1,), "means": (-2,), "covariances": (-3,)}],
    ),
    (
        zoo.MixtureOfRegressions(components=3),
        {"x": ROWS[:, :1].repeat(2, 1), "y": ROWS.flatten()},
        [{"weights": (-1,), "coefficients": (-2,), "intercepts": (-1,), "scales": (-1,)}],
    ),
    (BernoulliMixture(components=3), [[0, 1, 1], [1, 1, 0], [0, 0, 0], [1, 0, 1]], [{"weights": (-1,), "p": (-2,)}]),
    (PoissonMixture(components=4), {"count": [0, 3, 1, 9, 4]}, [{"weights": (-1,), "rate": (-1,)}]),
    (mixture(components=3), {"y": LINE}, [{"share": (-1,), "level": (-1,), "log_share": (-1,)}]),
    (two_mixtures(), {"y": LINE, "u": LINE[::-1]}, [{"a": (-1,), "p": (-1,)}, {"b": (-1,), "q": (-1,)}]),
    (two_mixtures(shared=True), {"y": LINE, "u": LINE[::-1]}, [{"a": (-1,), "b": (-1,), "p": (-1,)}]),
    (coin_mixture(), {"y": LINE}, [{"m": (-1,)}]),
    *(
        (one_share(a=c, b=c, written=w), {"y": LINE}, [{"share": (-1,), "level": (-1,)}])
        for c, w in [(1.0, "beta"), (5.0, "beta"), (1.0, "uniform"), (1.0, "wider"), (1.0, "logit")]
    ),
    (share_by_sheet(), {"y": [LINE[:3], LINE[3:6]]}, [{"level": (-1,)}]),
    (topics(), {"words": [[0, 1, 2], [2, 2, 1], [0, 0, 1], [1, 2, 0]]}, [{"topic": (-2,), "shares": (-1,)}]),
    (by_hand(), {"y": LINE}, [{"start": (-1,), "move": (-2, -1), "level": (-1,)}]),
]


@pytest.mark.parametrize(
    ("model", "data", "axes"), CASES, ids=lambda c: type(c).__name__ if isinstance(c, zoo.Model) else ""
)
def test_groups_are_found_and_leave_the_log_joint_as_it_is(model, data, axes):
    program = prepare(model, data)
    before = torch.random.get_rng_state()
    groups = exchangeable(program)
    assert torch.equal(before, torch.random.get_rng_state())
    assert [dict(g.axes) for g in groups] == axes
    values = _values(program, 7)
    total = program.log_joint(values).total()
    for group in groups:
        assert group.states == tuple(range(group.count))
        assert group.log_modes == pytest.approx(math.log(math.factorial(group.count)))
        for order in itertools.permutations(range(group.count)):
            moved = group.permute(values, torch.tensor(order))
            terms = program.log_joint(moved)
            assert torch.allclose(terms.total(), total, rtol=1e-12)
            if order != tuple(range(group.count)):  # while one thing moved alone changes it
                some = next(n for n in values if not torch.equal(moved[n], values[n]))
                alone = program.log_joint({**values, some: moved[some]}).total()
                assert not torch.allclose(alone, total, rtol=1e-12)
            for along in group.axes.values():
                assert along
            for name in (*group.axes, *group.reflected):
                if name in program.deterministic(values):
                    derived = program.deterministic(moved)[name]
                    kept = group.permute(program.deterministic(values), torch.tensor(order))[name]
                    assert torch.allclose(derived, kept)


@pytest.mark.parametrize("prior", ["dirichlet", "centers", "ordered"])
def test_a_prior_that_tells_components_apart_leaves_no_group(prior):
    assert exchangeable(prepare(mixture(components=3, prior=prior), {"y": LINE})) == ()


def test_the_exchangeable_subgroup_is_found():
    (group,) = exchangeable(prepare(mixture(components=3, prior="two of three"), {"y": LINE}))
    assert group.states == (0, 1)
    assert str(group) == "2 states (0, 1) of which, which index share, level, log_share"


def test_an_asymmetric_bernoulli_is_not_exchangeable():
    (group,) = exchangeable(prepare(coin_mixture(), {"y": LINE}))
    assert dict(group.reflected) == {"p": 1.0}
    assert exchangeable(prepare(coin_mixture(a=2.0), {"y": LINE})) == ()


def test_one_share_and_the_rest_of_it_change_places():
    (group,) = exchangeable(prepare(one_share(), {"y": LINE}))
    assert dict(group.reflected) == {"v": 1.0, "rest": 2.0}
    assert str(group) == "2 states of which, which index share, level, v, rest"
    (group,) = exchangeable(prepare(one_share(written="logit"), {"y": LINE}))
    assert dict(group.reflected) == {"v": 0.0}
    (group,) = exchangeable(prepare(share_by_sheet(), {"y": [LINE[:3], LINE[3:6]]}))
    assert dict(group.reflected) == {"v": 1.0}


@pytest.mark.parametrize(("a", "b"), [(2.0, 5.0), (1.0, 1.001)])
@pytest.mark.parametrize("written", ["beta", "logit"])
def test_a_share_whose_prior_leans_is_no_label(a, b, written):
    assert exchangeable(prepare(one_share(a=a, b=b, written=written), {"y": LINE})) == ()


def test_known_labels_of_rows_that_were_not_looked_at_count():
    """One labelled row among 300: the rows compared first do not show it."""
    y = torch.linspace(-3, 3, 300).tolist()
    label, known = [0] * 300, [0.0] * 300
    data = {"y": y, "label": [*label[:-1], 2], "known": known}
    (free,) = exchangeable(prepare(some_labels(), data))
    assert free.states == (0, 1, 2)
    known[1] = 1.0
    program = prepare(some_labels(), data)
    assert 1 not in program.structure.example_rows
    (rest,) = exchangeable(program)
    assert rest.states == (1, 2)


def test_draws_are_permuted_one_by_one():
    program = prepare(zoo.BayesianGMM(components=3), ROWS)
    (group,) = exchangeable(program)
    draws = [{**_values(program, s), "z": torch.tensor([0, 1, 2, 1, 0])} for s in range(4)]
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 0, 2], [1, 2, 0]])
    together = group.permute({n: torch.stack([d[n] for d in draws]) for n in draws[0]}, orders)
    for i, (draw, order) in enumerate(zip(draws, orders, strict=True)):
        for name in ("weights", "means", "precisions"):
            assert torch.equal(together[name][i], draw[name][order])
        # A row keeps the component it came from, whatever that is called.
        assert torch.equal(together["means"][i][together["z"][i]], draw["means"][draw["z"]])


def test_solutions_are_found_by_backtracking():
    """x or y but not both, y with w, w never: x alone is left; and nothing if x is impossible too."""
    relations = [Relation(("z", "x", "y"), [set(), {"z", "x"}, {"z", "y"}]), Relation(("y", "w"), [set(), {"y", "w"}])]
    never = Relation(("w",), [set()])
    assert solve([*relations, never], "z") == {"z", "x"}
    assert solve([*relations, never, Relation(("x",), [set()])], "z") is None


def _values(program: Program, seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]), model_context(program.dtype, program.device):
        torch.manual_seed(seed)
        sites = (*program.latents, *program.parameters)
        return {s.name: made_up(s.support, program.site_shape(s), s.name) for s in sites}
