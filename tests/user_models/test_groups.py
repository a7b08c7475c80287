"""Groups and their labels: order and meaning from fit to prediction, fewer groups in new rows, and new ones."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import EM, MAP, SVI, Fit, Laplace, fit
from tests.cases.spread import spread
from zoo.errors import DataError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
WHICH = np.concatenate([np.arange(4), RNG.integers(0, 4, 36)])
NAMES = np.array(["delta", "alpha", "gamma", "beta"])
Y = np.array([2.0, -1.0, 0.5, 4.0])[WHICH] + RNG.normal(0, 0.5, 40)


class Intercepts(zoo.Model):
    """A mean for each group, from a Normal over groups."""

    g = zoo.Category("row")
    y = zoo.Real("row")

    def forward(self, g, y):
        m = pyro.sample("m", dist.Normal(0.0, 2.0))
        t = pyro.sample("t", dist.HalfNormal(2.0))
        with pyro.plate("group", int(g.max()) + 1):
            a = pyro.sample("a", dist.Normal(m, t))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(a[g], 0.5), obs=y)


@pytest.fixture(scope="module")
def fitted():
    return fit(Intercepts(), {"g": NAMES[WHICH], "y": Y}, method=Laplace(), seed=0)


def draws(result):
    """Draws of m, t and a, in the order of the labels: alpha, beta, delta, gamma."""
    group = result.posterior["posterior"]
    return tuple(group[n].to_numpy()[0] for n in ("m", "t", "a"))


def test_fewer_groups_have_the_density_that_they_have_among_all(fitted):
    _, _, a = draws(fitted)
    found = fitted.log_prob({"g": ["beta", "gamma"], "y": [3.0, 0.0]})
    expected = [np.log(stats.norm.pdf(v, a[:, k], 0.5).mean()) for v, k in ((3.0, 1), (0.0, 3))]
    assert found.to_numpy() == pytest.approx(expected, abs=1e-9)


def test_a_new_group_is_drawn_from_the_prior_given_the_globals(fitted):
    m, t, a = draws(fitted)
    rows = {"g": ["zeta", "beta"], "y": [1.0, 3.0]}
    found = fitted.log_prob(rows, samples=1000)
    expected = np.log(stats.norm.pdf(1.0, m, np.sqrt(t**2 + 0.25)).mean())
    assert abs(found.iloc[0] - expected) < 5 * found.attrs["mcse"][0]
    assert found.iloc[1] == pytest.approx(np.log(stats.norm.pdf(3.0, a[:, 1], 0.5).mean()), abs=1e-9)
    predicted = fitted.predict({"g": rows["g"]}, draws=900)["posterior_predictive"]["y"].to_numpy()[0]
    sd = np.sqrt((t**2).mean() + 0.25 + m.var())
    assert abs(predicted[:, 0].mean() - m.mean()) < 5 * sd / 30
    assert predicted[:, 0].std() == pytest.approx(sd, rel=0.15)
    assert abs(predicted[:, 1].mean() - a[:, 1].mean()) < 5 * 0.6 / 30


def test_rows_of_one_new_group_share_its_draw(fitted):
    predicted = fitted.predict({"g": ["zeta", "zeta", "eta"]}, draws=900)["posterior_predictive"]["y"].to_numpy()[0]
    m, t, _ = draws(fitted)
    shared = (t**2).mean() + m.var()
    assert np.corrcoef(predicted[:, 0], predicted[:, 1])[0, 1] == pytest.approx(shared / (shared + 0.25), abs=0.1)
    assert np.corrcoef(predicted[:, 0], predicted[:, 2])[0, 1] == pytest.approx(
        m.var() / (shared + 0.25), abs=5 / np.sqrt(900)
    )


def test_a_point_draws_new_groups_too():
    point = fit(Intercepts(), {"g": NAMES[WHICH], "y": Y}, method=MAP(), seed=0)
    values = point.posterior["point_estimate"]
    m, t = float(values["m"]), float(values["t"])
    found = point.log_prob({"g": ["zeta"], "y": [1.0]}, samples=4000)
    assert abs(found.iloc[0] - stats.norm.logpdf(1.0, m, np.sqrt(t**2 + 0.25))) < 5 * found.attrs["mcse"][0]


def test_some_rows_have_the_prior_of_all_groups():
    program = prepare(Intercepts(), {"g": NAMES[WHICH], "y": Y})
    values = {"m": torch.tensor(0.3), "t": torch.tensor(1.2), "a": torch.randn(4)}
    values = {n: v.double() for n, v in values.items()}
    whole, part = program.log_joint(values), program.rebind(program.data.take(torch.tensor([1]))).log_joint(values)
    assert float(part.rest) == pytest.approx(float(whole.rest), abs=1e-12)
    assert float(part.rows[0]) == pytest.approx(float(whole.rows[1]), abs=1e-12)


@pytest.mark.slow
def test_mini_batches_hold_some_groups_only():
    whole = fit(Intercepts(), {"g": NAMES[WHICH], "y": Y}, method=Laplace(), seed=0)
    batches = fit(Intercepts(), {"g": NAMES[WHICH], "y": Y}, method=SVI(batch_size=5, steps=4000), seed=0)
    at, by = (r.posterior["posterior"]["a"].mean(("chain", "draw")).to_numpy() for r in (whole, batches))
    assert by == pytest.approx(at, abs=0.1)


@pytest.mark.slow
def test_saved_labels_come_back(fitted, tmp_path):
    fitted.save(tmp_path)
    loaded = Fit.load(tmp_path, model=Intercepts)
    rows = {"g": ["gamma", "alpha", "zeta"], "y": [0.0, -1.0, 1.0]}
    assert loaded.log_prob(rows).tolist() == fitted.log_prob(rows).tolist()


def no_prior(g, y):
    a = pyro.param("a", torch.zeros(int(g.max()) + 1))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a[g], 0.5), obs=y)


def as_a_number(g, y):
    with pyro.plate("group", int(g.max()) + 1):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a[g] + 0.1 * g, 0.5), obs=y)


def of_all_groups(g, y):
    with pyro.plate("group", int(g.max()) + 1):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(a[g] - a.mean(), 0.5), obs=y)


@spread("story", [no_prior, as_a_number, of_all_groups], part=0)
def test_a_new_group_without_a_prior_of_its_own_is_refused(story):
    model = zoo.model(g=zoo.Category("row"), y=zoo.Real("row"))(story)
    result = fit(model, {"g": NAMES[WHICH], "y": Y}, method=MAP(), seed=0)
    with pytest.raises(DataError, match=r"field 'g': unknown category 'zeta'.*latents in a plate"):
        result.log_prob({"g": ["zeta"], "y": [0.0]})


def test_a_new_outcome_is_refused():
    @zoo.model(kind=zoo.Category("row"))
    def kinds(kind):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("row", len(kind)):
            pyro.sample("kind", dist.Categorical(p), obs=kind)

    result = fit(kinds, {"kind": ["a", "b", "c", "a"]}, method="exact", seed=0)
    with pytest.raises(DataError, match="unknown category 'd'"):
        result.log_prob({"kind": ["d"]})


LABELS = {
    "words": (NAMES[WHICH], ("alpha", "beta", "delta", "gamma")),
    "ordered": (pd.Categorical(NAMES[WHICH], categories=[*NAMES, "unused"], ordered=True), tuple(NAMES)),
    "categories": (pd.Categorical(NAMES[WHICH]), ("alpha", "beta", "delta", "gamma")),
    "categories of ints": (pd.Categorical(np.array([10, 2, 7, 1])[WHICH]), (1, 2, 7, 10)),
    "ints as objects": (pd.Series(np.array([10, 2, 7, 1])[WHICH], dtype=object), (1, 2, 7, 10)),
    "ints as words": (np.array(["10", "2", "7", "1"])[WHICH], ("1", "10", "2", "7")),
    "codes": (np.array([3, 0, 2, 1])[WHICH], (0, 1, 2, 3)),
}


@pytest.mark.slow
@spread(("kind", "table"), list(itertools.product(LABELS, [True, False])), part=1, of=7)
def test_labels_keep_their_order_and_their_meaning(kind, table):
    labels, levels = LABELS[kind]
    data = {"g": labels, "y": Y}
    result = fit(Intercepts(), pd.DataFrame(data) if table else data, method=Laplace(), seed=0)
    assert result.program.data.levels["g"] == levels
    means = result.posterior["posterior"]["a"].mean(("chain", "draw"))
    assert means["g" if "g" in means.dims else means.dims[0]].to_numpy().tolist() == list(levels)
    given = np.asarray(labels)
    true = {label: Y[given == label].mean() for label in levels}
    assert means.to_numpy() == pytest.approx([true[label] for label in levels], abs=0.15)
    some = [levels[2], levels[0]]
    predicted = result.predict({"g": some}, draws=400)["posterior_predictive"]["y"].mean(("chain", "draw")).to_numpy()
    assert predicted == pytest.approx([true[label] for label in some], abs=0.2)


@pytest.mark.slow
def test_new_rows_are_assigned_with_groups_of_their_own():
    @zoo.model(g=zoo.Category("row"), y=zoo.Real("row"))
    def shifted(g, y):
        with pyro.plate("group", int(g.max()) + 1):
            a = pyro.sample("a", dist.Normal(0.0, 0.3))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.4))
            pyro.sample("y", dist.Normal(a[g] + 4.0 * z, 0.5), obs=y)

    z = RNG.random(40) < 0.4
    result = fit(shifted, {"g": NAMES[WHICH], "y": RNG.normal(0, 0.5, 40) + 4.0 * z}, method=EM(), seed=0)
    y = np.array([1.9, 2.1])
    likelihood = [p * stats.norm.pdf(y, m, np.hypot(0.3, 0.5)) for p, m in ((0.6, 0.0), (0.4, 4.0))]
    found = result.assign({"g": ["zeta", "eta"], "y": y})[1].to_numpy()
    assert found == pytest.approx(likelihood[1] / sum(likelihood), abs=0.06)


@pytest.mark.slow
def test_a_plate_of_fixed_length_has_room_for_a_new_group():
    """As where `setup` has counted the groups: what a new row reads of the longer plate is drawn from its prior."""
    x = RNG.normal(size=40)
    frame = pd.DataFrame({"x": x, "group": NAMES[WHICH], "y": Y + x})
    found = fit(zoo.HierarchicalRegression(slopes=False), frame, method=Laplace(), seed=0)
    group = found.posterior["posterior"]
    m, b, t, s = (group[n].to_numpy()[0] for n in ("intercept", "coefficients", "between", "noise"))
    rows = pd.DataFrame({"x": [0.5, 0.5], "group": ["zeta", "beta"], "y": [1.0, 3.0]})
    log_prob = found.log_prob(rows)
    line = m + b[:, 0] * (0.5 - x.mean())
    expected = np.log(stats.norm.pdf(1.0, line, np.sqrt(t**2 + s**2)).mean())
    assert abs(log_prob.iloc[0] - expected) < 5 * log_prob.attrs["mcse"][0]
    assert np.isfinite(found.predict(rows)["posterior_predictive"]["y"]).all()


# -- Two fields that name entries of the same latent ------------------------------------------------------------------


@zoo.model(home=zoo.Category("game"), away=zoo.Category("game"), win=zoo.Binary("game"))
def paired(home, away, win):
    """Which of two teams wins (Bradley and Terry 1952)."""
    with pyro.plate("team", int(max(home.max(), away.max())) + 1):
        skill = pyro.sample("skill", dist.Normal(0.0, 1.0))
    with pyro.plate("game", len(win)):
        pyro.sample("win", dist.Bernoulli(logits=skill[home] - skill[away]), obs=win)


HOME, AWAY = ["b", "c", "d", "b", "d"], ["a", "b", "c", "d", "a"]
LEAGUES = {
    "text": (HOME, AWAY),
    "no team in both": (["a", "b", "a"], ["c", "d", "d"]),
}


@pytest.mark.parametrize("league", LEAGUES)
def test_a_team_is_the_same_at_home_and_away(league):
    """Though one of them has never played at home, and codes of the two fields by themselves would differ."""
    home, away = LEAGUES[league]
    win, teams = np.resize([1, 0, 0], len(home)), sorted({*home, *away})
    program = prepare(paired(), {"home": home, "away": away, "win": win})
    skill = np.linspace(-1, 2, len(teams))
    gap = np.array([skill[teams.index(h)] - skill[teams.index(a)] for h, a in zip(home, away, strict=True)])
    expected = stats.norm.logpdf(skill).sum() + stats.bernoulli.logpmf(win, 1 / (1 + np.exp(-gap))).sum()
    assert float(program.log_joint({"skill": torch.tensor(skill)}).total()) == pytest.approx(expected, rel=1e-10)
    assert any("'home' and 'away' name entries of 'skill'" in note for note in program.data.notes)


@zoo.model(who=zoo.Category("trial"), what=zoo.Category("trial"), y=zoo.Real("trial"))
def crossed(who, what, y):
    with pyro.plate("person", int(who.max()) + 1):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    with pyro.plate("item", int(what.max()) + 1):
        v = pyro.sample("v", dist.Normal(0.0, 1.0))
    with pyro.plate("trial", len(y)):
        pyro.sample("y", dist.Normal(u[who] + v[what], 1.0), obs=y)


def test_fields_with_effects_of_their_own_keep_their_labels():
    program = prepare(crossed(), {"who": ["a", "b", "c"], "what": ["b", "b", "d"], "y": [0.0, 1.0, 2.0]})
    assert program.data.levels == {"who": ("a", "b", "c"), "what": ("b", "d")}
