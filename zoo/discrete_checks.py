"""Checks that mixtures of counts and categories share; their columns may be constant."""

from __future__ import annotations

from torch import Tensor

from zoo.errors import DataError
from zoo.mixture_checks import count_distinct


def check_components(x: Tensor, components: int) -> None:
    """Raise if there are more components than distinct rows, so that some would be left without data.

    Parameters
    ----------
    x
        Rows, shape (rows, columns).
    components
        Number of components.

    Raises
    ------
    DataError
        Naming the numbers of components and rows.
    """
    distinct = count_distinct(x.double()) if components > 1 else 1
    if distinct < components:
        raise DataError(
            f"more components ({components}) than distinct rows ({distinct} among {len(x)}); ask for fewer components "
            "or give more data"
        )
