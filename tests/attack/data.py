"""Data that no model can take."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch

from tests.attack.attempt import Attempt
from tests.attack.subjects import methods_of, subjects, tried


def cell(value: Any) -> Callable[[Any], Any]:
    """Put a value in the first cell of the last row."""

    def change(field: list[Any]) -> Any:
        changed = copy.deepcopy(field)
        at = changed
        while isinstance(at[-1], list):
            at = at[-1]
        at[-1] = value
        return changed

    return change


def everywhere(value: Any) -> Callable[[Any], Any]:
    """Put a value in every cell."""

    def change(field: Any) -> Any:
        return [change(v) for v in field] if isinstance(field, list) else value

    return change


def scaled(factor: float) -> Callable[[Any], Any]:
    """Multiply every number."""

    def change(field: Any) -> Any:
        if isinstance(field, list):
            return [change(v) for v in field]
        return field * factor if isinstance(field, int | float) and not isinstance(field, bool) else field

    return change


FAULTS: dict[str, Callable[[list[Any]], Any]] = {
    "inf": cell(float("inf")),
    "minus inf": cell(-float("inf")),
    "NaN": cell(float("nan")),
    "None": cell(None),
    "word": cell("many"),
    "1e300": cell(1e300),
    "1e30": cell(1e30),
    "-1": cell(-1),
    "half": cell(0.5),
    "complex": cell(1j),
    "date": cell(pd.Timestamp("2021-01-01")),
    "object": cell(object()),
    "list in a cell": cell([1, 2]),
    "all NaN": everywhere(float("nan")),
    "all None": everywhere(None),
    "all zero": everywhere(0),
    "all words": everywhere("a"),
    "all true": everywhere(True),
    "times 1e200": scaled(1e200),
    "times 1e-200": scaled(1e-200),
    "no rows": lambda field: field[:0],
    "one row": lambda field: field[:1],
    "ragged": lambda field: [*field[:-1], [*np.atleast_1d(np.asarray(field[-1], dtype=object)), 1]],
    "nested": lambda field: [[[[v]]] for v in field],
    "a number": lambda field: 3,
    "a word for all": lambda field: "nonsense",
    "None for all": lambda field: None,
    "a set": lambda field: {1, 2},
    "a function": lambda field: len,
    "bytes": lambda field: b"abc",
    "a date": lambda field: datetime.date(2020, 1, 1),
    "complex tensor": lambda field: torch.zeros(len(field), dtype=torch.complex64),
    "sparse tensor": lambda field: torch.zeros(len(field), 2).to_sparse(),
    "masked array": lambda field: np.ma.masked_all(len(field)),
    "bfloat16": lambda field: torch.ones(len(field), 2, dtype=torch.bfloat16),
    "structured": lambda field: np.zeros(len(field), dtype=[("a", int), ("b", float)]),
    "empty table": lambda field: pd.DataFrame(),
    "doubled columns": lambda field: pd.DataFrame(np.ones((len(field), 2)), columns=["a", "a"]),
    "categories": lambda field: pd.Series(pd.Categorical(["u", "v"] * len(field))[: len(field)]),
    "periods": lambda field: pd.Series(pd.period_range("2020", periods=len(field), freq="D")),
    "strings": lambda field: pd.Series(["x"] * len(field), dtype="string"),
    "Int64 with NA": lambda field: pd.array([1, None] * len(field), dtype="Int64")[: len(field)],
    "timedeltas": lambda field: pd.Series(pd.to_timedelta(np.arange(len(field)), unit="h")),
}


def attempts() -> Iterator[Attempt]:
    """Each fault in each field of each model of the zoo, by up to two methods."""
    for model, (cls, _, data) in subjects().items():
        fields = data if isinstance(data, dict) else {next(iter(cls.fields)): data}
        for field, values in fields.items():
            for label, change in FAULTS.items():
                try:
                    changed = change(values)
                except TypeError:
                    continue
                given = {**fields, field: changed} if isinstance(data, dict) else changed
                for turn in range(2):
                    yield Attempt(
                        "data",
                        f"{model} with {label} in {field}, method {turn}",
                        lambda model=model, given=given, turn=turn: _fit(model, turn, given),
                        (rf"\b{field}s?\b", "rows?", "column", "data", "field"),
                    )


def _fit(model: str, turn: int, data: Any) -> Any:
    legal = methods_of(model)
    return tried(model, legal[(turn * (len(legal) // 2)) % len(legal)], data)
