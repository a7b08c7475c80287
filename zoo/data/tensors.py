"""One field's array becomes a tensor: labels are coded, whatever marks a missing value becomes NaN, supports hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from zoo.data.labelled import entry, label
from zoo.data.missing import as_numbers
from zoo.data.plain import as_numpy
from zoo.declare.fields import Count, Field
from zoo.errors import DataError, UnseenLevelError
from zoo.frames.dates import as_words
from zoo.frames.table import check_dense

AT_ONCE = 10_000  # rows that are checked at a time, so that what is made of them on the way stays small
LARGEST_COUNT = 10**12  # log(n!) is then 3e13, which float64 holds to 0.004


def to_tensor(name: str, array: Any, kind: Field, known: tuple[Any, ...] | None) -> tuple[Tensor, tuple[Any, ...]]:
    """Convert the array of one field: float64, of a `Category` field its codes, NaN where an entry is missing.

    Bytes, as images have them, stay what they are until `Data.to` makes numbers of the wanted type.

    Parameters
    ----------
    name, array, kind
        The field.
    known
        Labels in code order that a `Category` field had in data bound before, if any.

    Returns
    -------
    tuple
        The tensor, in the array's shape, and the labels in code order (empty if the entries are numbers).

    Raises
    ------
    DataError
        If the entries cannot be numbers, or a label is missing or new.
    """
    known = known or (_order(array) if kind.integer else ()) or None
    array = _as_array(name, array, kind)
    if kind.integer and array.dtype == object and _numbers_with_gaps(array):
        array = as_numbers(array).astype(np.float64)
    if kind.integer and array.dtype.kind in "if" and not (known and {-1, "-1"}.intersection(known)):
        array = np.where(as_numbers(array) == -1, np.nan, as_numbers(array))
    if kind.integer and known is not None and list(known) != list(range(len(known))) and array.dtype.kind in "iufb":
        array = _as_labels(array, known)
    if kind.integer and array.dtype.kind in "OUST":
        return _coded(name, array, kind, known)
    if array.dtype == np.uint8 and array.ndim > 1 and not isinstance(array, np.ma.MaskedArray) and not kind.integer:
        return torch.tensor(np.asarray(array, order="C")), ()
    try:
        # `torch.tensor` copies, so that the numbers live in torch's own, aligned memory.
        return torch.tensor(np.asarray(as_numbers(array), dtype=np.float64, order="C")), ()
    except (TypeError, ValueError, OverflowError):
        raise DataError(
            f"field {name!r}: expected numbers, found {array.dtype} data such as "
            f"{array.ravel()[:1].tolist()}; convert it"
        ) from None


def _numbers_with_gaps(array: np.ndarray) -> bool:
    """Whether entries are numbers but for missing ones, which have made them objects: [1, None] holds the code 1."""
    missing = np.asarray(pd.isna(array))
    numbers = all(isinstance(v, int | float | np.number) for v in array[~missing].tolist())
    return numbers and bool(missing.any())


def _as_labels(numbers: np.ndarray, known: tuple[Any, ...]) -> np.ndarray:
    """Read numbers as labels, which they are where the data before had labels: 10 as the label 10, or "10"."""
    plain = [int(v) if float(v).is_integer() else float(v) for v in numbers.ravel().tolist()]
    missing = np.isnan(numbers.astype(float)).ravel()
    words = all(isinstance(label, str) for label in known)
    labels = np.empty(len(plain), dtype=object)
    labels[:] = [str(v) for v in plain] if words else plain
    labels[missing] = None
    return labels.reshape(numbers.shape)


def _as_array(name: str, array: Any, kind: Field) -> np.ndarray:
    """Return whatever holds a field's entries as an array of one dtype, with its mask if it has one."""
    check_dense(array, f"field {name!r}")
    if isinstance(array, Tensor):
        if array.layout is not torch.strided:
            raise DataError(f"field {name!r}: expected a dense tensor, found a sparse one; call .to_dense() on it")
        if array.is_meta or array.is_quantized:
            kind_of = (
                "one without values, on the meta device" if array.is_meta else "a quantized one; call .dequantize()"
            )
            raise DataError(f"field {name!r}: expected a tensor of numbers, found {kind_of}")
        array = as_numpy(array)
    masked = isinstance(array, np.ma.MaskedArray)
    if kind.integer and masked and array.dtype.kind in "OUST":
        labels: np.ndarray = array.filled().astype(object)
        labels[np.ma.getmaskarray(array)] = None
        return labels
    try:
        made: np.ndarray = array if masked else np.asarray(array)
        if made.dtype == object and any(isinstance(v, list | tuple | np.ndarray | Tensor) for v in made.flat):
            parts = [as_numpy(v) if isinstance(v, Tensor) else np.asarray(v) for v in made.flat]
            made = np.stack(parts).reshape(*made.shape, *parts[0].shape)
    except ValueError:
        raise DataError(
            f"field {name!r}: its entries are of unequal lengths; make them equally long"
            + (", the shorter ones by a further symbol that says where they end" if kind.integer else "")
        ) from None
    if kind.integer and made.dtype.kind == "M":
        return as_words(pd.Series(made.ravel())).to_numpy().reshape(made.shape)
    if made.dtype.kind in "cmMV" or (made.dtype.kind == "O" and any(isinstance(v, complex) for v in made.flat)):
        raise DataError(f"field {name!r}: expected numbers, found {made.dtype} data; convert it")
    return made


