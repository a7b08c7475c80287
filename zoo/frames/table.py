"""The one door for tables: whatever narwhals knows (polars, Arrow, DuckDB, ...) becomes a table of pandas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoo.errors import DataError
from zoo.frames.read import read

# Packages whose objects are no tables of another library; narwhals, which takes long to import, need not look at them.
OWN = frozenset({"builtins", "guides", "inference", "numpy", "pandas", "pathlib", "torch", "xarray", "zoo"})


def as_table(source: Any) -> Any:
    """Return a table or column of any library, or records, as a DataFrame or Series of pandas; anything else as it is.

    Queries that have not run (of polars, DuckDB, Ibis) are run.

    Raises
    ------
    DataError
        If it is a sparse matrix, or has sparse columns.
    """
    check_dense(source, "the data")
    if isinstance(source, pd.DataFrame | pd.Series):
        check_dense_columns(source)
    records = isinstance(source, list) and bool(source) and all(isinstance(row, Mapping) for row in source)
    if records or (isinstance(source, np.ndarray) and source.dtype.names):
        return pd.DataFrame(source)
    if type(source).__module__.partition(".")[0] in OWN or isinstance(source, Mapping | Path):
        return source
    import narwhals as nw

    found = nw.from_native(source, pass_through=True, allow_series=True)
    if found is source and hasattr(source, "__arrow_c_stream__"):  # batches, and readers of them
        found = nw.from_arrow(source, backend="pyarrow")
    if isinstance(found, nw.LazyFrame):
        found = found.collect("pyarrow")
    return found.to_pandas() if isinstance(found, nw.DataFrame | nw.Series) else source


def check_dense(array: Any, what: str) -> None:
    """Raise if an array is a sparse one of SciPy, whose zeros would have to be written out.

    Raises
    ------
    DataError
        With the call that does.
    """
    if not type(array).__module__.startswith("scipy.sparse"):
        return
    size = " x ".join(map(str, array.shape))
    raise DataError(
        f"{what}: expected a dense array, found a sparse one of SciPy ({size}); write its zeros out with .toarray(), "
        "if memory allows that, or count a long table (one row for each cell that is not 0) into a Count field"
    )


def check_dense_columns(table: pd.DataFrame | pd.Series) -> None:
    """Raise if a table, or column, of pandas has sparse columns, whose zeros would have to be written out.

    Raises
    ------
    DataError
        With the call that does.
    """
    columns = [table] if isinstance(table, pd.Series) else [table.iloc[:, j] for j in range(table.shape[1])]
    sparse = [c for c in columns if isinstance(c.dtype, pd.SparseDtype)]
    if not sparse:
        return
    column = sparse[0]
    more = f" and {len(sparse) - 1} more" if sparse[1:] else ""
    raise DataError(
        f"column {column.name!r}{more}: expected dense columns, found sparse ones ({len(column)} rows); write "
        "their zeros out, if memory allows that: table.astype({c: t.subtype for c, t in table.dtypes.items() if "
        "isinstance(t, pandas.SparseDtype)})"
    )


def opened(source: Any, *, columns: bool = False) -> Any:
    """Return what a path or name stands for, tables of any library as those of pandas; a dict, too, if of `columns`."""
    if isinstance(source, str | Path):
        source = read(source)
    return _of_columns(source) if columns else as_table(source)


def _of_columns(source: Any) -> Any:
    """Return a dict of columns, or a Dataset of xarray, as a table; anything else as `as_table` does.

    Raises
    ------
    DataError
        If the columns are not of one length.
    """
    if not isinstance(source, Mapping):
        return as_table(source)
    if hasattr(source, "to_dataframe"):
        return source.to_dataframe()
    try:
        return pd.DataFrame({n: v.detach().cpu().numpy() if hasattr(v, "detach") else v for n, v in source.items()})
    except ValueError as error:
        raise DataError(f"expected columns of one length in a dict that is taken for a table: {error}") from None
