"""Evaluating a function at every draw of every start at once, in the best way that torch and the model allow."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from guides.variational import Noise
from zoo.replay.evaluate import Values

Evaluate = Callable[[Tensor, Tensor, Values, Noise], tuple[Tensor, ...]]
Vectorized = Callable[[Evaluate, Tensor, Tensor, Values, Noise], tuple[Tensor, ...]]


class Everywhere:
    """Evaluates at every draw of every start: shapes (starts, draws, ...).

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

    def __call__(self, one: Evaluate, c: Tensor, w: Tensor, fixed: Values, noise: Noise) -> tuple[Tensor, ...]:
        """Evaluate `one` of coordinates, weights and buffers of one start, at one draw of noise."""
        starts, draws = noise[0].shape[:2]
        while self.ways and starts * draws > 1:
            try:
                return self.ways[0](one, c, w, fixed, noise)
            except RuntimeError as error:  # the model's control flow depends on values, or torch lacks a rule
                if "linalg" in str(error):
                    raise
                self.note = self.note or str(error).strip().partition("\n")[0]
                self.ways = self.ways[1:]
        found = [
            one(c[i], w[i], {n: v[i] for n, v in fixed.items()}, (noise[0][i, k], noise[1][i, k]))
            for i in range(starts)
            for k in range(draws)
        ]
        stacked = (torch.stack(parts) for parts in zip(*found, strict=True))
        return tuple(t.reshape(starts, draws, *t.shape[1:]) for t in stacked)


def nested(one: Evaluate, c: Tensor, w: Tensor, fixed: Values, noise: Noise) -> tuple[Tensor, ...]:
    """Evaluate at every draw of every start: what draws of a start have in common is evaluated once."""
    inner = torch.vmap(one, (None, None, None, 0), randomness="different")
    if len(c) == 1:
        only = {n: v[0] for n, v in fixed.items()}
        return tuple(t[None] for t in inner(c[0], w[0], only, (noise[0][0], noise[1][0])))
    found: tuple[Tensor, ...] = torch.vmap(inner, randomness="different")(c, w, fixed, noise)
    return found


def flat(one: Evaluate, c: Tensor, w: Tensor, fixed: Values, noise: Noise) -> tuple[Tensor, ...]:
    """Evaluate at every draw of every start, all alike: not every operation of torch can be vectorized twice."""
    starts, draws = noise[0].shape[:2]

    def spread(t: Tensor) -> Tensor:
        return t[:, None].expand(starts, draws, *t.shape[1:]).flatten(0, 1)

    every = {n: spread(v) for n, v in fixed.items()}
    drawn = noise[0].flatten(0, 1), noise[1].flatten(0, 1)
    found = torch.vmap(one, randomness="different")(spread(c), spread(w), every, drawn)
    return tuple(t.unflatten(0, (starts, draws)) for t in found)
