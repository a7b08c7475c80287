"""Reading tables and arrays from files, standard input and shipped datasets."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd

from zoo import datasets
from zoo.errors import DataError, unknown
from zoo.frames.bounded import check_array, check_batches, check_parts, check_rows, unpacked
from zoo.frames.separators import NUMBER, SAMPLE, WRITTEN, separator_of

NAMELESS = "Unnamed: 0"  # what pandas calls a first column that the file gives no name
# How the index of a table reads where it was written among the columns: pandas, Arrow and polars, Parquet, DuckDB.
INDEX_NAMES = (NAMELESS, "", "__index_level_0__", "column0")
NOTES = "zoo.notes"  # the attribute of a table that says what became of its columns when it was read

COMMA = re.compile(r"\s*[+-]?\d*(?:,\d+)?(?:[eE][+-]?\d+)?\s*")  # a number with a decimal comma

Table: TypeAlias = "pd.DataFrame | np.ndarray | dict[str, np.ndarray]"
File: TypeAlias = "Path | io.BytesIO"
OPENERS: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
TEXT = (".csv", ".tsv", ".txt")
KINDS = "give .csv or .tsv (also .gz), .xlsx, .parquet, .feather or .arrow, .npy or .npz"


def read(source: str | Path, *, separator: str | None = None) -> Table:
    """Read a shipped dataset by name, a file by path, or standard input, which is ``-``.

    Parameters
    ----------
    source
        CSV and TSV (also .gz, .bz2, .xz), XLSX, Parquet, Feather or Arrow, NPY or NPZ; the suffix says which, and of
        standard input its first bytes.
    separator
        What stands between the columns of a text file; None for what its first lines show.

    Raises
    ------
    DataError
        If there is no such file, or it cannot be read.
    """
    if isinstance(source, str) and source in datasets.names():
        return datasets.load(source)
    if str(source) == "-":
        content = sys.stdin.buffer.read()
        return _read(io.BytesIO(content), _kind_of(content), "standard input", separator)
    path = Path(source)
    if not path.suffix:
        raise unknown("dataset", str(source), datasets.names(), f"A file needs a suffix: {KINDS}.")
    kind = suffix_of(path)
    if kind not in READERS:
        raise DataError(f"{path}: cannot read {path.suffix!r} files; {KINDS}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    return _read(path, kind, str(path), separator)


def suffix_of(path: Path) -> str:
    """Return the suffix that says what a file holds, without that of its compression."""
    inner, last = path.with_suffix("").suffix.lower(), path.suffix.lower()
    return inner if last in OPENERS and inner in TEXT else last


def _read(file: File, kind: str, name: str, separator: str | None) -> Table:
    if separator is not None and kind not in TEXT:
        raise DataError(f"{name}: only text files have a separator, and this is {kind[1:].upper()}; leave it out")
    try:
        found: Table = READERS[kind](file, separator)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None
    except ImportError:
        raise DataError(f"{name}: openpyxl, which reads .xlsx, is not installed: pip install openpyxl") from None
    except UnicodeError:
        raise DataError(f"{name}: its text is not in UTF-8; save it so (in Excel: CSV UTF-8)") from None
    except Exception as error:
        first = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(f"{name}: cannot be read as {kind[1:].upper()} ({first}); is it truncated?") from error
    return found


def _kind_of(content: bytes) -> str:
    """Tell by its first bytes what was given on standard input."""
    found = next((kind for magic, kind in MAGIC.items() if content.startswith(magic)), ".csv")
    return ".xlsx" if found == ".npz" and b"xl/" in content else found


def text_options(path: Path, separator: str | None = None) -> dict[str, Any]:
    """Return how pandas has to read a text file: its separator, which the first lines show unless it is given."""
    if separator is None:
        with OPENERS.get(path.suffix.lower(), open)(path, "rt", encoding="utf-8-sig", errors="replace") as file:
            separator = separator_of(file.read(SAMPLE))
    return {"sep": WRITTEN.get(separator, separator)}


def _text(file: File, separator: str | None) -> pd.DataFrame:
    if isinstance(file, Path):
        return _csv(file, **text_options(file, separator))
    content = file.read()
    if content.startswith(b"\x1f\x8b"):
        with gzip.open(io.BytesIO(content)) as inner, unpacked(inner, len(content)) as packed:
            text = packed.read()
    else:
        text = content.decode("utf-8-sig")
    separator = separator_of(text[:SAMPLE]) if separator is None else WRITTEN.get(separator, separator)
    return _csv(io.StringIO(text), sep=separator)


def _csv(file: Path | io.StringIO, **options: Any) -> pd.DataFrame:
    if isinstance(file, Path) and file.suffix.lower() in OPENERS:
        with OPENERS[file.suffix.lower()](file) as inner, unpacked(inner, file.stat().st_size) as text:
            table = pd.read_csv(text, **options)
    else:
        table = pd.read_csv(file, **options)
    if isinstance(file, io.StringIO):
        file.seek(0)
    head = pd.read_csv(file, header=None, nrows=1, dtype=str, **options)
    check_names(head)
    table = tidied(table, decimal_commas=options.get("sep") != ",")
    if all(NUMBER.fullmatch(str(word)) for word in head.iloc[0]):
        said = ", ".join(head.iloc[0][:4])
        note = f"the first line names the columns: {said}; if these numbers are a row, put a line of names above it"
        table.attrs[NOTES] = (*table.attrs.get(NOTES, ()), note)
    return table


def check_names(head: pd.DataFrame) -> None:
    """Refuse a first line that names several columns the same, which pandas renames without a word.

    Raises
    ------
    DataError
        With the names.
    """
    names = head.iloc[0].dropna()
    twice = list(dict.fromkeys(map(str, names[names.duplicated()])))
    if twice:
        raise DataError(
            f"its first line names several columns {', '.join(map(repr, twice[:8]))}{', ...' if twice[8:] else ''}; "
            "rename all but one, or, if it has no names at all, put a line of names first"
        )


def _excel(file: File, separator: str | None) -> pd.DataFrame:
    check_parts(file)
    with pd.ExcelFile(file) as book:
        table = tidied(pd.read_excel(book))
        check_names(pd.read_excel(book, header=None, nrows=1, dtype=str))
        if len(book.sheet_names) > 1:
            note = f"read sheet {book.sheet_names[0]!r}, the first of {len(book.sheet_names)}"
            table.attrs[NOTES] = (*table.attrs.get(NOTES, ()), note)
    return table


def _arrays(file: File, separator: str | None) -> np.ndarray | dict[str, np.ndarray]:
    """Arrays by the names of fields; a single one as it is, whatever its name."""
    check_parts(file)
    with np.load(file) as saved:
        for part in saved.zip.infolist():
            with saved.zip.open(part) as inner:
                check_array(inner, part.file_size)
        arrays = {name: saved[name] for name in saved.files}
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _array(file: File, separator: str | None) -> np.ndarray:
    if isinstance(file, Path):
        with file.open("rb") as opened:
            check_array(opened, file.stat().st_size)
    else:
        check_array(file, file.getbuffer().nbytes)
        file.seek(0)
    array: np.ndarray = np.load(file)
    return array


def _parquet(file: File, separator: str | None) -> pd.DataFrame:
    from pyarrow.parquet import read_metadata

    metadata = read_metadata(file)
    check_rows(metadata.num_rows, metadata.num_columns)
    if not isinstance(file, Path):
        file.seek(0)
    return pd.read_parquet(file)


def _arrow(file: File, separator: str | None) -> pd.DataFrame:
    """Arrow's format for files, which is Feather's, or its format for streams, which has no magic bytes."""
    from pyarrow import ArrowInvalid, Table, feather, ipc

    if isinstance(file, Path):
        with file.open("rb") as opened:
            content = opened.read(4)
        if content == b"FEA1":  # the first version of Feather, which compresses nothing
            old: pd.DataFrame = feather.read_feather(file)
            return old
    size = file.stat().st_size if isinstance(file, Path) else file.getbuffer().nbytes
    try:
        with ipc.open_file(file) as reader:
            schema = reader.schema
            batches = check_batches(map(reader.get_batch, range(reader.num_record_batches)), size)
    except ArrowInvalid:
        if not isinstance(file, Path):
            file.seek(0)
        with ipc.open_stream(file) as reader:
            schema, batches = reader.schema, check_batches(reader, size)
    table: pd.DataFrame = Table.from_batches(batches, schema).to_pandas()
    return table


READERS: dict[str, Callable[[Any, str | None], Any]] = {
    **dict.fromkeys(TEXT, _text),
    ".xlsx": _excel,
    ".parquet": _parquet,
    ".feather": _arrow,
    ".arrow": _arrow,
    ".npy": _array,
    ".npz": _arrays,
}
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".feather", b"\x93NUMPY": ".npy", b"PK": ".npz"}


def tidied(table: pd.DataFrame, *, decimal_commas: bool = True, before: int = 0) -> pd.DataFrame:
    """Read numbers with a decimal comma; take a first column without a name as the labels of the rows.

    So pandas writes the index of a table, and R the names of rows, with or without an empty name for them. Notes that
    say so go with the table, in its attributes. Where commas separate columns one within a number groups its thousands,
    if anything, and the column stays text. So many rows came `before`, of a file that is read in chunks.
    """
    read = []
    for name in table.columns if decimal_commas else ():
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) or not _with_comma(column.dropna()):
            continue
        table[name] = pd.to_numeric(column.str.replace(",", ".", regex=False))
        read.append(repr(name))
    notes = (f"commas in numbers are read as decimal points: column {', '.join(read)}",) if read else ()
    first = table.columns[0] if len(table.columns) > 1 else None
    unnamed = not table.index.equals(pd.RangeIndex(before, before + len(table)))  # lines have more entries than names
    if unnamed:
        _check_names_lacking(table)
    elif first == NAMELESS:
        table = table.set_index(first).rename_axis(None)
    if unnamed or first == NAMELESS:
        notes = (*notes, "the first column has no name: taken as the labels of the rows")
    if notes:
        table.attrs[NOTES] = notes
    return table


def _check_names_lacking(table: pd.DataFrame) -> None:
    """Refuse lines with entries that the first line has no names for, unless it is one, and not the last."""
    count = len(table.columns)
    if isinstance(table.index, pd.MultiIndex):
        raise DataError(
            f"its first line names {count} columns, and the lines below have {count + table.index.nlevels} entries; "
            "name them all, or all but the first, which then labels the rows"
        )
    if table.iloc[:, -1].isna().all():
        raise DataError(
            f"its first line names {count} columns, and the lines below end with an entry more, which is empty; remove "
            "the separator at their ends, or put one at that of the first line"
        )


def _with_comma(column: pd.Series) -> bool:
    """Whether all entries are numbers and one of them has a decimal comma; the first tells of nearly all columns."""
    if not len(column) or not isinstance(column.iloc[0], str) or not COMMA.fullmatch(column.iloc[0]):
        return False
    return any("," in v for v in column) and all(COMMA.fullmatch(v) for v in column)
