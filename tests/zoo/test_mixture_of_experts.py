"""Mixtures of experts: the maximum by a general optimizer, and predictions that follow the gate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize
from scipy.special import logsumexp

import zoo
from inference import EM, fit

GATE_SCALE = 2.0


def rows(seed=0, number=150):
    rng = np.random.default_rng(seed)
    x = rng.normal(5.0, 2.0, (number, 1))
    right = rng.random(number) < 1 / (1 + np.exp(-2 * (x[:, 0] - 5)))
    return {"x": x, "y": np.where(right, 4 - x[:, 0], x[:, 0]) + rng.normal(0, 0.5, number)}


def log_posterior(v, data):
    """Of two experts, in a vector: gates, levels, coefficients, intercepts, logarithms of scales."""
    gate, levels, slopes, intercepts, logs = v.reshape(5, 2)
    x, y = data["x"][:, 0] - data["x"].mean(), data["y"]
    weight = levels + np.outer(x / (2 * x.std()), gate)
    weight = weight - logsumexp(weight, axis=1, keepdims=True)
    density = stats.norm(intercepts + np.outer(x, slopes), np.exp(logs)).logpdf(y[:, None])
    prior = stats.norm(0, GATE_SCALE).logpdf([gate, levels]).sum()
    return prior + logsumexp(weight + density, axis=1).sum()


@pytest.mark.slow
def test_em_climbs_to_the_maximum():
    data, model = rows(), zoo.MixtureOfExperts(gate_scale=GATE_SCALE)
    found = fit(model, data, method=EM(restarts=3), seed=0, progress=False)
    values = found.posterior["point_estimate"]
    names = ("gate", "levels", "coefficients", "intercepts", "scales")
    at = np.concatenate([values[n].to_numpy().ravel() for n in names])
    at[-2:] = np.log(at[-2:])
    assert found.objective.value == pytest.approx(log_posterior(at, data), abs=1e-8)
    best = minimize(lambda v: -log_posterior(v, data), at + 0.1, options={"gtol": 1e-7})
    assert found.objective.value == pytest.approx(-best.fun, abs=1e-4)
    truth = np.array([-4.0, 4.0, 0.0, 0.0, 1.0, -1.0, 5.0, -1.0, np.log(0.5), np.log(0.5)])
    assert found.objective.value > log_posterior(truth, data)


def test_predictions_follow_the_gate():
    """Far on either side one expert is left, whose line is y = x or y = 4 - x."""
    found = fit(zoo.MixtureOfExperts(), rows(), method="em", seed=0, progress=False)
    drawn = found.predict({"x": [[1.0], [9.0]]}, draws=400, seed=0).posterior_predictive["y"].to_numpy()[0]
    np.testing.assert_allclose(np.median(drawn, axis=0), [1.0, -5.0], atol=0.3)


@pytest.mark.slow
def test_the_units_of_the_data_do_not_matter():
    data = rows()
    other = {"x": 1e-6 * data["x"] + 3, "y": 1e3 * data["y"]}
    first, second = (
        fit(zoo.MixtureOfExperts(), d, method=EM(restarts=2), seed=0, progress=False) for d in (data, other)
    )
    shift = len(data["y"]) * np.log(1e3)
    assert float(second.log_prob().sum()) == pytest.approx(float(first.log_prob().sum()) - shift, abs=1e-2)
    # which expert comes first is a matter of the restart that won: compare the pairs of rows that share one
    same = [weights @ weights.T for weights in (first.assign().to_numpy(), second.assign().to_numpy())]
    np.testing.assert_allclose(same[1], same[0], atol=1e-2)
