"""Hidden Markov models of categories: how many there can be, and rows that show others."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

import zoo
from inference import EM, fit
from zoo.errors import DataError, ModelError

SYMBOLS = np.array([1, 2, 3, 2, 2, 4, 5, 2, 2, 3, 3, 2, 1, 2, 3, 2])


def symbols(levels=None):
    model = zoo.HiddenMarkov(components=2, emission="categorical", lengths=(4, 4, 4, 4), levels=levels)
    return fit(model, SYMBOLS, method="em", seed=0)


@pytest.mark.parametrize("new", [[2, 6, 4, 2], [2, -1, 4, 2]])
@pytest.mark.parametrize("question", ["log_prob", "assign"])
def test_a_symbol_that_the_fit_does_not_know_is_named(question, new):
    with pytest.raises(DataError, match=rf"{min(new) if min(new) < 0 else max(new)}\b|codes 0, 1, 2"):
        getattr(symbols(), question)(np.array(new)[:, None])


def test_a_symbol_that_the_model_knows_is_as_good_as_impossible():
    """The maximum of the likelihood gives no probability to what was never seen, and the rest is as without it."""
    found, known = symbols(8), [1, 2, 3, 2]
    assert found.points["probs"].shape == (2, 1, 8)
    density = found.log_prob(np.array([2, 6, 4, 2])[:, None]).to_numpy()
    assert density[1] < -20
    assert np.isfinite(density[[0, 2, 3]]).all()
    at_most = symbols().log_prob(np.array(known)[:, None]).sum()
    assert found.log_prob(np.array(known)[:, None]).sum() == pytest.approx(at_most, abs=1e-5)


def test_fewer_levels_than_the_data_have_are_refused():
    with pytest.raises(DataError, match="levels=3 expects category codes below that, found 5; ask for levels=6"):
        symbols(3)


def test_levels_are_for_categories_alone():
    model = zoo.HiddenMarkov(components=2, emission="poisson", levels=8)
    with pytest.raises(ModelError, match="levels=8 is for emission='categorical', found emission='poisson'"):
        fit(model, SYMBOLS, method="em", seed=0)


def test_a_users_own_categories_are_named_too():
    @zoo.model(y=zoo.Count("row"))
    def codes(y):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(p), obs=y)

    found = fit(codes(), [0, 1, 2, 1], method="exact", seed=0)
    with pytest.raises(DataError, match=r"field 'y': its site is Categorical.*up to 2, .* hold 3 at row 1"):
        found.log_prob([0, 3])


MEANS = np.array([0.0, 3.0, -2.0])


def stages(number=12):
    """Sequences that pass through three states in order, and their lengths."""
    rng, rows, lengths = np.random.default_rng(0), [], []
    for _ in range(number):
        stays = rng.geometric(0.2, len(MEANS))
        rows.append(rng.normal(np.repeat(MEANS, stays), 0.7))
        lengths.append(int(stays.sum()))
    return np.concatenate(rows)[:, None], tuple(lengths)


def log_likelihood(rows, lengths, values):
    """The forward algorithm in NumPy."""
    total, at = 0.0, 0
    for length in lengths:
        x = rows[at : at + length, 0]
        at += length
        density = stats.norm(values["means"][:, 0], np.sqrt(values["covariances"][:, 0, 0])).pdf(x[:, None])
        forward = values["initial"] * density[0]
        for row in density[1:]:
            total += np.log(forward.sum())
            forward = (forward / forward.sum()) @ values["transition"] * row
        total += np.log(forward.sum())
    return total


@pytest.mark.slow
def test_a_left_right_chain_never_goes_back():
    rows, lengths = stages()
    model = zoo.HiddenMarkov(components=3, lengths=lengths, topology="left-right")
    found = fit(model, rows, method="em", seed=1, progress=False)
    values = {n: v.to_numpy() for n, v in found.posterior["point_estimate"].dataset.items()}
    assert found.converged
    np.testing.assert_array_equal(np.tril(values["transition"], -1), 0)
    np.testing.assert_allclose(values["initial"], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(values["means"][:, 0], MEANS, atol=0.4)
    assert found.objective.value == pytest.approx(log_likelihood(rows, lengths, values), abs=1e-6)
    free = fit(zoo.HiddenMarkov(components=3, lengths=lengths), rows, method=EM(restarts=3), seed=0, progress=False)
    assert free.objective.value > found.objective.value - 1e-4
    paths = found.most_probable()["z"].to_numpy()
    inside = np.ones(len(paths), dtype=bool)
    inside[np.cumsum(lengths)[:-1]] = False
    assert (np.diff(paths)[inside[1:]] >= 0).all()


def test_a_left_right_chain_keeps_no_distribution():
    with pytest.raises(ModelError, match="topology='left-right' ends in its last state"):
        fit(zoo.HiddenMarkov(topology="left-right", stationary=True), stages()[0], method="em")
