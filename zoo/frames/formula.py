"""Formulas: ``sbp ~ age + site`` makes columns of predictors of a table, and of other rows with the same coding."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pandas as pd

from zoo.errors import DataError, unknown
from zoo.frames.dates import are_dates

INTERCEPT = "Intercept"
# All that a formula can call besides formulae's own transforms, so that it means the same wherever a fit is loaded.
FUNCTIONS = [
    "abs",
    "cbrt",
    "cos",
    "exp",
    "expm1",
    "floor",
    "log",
    "log10",
    "log1p",
    "log2",
    "sign",
    "sin",
    "sqrt",
    "tanh",
]
NAMES = {name: getattr(np, name) for name in FUNCTIONS}
UNSEEN = re.compile(r"The levels \((.*)\) in '(.*)' are not present", re.DOTALL)  # as formulae says it
NAMED = 8  # levels that an error names, at most
INSIDE = re.compile(r"\.\s*_")  # attributes of Python's own, which no formula needs


class Design:
    """What a formula makes of a table: coded columns of predictors, and a response.

    Attributes
    ----------
    formula
        As it was written.
    frame
        Its variables in the data that it was made with: levels of codings, scales and knots are theirs.
    group
        The variable of ``(... | group)``, if there is one.
    slopes
        Names of the terms whose slopes differ from group to group.

    Raises
    ------
    DataError
        If the formula cannot be read, or a column is not there, has missing values or holds dates.
    """

    def __init__(self, formula: str, table: pd.DataFrame) -> None:
        self.formula = formula
        left, _, right = formula.partition("~")
        if not left.strip() or not right.strip() or INSIDE.search(formula):
            raise DataError(f"formula {formula!r}: expected a response and its predictors, as in 'y ~ x1 + x2'")
        self.response, self._left, self._right = left.strip().strip("`"), left, right
        with self._told():
            described = _formulae().model_description(right)
            self._explained = _variables(_formulae().model_description(f"{left} ~ 1"))
        self.variables = _variables(described)
        self.frame = self._columns(table, sorted({*self.variables, *self._explained}))
        for name in self.frame.columns:
            if isinstance(self.frame[name].dtype, pd.CategoricalDtype):
                self.frame[name] = self.frame[name].cat.remove_unused_categories()
        factors = {term.factor.name: term.factor.var_names for term in described.group_terms}
        if len(factors) > 1 or any(len(names) > 1 for names in factors.values()):
            raise DataError(f"formula {formula!r}: expected one grouping variable, found {', '.join(factors)}")
        self.group = next((next(iter(names)) for names in factors.values()), None)
        self._check(table)
        self.slopes = [t.expr.name for t in described.group_terms if t.expr.name != INTERCEPT]
        self.terms = [name for name in self._common.terms if name != INTERCEPT]
        offsets = [name for name, term in self._common.terms.items() if getattr(term, "kind", "") == "offset"]
        if offsets:
            raise DataError(
                f"formula {formula!r}: {offsets[0]} is no predictor; of a rate give the time or size at risk as a "
                "column of its own, columns={'exposure': ...}"
            )

    def __deepcopy__(self, memo: Any) -> Self:
        """Return itself: nothing changes it."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what it is made of, which makes the same again."""
        return Design, (self.formula, self.frame)

    @property
    def intercept(self) -> bool:
        """Whether the formula has an intercept."""
        return INTERCEPT in self._common.terms

    @cached_property
    def predictors(self) -> tuple[str, ...]:
        """Names of the columns of predictors, one for each coefficient."""
        return tuple(c for c in self._common.as_dataframe().columns if c != INTERCEPT)

    def __call__(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return a table with the columns of predictors, and of the response if its variables are there.

        Raises
        ------
        DataError
            If a column is not there, has missing values or text in place of numbers, or a level is new.
        """
        if not set(self.predictors) <= set(table.columns):  # which rows that were generated have
            with self._told():
                coded = self._common.evaluate_new_data(self._numbers(self._complete(table), table.index)).as_dataframe()
            columns = coded[list(self.predictors)].astype(float).set_axis(table.index)
            others = table.drop(columns=[c for c in self.predictors if c in table.columns])
            table, notes = pd.concat([others, columns], axis=1), table.attrs
            table.attrs = notes
        else:
            table = table.copy(deep=False)
        if self.response not in table.columns and set(self._explained) <= set(table.columns):
            table[self.response] = self._explain(table)
        return table

    @cached_property
    def _common(self) -> Any:
        with self._told():
            return _matrices(self._right, self._complete(self.frame)).common

    def _explain(self, table: pd.DataFrame) -> np.ndarray:
        """Work out the response, row by row; missing where a variable of it is."""
        whole = table[self._explained].notna().all(axis=1).to_numpy()
        rows = table.loc[whole, self._explained].reset_index(drop=True)
        with self._told():
            parts = (rows, rows.head(1))
            found = [np.asarray(_matrices(f"{self._left} ~ 1", part).response.design_matrix) for part in parts]
        if found[0].ndim != 1 or not np.array_equal(found[0][:1], found[1]):
            raise DataError(
                f"formula {self.formula!r}: the response is one number for each row, which depends on no other row; "
                "make a column of it first"
            )
        values = np.full(len(table), np.nan)
        values[whole] = found[0]
        return values

    def _columns(self, table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
        lacking = [n for n in names if n not in table.columns]
        if lacking:
            raise DataError(
                f"formula {self.formula!r}: there is no column {lacking[0]!r}; the table has "
                f"{', '.join(map(repr, table.columns))}"
            )
        return table[names].reset_index(drop=True)

    def _complete(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the variables of the predictors, which must not be missing."""
        found = self._columns(table, self.variables)
        for name in self.variables:
            gone = found[name].isna().to_numpy()
            if gone.any():
                raise DataError(
                    f"formula {self.formula!r}: column {name!r} has {int(gone.sum())} missing values, the first at row "
                    f"{table.index[int(gone.argmax())]!r}; drop or impute these rows"
                )
        return found

    @property
    def coded(self) -> pd.DataFrame:
        """Predictors that are words, each of whose levels but the first has a coefficient."""
        return self.frame[[n for n in self._predicting if not _is_numeric(self.frame[n])]]

    @property
    def _predicting(self) -> list[str]:
        return [name for name in self.variables if name != self.group]

    def _check(self, table: pd.DataFrame) -> None:
        """Refuse missing values, dates, and columns of words and numbers; read numbers that come as objects."""
        self._complete(table)
        for name in self._predicting:
            column = self.frame[name]
            if are_dates(column):
                raise DataError(
                    f"formula {self.formula!r}, column {name!r}: expected numbers or words, found dates such as "
                    f"{str(column.iloc[0])!r}; give a number, as days since the first, or for a coefficient of each "
                    "day a column of pandas' dtype 'category'"
                )
            if column.dtype == object and not all(isinstance(v, str) for v in column):
                self.frame[name] = self._as_numbers(column, table.index)

    def _numbers(self, rows: pd.DataFrame, labels: pd.Index) -> pd.DataFrame:
        """Return new rows whose columns are numbers where those of the data that it was made with are."""
        for name in self._predicting:
            if _is_numeric(self.frame[name]) and not _is_numeric(rows[name]):
                rows[name] = self._as_numbers(rows[name], labels)
        return rows

    def _as_numbers(self, column: pd.Series, labels: pd.Index) -> pd.Series:
        dated = are_dates(column)
        numbers = pd.Series(np.nan, column.index) if dated else pd.to_numeric(column.astype(object), errors="coerce")
        bad = numbers.isna().to_numpy()
        if bad.any():
            more = f" and {int(bad.sum()) - 1} more" if bad.sum() > 1 else ""
            found, label = column.iloc[int(bad.argmax())], labels[int(bad.argmax())]
            raise DataError(
                f"formula {self.formula!r}, column {column.name!r}: expected numbers, found "
                f"{str(found) if dated else found!r} at row {label!r}{more}; clean or drop these rows"
            )
        return numbers

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn what goes wrong in formulae into an error that names the formula."""
        try:
            yield
        except DataError:
            raise
        except KeyError as error:
            raise unknown(f"function in the formula {self.formula!r}", str(error.args[0]), FUNCTIONS) from None
        except Exception as error:  # of a parser, a transform or NumPy
            raise DataError(f"formula {self.formula!r}: {_reason(error)}") from error


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)  # or bool


def _reason(error: Exception) -> str:
    """Return the first line of what an error says, in our words where formulae's are long or tell nothing."""
    if found := UNSEEN.search(str(error)):
        levels = sorted(found[1].split(", "))
        more = f" and {len(levels) - NAMED} more" if len(levels) > NAMED else ""
        return (
            f"column {found[2]!r} has levels that the data it was made of have not: {', '.join(levels[:NAMED])}{more}; "
            "drop these rows, or make the formula of a table that has them"
        )
    if str(error) == "Don't know how to parse ''":
        return "it ends where a term is expected, as in 'y ~ x1 + x2'"
    if str(error) == "Don't know how to parse '.'":
        return "'.' does not stand for the other columns; name the predictors, as in 'y ~ x1 + x2'"
    if str(error).startswith("The response term must be"):
        return "expected one response, as in 'y ~ x1 + x2'; work a sum out in a column of its own"
    return str(error).strip().partition("\n")[0]


def _variables(described: Any) -> list[str]:
    """Return the variables of a formula; among formulae's own are empty names for numbers."""
    return sorted(name for name in described.var_names if name)


def _matrices(formula: str, table: pd.DataFrame) -> Any:
    """Return the design matrices of a table, made with the functions of NAMES only."""
    from formulae.environment import Environment

    names = {**NAMES, "np": SimpleNamespace(**NAMES)}
    return _formulae().design_matrices(formula, table, env=Environment([names]))


def _formulae() -> Any:
    """Import formulae, which takes long.

    Raises
    ------
    DataError
        If it is not installed.
    """
    try:
        import formulae
    except ImportError:
        raise DataError("formulas are read by formulae, which is not installed: pip install formulae") from None
    return formulae
