"""Draws of q that are handed out as draws of the posterior: resampled by their importance weights."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.corrected import Corrected
from inference.diagnostics.shifts import moments
from zoo.program.program import Program
from zoo.replay.evaluate import Values

KEPT = 1000  # draws that are handed out
SAMPLES, BALANCED = 64, 200  # of which the best is taken, where there are at most so many scalars to balance
LARGEST = 20_000_000  # numbers of all of these, or draws times rows, beyond which there are fewer
FEWEST_KEPT = 200


class Pool(NamedTuple):
    """Draws of q, with log p(x, z) and log q(z) of each, shape (draws,)."""

    values: Values
    log_p: Tensor
    log_q: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log p - log q, in float64 on the CPU."""
        return (self.log_p - self.log_q).double().cpu()


def resampled(
    program: Program, q: Approximation, pool: Pool, weights: np.ndarray, x: np.ndarray, keep: int
) -> Corrected:
    """Take draws by their weights (draws,), summing to 1: systematic resampling in random order (Kitagawa 1996).

    Of several such samples the one whose means and variances are nearest to those of all weighted draws, over the
    scalars `x` (draws, scalars): rerandomization, which takes error from means and does not shift them (Morgan and
    Rubin 2012).
    """
    scale = moments(x, weights)
    z = (x - scale.mean) / np.where(scale.sd > 0, scale.sd, 1.0)
    samples = [_systematic(weights, keep) for _ in range(SAMPLES if x.shape[1] <= BALANCED else 1)]
    off = [max(np.abs(z[at].mean(0)).max(), 0.5 * np.abs(np.square(z[at]).mean(0) - 1).max()) for at in samples]
    at = torch.from_numpy(samples[int(np.argmin(off))]).to(pool.log_p.device)
    weight = torch.from_numpy(weights * len(weights)).to(pool.log_p)
    return Corrected(q, {n: v[at] for n, v in pool.values.items()}, pool.log_p[at], pool.log_q[at], weight[at])


def _systematic(weights: np.ndarray, keep: int) -> np.ndarray:
    """Indices of `keep` draws in random order, each as often as its weight says, rounded up or down."""
    order = torch.randperm(len(weights)).numpy()
    edges = np.cumsum(weights[order])
    places = (np.arange(keep) + float(torch.rand((), dtype=torch.float64))) / keep * edges[-1]
    at = order[np.searchsorted(edges, places).clip(max=len(weights) - 1)]
    shuffled: np.ndarray = at[torch.randperm(keep).numpy()]
    return shuffled


def kept_for(program: Program) -> int:
    """How many draws to hand out: as many as of q itself."""
    size = sum(int(np.prod(program.site_shape(s))) for s in program.latents)
    return max(FEWEST_KEPT, min(KEPT, LARGEST // max(1, size), LARGEST // len(program.data)))
