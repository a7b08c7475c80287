"""Reading tables and arrays from files and shipped datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoo import datasets
from zoo.errors import DataError, unknown


def read(source: str | Path) -> pd.DataFrame | np.ndarray:
    """Read a shipped dataset by name, or a CSV, Parquet or NPY file by path."""
    if isinstance(source, str) and source in datasets.names():
        return datasets.load(source)
    path = Path(source)
    if not path.suffix:
        raise unknown("dataset", str(source), datasets.names(), "A file needs a suffix: .csv, .parquet or .npy.")
    readers: dict[str, Any] = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".npy": np.load}
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
