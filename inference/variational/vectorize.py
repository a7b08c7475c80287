"""Evaluating a function at every draw of every start at once, in the best way that torch and the model allow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guides.variational import Noise
from inference.variational.position import Fixed

# Of coordinates (C,), weights (W,), what does not climb, and one draw of noise.
Evaluate = Callable[[Tensor, Tensor, Fixed, Noise], tuple[Tensor, ...]]
Vectorized = Callable[[Evaluate, Tensor, Tensor, Fixed, Noise], tuple[Tensor, ...]]


class Vectorizer:
    """Evaluates at every draw of every start: coordinates (S, C), weights (S, W), noise (S, K, ...) to (S, K, ...).

    Attributes
    ----------
    ways
        To vectorize, those that have not failed, best first. With none left, evaluation is one by one.
    note
        Why the best has failed, if it has.
    """

    def __init__(self) -> None:
        self.ways: list[Vectorized] = [nested, flat]
        self.note = ""

    def __call__(self, one: Evaluate, c: Tensor, w: Tensor, fixed: Fixed, noise: Noise) -> tuple[Tensor, ...]:
        """Evaluate `one` of coordinates, weights and fixed values of one start, at one draw of noise."""
        starts, draws = noise[0].shape[:2]
        while self.ways and starts * draws > 1:
            try:
                return self.ways[0](one, c, w, fixed, noise)
            except RuntimeError as error:  # the model's control flow depends on values, or torch lacks a rule
                if "linalg" in str(error):
                    raise
                self.note = self.note or str(error).strip().partition("\n")[0]
                self.ways = self.ways[1:]
        each = [_alone(c, w)] if starts == 1 else list(zip(c, w, strict=True))
        results = [
            one(*leaves, _at(fixed, i), (noise[0][i, k], noise[1][i, k]))
            for i, leaves in enumerate(each)
            for k in range(draws)
        ]
        stacked = (torch.stack(parts) for parts in zip(*results, strict=True))
        return tuple(t.reshape(starts, draws, *t.shape[1:]) for t in stacked)


def _at(fixed: Fixed, index: int) -> Fixed:
    return fixed.map(lambda t: t[index])


def _alone(c: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """The leaves of a single start: views, whose gradient is one, and not a copy into zeros as that of an entry is."""
    return c.squeeze(0), w.squeeze(0)


def nested(one: Evaluate, c: Tensor, w: Tensor, fixed: Fixed, noise: Noise) -> tuple[Tensor, ...]:
    """Vectorize over draws inside of starts.

    What draws of a start have in common, such as a Cholesky factor of q's covariance, is then evaluated once. A single
    start is not vectorized over: `vmap` costs time for every operation, even over one.
    """
    over_draws = torch.vmap(one, (None, None, None, 0), randomness="different")
    if len(c) == 1:
        return tuple(t[None] for t in over_draws(*_alone(c, w), _at(fixed, 0), (noise[0][0], noise[1][0])))
    results: tuple[Tensor, ...] = torch.vmap(over_draws, randomness="different")(c, w, fixed, noise)
    return results


def flat(one: Evaluate, c: Tensor, w: Tensor, fixed: Fixed, noise: Noise) -> tuple[Tensor, ...]:
    """Vectorize once over all draws of all starts: not every operation of torch can be vectorized twice."""
    starts, draws = noise[0].shape[:2]

    def spread(t: Tensor) -> Tensor:  # (S, ...) to (S * K, ...)
        return t[:, None].expand(starts, draws, *t.shape[1:]).flatten(0, 1)

    drawn = noise[0].flatten(0, 1), noise[1].flatten(0, 1)
    results = torch.vmap(one, randomness="different")(spread(c), spread(w), fixed.map(spread), drawn)
    return tuple(t.unflatten(0, (starts, draws)) for t in results)
