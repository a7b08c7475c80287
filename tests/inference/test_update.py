"""Going on from a fit with more rows, by `update` and by the methods' own: the same fit, whichever is called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import zoo
from inference import CAVI, EM, MAP, SVI, Exact, fit, update
from tests.cases.models import EightSchools

ROWS = np.random.default_rng(0).normal(size=(300, 2)) + 4 * (np.arange(300) % 2)[:, None]
COUNTS = np.random.default_rng(1).poisson(3, 40)


def same(one, other):
    """Whether two fits say the same."""
    assert one.objective == other.objective
    assert one.reason == other.reason
    pd.testing.assert_frame_equal(one.summary(), other.summary(), check_exact=True)
    pd.testing.assert_frame_equal(one.trace.drop(columns="seconds"), other.trace.drop(columns="seconds"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "method"),
    [
        (zoo.GMM(2), ROWS, EM()),
        (zoo.KMeans(2), ROWS, EM(hard=True)),
        (zoo.BayesianGMM(2), ROWS, CAVI()),
        (zoo.GammaPoisson(b=1.0), COUNTS, Exact()),
    ],
    ids=repr,
)
def test_the_function_is_the_method(model, data, method):
    half = len(data) // 2
    first = fit(model, data[:half], method=method, seed=0)
    second = update(first, data[half:])
    same(second, method.update(first, data[half:]))
    same(second, update(first, data[half:], method=method))
    same(second, update(first, data[half:], method=type(method).__name__) if method == type(method)() else second)
    assert second.method == method
    assert second.seconds > 0
    assert second.seed == first.seed
    assert len(second.program.data) == len(data) - half
    assert list(second.trace["step"][: len(first.trace)]) == list(first.trace["step"])
    assert (np.diff(second.trace["step"]) == 1).all()


@pytest.mark.slow
def test_settings_of_starts_are_left_out_by_the_function_and_refused_of_a_method():
    first = fit(zoo.GMM(2), ROWS[:200], method=EM(restarts=3, start="random", tolerance=1e-3, max_steps=40), seed=0)
    second = update(first, ROWS[200:])
    assert second.method == EM(tolerance=1e-3, max_steps=40)
    same(second, EM(tolerance=1e-3, max_steps=40).update(first, ROWS[200:]))


@pytest.mark.parametrize(
    ("method", "setting"),
    [
        (EM(restarts=5), "restarts=5"),
        (EM(start="random"), "start='random'"),
        (EM(batch_size=10), "batch_size=10"),
        (EM(forgetting=0.9), "forgetting=0.9"),
        (EM(delay=2.0), "delay=2.0"),
        (EM(distributed=True), "distributed=True"),
        (EM(matrices="additive"), "matrices='additive'"),
    ],
    ids=repr,
)
def test_settings_that_would_be_ignored_are_refused(method, setting):
    first = fit(zoo.GMM(2), ROWS[:200], method=EM(max_steps=5), seed=0)
    for call in (method.update, lambda fit, rows: update(fit, rows, method=method)):
        with pytest.raises(zoo.MethodError, match=f"em: {setting} would be ignored"):
            call(first, ROWS[200:])


def test_settings_that_cannot_be_followed_are_refused():
    first = fit(zoo.GMM(2), ROWS[:200], method=EM(max_steps=5), seed=0)
    with pytest.raises(zoo.MethodError, match="climbed by gradient"):
        EM(gradient=True).update(first, ROWS[200:])


@pytest.mark.slow
def test_what_cannot_go_on_says_what_can():
    first = fit(zoo.BayesianGMM(2), ROWS[:100], method=CAVI(max_steps=5), seed=0)
    for method in (SVI(), MAP(), "nuts", "laplace"):
        with pytest.raises(zoo.MethodError, match="cannot go on from a fit with more rows, which cavi, em, exact can"):
            update(first, ROWS[100:], method=method)
    schools = fit(EightSchools(), {"effect": [1.0, 3.0], "error": [1.0, 2.0]}, method=MAP(), seed=0)
    with pytest.raises(zoo.MethodError, match="map cannot go on"):
        update(schools, {"effect": [1.0], "error": [1.0]})
    with pytest.raises(zoo.DataError):
        update(first, np.ones((3, 3)))
