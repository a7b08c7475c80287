"""Expected statistics of rows that are kept, to go on from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Memory:
    """Expected statistics of all rows so far, to go on from.

    Attributes
    ----------
    sums
        Site -> weights of its entries, and weighted sufficient statistics.
    frame
        What the statistics are taken about.
    """

    sums: dict[str, tuple[Tensor, tuple[Tensor, ...]]]
    frame: dict[str, Tensor]
