"""A model, a method and rows as scikit-learn has them: parameters, checks, the fit."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

try:
    from sklearn.base import BaseEstimator
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.utils import Tags, check_random_state
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:  # pragma: no cover - the tests have it
    raise ImportError("inference.estimators needs scikit-learn 1.6 or later: pip install scikit-learn") from error

from inference.estimating.choice import first_legal, takes_missing
from inference.estimating.rows import merged
from inference.fitting import fit
from inference.method import Method, as_method
from inference.methods.svi import SVI
from inference.posterior.fit import Fit
from inference.runtime.random import seeded
from zoo.declare.fields import Category, Count, Field, Positive, Real
from zoo.declare.model import Model
from zoo.errors import DataError, MethodError, ModelError, ZooError
from zoo.program.prepare import as_model, prepare


class Estimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """What all estimators share: parameters, the table of rows, the fit.

    Parameters
    ----------
    model
        A model, or the name of one. Its hyperparameters are parameters of the estimator:
        ``GridSearchCV(Clusterer("GMM"), {"model__components": [1, 2, 3]})``.
    method
        A method or the name of one, its settings ``method__...``; "auto" for the first that is legal of `Exact`, `EM`,
        `Laplace`, `SVI` with an `Encoder`, and `SVI`.
    random_state
        An int for the same fit each time.
    device
        As in `inference.fit`.

    Attributes
    ----------
    fit_ : Fit
        The fit with all its questions: ``estimator.fit_.summary()``.

    Examples
    --------
    >>> from inference.estimators import Density
    >>> estimator = Density("GMM", random_state=0).fit([[0.0], [1.0], [5.0], [6.0]])
    >>> estimator.fit_.objective.kind
    'log_likelihood'
    """

    _model: ClassVar[str]  # what `model=None` stands for
    _fields: ClassVar[int] = 1  # 2: features and a response

    def __init__(
        self,
        model: Model | type[Model] | str | None = None,
        method: Method | type[Method] | str = "auto",
        *,
        random_state: Any = None,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.method = method
        self.random_state = random_state
        self.device = device

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters; with `deep` those of the model and of the method, too, as ``model__components``.

        Examples
        --------
        >>> from inference.estimators import Density
        >>> Density("PPCA").get_params()["model__factors"], sorted(Density("PPCA").get_params(deep=False))
        (1, ['device', 'method', 'model', 'random_state'])
        """
        params: dict[str, Any] = super().get_params(deep=False)
        if deep:
            with contextlib.suppress(ZooError):  # a model that is none is an error of `fit`, not of looking at it
                params |= {f"model__{n}": v for n, v in self._declared().settings.items()}
            if isinstance(self.method, Method):
                settings = dataclasses.fields(self.method)  # type: ignore[arg-type]  # each of them is one
                params |= {f"method__{s.name}": getattr(self.method, s.name) for s in settings}
        return params

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of the model and of the method as ``model__components`` and ``method__steps``.

        Examples
        --------
        >>> from inference.estimators import Density
        >>> Density("GMM", "em").set_params(model__components=3, method__restarts=5).get_params()["method__restarts"]
        5
        """
        parts: dict[str, dict[str, Any]] = {"model": {}, "method": {}}
        for name in [n for n in params if n.split("__")[0] in parts and "__" in n]:
            part, _, setting = name.partition("__")
            parts[part][setting] = params.pop(name)
        super().set_params(**params)
        if parts["model"]:
            declared = self._declared()
            self.model = type(declared)(**{**declared.settings, **parts["model"]})
        if parts["method"]:
            if self.method == "auto":
                raise MethodError(f'{sorted(parts["method"])[0]!r} is a setting of which method? Name one: method="em"')
            self.method = dataclasses.replace(as_method(self.method), **parts["method"])  # type: ignore[type-var]
        return self

    def _declared(self) -> Model:
        return as_model(self._model if self.model is None else self.model)

    def _roles(self) -> tuple[str, str | None]:
        """Name the field that holds X, and the one that holds y."""
        declared = self._declared()
        fields = declared.fields
        needed = [n for n, f in fields.items() if f.default is None]
        if self._fields == 1 and len(needed) == 1:
            return needed[0], None
        tables = [n for n in needed if len(fields[n].dims) > 1]
        columns = [n for n in needed if len(fields[n].dims) == 1]
        if self._fields == 2 and len(tables) == len(columns) == 1:
            return tables[0], columns[0]
        wanted = ("one data field, X", "a field of several columns, X, and one of a single column, y")[self._fields - 1]
        raise ModelError(
            f"{type(self).__name__} takes models with {wanted}; {type(declared).__name__} has {', '.join(needed)}: "
            "use inference.fit(model, data, ...), whose fit has all questions"
        )

    def _field(self, name: str | None) -> Field:
        return self._declared().fields[str(name)]

    def _checked(self, X: Any, y: Any = "no_validation", *, reset: bool) -> Any:
        field = self._field(self._roles()[0])
        numbers = not isinstance(field, Category)
        return validate_data(
            self,
            X,
            y,
            reset=reset,
            dtype=(np.float64, np.float32) if numbers else None,
            allow_nd=True,
            ensure_all_finite="allow-nan" if self.__sklearn_tags__().input_tags.allow_nan else True,
            ensure_min_samples=2 if reset else 1,
        )

    def _data(self, X: np.ndarray, y: np.ndarray | None) -> dict[str, Any]:
        rows, response = self._roles()
        single = X.ndim == 2 and len(self._field(rows).dims) == 1
        if single and X.shape[1] != 1:
            raise ModelError(f"{type(self._declared()).__name__} takes 1 column, found X with {X.shape[1]} columns")
        table: Any = X[:, 0] if single else X
        if X.ndim == 2 and not single and hasattr(self, "feature_names_in_"):
            table = pd.DataFrame(X, columns=self.feature_names_in_)
        return {rows: table} | ({response: y} if response is not None else {})

    def _new(self, X: Any) -> dict[str, Any]:
        """Check new rows and bind them, their response missing."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        return self._data(X, np.full(len(X), np.nan))

    def _fitted(self, X: np.ndarray, y: np.ndarray | None, sample_weight: Any) -> None:
        data = self._data(X, y)
        weights = None
        if sample_weight is not None:
            weights = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        model, seed = self._declared(), int(check_random_state(self.random_state).randint(2**31 - 1))
        try:
            with seeded(seed, None):
                if prepare(model, data).chained:
                    name = type(model).__name__
                    raise ModelError(f"rows of {name} depend on each other, an estimator's do not: use inference.fit")
                data, weights = merged(data, weights)
                settings: dict[str, Any] = {"device": self.device, "weights": weights}
                method = first_legal(prepare(model, data, **settings)) if self.method == "auto" else self.method
            self.fit_: Fit = fit(model, data, method=method, seed=seed, progress=False, **settings)
        except DataError as error:
            shape = f"X has {len(X)} sample(s) of {X.shape[1]} feature(s)"
            raise DataError(f"{error} ({shape})") from error
        if not self.fit_.converged:
            warnings.warn(f"{type(model).__name__}: {self.fit_.reason}", ConvergenceWarning, stacklevel=3)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn what X may hold."""
        tags = super().__sklearn_tags__()
        try:
            field = self._field(self._roles()[0])
        except ZooError:  # a model that is none, or not for this estimator, is an error of `fit`
            return tags
        tags.input_tags.allow_nan = self._fields == 1 and isinstance(field, Real) and takes_missing(self._declared())
        tags.input_tags.positive_only = isinstance(field, Count | Positive)
        tags.input_tags.categorical = isinstance(field, Category)
        with contextlib.suppress(ZooError):  # SVI estimates densities of rows from draws, each row from its own
            tags.non_deterministic = self.method != "auto" and isinstance(as_method(self.method), SVI)
        return tags
