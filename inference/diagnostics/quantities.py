"""Test quantities of data, chosen by what the data are: numbers, counts, yes and no, categories."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np

COLUMNS = 12  # columns that are looked at one by one; of more, all entries together
PAIRS = 6  # columns whose correlations are looked at
LEVELS = 20  # categories whose shares are looked at
GRID = 200  # points at which distribution functions are compared
FEW = 5  # entries in a sequence below which neighbours say nothing

Kind = Literal["real", "count", "binary", "category"]


class Quantity(NamedTuple):
    """One number that is computed from data.

    Attributes
    ----------
    what
        The column or field.
    name
        In words.
    of
        Data sets (sets, rows, ...) -> numbers (sets,).
    central
        Whether it is about location or scale, which a prior says something of.
    distance
        Whether it is the distance of a distribution from what is usual, of which only large values are bad; `of` then
        gives the entries, (sets, entries), for `distribution_distances`.
    """

    what: str
    name: str
    of: Callable[[np.ndarray], np.ndarray]
    central: bool = False
    distance: bool = False


def quantities(
    name: str,
    kind: Kind,
    observed: np.ndarray,
    labels: Sequence[Any],
    levels: Sequence[Any],
    groups: dict[str, np.ndarray],
) -> tuple[list[Quantity], list[str]]:
    """Choose what to look at in one observed site, and say what is not looked at.

    Parameters
    ----------
    name
        The site.
    kind
        What its entries are.
    observed
        Shape (rows,) or (rows, columns), NaN where nothing was observed.
    labels
        Of the columns.
    levels
        Labels of the categories, in code order.
    groups
        Field of categories -> code of each row.
    """
    table = observed.reshape(len(observed), -1)
    wide = table.shape[1] > COLUMNS
    chosen, notes = list[Quantity](), list[str]()
    for j in range(1 if wide or observed.ndim == 1 else table.shape[1]):
        what = name if observed.ndim == 1 or wide else f"{name}[{labels[j]}]"
        seen = table if wide else table[:, j]
        pick = _Pick(slice(None) if wide else j, ~np.isnan(seen))
        known = seen[pick.known]
        own = [q._replace(of=_after(pick, q.of)) for q in _of_entries(what, kind, known, levels)]
        if not wide and len(known) > FEW:
            if _sorted(known):
                notes.append(f"{what} is sorted, so the order of its rows was not looked at")
            else:
                own += [q._replace(of=_after(pick, q.of)) for q in _of_order(what, kind)]
            for field, codes in groups.items():
                own.append(_between(what, kind, pick, field, codes[pick.known]))
        if kind in ("real", "count"):
            own.append(Quantity(what, "distance of the distribution", pick, distance=True))
        chosen += own
    if kind == "real" and 1 < table.shape[1] <= PAIRS:
        chosen += list(_correlations(name, table, labels))
    if kind in ("real", "count") and table.shape[1] >= FEW and not np.isnan(table).any():
        chosen.append(Quantity(name, "correlation of neighbouring columns", _along_columns))
    return chosen, notes


@dataclass(frozen=True)
class _Pick:
    """The known entries of one column, or of all."""

    column: int | slice
    known: np.ndarray

    def __call__(self, data: np.ndarray) -> np.ndarray:
        table: np.ndarray = data.reshape(*data.shape[:2], -1)[:, :, self.column]
        return table[:, self.known].reshape(len(data), -1)


def _after(pick: _Pick, of: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda data: of(pick(data))


def _of_entries(what: str, kind: Kind, known: np.ndarray, levels: Sequence[Any]) -> Iterator[Quantity]:
    """Quantities that do not depend on the order of entries."""
    if kind == "category":
        for code, label in enumerate(levels[:LEVELS]):
            yield Quantity(what, f"share of {label!r}", partial(_share, code), central=True)
        return
    if kind == "binary":
        yield Quantity(what, "share of ones", lambda x: x.mean(1), central=True)
        return
    yield Quantity(what, "mean", lambda x: x.mean(1), central=True)
    yield Quantity(what, "largest value", lambda x: x.max(1))
    if kind == "count":
        yield Quantity(what, "variance over mean", lambda x: _ratio(x.var(1), x.mean(1)))
        yield Quantity(what, "share of zeros", lambda x: (x == 0).mean(1))
        return
    yield Quantity(what, "standard deviation", lambda x: x.std(1), central=True)
    yield Quantity(what, "smallest value", lambda x: x.min(1))
    yield Quantity(what, "skewness", _skewness)


def _of_order(what: str, kind: Kind) -> Iterator[Quantity]:
    """Quantities of the order of rows."""
    if kind in ("binary", "category"):
        yield Quantity(what, "number of runs", lambda x: 1.0 + (x[:, 1:] != x[:, :-1]).sum(1))
    else:
        yield Quantity(what, "correlation of neighbouring rows", _autocorrelation)


def _between(what: str, kind: Kind, pick: _Pick, field: str, codes: np.ndarray) -> Quantity:
    """Spread of the means of groups; of categories, of the share of the most frequent one."""
    present, where = np.unique(codes, return_inverse=True)
    member = np.eye(len(present))[where]
    member = member / member.sum(0)

    def of(x: np.ndarray) -> np.ndarray:
        values = x == 0 if kind == "category" else x
        return np.asarray((values @ member).std(1))

    return Quantity(what, f"spread of the means by {field}", _after(pick, of))


def _correlations(name: str, table: np.ndarray, labels: Sequence[Any]) -> Iterator[Quantity]:
    for i in range(table.shape[1]):
        for j in range(i):
            known = ~np.isnan(table[:, i]) & ~np.isnan(table[:, j])

            def of(x: np.ndarray, i: int = i, j: int = j, known: np.ndarray = known) -> np.ndarray:
                flat = x.reshape(*x.shape[:2], -1)[:, known]
                return _correlation(flat[:, :, i], flat[:, :, j])

            if known.sum() > 2:
                yield Quantity(name, f"correlation of {labels[j]} and {labels[i]}", of)


def distribution_distances(observed: np.ndarray, replicated: np.ndarray) -> tuple[float, np.ndarray]:
    """Largest distance of distribution functions from that of all replicates: of the data, and of each replicate.

    Parameters
    ----------
    observed
        Shape (n,).
    replicated
        Shape (sets, n).
    """
    grid = np.unique(np.quantile(replicated, np.linspace(0, 1, GRID)))

    def ecdf(x: np.ndarray) -> np.ndarray:
        at = np.searchsorted(grid, x) + (len(grid) + 1) * np.arange(len(x))[:, None]
        counts = np.bincount(at.ravel(), minlength=len(x) * (len(grid) + 1)).reshape(len(x), -1)
        return np.asarray(counts.cumsum(1)[:, :-1] / x.shape[1])

    each = ecdf(replicated)
    middle = each.mean(0)
    return float(np.abs(ecdf(observed[None])[0] - middle).max()), np.abs(each - middle).max(1)


def _share(code: int, x: np.ndarray) -> np.ndarray:
    return np.asarray((x == code).mean(1))


def _sorted(x: np.ndarray) -> bool:
    steps = np.diff(x)
    return bool((steps >= 0).all() or (steps <= 0).all()) and bool((steps != 0).any())


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.divide(a, b, out=np.zeros_like(a, dtype=float), where=b > 0))


def _skewness(x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(1, keepdims=True)
    return _ratio((centred**3).mean(1), (centred**2).mean(1) ** 1.5)


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    return _ratio((x * y).sum(1), np.sqrt((x**2).sum(1) * (y**2).sum(1)))


def _autocorrelation(x: np.ndarray) -> np.ndarray:
    x = x - x.mean(1, keepdims=True)
    return _ratio((x[:, 1:] * x[:, :-1]).sum(1), (x**2).sum(1))


def _along_columns(x: np.ndarray) -> np.ndarray:
    table = x.reshape(*x.shape[:2], -1)
    return _correlation(table[:, :, 1:].reshape(len(x), -1), table[:, :, :-1].reshape(len(x), -1))
