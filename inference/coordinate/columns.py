"""Statistics of the sites of a mixture in the columns of a sweep: coefficients to columns, sums from columns."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor

from inference.conjugate.exponential_family import OuterProduct
from inference.coordinate.features import Features, Linear, Products, Quadratic, pack, unpack
from zoo.replay.sites import Site

SEEN = -1  # in place of the number of a statistic: whether an entry is observed, whose coefficient is -A


@dataclass
class Statistic(ABC):
    """How one statistic T_j of one site is laid out in the columns of a sweep.

    Attributes
    ----------
    site, order
        Which statistic of which site; `SEEN` for whether an entry is observed, where some are missing.
    shape
        Shape of one row's T_j: event dimensions outside it, then its own.
    varies
        Whether coefficients differ by component; else only the total over all rows matters.
    """

    site: Site
    order: int
    shape: tuple[int, ...]
    varies: bool

    @property
    def width(self) -> int:
        """How many columns it takes."""
        return math.prod(self.shape)

    @property
    def shared_by(self) -> int:
        """How many entries share one column."""
        return 1

    @abstractmethod
    def features(self) -> Features:
        """Columns of all rows."""

    @abstractmethod
    def coefficients(self, eta: Tensor) -> Tensor:
        """Coefficients (k or 1, width) from eta (k or 1, *shape), or what is broadcast to that."""

    @abstractmethod
    def sums(self, flat: Tensor) -> Tensor:
        """Sums (k or 1, 1, *shape) from (k or 1, width): rows are one entry."""


@dataclass
class EachEntry(Statistic):
    """A column for each number of T_j; `values` is (n, *shape)."""

    values: Tensor

    def features(self) -> Features:
        """The numbers as they are."""
        return Linear(self.values.reshape(len(self.values), -1))

    def coefficients(self, eta: Tensor) -> Tensor:
        """eta, flattened."""
        return eta.expand(eta.shape[0], *self.shape).reshape(eta.shape[0], -1)

    def sums(self, flat: Tensor) -> Tensor:
        """Undo that."""
        return flat.reshape(flat.shape[0], 1, *self.shape)


@dataclass
class Summed(EachEntry):
    """One column, the sum of the numbers of T_j, which share a coefficient."""

    @property
    def width(self) -> int:
        """One."""
        return 1

    @property
    def shared_by(self) -> int:
        """All numbers of a row's T_j."""
        return math.prod(self.shape)

    def features(self) -> Features:
        """Sums of the numbers of each row."""
        return Linear(self.values.reshape(len(self.values), -1).sum(1, keepdim=True))

    def coefficients(self, eta: Tensor) -> Tensor:
        """The one coefficient."""
        return eta.reshape(eta.shape[0], 1)

    def sums(self, flat: Tensor) -> Tensor:
        """An equal part for each number: only their total is ever used."""
        each = (flat / self.shared_by).reshape(flat.shape[0], 1, *[1] * len(self.shape))
        return each.expand(flat.shape[0], 1, *self.shape)


@dataclass
class Monomials(Statistic):
    """A column for each product v_i v_j with i <= j of an outer product v v^T; `vector` is (n, d)."""

    vector: Tensor

    @property
    def width(self) -> int:
        """d (d + 1) / 2."""
        d = self.shape[-1]
        return d * (d + 1) // 2

    def features(self) -> Features:
        """Products, made a block of rows at a time."""
        return Products(self.vector)

    def coefficients(self, eta: Tensor) -> Tensor:
        """Each pair's two entries of the symmetric matrix, added."""
        return pack(eta.expand(eta.shape[0], *self.shape))

    def sums(self, flat: Tensor) -> Tensor:
        """The symmetric matrix again."""
        return unpack(flat)[:, None]


def seen_only(seen: Tensor, t: Tensor | OuterProduct, dims: int) -> Tensor | OuterProduct:
    """T of the entries that are seen, 0 of the others."""
    if isinstance(t, OuterProduct):
        return OuterProduct(seen[..., None] * t.vector)
    return seen[(..., *[None] * dims)] * t


def in_columns(statistics: list[Statistic]) -> list[Features]:
    """Columns of some statistics, one after the other; x and x x^T of the same x are made together."""
    found: list[Features] = []
    for before, now in zip([None, *statistics], statistics, strict=False):
        if isinstance(before, EachEntry) and isinstance(now, Monomials) and before.values is now.vector:
            found[-1] = Quadratic(now.vector)
        else:
            found.append(now.features())
    return found
