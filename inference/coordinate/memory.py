"""Expected statistics of rows that are kept, to go on from."""

from __future__ import annotations

from dataclasses import dataclass

from inference.conjugate.exponential_family import Statistics
from inference.conjugate.recognition import Frame


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

    sums: dict[str, Statistics]
    frame: Frame
