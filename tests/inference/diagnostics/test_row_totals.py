"""The evidence of all rows, estimated from some of them, against that of a linear Gaussian model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from inference.diagnostics import row_totals
from tests.cases.linear_vae import LATENT, WIDER, Silent, Wide, data, kept, log_evidence

ROWS = 400
RUNS = 30


@pytest.mark.slow
def test_some_rows_tell_the_evidence_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(ROWS)
    truth = log_evidence(x).sum()
    gap = LATENT * (0.5 * (WIDER**2 - 1) - math.log(WIDER))  # KL(q || p(z | x)) of each row
    monkeypatch.setattr(row_totals, "OVER", 0)
    monkeypatch.setattr(row_totals, "SOME_ROWS", 40)
    monkeypatch.setattr(row_totals, "CELLS", 0)
    found = kept(Wide, x)
    assert found.diagnostics["evidence_rows"] == 40
    assert "of 40 of 400 rows" in found.verdict
    assert 0 < found.diagnostics["evidence_error"] < 60
    assert abs(found.diagnostics["evidence"] - truth) < 4 * found.diagnostics["evidence_error"]
    assert abs(found.objective.value - (truth - ROWS * gap)) < 4 * found.objective.error


@pytest.mark.slow
def test_the_errors_of_totals_of_some_rows_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    x = data(ROWS)
    truth = log_evidence(x).sum()
    monkeypatch.setattr(row_totals, "SOME_ROWS", 40)
    monkeypatch.setattr(row_totals, "CELLS", 0)
    found = kept(Wide, x)
    q = found.approximation.uncorrected
    torch.manual_seed(0)
    with torch.no_grad():
        many = [row_totals.of_some(found.program, q, found.points, 2) for _ in range(RUNS)]
    z = np.array([(t.evidence - truth) / t.error for t in many])
    assert abs(z.mean()) < 4 / math.sqrt(RUNS) + 0.1  # 100 draws of a row leave a little bias
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * RUNS)
    bounds = np.array([t.bound for t in many])
    assert abs(bounds.std() / np.mean([t.spread for t in many]) - 1) < 4 / math.sqrt(2 * RUNS)


@pytest.mark.slow
def test_an_encoder_that_says_nothing_has_collapsed() -> None:
    found = kept(Silent, data())
    assert any("posterior collapse: in 2 of 2 coordinates" in w for w in found.warnings)
    assert not found.active_units()["active"].any()
