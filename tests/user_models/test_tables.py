"""Two data tables in one model, persons and their visits: rows of different lengths, joined by labels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import Fit, Laplace, fit
from zoo.errors import DataError, FitError
from zoo.program.prepare import prepare

RNG = np.random.default_rng(0)
NAMES = ["zoe", "bob", "ann", "kim"]
AGE = pd.Series([0.5, -1.0, 2.0, 0.0], index=NAMES)
WHO = np.repeat(NAMES, [3, 4, 2, 5])
EFFECT = pd.Series([1.0, -2.0, 3.0, 0.0], index=NAMES)
Y = EFFECT[WHO].to_numpy() + RNG.normal(0, 0.3, 14)


class Visits(zoo.Model):
    """What is measured at a visit, around a mean of the person's own that depends on her age."""

    y = zoo.Real("visit")
    who = zoo.Category("visit")
    age = zoo.Real("person")

    def forward(self, y, who, age):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("person", len(age)):
            u = pyro.sample("u", dist.Normal(b * age, 1.0))
        with pyro.plate("visit", len(y)):
            pyro.sample("y", dist.Normal(u[who], 0.3), obs=y)


class Persons(zoo.Model):
    """The same with persons as rows, of whom a score is observed, too."""

    score = zoo.Real("person")
    y = zoo.Real("visit")
    who = zoo.Category("visit")

    def forward(self, score, y, who):
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("person", len(score)):
            u = pyro.sample("u", dist.Normal(b, 1.0))
            pyro.sample("score", dist.Normal(u, 0.5), obs=score)
        with pyro.plate("visit", len(y)):
            pyro.sample("y", dist.Normal(u[who], 0.3), obs=y)


def exact(age, codes):
    """Mean of u given y, b integrated out: all is Normal."""
    prior = np.eye(4) + np.outer(age, age)
    design = np.eye(4)[codes]
    gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + 0.09 * np.eye(len(codes)))
    return gain @ Y


@pytest.mark.parametrize("order", [NAMES, sorted(NAMES)])
def test_rows_name_entries_of_the_other_table_by_its_labels(order):
    result = fit(Visits(), {"y": Y, "who": WHO, "age": AGE[order]}, method=Laplace(), seed=0)
    u = result.posterior["posterior"]["u"]
    assert u["person"].to_numpy().tolist() == order
    codes = [order.index(name) for name in WHO]
    sd = u.std(("chain", "draw")).to_numpy()
    assert np.abs(u.mean(("chain", "draw")).to_numpy() - exact(AGE[order].to_numpy(), codes)).max() < 6 * sd.max() / 30


def test_positions_do_where_there_are_no_labels():
    codes = np.array([NAMES.index(name) for name in WHO])
    program = prepare(Visits(), {"y": Y, "who": codes, "age": AGE.to_numpy()})
    u = torch.tensor(EFFECT.tolist(), dtype=torch.float64)
    value = program.log_joint({"b": torch.tensor(0.4, dtype=torch.float64), "u": u}).total()
    expected = stats.norm.logpdf(Y, EFFECT[WHO], 0.3).sum() + stats.norm.logpdf(0.4)
    assert float(value) == pytest.approx(expected + stats.norm.logpdf(EFFECT, 0.4 * AGE, 1).sum(), abs=1e-9)


@pytest.mark.slow
def test_questions_are_about_rows_of_the_first_table(tmp_path):
    result = fit(Visits(), {"y": Y, "who": WHO, "age": AGE}, method=Laplace(), seed=0)
    u = result.posterior["posterior"]["u"].sel(person="ann").to_numpy()[0]
    new = {"y": [2.5], "who": ["ann"], "age": AGE[sorted(NAMES)]}  # persons in another order
    expected = np.log(stats.norm.pdf(2.5, u, 0.3).mean())
    assert result.log_prob(new).to_numpy() == pytest.approx([expected], abs=1e-9)
    result.save(tmp_path)
    assert Fit.load(tmp_path, model=Visits).log_prob(new).to_numpy() == pytest.approx([expected], abs=1e-9)
    drawn = result.predict({"who": ["ann", "bob"], "age": AGE}, draws=400)["posterior_predictive"]["y"].to_numpy()[0]
    assert drawn.mean(0) == pytest.approx([3.0, -2.0], abs=0.4)


def test_labels_that_the_other_table_lacks_are_named():
    with pytest.raises(DataError, match="field 'who' names 'eve', which is no label of 'person'"):
        prepare(Visits(), {"y": [0.0, 1.0], "who": ["ann", "eve"], "age": AGE})
    result = fit(Visits(), {"y": Y, "who": WHO, "age": AGE}, method=Laplace(), seed=0)
    with pytest.raises(DataError, match="field 'age': 'person' must have the labels of the fitted data"):
        result.log_prob({"y": [0.0], "who": ["ann"], "age": AGE.rename({"bob": "eve"})})


def test_locals_of_one_table_feed_the_other():
    score = EFFECT + RNG.normal(0, 0.5, 4)
    result = fit(Persons(), {"score": score, "y": Y, "who": WHO}, method=Laplace(), seed=0)
    codes = [NAMES.index(name) for name in WHO]
    prior = np.eye(4) + 1
    design = np.concatenate([np.eye(4), np.eye(4)[codes]])
    noise = np.diag([0.25] * 4 + [0.09] * 14)
    gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + noise)
    u = result.posterior["posterior"]["u"]
    mean, sd = u.mean(("chain", "draw")).to_numpy(), u.std(("chain", "draw")).to_numpy()
    assert np.abs(mean - gain @ np.concatenate([score, Y])).max() < 6 * sd.max() / 30
    with pytest.raises(FitError, match="observes another table"):
        result.generate(3)
    with pytest.raises(FitError, match="coupled"):
        result.log_prob()
    drawn = result.predict(draws=5)["posterior_predictive"]
    assert (drawn["score"].shape, drawn["y"].shape) == ((1, 5, 4), (1, 5, 14))
