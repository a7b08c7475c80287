"""Densities of many rows under few components, without writing out what rows repeat."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch

import zoo
from inference.coordinate.features import Linear
from inference.coordinate.sweep import sweep
from zoo.program.prepare import prepare
from zoo.replay.normals import log_density
from zoo.replay.sites import views


@pytest.mark.parametrize("event", [(40,), (8, 5)])
@pytest.mark.parametrize("by", ["probs", "logits"])
def test_bernoulli_vectors_are_a_matrix_product(event, by):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        probs, x = torch.rand(5, 1, *event).double(), (torch.rand(300, *event) < 0.5).double()
    probs[0, 0, 0] = 0.0  # torch gives what is impossible the density of the smallest number
    fn = dist.Bernoulli(**{by: probs if by == "probs" else probs.clamp(1e-9, 1 - 1e-9).logit()})
    fn = fn.expand((5, 300, *event)).to_event(len(event))
    with torch.no_grad():
        torch.testing.assert_close(log_density(fn, x, (), {}), fn.log_prob(x), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("cached", [False, True])
def test_derived_arguments_repeat_what_they_are_derived_from(cached):
    fn = dist.Bernoulli(torch.tensor([[0.2], [0.7]])).expand((2, 1000))
    if cached:
        fn.log_prob(torch.ones(1000))
    logits = views(fn)["logits"]
    assert logits.shape == (2, 1000)
    assert logits.stride(1) == 0
    torch.testing.assert_close(logits[:, 0], torch.tensor([0.2, 0.7]).logit())


def test_what_is_repeated_is_the_same_in_a_program():
    x = (np.random.default_rng(0).random((700, 60)) < 0.3).astype(float)
    program = prepare(zoo.BernoulliMixture(components=3), x)
    values = program.initial()
    with torch.no_grad():
        blocked = program.log_joint(values)
    plain = program.log_joint(values)  # with a gradient, entry by entry
    torch.testing.assert_close(blocked.rows, plain.rows.detach(), rtol=1e-11, atol=1e-9)


def test_responsibilities_below_all_that_counts_are_zero_and_add_up():
    """Components from 0 to 1,500 nats apart: products of denormal numbers would take forty times as long."""
    x = torch.ones(64, 1, dtype=torch.float64)
    natural = -torch.linspace(0.0, 1500.0, 31, dtype=torch.float64)[None, :, None]
    swept = sweep(Linear(x), natural, torch.zeros(1, 31, dtype=torch.float64))
    expected = 64 * natural[0, :, 0].softmax(0)
    torch.testing.assert_close(swept.counts[0], expected, rtol=1e-12, atol=1e-280)
    assert not bool(((swept.counts > 0) & (swept.counts < torch.finfo(torch.float64).tiny)).any())
