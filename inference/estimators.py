"""Models as scikit-learn estimators, for pipelines, grid searches and cross-validation; needs the extra `sklearn`."""

from __future__ import annotations

import contextlib
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    ClusterMixin,
    DensityMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils import Tags, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, column_or_1d

from inference.estimating.estimator import Estimator  # says so where scikit-learn is missing
from zoo.declare.fields import Binary
from zoo.errors import ModelError, ZooError


class _Unsupervised(Estimator):
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to rows; a weight counts a row as often.

        Examples
        --------
        >>> from inference.estimators import Density
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Density("FactorAnalysis", random_state=0).set_params(model__factors=1).fit(X).fit_.objective.kind
        'log_likelihood'
        """
        self._fitted(self._checked(X, reset=True), None, sample_weight)
        return self

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log density of rows, by which a grid search ranks.

        Examples
        --------
        >>> from inference.estimators import Density
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> one, three = (Density(random_state=0).set_params(model__components=k).fit(X) for k in (1, 3))
        >>> one.score(X) < three.score(X)
        True
        """
        return float(np.mean(self.score_samples(X)))

    def score_samples(self, X: Any) -> np.ndarray:
        """Return log p(x) of each row, shape (n_samples,).

        Examples
        --------
        >>> from inference.estimators import Density
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> density = Density(random_state=0).fit(X)
        >>> bool(density.score_samples(X).mean() == density.score(X))
        True
        """
        new = self._new(X)
        return np.asarray(self.fit_.log_prob(new))

    def sample(self, n_samples: int = 1) -> Any:
        """Return rows drawn from the fitted model, shape (n_samples, n_features).

        Examples
        --------
        >>> from inference.estimators import Density
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Density(random_state=0).fit(X).sample(5).shape
        (5, 4)
        """
        check_is_fitted(self)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        drawn = self.fit_.generate(n_samples, seed=seed)
        values = np.asarray(drawn if isinstance(drawn, pd.DataFrame) else drawn[self._roles()[0]])
        return values.reshape(n_samples, *values.shape[1:])


class Density(DensityMixin, _Unsupervised):  # type: ignore[misc]
    """log p(x) of rows under any model of one data field.

    Examples
    --------
    >>> from inference.estimators import Density
    >>> from sklearn.datasets import load_iris
    >>> density = Density("PPCA", random_state=0).fit(load_iris().data)
    >>> density.score_samples(load_iris().data).shape
    (150,)
    """

    _model = "GMM"
    score = _Unsupervised.score  # scikit-learn's mixin has one that returns None


class Clusterer(ClusterMixin, _Unsupervised):  # type: ignore[misc]
    """p(z = k | x): clusters are the states of a row's discrete latent.

    Attributes
    ----------
    labels_
        The most probable state of each row, shape (n_samples,).

    Examples
    --------
    >>> from inference.estimators import Clusterer
    >>> from sklearn.datasets import load_iris
    >>> clusters = Clusterer("GMM", random_state=0).set_params(model__components=3).fit(load_iris().data)
    >>> clusters.predict_proba(load_iris().data).shape
    (150, 3)
    """

    _model = "GMM"

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        # Fit the model to rows; a weight counts a row as often
        super().fit(X, y, sample_weight)
        if not any(self.fit_.program.row in s.plates for s in self.fit_.program.enumerated):
            name = type(self._declared()).__name__
            raise ModelError(
                f"Clusterer takes models whose rows have a discrete latent; {name} has none: use Density or Transformer"
            )
        self.labels_ = self.predict(X)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return p(z = k | x), shape (n_samples, n_states).

        Examples
        --------
        >>> from inference.estimators import Clusterer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> clusters = Clusterer(random_state=0).set_params(model__components=3).fit(X)
        >>> clusters.predict_proba(X[:2]).sum(1).round(6)
        array([1., 1.])
        """
        new = self._new(X)
        site = next(s.name for s in self.fit_.program.enumerated if self.fit_.program.row in s.plates)
        return self.fit_.assign(new, site=site).to_numpy()

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable state of each row, shape (n_samples,).

        Examples
        --------
        >>> from inference.estimators import Clusterer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> import numpy as np
        >>> clusters = Clusterer(random_state=0).set_params(model__components=3).fit(X)
        >>> sorted(np.bincount(clusters.predict(X)).tolist())  # of 50 flowers of each kind
        [45, 50, 55]
        """
        return np.asarray(self.predict_proba(X).argmax(1))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        # Return rows drawn from the fitted model, shape (n_samples, n_features), and the states they come from
        drawn = super().sample(n_samples)
        names = getattr(self, "feature_names_in_", None)
        rows = drawn if names is None else pd.DataFrame(drawn, columns=names)
        upto = self.predict_proba(rows).cumsum(1)  # given its row, a state has its posterior
        uniform = check_random_state(self.random_state).uniform(size=(n_samples, 1))
        return drawn, (uniform * upto[:, -1:] > upto).sum(1)

    def bic(self, X: Any) -> float:
        """Return k log n - 2 log p(X), lower is better; for point estimates.

        Examples
        --------
        >>> from inference.estimators import Clusterer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> one, two = (Clusterer(random_state=0).set_params(model__components=k).fit(X).bic(X) for k in (1, 2))
        >>> two < one
        True
        """
        return self._criterion(X, np.log(len(X)))

    def aic(self, X: Any) -> float:
        """Return 2 k - 2 log p(X), lower is better; for point estimates.

        Examples
        --------
        >>> from inference.estimators import Clusterer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> one, two = (Clusterer(random_state=0).set_params(model__components=k).fit(X).aic(X) for k in (1, 2))
        >>> two < one
        True
        """
        return self._criterion(X, 2.0)

    def _criterion(self, X: Any, each: float) -> float:
        return float(each * self.fit_.free_parameters - 2 * self.score_samples(X).sum())


class Transformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _Unsupervised):  # type: ignore[misc]
    """E[z | x]: the continuous latents of a row, as factor scores, topic shares or the codes of a VAE.

    Examples
    --------
    >>> from inference.estimators import Transformer
    >>> from sklearn.datasets import load_iris
    >>> Transformer("PPCA", random_state=0).set_params(model__factors=2).fit_transform(load_iris().data).shape
    (150, 2)
    """

    _model = "PPCA"

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        # Fit the model to rows; a weight counts a row as often
        X = self._checked(X, reset=True)
        self._fitted(X, None, sample_weight)
        self._n_features_out = self._codes(self._data(X[:1], None)).shape[1]
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return E[z | x], shape (n_samples, n_codes).

        Examples
        --------
        >>> from inference.estimators import Transformer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Transformer(random_state=0).set_params(model__factors=2).fit(X).transform(X[:3]).shape
        (3, 2)
        """
        return self._codes(self._new(X))

    def inverse_transform(self, Z: Any) -> np.ndarray:
        """Return E[x | z], shape (n_samples, n_features).

        Examples
        --------
        >>> from inference.estimators import Transformer
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> scores = Transformer(random_state=0).set_params(model__factors=2).fit(X)
        >>> bool(abs(scores.inverse_transform(scores.transform(X)) - X).mean() < 0.2)  # centimetres
        True
        """
        check_is_fitted(self)
        return np.asarray(self.fit_.decode(np.asarray(Z))[self._roles()[0]])

    def _codes(self, new: dict[str, Any]) -> np.ndarray:
        codes = self.fit_.encode(new)
        means = [codes[s.name].to_numpy() for s in self.fit_.program.locals]
        table = np.concatenate([m.reshape(len(m), -1) for m in means], 1)
        return table.astype(np.result_type(*(np.asarray(v) for v in new.values())))


class Regressor(RegressorMixin, Estimator):  # type: ignore[misc]
    """E[y | x] of a model with features and a response.

    Examples
    --------
    >>> from inference.estimators import Regressor
    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> round(Regressor("BayesianRegression", random_state=0).fit(X, y).score(X, y), 1)
    0.5
    """

    _model = "BayesianRegression"
    _fields = 2

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to features and a response; a weight counts a row as often.

        Examples
        --------
        >>> from inference.estimators import Regressor
        >>> Regressor(random_state=0).fit([[0.0], [1.0], [2.0], [3.0]], [0.1, 0.9, 2.2, 2.9]).fit_.objective.kind
        'log_evidence'
        """
        X, y = self._checked(X, column_or_1d(y, warn=True) if y is not None else y, reset=True)
        self._fitted(X, y.astype(float), sample_weight)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Return E[y | x], averaged over the posterior, shape (n_samples,).

        Examples
        --------
        >>> from inference.estimators import Regressor
        >>> line = Regressor(random_state=0).fit([[0.0], [1.0], [2.0], [3.0]], [0.1, 0.9, 2.2, 2.9])
        >>> line.predict([[1.5]]).round(1)
        array([1.5])
        """
        new = self._new(X)
        return _column(self.fit_.impute(new, mean=True), self._roles()[1])


class Classifier(ClassifierMixin, Estimator):  # type: ignore[misc]
    """p(y = k | x) of a model with features and a binary or categorical response.

    Attributes
    ----------
    classes_
        The labels in the order of the columns of `predict_proba`.

    Examples
    --------
    >>> from inference.estimators import Classifier
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> Classifier("NaiveBayes", random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    _model = "NaiveBayes"
    _fields = 2

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model to features and labels; a weight counts a row as often.

        Examples
        --------
        >>> from inference.estimators import Classifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Classifier(random_state=0).fit(X, y).classes_
        array([0, 1, 2])
        """
        X, y = self._checked(X, column_or_1d(y, warn=True) if y is not None else y, reset=True)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"labels have 1 class, {self.classes_[0]!r}; at least 2 are needed")
        if len(self.classes_) > 2 and not self.__sklearn_tags__().classifier_tags.multi_class:
            raise ValueError(
                f"Only binary classification is supported by {type(self._declared()).__name__}; "
                f"y has {len(self.classes_)} classes"
            )
        self._fitted(X, codes.astype(float) if self._binary() else codes, sample_weight)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return p(y = k | x), averaged over the posterior, shape (n_samples, n_classes).

        Examples
        --------
        >>> from inference.estimators import Classifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Classifier(random_state=0).fit(X, y).predict_proba(X[:2]).round(3)
        array([[1., 0., 0.],
               [1., 0., 0.]])
        """
        new, response = self._new(X), self._roles()[1]
        if not self._binary():
            return self.fit_.assign(new, site=response).to_numpy()
        one = _column(self.fit_.impute(new, mean=True), response)
        return np.column_stack([1 - one, one])

    def predict(self, X: Any) -> np.ndarray:
        """Return the most probable label of each row, shape (n_samples,).

        Examples
        --------
        >>> from inference.estimators import Classifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True)
        >>> Classifier(random_state=0).fit(X, y).predict(X[::50])
        array([0, 1, 2])
        """
        best = self.predict_proba(X).argmax(1)
        return np.asarray(self.classes_[best])

    def _binary(self) -> bool:
        return isinstance(self._field(self._roles()[1]), Binary)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn how many classes there may be."""
        tags = super().__sklearn_tags__()
        with contextlib.suppress(ZooError):
            tags.classifier_tags.multi_class = not self._binary()
        return tags


def _column(table: Any, name: str | None) -> np.ndarray:
    return np.asarray(table[name], dtype=float)