def _order(array: Any) -> tuple[Any, ...]:
    """Return the categories of a categorical column that occur, sorted if they have no order; empty for others."""
    column = array if isinstance(array, pd.Series) else None
    column = pd.Series(array) if isinstance(array, pd.Categorical | pd.CategoricalIndex) else column
    if column is None or not isinstance(column.dtype, pd.CategoricalDtype):
        return ()
    labels = column.cat.remove_unused_categories().cat.categories.tolist()
    return tuple(labels) if column.cat.ordered else in_order(labels)


def in_order(labels: Iterable[Any]) -> tuple[Any, ...]:
    """Sort labels: numbers by size and words by letter; by their text where there are both."""
    try:
        return tuple(sorted(labels))
    except TypeError:
        return tuple(sorted(labels, key=str))


def _coded(name: str, array: np.ndarray, kind: Field, known: tuple[Any, ...] | None) -> tuple[Tensor, tuple[Any, ...]]:
    """Code labels 0, 1, ...: in the order of data bound before, or of their categories, else sorted."""
    missing = np.asarray(pd.isna(array))
    parts = [v for v in array[~missing].tolist() if isinstance(v, float) and not v.is_integer()] if not known else []
    if parts:
        raise DataError(
            f"field {name!r}: expected categories, found {parts[0]!r} among labels; a continuous column is none: drop "
            "it or cut it into classes (pandas.cut)"
        )
    present = in_order(set(array[~missing].tolist()))
    labels = known or present
    unknown = [label for label in present if label not in labels]
    if unknown:
        text = f"field {name!r}: unknown category {unknown[0]!r}; the model was fitted to {labels}"
        raise UnseenLevelError(text, name, tuple(unknown))
    if kind.levels is not None and len(labels) > kind.levels:
        raise DataError(f"field {name!r} has {len(labels)} categories, but is declared with levels={kind.levels}")
    code_of = {label: code for code, label in enumerate(labels)}
    codes = np.full(array.shape, np.nan)
    codes[~missing] = [code_of[label] for label in array[~missing].tolist()]
    return torch.tensor(codes), labels


def check_support(name: str, value: Tensor, kind: Field, coords: Mapping[str, pd.Index]) -> None:
    """Raise if an entry is missing, infinite or outside the field's support; say which."""
    checks: tuple[tuple[Callable[[Tensor], Tensor], str, str], ...] = (
        (torch.isnan, "no missing values (NaN)", "drop or impute these rows"),
        (torch.isinf, "finite numbers", "drop or correct these rows"),
        (lambda v: ~kind.support.check(v), kind.describes, "correct the data, or declare the field with another kind"),
    )
    if isinstance(kind, Count):
        counts = f"counts of at most {LARGEST_COUNT:g}, of which log densities are more than rounding"
        # Whole numbers of 8 bits would be compared with the largest as it wraps around in theirs.
        checks += (
            (lambda v: v.double() > LARGEST_COUNT, counts, "count in thousands or more, or declare a Real field"),
        )
    for check, expected, remedy in checks:
        parts = value.split(AT_ONCE) if value.ndim else [value]
        if any(bool(check(part).any()) for part in parts):
            wrong = check(value)
            at = [int(i) for i in wrong.nonzero()[0]]
            place = f"row {at[0]}" if at else "the value"
            if len(at) == 2:
                names = coords.get(kind.dims[1])
                place += f", position {at[1:]}" if names is None else f", column {label(names, at[1])!r}"
            elif len(at) > 2:
                place += f", {entry(kind.dims[1:], coords, at[1:])}"
            raise DataError(
                f"field {name!r} ({type(kind).__name__}): expected {expected}, found "
                f"{float(value[tuple(at)]):g} at {place} ({int(wrong.sum())} such entries); {remedy}"
            )
