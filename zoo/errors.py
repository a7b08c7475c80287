"""Errors a user can cause: each names the site, field or column, what was expected, what was found and the remedy."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ZooError(ValueError):
    """Base of every error that input can cause; a `ValueError`."""


class DataError(ZooError):
    """Data that a model cannot take: shape, support, type, missing values, or an unreadable file."""


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
    """A model that is declared wrongly: plates, fields, hyperparameters, or a log density that is not a number."""


class MethodError(ZooError):
    """A method, or a method with this guide, that is not legal for this model and data."""


class FitError(ZooError):
    """A fit that cannot do what is asked of it, or that broke down numerically."""


class UnknownNameError(ZooError):
    """A name that is not known: of a model, guide, method, dataset, hyperparameter or setting."""


def unknown(kind: str, name: object, known: Iterable[str], hint: str = "") -> UnknownNameError:
    """Make the error for `name` not being one of the `known` names of this `kind`, with the nearest one suggested."""
    known = sorted(known)
    by_lower = {word.lower(): word for word in known}
    near = [by_lower[word] for word in get_close_matches(str(name).lower(), by_lower, n=1, cutoff=0.5)]
    text = f"unknown {kind} {name!r}"
    text += f"; did you mean {near[0]!r}?" if near else "."
    text += f" Known: {', '.join(known) if known else 'none'}."
    return UnknownNameError(text + (f" {hint}" if hint else ""))
