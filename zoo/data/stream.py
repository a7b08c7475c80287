"""Data larger than memory: read in chunks, or row by row, as often as a method needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import torch

from zoo.errors import DataError
from zoo.frames.read import TEXT, check_names, suffix_of, text_options, tidied

CHUNK = 250_000  # rows read at a time unless told otherwise
SAMPLE = 20_000  # rows, drawn evenly from the file, on which a model is set up and started


@dataclass(frozen=True)
class Stream:
    """Rows that are read when they are needed: `chunk` at a time, and by their numbers where these can be asked for.

    Attributes
    ----------
    chunk
        Rows in memory at a time.
    weights
        Column that holds the weight of each row, if any.
    """

    chunk: int = field(default=CHUNK, kw_only=True)
    weights: str | None = field(default=None, kw_only=True)

    @property
    def fixed(self) -> bool:
        """Whether a row is the same whenever it is read."""
        return True

    def seeded(self) -> Self:
        """Return it with all seeds that it needs, drawn from torch's random numbers where none was given."""
        return self

    @property
    def count(self) -> int | None:
        """How many rows there are; None where they come in the order of a file only."""
        return None

    def at(self, rows: np.ndarray, epoch: int = 0) -> Any:
        """Return the rows of these numbers, as the pass `epoch` over all of them has them."""
        raise NotImplementedError(type(self).__name__)

    def frames(self) -> Iterator[Any]:
        """Tables or arrays of at most `chunk` rows, one after the other."""
        raise NotImplementedError(type(self).__name__)

    def sample(self) -> tuple[Any, int]:
        """Rows drawn evenly from all of them, and how many there are; from torch's random numbers."""
        raise NotImplementedError(type(self).__name__)


@dataclass(frozen=True)
class File(Stream):
    """A Parquet, text or NPY file; make one with `zoo.stream`."""

    path: Path

    def __str__(self) -> str:
        """Name the file."""
        return str(self.path)

    @property
    def count(self) -> int | None:
        """Rows of an NPY file."""
        return len(self._mapped()) if self.path.suffix.lower() == ".npy" else None

    def at(self, rows: np.ndarray, epoch: int = 0) -> Any:
        """Read rows of an NPY file."""
        return self._mapped()[rows]

    def _mapped(self) -> np.ndarray:
        mapped: np.ndarray = np.load(self.path, mmap_mode="r")
        if not mapped.flags.c_contiguous or not mapped.shape:
            raise DataError(f"{self.path}: a stream reads arrays of rows stored one after the other (C order)")
        return mapped

    def frames(self) -> Iterator[Any]:
        """Tables (arrays for NPY) of at most `chunk` rows, in the order of the file."""
        readers: dict[str, Callable[[], Iterator[Any]]] = {
            ".parquet": self._parquet,
            ".npy": self._npy,
            **dict.fromkeys(TEXT, self._text),
        }
        reader = readers[suffix_of(self.path)]
        empty = True
        try:
            for frame in reader():
                if len(frame):
                    empty = False
                    yield frame
        except DataError:
            raise
        except Exception as error:
            first = str(error).strip().partition("\n")[0] or type(error).__name__
            raise DataError(f"{self.path}: cannot be read ({first}); is it truncated?") from error
        if empty:
            raise DataError(f"{self.path} holds no rows; there is nothing to fit")

    def _parquet(self) -> Iterator[pd.DataFrame]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            for batch in file.iter_batches(batch_size=self.chunk):
                yield batch.to_pandas()

    def _text(self) -> Iterator[pd.DataFrame]:
        options, before = text_options(self.path), 0
        try:
            check_names(pd.read_csv(self.path, header=None, nrows=1, dtype=str, **options))
            with pd.read_csv(self.path, chunksize=self.chunk, **options) as reader:
                for table in reader:
                    yield tidied(table, before=before)
                    before += len(table)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None

    def _npy(self) -> Iterator[np.ndarray]:
        mapped: Any = self._mapped()
        shape, dtype, start = mapped.shape, mapped.dtype, mapped.offset
        del mapped
        width = int(np.prod(shape[1:], dtype=np.int64))
        for row in range(0, shape[0], self.chunk):
            count = min(self.chunk, shape[0] - row)
            at = start + row * width * dtype.itemsize
            yield np.fromfile(self.path, dtype, count * width, offset=at).reshape(count, *shape[1:])

    def sample(self) -> tuple[Any, int]:
        """Rows drawn evenly from the whole file, and how many rows it has; from torch's random numbers.

        For each column that has missing values, a row that lacks it is among them, so that a fit knows of these.
        """
        parts: list[Any] = []
        lacking: list[Any] = []
        known: np.ndarray | bool = False
        rows, kept, share = 0, 0, 1.0
        for frame in self.frames():
            missing = np.asarray(pd.isna(frame)).reshape(len(frame), -1)
            fresh = missing.any(0) & ~np.asarray(known)
            if fresh.any():
                lacking.append(_pick(frame, np.isin(np.arange(len(frame)), missing.argmax(0)[fresh])))
                known = fresh | known
            rows += len(frame)
            parts.append(_pick(frame, torch.rand(len(frame)).numpy() < share))
            kept += len(parts[-1])
            while kept > 2 * SAMPLE:  # every row so far stays with the same probability
                parts = [_pick(p, torch.rand(len(p)).numpy() < 0.5) for p in parts]
                kept, share = sum(len(p) for p in parts), 0.5 * share
        parts += lacking
        if isinstance(parts[0], pd.DataFrame):
            return pd.concat(parts, ignore_index=True), rows
        return np.concatenate(parts), rows


def _pick(frame: Any, which: np.ndarray) -> Any:
    return frame.loc[which] if isinstance(frame, pd.DataFrame) else frame[which]


def stream(path: str | Path, *, chunk: int = CHUNK, weights: str | None = None) -> File:
    """Read a file in chunks, for data larger than memory: ``fit(model, zoo.stream("rows.parquet"), method="em")``.

    Parameters
    ----------
    path
        A Parquet, CSV or TSV (also .gz) or NPY file.
    chunk
        Rows in memory at a time; the memory of a fit is bounded by it, whatever the length of the file.
    weights
        Column of row weights, if the file has one.

    Raises
    ------
    DataError
        If there is no such file, or it is of another kind.

    Examples
    --------
    >>> import tempfile
    >>> import zoo
    >>> from inference import fit
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     zoo.datasets.load("faithful").to_csv(f"{folder}/geyser.csv", index=False)
    ...     result = fit(zoo.GMM(components=2), zoo.stream(f"{folder}/geyser.csv", chunk=100), method="em", seed=0)
    >>> round(result.objective.value, 2)
    -1130.26
    """
    path = Path(path)
    if suffix_of(path) not in (".parquet", ".npy", *TEXT):
        kind = path.suffix or "files without suffix"
        raise DataError(f"{path}: a stream reads Parquet, CSV, TSV (also .gz) or NPY files, not {kind}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise DataError(f"stream(chunk={chunk!r}): chunk must be a whole number above 0")
    if weights is not None and path.suffix.lower() == ".npy":
        raise DataError("stream(weights=...) names a column, and an NPY file has none; give Parquet or CSV")
    return File(path, chunk=chunk, weights=weights)
