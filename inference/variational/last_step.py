"""What parts of q do when the climb has ended: `guides.variational.Pushforward.finish`."""

from __future__ import annotations

import math
from functools import cached_property, partial

from torch import Tensor

from guides.variational import Noise, Pushforward, Variational
from inference.approximations.noise import quasi_normal
from inference.variational.bound import Bound
from inference.variational.position import Position
from zoo.replay.evaluate import Values

DRAWS = 256  # that an expectation is taken over
FEWEST = 16
CELLS = 200_000  # entries of the data times draws


class SampleAverage:
    """The bound where one start has ended, on all rows, over a fixed set of draws: a smooth function without noise.

    Parameters
    ----------
    bound
        The bound, its q as it was while climbing.
    position
        Where the start has ended.
    draws
        Of one estimate of the bound.
    """

    def __init__(self, bound: Bound, position: Position, draws: int) -> None:
        self.bound, self.position, self.draws = bound, position, draws
        self.shapes = bound.q.noise_shapes(len(bound.program.data))
        self.steady = not any(math.prod(shape) for shape in self.shapes)

    @cached_property
    def noise(self) -> Noise:
        """Noise behind the draws, (groups, draws, ...)."""
        program = self.bound.program
        entries = sum(v.numel() for v in program.data.values.values())
        count = 1 if self.steady else max(FEWEST, min(DRAWS, CELLS // max(1, entries)))
        groups = -(-count // self.draws)
        first, second = (
            quasi_normal(groups * self.draws, math.prod(shape), program).reshape(groups, self.draws, *shape)
            for shape in self.shapes
        )
        return first, second

    def along(self, name: str, changed: Values) -> Tensor:
        """The bound with other values of some parameters of one part of q."""
        return self.bound.value(self.position, self.noise, {f"{name}.{n}": v for n, v in changed.items()})


def finished(bound: Bound, position: Position, index: int, draws: int) -> Variational:
    """Return q where one start has ended, after the last step of each part, all taken from the same place.

    It is the bound's own q, which is set anew by whatever asks for it next.
    """
    q = bound.q_at(position, index)
    average = SampleAverage(bound, position.only(index), draws)
    changed: Values = {}
    for name, part in q.named_modules():
        if isinstance(part, Pushforward):
            new = part.finish(partial(average.along, name), steady=average.steady)
            changed |= {f"{name}.{n}": v for n, v in new.items()}
    if q.states and not q.amortized:
        first, second = average.noise
        some = first.flatten(0, 1)[:FEWEST], second.flatten(0, 1)[:FEWEST]
        changed["over_locals.share"] = bound.shares(average.position, some)
    if changed:
        q.load_state_dict({**q.state_dict(), **changed})
    return q
