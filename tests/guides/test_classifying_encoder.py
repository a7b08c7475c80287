"""An encoder that names the discrete latent of a row first, against sums over its states by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import zoo
from guides import ClassifyingEncoder, Encoder
from inference import SVI, Fit, fit
from inference.approximations.trained import Trained
from inference.starts.natural import several_starts
from inference.variational.bound import Bound
from tests.cases.models import FLIPS, coin, gates
from zoo import MethodError
from zoo.program.marginals import averaged_terms
from zoo.program.prepare import prepare
from zoo.program.rows import Batch

RNG = np.random.default_rng(3)
KINDS = RNG.integers(0, 3, 60)
ROWS = ((RNG.normal(size=(3, 8)) * 3)[KINDS] + RNG.normal(size=(60, 8)) > 0).astype(float)
SOME = np.where(np.arange(60) < 9, KINDS, -1)
MODEL = zoo.SemiSupervisedVAE(latent=1, hidden=(8,))
GUIDE = ClassifyingEncoder(hidden=(6,), alpha=2.0)


def made(guide=GUIDE, data=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        program = prepare(MODEL, {"x": ROWS, "label": SOME} if data is None else data, dtype=torch.float64)
        return program, Bound(program, guide, several_starts(program, 1))


def test_an_average_over_states_is_below_their_sum_by_a_divergence():
    program, _ = made()
    values = {"prior": torch.randn(3, 1), "x": torch.randn(3, 60), "z": torch.randn(60)}
    total = values["prior"] + values["x"] + values["z"]
    share = torch.randn(3, 60).log_softmax(0)
    gap = (share.exp() * (share - total.log_softmax(0))).sum(0)
    for log_share, off in ((share, gap), (total.log_softmax(0), torch.zeros(60))):
        found = averaged_terms(values, list(values), len(program.data), log_share)
        torch.testing.assert_close(found.rows, total.logsumexp(0) - off)


def test_the_bound_is_that_of_kingma_and_others():
    program, bound = made()
    noise = bound.noise(60, 1, 1)
    with torch.no_grad():
        _, rows = bound.log_weights(bound.start, noise, Batch({}))
        q = bound.q_at(bound.start, 0)
        draw = q.draw_states(program.data, None, tuple(n[0, 0] for n in noise))
        points = bound.points(bound.start)
        share, expected = draw.share, torch.zeros(60, dtype=torch.float64)
        known = torch.as_tensor(SOME)
        for k in range(3):
            factors = program.log_probs({**points, "z": draw.locals[k]})
            joint = factors["x"][k] + factors["z"] + factors["label"][k] - draw.log_q_rows[k]
            of_missing = share[k].exp() * (joint - share[k])
            expected += torch.where(known == k, joint, torch.where(known < 0, of_missing, 0.0))
    torch.testing.assert_close(rows[0, 0], expected)


@pytest.mark.slow
def test_known_labels_pull_at_the_classifier_by_alpha_and_leave_the_value():
    slopes, values = [], []
    for alpha in (0.0, 2.0):
        program, bound = made(ClassifyingEncoder(hidden=(6,), alpha=alpha))
        with torch.random.fork_rng():
            torch.manual_seed(1)
            noise = bound.noise(60, 1, 1)
        start = bound.start
        value, _, slope = bound.gradient(
            start.coordinates, start.weights, start.fixed, noise, torch.ones(()), Batch({})
        )
        values.append(value)
        slopes.append(slope[0])
    torch.testing.assert_close(*values)
    weights = start.weights[0].clone().requires_grad_()
    q = bound.named(start.coordinates[0], weights).q
    fixed = start.fixed.map(lambda v: v[0]).buffers
    share = torch.func.functional_call(bound.q, {**q, **fixed}, ("log_share", program.data))
    known = torch.arange(9)
    (by_hand,) = torch.autograd.grad(2.0 * share[torch.as_tensor(SOME[:9]), known].sum(), weights)
    torch.testing.assert_close(slopes[1] - slopes[0], by_hand)


@pytest.mark.slow
def test_rows_are_assigned_by_the_classifier_and_known_labels_are_known(tmp_path):
    method = SVI(guide=GUIDE, steps=300, particles=1, schedule="cosine")
    found = fit(MODEL, {"x": ROWS, "label": SOME}, method=method, seed=0, progress=False)
    said = found.assign().to_numpy()
    np.testing.assert_array_equal(said[np.arange(9), KINDS[:9]], 1.0)
    assert (said[9:].argmax(1) == KINDS[9:]).mean() > 0.85
    again = Fit.load(found.save(tmp_path / "fit"))
    np.testing.assert_array_equal(again.assign({"x": ROWS[9:]}), found.assign({"x": ROWS[9:]}))


def test_codes_have_the_moments_of_the_mixture():
    program, bound = made()
    with torch.no_grad():
        q, points = Trained(GUIDE, bound.q_at(bound.start), program.data), bound.points(bound.start)
        known = q.row_moments(program, points)
        drawn = q.propose(program, points, 20_000)[0]["z"]  # (draws, rows, 1)
    mean, sd = (moment["z"] for moment in known)
    assert (mean - drawn.mean(0)).abs().lt(5 * sd / 20_000**0.5).all()
    off = (drawn - mean).square()
    assert (sd.square() - off.mean(0)).abs().lt(5 * off.std(0) / 20_000**0.5).all()


@pytest.mark.slow
def test_it_finds_a_posterior_of_two_modes():
    x = [0.3, 2.5, 4.1]
    joint = torch.distributions.Normal(torch.tensor([[0.0], [4.0]]), 2**0.5).log_prob(torch.tensor(x))
    whole = float((joint + torch.tensor([[0.6], [0.4]]).log()).logsumexp(0).sum())
    found = fit(gates(), x, method=SVI(guide=ClassifyingEncoder(hidden=(16,)), steps=3000), seed=0, progress=False)
    assert whole - 0.05 < found.objective.value < whole + 4 * found.objective.error


def test_where_there_is_no_state_to_name():
    for model, data in ((coin, FLIPS), (zoo.VAE(latent=1), ROWS)):
        with pytest.raises(MethodError, match="ClassifyingEncoder"):
            fit(model, data, method=SVI(guide=ClassifyingEncoder()), seed=0)
    assert Encoder() != ClassifyingEncoder()
