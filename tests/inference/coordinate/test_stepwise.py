"""Mini-batches of coordinate ascent: which rows they hold."""

from __future__ import annotations

import numpy as np
import torch

import zoo
from inference.coordinate.stepwise import RunningAverages
from zoo.program.prepare import prepare
from zoo.replay.random import reseed


def test_a_pass_is_whole_batches_of_different_rows_each_standing_for_all():
    """Two rows that are left over would weigh as much as a batch of four."""
    weights = np.linspace(0.5, 2.0, 10)
    with torch.random.fork_rng():
        reseed(0)
        program = prepare(zoo.GammaPoisson(), np.arange(10), weights=weights)
        batches = list(RunningAverages(program, forgetting=0.7, delay=1.0).batches(4))
    rows = [next(iter(b.data.values.values())).long() for b in batches]
    assert [len(at) for at in rows] == [4, 4]
    assert len(set(torch.cat(rows).tolist())) == 8
    for batch, at in zip(batches, rows, strict=True):
        own = torch.tensor(weights)[at]
        torch.testing.assert_close(batch.data.weights, own * weights.sum() / own.sum())
