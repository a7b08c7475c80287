"""Bounds and evidence from log weights, with their standard errors, against numpy on the same log weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import sem

from inference import SVI, fit
from inference.diagnostics import by_row, row_totals
from inference.diagnostics.importance import _objective
from tests.inference.variational.test_bounds import ROWS, Scaled

KINDS = [(1, "elbo"), (5, "iwae")]


@pytest.mark.parametrize(("particles", "kind"), KINDS)
def test_a_bound_has_the_standard_error_of_its_mean(particles, kind):
    """Three log weights that are left over make no group."""
    ratio = np.random.default_rng(0).normal(-3.0, 2.0, 103)
    groups = logsumexp(ratio[: 103 // particles * particles].reshape(-1, particles), 1) - np.log(particles)
    found = _objective(torch.tensor(ratio), particles)
    assert found.kind == kind
    assert (found.value, found.error) == pytest.approx((groups.mean(), sem(groups)), rel=1e-12)


@pytest.mark.parametrize(("particles", "kind"), KINDS)
def test_the_evidence_of_rows_adds_up_by_their_weights(particles, kind, monkeypatch):
    """sum_i w_i log mean_s r_si; of variance sum_i w_i^2 var(r_i) / (S mean(r_i)^2), as draws of rows are apart."""
    weights = np.random.default_rng(0).integers(1, 4, len(ROWS))
    found = fit(Scaled(), ROWS, method=SVI(steps=2), weights=weights, seed=0, progress=False)
    asked, ratios = [], row_totals.ratios

    def noted(*arguments):
        asked.append(ratios(*arguments))
        return asked[-1]

    monkeypatch.setattr(row_totals, "ratios", noted)
    monkeypatch.setattr(row_totals, "CELLS", 10 * len(ROWS) * 400)  # some hundred draws at a time
    with torch.random.fork_rng():
        judged = by_row.judge_rows(
            found.program, found.approximation, found.points, converged=True, particles=particles
        )
    assert len(asked) > 2
    rows = np.concatenate([r.numpy() for r, _ in asked])
    share = np.exp(rows - logsumexp(rows, 0) + np.log(len(rows)))  # r over its mean
    assert judged.diagnostics["evidence"] == pytest.approx(weights @ (logsumexp(rows, 0) - np.log(len(rows))))
    error = np.sqrt((weights**2 * share.var(0, ddof=1)).sum() / len(rows))
    assert judged.diagnostics["evidence_error"] == pytest.approx(error)
    bound = (logsumexp(rows.reshape(-1, particles, len(ROWS)), 1) - np.log(particles)) @ weights
    assert judged.objective.kind == kind
    assert (judged.objective.value, judged.objective.error) == pytest.approx((bound.mean(), sem(bound)))
