"""Regressions: models that can be made of a formula."""

from __future__ import annotations

from typing import Any, Self, cast

import pandas as pd

from zoo.declare.formula import Formula, roles
from zoo.declare.model import Model, written
from zoo.errors import DataError
from zoo.frames.formula import Design
from zoo.frames.table import opened


class Regression(Model):
    """Base class of regressions: models with a matrix of predictors beside a vector of responses.

    The response is called ``y`` if there are several vectors; a `Category` field beside it holds the groups of
    ``(1 | group)``. A formula without an intercept is for models with a hyperparameter `intercept`, slopes of groups
    are for those with `slopes`.

    Examples
    --------
    >>> import zoo
    >>> model = zoo.BayesianRegression.from_formula("gas ~ temperature * insulated", "whiteside")
    >>> isinstance(model, zoo.Regression)
    True
    """

    formula = cast("Formula | None", None)  # without an annotation, which would make it a hyperparameter

    @classmethod
    def from_formula(cls, formula: str, data: Any, **settings: Any) -> Self:
        """Make a regression of a formula: ``zoo.BayesianRegression.from_formula("sbp ~ age + site", data)``.

        The columns of predictors are the formula's, coded and scaled as in `data` in all fits and for new rows; they
        give coefficients their names. Other fields of the model come from columns of the table, as in any fit.

        Parameters
        ----------
        formula
            As formulae (extra ``formula``) reads it: ``log(y) ~ scale(age) + site * sex``, of a text response
            ``answer['yes'] ~ ...``, and for `HierarchicalRegression` ``(1 | group)`` or ``(x | group)``.
        data
            A table, by which levels, means and knots are fixed.
        **settings
            Hyperparameters; `intercept` and `slopes` are as the formula says.

        Raises
        ------
        DataError
            If the formula cannot be read, or a column is not there.
        ModelError
            If the model has other fields than a regression.

        Examples
        --------
        >>> import zoo
        >>> from inference import fit
        >>> geyser = zoo.datasets.load("faithful")
        >>> model = zoo.BayesianRegression.from_formula("waiting ~ eruptions", geyser)
        >>> result = fit(model, geyser, method="exact", seed=0)
        >>> result.summary()["mean"].round(1).filter(like="eruptions")
        coefficients[eruptions]    10.7
        Name: mean, dtype: float64
        """
        owner, said = cls.__name__, f"formula {formula!r}"
        roles(owner, cls.fields)
        table = opened(data, columns=True)
        if not isinstance(table, pd.DataFrame):
            raise DataError(
                f"{said} names columns of a table, found {type(table).__name__}; give a DataFrame or a dict"
            )
        design = Design(formula, table)
        if "intercept" in cls.hyperparameters:
            _agree(said, settings, "intercept", design.intercept)
        elif not design.intercept:
            raise DataError(f"{said}: {owner} always has an intercept; leave out 0 + or - 1")
        if "slopes" in cls.hyperparameters and design.group is not None:
            if design.slopes and set(design.slopes) != set(design.terms):
                raise DataError(
                    f"{said}: {owner} has slopes of each group for all predictors or for none; write "
                    f"({' + '.join(design.terms)} | {design.group}) or (1 | {design.group})"
                )
            _agree(said, settings, "slopes", bool(design.slopes))
        made = cls(**settings)
        made.formula = Formula(owner, cls.fields, design)
        return made

    def __repr__(self) -> str:
        """Show the model with its hyperparameters, as it would be written."""
        if self.formula is None:
            return super().__repr__()
        given = [f"{k}={written(v)}" for k, v in self.settings.items()]
        return f"{type(self).__name__}.from_formula({', '.join([repr(str(self.formula)), 'data', *given])})"


def _agree(said: str, settings: dict[str, Any], name: str, value: bool) -> None:
    """Set what the formula says, which a setting must not contradict."""
    if settings.setdefault(name, value) is not value:
        raise DataError(f"{said} says {name}={value}, not {settings[name]!r}; leave the setting out")
