"""Exact elimination of enumerated sites: log sum over states of a product of factors, plate by plate.

The factors of a Pyro model form a tree of plates (Obermeyer et al. 2019, "Tensor variable elimination for plated
factor graphs", algorithm 1). Everything stays in log space, so no product of states underflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.elimination.order import min_fill
from zoo.errors import ModelError

MOST_CELLS = 1 << 27  # of one factor: 1 GB in float64, of which a few copies are in memory at a time


class TooManyCellsError(ModelError):
    """A factor would not fit in memory.

    Attributes
    ----------
    sizes
        Its dimensions, by symbol, and their sizes.
    """

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(f"a factor over {len(sizes)} dimensions would have {math.prod(sizes.values())} cells")
        self.sizes = dict(sizes)


@dataclass(frozen=True)
class Factor:
    """A log factor whose dimensions are named by one symbol each, left to right, and the plates it lives in."""

    tensor: Tensor
    dims: tuple[str, ...]
    plates: frozenset[str]

    def aligned(self, target: tuple[str, ...]) -> Tensor:
        """Return the tensor with exactly the dimensions `target`, of size 1 where it has none of that name."""
        if target == self.dims:
            return self.tensor
        kept = tuple(d for d in target if d in self.dims)
        tensor = self.tensor.permute([self.dims.index(d) for d in kept])
        return tensor[tuple(slice(None) if d in self.dims else None for d in target)]


@dataclass(frozen=True)
class Bucket:
    """A symbol that was eliminated, and the product of all factors that held it then."""

    symbol: str
    joined: Factor


def pack(log_prob: Tensor, symbols: dict[int, str], plates: frozenset[str]) -> Factor:
    """Name the dimensions of a site's log density, dropping those of size 1."""
    kept = [d for d in range(-log_prob.ndim, 0) if log_prob.shape[d] > 1]
    if len(kept) < log_prob.ndim:
        log_prob = log_prob.squeeze() if kept else log_prob.reshape(())
    return Factor(log_prob, tuple(symbols[d] for d in kept), plates)


def _product(factors: Iterable[Factor], plates: frozenset[str]) -> Factor:
    """Add log factors that live in the same plates."""
    factors = list(factors)
    dims = tuple(dict.fromkeys(d for f in factors for d in f.dims))
    total = factors[0].aligned(dims)
    for factor in factors[1:]:
        total = total + factor.aligned(dims)
    return Factor(total, dims, plates)


def _sum_out(
    factors: list[Factor], symbol: str, plates: frozenset[str], trail: list[Bucket] | None, *, hard: bool
) -> list[Factor]:
    """Eliminate one enumerated symbol from factors in the same plates: by a sum, or a maximum."""
    with_it = [f for f in factors if symbol in f.dims]
    sizes = {d: n for f in with_it for d, n in zip(f.dims, f.tensor.shape, strict=True)}
    if math.prod(sizes.values()) > MOST_CELLS:
        raise TooManyCellsError(sizes)
    joined = _product(with_it, plates)
    if trail is not None:
        trail.append(Bucket(symbol, joined))
    where = joined.dims.index(symbol)
    summed = joined.tensor.max(where).values if hard else joined.tensor.logsumexp(where)
    rest = [f for f in factors if symbol not in f.dims]
    return [*rest, Factor(summed, joined.dims[:where] + joined.dims[where + 1 :], plates)]


def contract(
    factors: Iterable[Factor],
    enumerated: frozenset[str],
    row: str | None = None,
    weights: Tensor | None = None,
    *,
    hard: bool = False,
    trail: list[Bucket] | None = None,
) -> dict[frozenset[str], Factor]:
    """Sum out the enumerated symbols; return what is left for each set of plates, without any plate summed.

    Parameters
    ----------
    factors
        Log factors.
    enumerated
        Symbols to sum out.
    row, weights
        Symbol of the data plate and the weight of each row. They enter only where an enumerated site outside the
        plate forces the product over rows to be taken here.
    hard
        Maximize over the symbols instead.
    trail
        Where to note what was eliminated, in this order.

    Raises
    ------
    ModelError
        If a factor does not fit in memory, or an enumerated site is used in two plates neither of which holds the
        other.
    """
    tree: dict[frozenset[str], list[Factor]] = {}
    for factor in factors:
        tree.setdefault(factor.plates, []).append(factor)
    done: dict[frozenset[str], Factor] = {}
    while tree:
        # The innermost plates first: no other factor lives inside them.
        plates = max(tree, key=len)
        leaf = tree.pop(plates)
        # A symbol that no factor outside has can be summed out entry by entry of the plate.
        outside = {d for terms in tree.values() for f in terms for d in f.dims}
        inside = frozenset({d for f in leaf for d in f.dims} & enumerated - outside)
        sizes = {d: n for f in leaf for d, n in zip(f.dims, f.tensor.shape, strict=True)}
        scopes = tuple(f.dims for f in leaf)
        for symbol in min_fill(scopes, tuple(sizes.items()), inside) if len(inside) > 1 else inside:
            leaf = _sum_out(leaf, symbol, plates, trail, hard=hard)
        finished = [f for f in leaf if not enumerated.intersection(f.dims)]
        if finished:
            done[plates] = _product(finished, plates)
        # Factors that still have a symbol are multiplied over the plate, and go to the plates that share the symbol.
        for factor in leaf:
            shared = enumerated.intersection(factor.dims)
            if shared:
                homes = [p for p, terms in tree.items() if any(shared.intersection(f.dims) for f in terms)]
                parent = max((p for p in homes if p < plates), key=len, default=None)
                if parent is None:
                    raise ModelError(
                        "an enumerated site is used in two plates neither of which is inside the other; nest the plates"
                    )
                tree[parent].append(_reduce(factor, plates - parent, parent, row, weights))
    return done


def _reduce(
    factor: Factor, gone: frozenset[str], parent: frozenset[str], row: str | None, weights: Tensor | None
) -> Factor:
    """Take the product over plates: sum the log factor over their dimensions, rows by their weight."""
    tensor = factor.tensor
    if weights is not None and row in gone:
        shape = [-1 if d == row else 1 for d in factor.dims]
        tensor = tensor * weights.reshape(shape) if row in factor.dims else tensor * weights.sum()
    axes = [i for i, d in enumerate(factor.dims) if d in gone]
    tensor = tensor.sum(axes) if axes else tensor
    return Factor(tensor, tuple(d for d in factor.dims if d not in gone), parent)


def rows_and_rest(
    contracted: dict[frozenset[str], Factor], row: str | None, size: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Split contracted factors into the sum outside the data plate and one log density per row."""
    rest, rows = torch.zeros_like(like), torch.zeros_like(like).expand(size)
    for plates, factor in contracted.items():
        axes = [i for i, d in enumerate(factor.dims) if d != row]
        total = factor.tensor.sum(axes) if axes else factor.tensor
        if row is not None and row in plates:
            rows = rows + total
        else:
            rest = rest + total
    return rest, rows
