"""Starts for a q that is to cover the posterior: its moments, by weighted draws that come from far away."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from guides.full_rank import FullRank
from guides.start import Start
from inference.variational.bound import Bound
from zoo.program.program import Program
from zoo.program.rows import Batch
from zoo.replay.evaluate import Values

DRAWS = 4000  # of a round
CELLS = 20_000_000  # entries of the data times draws of a round
FEWEST = 500
LARGEST = 20  # coordinates: of more, weights of draws that come from afar say nothing
WIDTH = 64.0  # of the first round, in natural units
LEAST = 0.05  # of the draws in effect, for moments of them
ROUNDS = 30
LAST = 3  # rounds with the weights as they are


def widened(program: Program, start: tuple[Start, Values]) -> tuple[Start, Values]:
    """Return the start with a mean and covariance of the posterior where globals are few; else as it was.

    Draws of q are all that such an objective sees: where they begin in one mode, and as narrow as it is, no step ever
    learns of another. So a Normal begins far wider than the mode, and takes the moments of its draws weighted by
    (p / q)^beta, again and again, with the largest beta <= 1 that leaves enough of them in effect (the cross-entropy
    method; Koblents and Miguez 2015, "A population Monte Carlo scheme with transformed weights").
    """
    first, values = start
    size = first.globals.numel()
    if program.locals or not 0 < size <= LARGEST:
        return start
    entries = sum(v.numel() for v in program.data.values.values())
    draws = max(FEWEST, min(DRAWS, CELLS // max(1, entries)))
    mean, root, last = first.globals, torch.diag(WIDTH * first.global_unit), 0
    for _ in range(ROUNDS):
        at = replace(first, globals=mean, global_unit=root.diagonal(), factor=root)
        bound = Bound(program, FullRank(), [(at, values)])
        noise = bound.noise(len(program.data), 1, draws)
        with torch.no_grad():
            rest, rows = bound.log_weights(bound.start, noise, Batch({}))
        weights = program.data.weights
        log_w = (rest + (rows if weights is None else weights * rows).sum(-1))[0]
        beta = _power(torch.where(log_w.isfinite(), log_w, -torch.inf))
        if not beta:
            return start
        share = torch.softmax(beta * log_w.nan_to_num(nan=-torch.inf), 0)
        u = noise[0][0] @ root.mT
        shift = share @ u
        covariance = (share[:, None] * (u - shift)).mT @ (u - shift)
        mean = mean + shift
        root = torch.linalg.cholesky(covariance + 1e-9 * torch.diag(covariance.diagonal()))
        last += beta == 1
        if last == LAST:
            break
    return replace(first, globals=mean, global_unit=root.square().sum(1).sqrt(), factor=root), values


def _power(log_w: Tensor) -> float:
    """The largest power of weights, at most 1, that leaves enough draws in effect; 0 if none does."""
    low, high = 0.0, 1.0
    for step in range(40):
        beta = 1.0 if step == 0 else (low + high) / 2
        effective = float((2 * (beta * log_w).logsumexp(0) - (2 * beta * log_w).logsumexp(0)).exp()) / len(log_w)
        low, high = (beta, high) if effective >= LEAST else (low, beta)
        if low == 1:
            break
    return low
