"""In which order to eliminate, and how large the factors become.

Eliminating a variable joins all factors that hold it, so that all others in these become neighbours. Finding the order
with the smallest factors is NP-hard; eliminating next the variable that joins the fewest that were not neighbours
before (min-fill) comes near it on networks that occur (Koller and Friedman 2009, section 9.4.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from itertools import combinations

Scopes = tuple[tuple[str, ...], ...]
Sizes = tuple[tuple[str, int], ...]


@lru_cache(maxsize=256)
def min_fill(scopes: Scopes, sizes: Sizes, symbols: frozenset[str]) -> tuple[str, ...]:
    """Order in which to eliminate `symbols`: fewest new neighbours first, then the smallest factor.

    Parameters
    ----------
    scopes
        Dimensions of each factor.
    sizes
        Size of each dimension.
    symbols
        What is to be eliminated.
    """
    size = dict(sizes)
    near: dict[str, set[str]] = {d: set() for scope in scopes for d in scope}
    for scope in scopes:
        for d in scope:
            near[d].update(scope)
    for d, others in near.items():
        others.discard(d)
    order, left = [], set(symbols)

    def cost(symbol: str) -> tuple[int, float, str]:
        new = sum(b not in near[a] for a, b in combinations(sorted(near[symbol]), 2))
        return new, _log_cells(near[symbol] | {symbol}, size), symbol

    costs = {symbol: cost(symbol) for symbol in left}
    while left:
        symbol = min(left, key=costs.__getitem__)
        left.remove(symbol)
        order.append(symbol)
        around = near.pop(symbol)
        for d in around:
            near[d] = (near[d] | around) - {symbol, d}
        # Only what lies around a changed neighbourhood can have another cost than before.
        changed = around.union(*(near[d] for d in around)) & left
        costs.update({d: cost(d) for d in changed})
    return tuple(order)


def _log_cells(dims: set[str], size: Mapping[str, int]) -> float:
    return sum(math.log(size[d]) for d in dims)
