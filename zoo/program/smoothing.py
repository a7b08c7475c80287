"""States of chains that were integrated out, given everything else: their moments and draws, both exact."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from zoo.elimination.kalman import draw_chain, filter_rows, posterior_chain, smooth_rows
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

NUMBERS = 1 << 24  # of matrices, one for each row and draw, that are worked out together: 128 MB


def chain_moments(program: Program, values: Values) -> tuple[Values, Values]:
    """Means and covariances of the states of each row given all rows, (rows, d) and (rows, d, d) by chain.

    Parameters
    ----------
    program
        One with a `LinearGaussianChain`.
    values
        Of everything else.
    """
    assert program.integrated is not None
    smoothed = smooth_rows(filter_rows(_unweighted(program).linear_gaussian(values), after=True))
    means = program.integrated.split(smoothed.mean.to(program.dtype))
    at, covs = 0, {}
    for name, mean in means.items():
        own = slice(at, at := at + mean.shape[-1])
        covs[name] = smoothed.cov[..., own, own].to(program.dtype)
    return means, covs


def draw_chains(program: Program, values: Values, shared: Values, count: int) -> Values:
    """Draw the states of all chains given everything else, once for each of `count` values.

    The chain given all rows is a chain again, whose paths are drawn from the first row on.

    Parameters
    ----------
    program
        The program; without a `LinearGaussianChain` there is nothing to draw.
    values
        Latents, stacked along dimension 0; none where all draws have the same.
    shared
        What all draws have in common: parameters, network weights.
    count
        How many.

    Returns
    -------
    dict
        Chain -> shape (count, rows, d).
    """
    if program.integrated is None:
        return {}
    plain, size = _unweighted(program), sum(program.integrated.sizes)

    def given(own: Values) -> tuple[Tensor, ...]:
        return posterior_chain(filter_rows(plain.linear_gaussian({**shared, **own}), after=True))

    chunk = max(1, NUMBERS // (len(program.data) * size * (size + 1)))
    with torch.no_grad():
        known = None if values else given({})
        parts = []
        for start in range(0, count, chunk):
            width = min(chunk, count - start)
            some = {n: v[start : start + width] for n, v in values.items()}
            transition, offset, root = many(given, some, width, width) if known is None else known
            parts.append(draw_chain(transition, offset.expand(width, *offset.shape[-2:]), root))
    return program.integrated.split(torch.cat(parts).to(program.dtype))


def _unweighted(program: Program) -> Program:
    """Weights repeat whole sequences, each with states of its own."""
    return program if program.data.weights is None else program.rebind(replace(program.data, weights=None))
