"""Arrays that are worked out when their values are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing


class Deferred(BackendArray):
    """An array of known shape whose values `make` gives when somebody looks at them, once.

    Groups of an ArviZ tree that take long (simulations, densities of every row) cost nothing until they are used.

    Parameters
    ----------
    shape, dtype
        Of the array.
    make
        Gives its values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: Any, make: Callable[[], np.ndarray]) -> None:
        self.shape, self.dtype, self._make = tuple(shape), np.dtype(dtype), make
        self._values: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """Work the values out, or return those worked out before."""
        if self._values is None:
            self._values = np.asarray(self._make(), dtype=self.dtype).reshape(self.shape)
        return self._values

    def placeholder(self) -> np.ndarray:
        """Return an array of the same shape and type that holds nothing and takes no memory."""
        return np.broadcast_to(np.zeros((), self.dtype), self.shape)

    def lazy(self) -> Any:
        """Return it in the form that xarray loads from."""
        return indexing.LazilyIndexedArray(self)

    def __getitem__(self, key: Any) -> Any:
        """Return some of the values."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._at)

    def _at(self, key: Any) -> Any:
        return self.values()[key]

    def __deepcopy__(self, memo: Any) -> Deferred:
        """Return itself: it never changes."""
        return self

    def __reduce__(self) -> Any:
        """Be pickled as its values."""
        return _given, (self.values(),)


def _given(values: np.ndarray) -> Deferred:
    return Deferred(values.shape, values.dtype, lambda: values)
