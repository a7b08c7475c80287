"""Item response models: published fits of LSAT section 6, posteriors by quadrature, missing answers."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logsumexp

import zoo
from inference import NUTS, fit
from zoo.program.prepare import prepare

PATTERNS = np.array(list(itertools.product([0, 1], repeat=5)))
# Persons with each pattern of answers to section 6 of the Law School Admission Test (Bock and Lieberman 1970).
PERSONS = [
    3,
    6,
    2,
    11,
    1,
    1,
    3,
    4,
    1,
    8,
    0,
    16,
    0,
    3,
    2,
    15,
    10,
    29,
    14,
    81,
    3,
    28,
    15,
    80,
    16,
    56,
    21,
    173,
    11,
    61,
    28,
    298,
]
# Estimates with 21 nodes by the R package ltm (Rizopoulos 2006): log likelihood, difficulties, discriminations.
PUBLISHED = {
    "each": (-2466.653, [-3.3597, -1.3696, -0.2799, -1.8659, -3.1236], [0.8254, 0.7229, 0.8905, 0.6886, 0.6575]),
    "common": (-2466.938, [-3.6153, -1.3224, -0.3176, -1.7301, -2.7802], 0.7551),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PUBLISHED)
def test_lsat_has_its_published_items(kind):
    height, difficulties, discriminations = PUBLISHED[kind]
    model = zoo.ItemResponse(kind, nodes=21, scale=None, spread=None)
    seen = np.array(PERSONS) > 0
    found = fit(model, PATTERNS[seen], method="em", weights=np.array(PERSONS)[seen], seed=0, progress=False)
    assert found.objective.value == pytest.approx(height, abs=1e-3)
    np.testing.assert_allclose(found.points["difficulty"], difficulties, atol=3e-3)
    np.testing.assert_allclose(found.points["discrimination"], discriminations, atol=1e-3)


def small():
    rng = np.random.default_rng(0)
    return (rng.random((40, 2)) < expit(rng.normal(size=(40, 1)) - [0.5, -1.0])).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [None, 15])
def test_the_posterior_of_items_is_that_of_quadrature(nodes):
    """Difficulties of two Rasch items on a grid, abilities integrated out by Gauss-Hermite quadrature."""
    x, (points, weights) = small(), np.polynomial.hermite_e.hermegauss(30)
    axis = np.linspace(-4, 4, 160)

    def answers(ability, difficulty):
        return -np.logaddexp(0, -ability + difficulty), -np.logaddexp(0, ability - difficulty)

    right, wrong = answers(points, axis[:, None])  # (difficulty, point)
    log_p = np.zeros((160, 160))
    for a, b in x:
        first, second = (right if a else wrong)[:, None], (right if b else wrong)[None]
        log_p += logsumexp(first + second, b=weights / weights.sum(), axis=-1)
    log_p += stats.norm(0, 3).logpdf(axis)[:, None] + stats.norm(0, 3).logpdf(axis)
    weight = np.exp(log_p - logsumexp(log_p))
    margins = [weight.sum(1), weight.sum(0)]
    means = np.array([m @ axis for m in margins])
    sds = np.array([m @ (axis - c) ** 2 for m, c in zip(margins, means, strict=True)]) ** 0.5
    model = zoo.ItemResponse("one", nodes=nodes)
    found = fit(model, x, method=NUTS(draws=1500), seed=0, progress=False)
    summary = found.summary().loc[["difficulty[0]", "difficulty[1]"]]
    np.testing.assert_array_less(np.abs(summary["mean"] - means), 4 * summary["mcse_mean"] + 0.01 * sds)
    np.testing.assert_allclose(summary["sd"], sds, rtol=0.1)


def test_answers_that_were_not_given_are_left_out():
    """A long table, pivoted: the density is that of the answers that are there."""
    long = pd.DataFrame(
        [("ann", "q1", 1), ("ann", "q2", 0), ("bob", "q1", 0), ("cid", "q2", 1), ("cid", "q1", 1)],
        columns=["person", "item", "answer"],
    )
    wide = long.pivot(index="person", columns="item", values="answer")
    program = prepare(zoo.ItemResponse("one", nodes=5), wide)
    values = program.initial()
    points, weights = np.polynomial.hermite_e.hermegauss(5)
    difficulty = values["difficulty"].numpy()
    expected = stats.norm(0, 3).logpdf(difficulty).sum()
    for _, answers in wide.iterrows():
        seen = answers.notna().to_numpy()
        p = expit(points[:, None] - difficulty[seen])
        chance = np.prod(np.where(answers[seen].to_numpy() == 1, p, 1 - p), 1)
        expected += np.log(chance @ weights / weights.sum())
    assert float(program.log_joint(values).total()) == pytest.approx(expected, abs=1e-9)
    assert list(program.data.coords["item"]) == ["q1", "q2"]


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (zoo.ItemResponse(), [[1], [0]], "at least 2 items, found 1"),
        (zoo.ItemResponse(scale=None), pd.DataFrame({"a": [1, 1], "b": [0, 1]}), "item 'a': all its answers are 1"),
        (zoo.ItemResponse(), [[1, 2], [0, 1]], "'x' .*0 or 1, found 2"),
    ],
)
def test_answers_that_say_nothing_are_refused(model, data, message):
    with pytest.raises(zoo.DataError, match=message):
        prepare(model, data)
