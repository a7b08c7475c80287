"""Errors a user can cause: each names the site, field or column, what was expected, what was found and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ZooError(ValueError):
    """Base of every error that input can cause; a `ValueError`.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> try:
    ...     fit(zoo.GMM(), "nowhere.csv", method="em")
    ... except zoo.ZooError as error:
    ...     print(type(error).__name__, isinstance(error, ValueError))
    DataError True
    """


class DataError(ZooError):
    """Data that a model cannot take: shape, support, type, missing values, or an unreadable file.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> try:
    ...     fit(zoo.BetaBernoulli(), [0, 1, 2], method="exact")
    ... except zoo.DataError as error:
    ...     print(str(error).partition(";")[0])
    field 'x' (Binary): expected 0 or 1, found 2 at row 2 (1 such entries)
    """


class UnseenLevelError(DataError):
    """Labels of a category that the fitted data do not have.

    Attributes
    ----------
    field
        Of these.
    labels
        The new ones, in their order.
    """

    def __init__(self, text: str, field: str, labels: tuple[object, ...]) -> None:
        super().__init__(text)
        self.field, self.labels = field, labels


class ModelError(ZooError):
    """A model that is declared wrongly: plates, fields, hyperparameters, or a log density that is not a number.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> class Empty(zoo.Model):
    ...     x = zoo.Real("row")
    ...
    ...     def forward(self, x): ...
    >>> try:
    ...     fit(Empty(), [0.1, 0.2], method="svi")
    ... except zoo.ModelError as error:
    ...     print(error)
    the model observes nothing: give the data to a site with obs=...
    """


class MethodError(ZooError):
    """A method, or a method with this guide, that is not legal for this model and data.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> try:
    ...     fit(zoo.GMM(), "faithful", method="exact")
    ... except zoo.MethodError as error:
    ...     print(error)  # the reason, and what would work
    exact is not legal for GMM: 'weights' is a parameter without prior. Legal here: em, map, svi.
    """


class FitError(ZooError):
    """A fit that cannot do what is asked of it, or that broke down numerically.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> result = fit(zoo.BetaBernoulli(), [0, 1, 1], method="exact", seed=0)
    >>> try:
    ...     result.encode()
    ... except zoo.FitError as error:
    ...     print(str(error).partition(";")[0])
    BetaBernoulli has no continuous latent of each row, so rows have no codes
    """


class UnknownNameError(ZooError):
    """A name that is not known: of a model, guide, method, dataset, hyperparameter or setting.

    Examples
    --------
    >>> import zoo
    >>> from inference import fit
    >>> try:
    ...     fit("gmn", "faithful", method="em")
    ... except zoo.UnknownNameError as error:
    ...     print(str(error).partition("?")[0])
    unknown model 'gmn'; did you mean 'GMM'
    """


def short(value: object, most: int = 80) -> str:
    """Say a value in one line: what it is written as, cut where that is long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= most else f"{text[:most]}..."


def unknown(kind: str, name: object, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Make the error for `name` not being one of the `known` names of this `kind`, with the nearest one suggested."""
    known = sorted(known)
    by_lower = {word.lower(): word for word in known}
    near = [by_lower[word] for word in get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)]
    text = f"unknown {kind} {name!r}"
    text += f"; did you mean {near[0]!r}?" if near else "."
    text += f" Known: {', '.join(known) if known else 'none'}."
    return UnknownNameError(text + (f" {hint}" if hint else ""))
