"""Reading tables and arrays from files and shipped datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoo import datasets
from zoo.errors import DataError, unknown

NAMELESS = "Unnamed: 0"  # what pandas calls a first column that the file gives no name
# How the index of a table reads where it was written among the columns: pandas, Arrow and polars, DuckDB, Parquet.
INDEX_NAMES = (NAMELESS, "", "column0", "__index_level_0__")
NOTES = "zoo.notes"  # the attribute of a table that says what became of its columns when it was read


def read(source: str | Path) -> pd.DataFrame | np.ndarray:
    """Read a shipped dataset by name, or a CSV, Parquet or NPY file by path."""
    if isinstance(source, str) and source in datasets.names():
        return datasets.load(source)
    path = Path(source)
    if not path.suffix:
        raise unknown("dataset", str(source), datasets.names(), "A file needs a suffix: .csv, .parquet or .npy.")
    readers: dict[str, Any] = {".csv": _table, ".parquet": pd.read_parquet, ".npy": np.load}
    if path.suffix.lower() not in readers:
        raise DataError(f"{path}: cannot read {path.suffix!r} files; give .csv, .parquet or .npy")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        loaded: pd.DataFrame | np.ndarray = readers[path.suffix.lower()](path)
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{path}: cannot be read as {path.suffix[1:].upper()} ({first}); is it truncated?") from error
    return loaded


def _table(path: Path) -> pd.DataFrame:
    return with_labels(pd.read_csv(path))


def with_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Take a first column without a name, as pandas writes the index of a table, as the labels of the rows.

    The note that says so goes with the table, in its attributes.
    """
    first = table.columns[0] if len(table.columns) > 1 else None
    if first != NAMELESS:
        return table
    table = table.set_index(first).rename_axis(None)
    table.attrs[NOTES] = ("the first column has no name: taken as the labels of the rows",)
    return table
