"""Broken sticks: recognized however they are written, with posteriors and evidence in closed form."""

from __future__ import annotations

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import betaln

import zoo
from inference import fit
from zoo import Category
from zoo.program.explain import legality
from zoo.program.prepare import prepare

COUNTS = [5, 0, 3, 2]
LABELS = np.repeat(np.arange(4), COUNTS)


def by_products(v):
    return torch.cat([v, torch.ones_like(v[:1])]) * torch.cat([torch.ones_like(v[:1]), (1 - v).cumprod(0)])


def by_logs(v):
    left = torch.cat([torch.zeros_like(v[:1]), torch.log1p(-v).cumsum(0)])
    return (left + torch.cat([v.log(), torch.zeros_like(v[:1])])).exp()


def by_transform(v):
    inverse = torch.distributions.StickBreakingTransform()
    offset = torch.arange(len(v), 0, -1, dtype=v.dtype).log()
    return inverse(torch.logit(v) + offset)


def in_a_row(v):
    parts, left = [], 1.0
    for piece in v:
        parts.append(piece * left)
        left = left * (1 - piece)
    return torch.stack([*parts, left])


def no_stick(v):
    shares = torch.cat([v, 1 - v.mean()[None]])
    return shares / shares.sum()


def stick_of(weights):
    @zoo.model(label=Category("row", levels=4))
    def sticks(label, *, a: float = 1.5, b: float = 2.0):
        with pyro.plate("stick", 3):
            v = pyro.sample("v", dist.Beta(a, b))
        with pyro.plate("row", len(label)):
            pyro.sample("label", dist.Categorical(weights(v)), obs=label)

    return sticks


@pytest.mark.parametrize("weights", [by_products, by_logs, by_transform, in_a_row], ids=lambda f: f.__name__)
def test_the_posterior_of_a_broken_stick_is_exact(weights):
    found = fit(stick_of(weights), LABELS, method="exact", seed=0, progress=False)
    own, later = np.array(COUNTS[:3]), np.cumsum(COUNTS[::-1])[::-1][1:]
    expected = (betaln(1.5 + own, 2.0 + later) - betaln(1.5, 2.0)).sum()
    assert found.objective.value == pytest.approx(expected, abs=1e-9)
    means = (1.5 + own) / (3.5 + own + later)
    draws = found.posterior["posterior"]["v"].to_numpy().reshape(-1, 3)
    np.testing.assert_allclose(draws.mean(0), means, atol=4 * 0.5 / np.sqrt(len(draws)))


def test_what_is_no_stick_is_left_to_others():
    assert "no conjugate family" in legality(prepare(stick_of(no_stick), LABELS))["Exact"]
