"""What variable elimination leaves behind, read backwards: joint posteriors, draws and the most probable configuration.

Eliminating a variable z joins the factors that hold it into one, f(z, others). Backwards through the order, the others
are known when z is looked at, and p(z | others, data) is f(z, others) / sum_z f(z, others): drawn for draws, at its
maximum for the most probable configuration, and multiplied by the others' own posterior for that of z and the others
together (bucket elimination, Dechter 1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.elimination.eliminate import Bucket, Factor, contract

DRAW = "draw"  # name of the dimension of draws, which no symbol has
CELLS = 1 << 22  # numbers of one variable's conditional distributions in one go


@dataclass(frozen=True)
class Buckets:
    """Factors with some symbols eliminated, and the trail of it.

    Attributes
    ----------
    trail
        What was eliminated, in this order.
    left
        What is left for each set of plates.
    sizes
        Size of the dimension of each plate.
    """

    trail: list[Bucket]
    left: dict[frozenset[str], Factor]
    sizes: Mapping[str, int]

    @classmethod
    def of(
        cls,
        factors: Iterable[Factor],
        enumerated: frozenset[str],
        sizes: Mapping[str, int],
        row: str | None = None,
        weights: Tensor | None = None,
        *,
        hard: bool = False,
    ) -> Buckets:
        """Eliminate; arguments as for `contract`."""
        trail: list[Bucket] = []
        left = contract(factors, enumerated, row, weights, hard=hard, trail=trail)
        return cls(trail, left, sizes)

    @property
    def largest(self) -> int:
        """How many cells the largest factor has."""
        return max((b.joined.tensor.numel() for b in self.trail), default=1)

    def marginals(self) -> dict[str, Factor]:
        """p(z | data) of each symbol, its dimension last, after those of its plates that it varies along."""
        beliefs: list[Factor] = []  # p(z, others | data) of each bucket
        found: dict[str, Factor] = {}
        for bucket in reversed(self.trail):
            joined, symbol = bucket.joined, bucket.symbol
            others = tuple(d for d in joined.dims if d != symbol and d not in joined.plates)
            along = tuple(d for d in joined.dims if d in joined.plates)
            before = _over(others, joined.plates, beliefs) if others else None
            if before is not None:
                along = tuple(dict.fromkeys((*along, *(d for d in before.dims if d in before.plates))))
            dims = (*along, *others, symbol)
            belief = joined.aligned(dims).softmax(-1).nan_to_num(0.0)  # p(z | others, data); no others, no belief
            if before is not None:
                belief = belief * before.aligned(dims)
            beliefs.append(Factor(belief, dims, joined.plates))
            axes = [i for i, d in enumerate(dims) if d in others]
            found[symbol] = Factor(belief.sum(axes) if axes else belief, (*along, symbol), joined.plates)
        return found

    def draw(self, count: int) -> dict[str, Factor]:
        """Draw all symbols jointly: positions of states, dimensions (draw, *plates)."""
        return self._backwards(count, draw=True)

    def best(self) -> dict[str, Factor]:
        """Positions of the states of the most probable configuration, dimensions (draw, *plates), one draw.

        It is one if symbols were eliminated by maxima (`hard`).
        """
        return self._backwards(1, draw=False)

    def _backwards(self, count: int, *, draw: bool) -> dict[str, Factor]:
        chosen: dict[str, Factor] = {}
        for bucket in reversed(self.trail):
            joined, symbol = bucket.joined, bucket.symbol
            plates = tuple(sorted(joined.plates, key=lambda p: (p not in self.sizes, p)))
            shape = tuple(self.sizes[p] for p in plates)
            others = tuple(d for d in joined.dims if d != symbol and d not in plates)
            table = joined.aligned((*others, *plates, symbol))  # (others..., plates..., states)
            states = table.shape[-1]
            table = table.expand(*table.shape[: len(others)], *shape, states)
            cells = math.prod(shape)
            at = torch.zeros(count, *shape, dtype=torch.long, device=table.device)
            for d, size in zip(others, table.shape, strict=False):
                at = at * size + chosen[d].aligned((DRAW, *plates))
            table, at = table.reshape(-1, cells, states), at.reshape(count, cells)
            where = torch.arange(cells, device=table.device)
            picked = []
            for some in at.split(max(1, CELLS // (cells * states))):
                log_p = table[some, where]  # (draws, cells, states)
                if draw:
                    p = log_p.softmax(-1).nan_to_num(0.0)
                    u = torch.rand(*p.shape[:-1], 1, dtype=p.dtype, device=p.device)
                    total = p.cumsum(-1)
                    # A state of probability 0 is never drawn: u < 1, and equal sums are passed over.
                    picked.append((total <= u * total[..., -1:]).sum(-1).clamp_max(states - 1))
                else:
                    picked.append(log_p.argmax(-1))
            found = torch.cat(picked).reshape(count, *shape)
            chosen[symbol] = Factor(found, (DRAW, *plates), joined.plates)
        return chosen


def _over(symbols: tuple[str, ...], plates: frozenset[str], beliefs: list[Factor]) -> Factor:
    """Joint posterior of some symbols: of the bucket that took up a factor of all of them, the rest summed out."""
    home = next(b for b in reversed(beliefs) if set(symbols) <= set(b.dims) and b.plates <= plates)
    gone = [i for i, d in enumerate(home.dims) if d not in home.plates and d not in symbols]
    kept = tuple(d for i, d in enumerate(home.dims) if i not in gone)
    return Factor(home.tensor.sum(gone) if gone else home.tensor, kept, home.plates)
