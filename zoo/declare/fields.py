"""Field kinds: what a column or array of data may hold, and the names of its dimensions."""

from __future__ import annotations

import copy
from types import EllipsisType
from typing import ClassVar, Self

import torch
from torch.distributions import constraints

from zoo.declare.supports import keep_supports
from zoo.errors import ModelError

keep_supports()  # models, programs and fits hold them, and may be sent to another process

IMAGES = {3: ("height", "width"), 4: ("channel", "height", "width")}  # what ... stands for, by the data's dimensions
RESERVED = frozenset({"chain", "draw", "label", "variable", "summary", "sample"})  # names that ArviZ's tables use


class Field:
    """A named piece of data: a support and one name per dimension, the first of which is the data plate.

    NaN (None, NA, a mask; -1 in a `Category`) marks a missing value, which inference sums over where a site observes
    the field as it is and its entries are independent or jointly Normal. That is the exact likelihood of what is
    observed if the others are missing at random: whether they are does not depend on their values. Where other sites
    depend on what is missing, as on a label or a covariate, it is a latent, summed over its states if these can be
    listed, provided that the model reads what ``pyro.sample(..., obs=...)`` returns. Covariates that no site observes
    cannot be missing.

    Parameters
    ----------
    *dims
        Names of the dimensions, left to right: ``Real("school")`` is a vector over schools,
        ``Real("row", "feature")`` a matrix, ``Real("row", "channel", "height", "width")`` images. With ``...`` in the
        end, ``Real("row", "feature", ...)``, an entry is a vector with this name for its dimension or, as the data
        have it, an image: height and width; or channel, height and width.
    default
        Entry of every row of data that have no such column: ``Positive("row", default=1.0)``; None where the data
        must have one. Only fields of one dimension have it.

    Raises
    ------
    ModelError
        If a dimension is not a name, or is named twice, or a default is none that the field can hold.
    """

    support: ClassVar[constraints.Constraint] = constraints.real
    describes: ClassVar[str] = "any finite number"
    integer: ClassVar[bool] = False
    levels: int | None = None  # how many categories there can be, where that is said

    def __init__(self, *dims: str | EllipsisType, default: float | None = None) -> None:
        self.open = len(dims) == 3 and dims[-1] is ...
        named = tuple(dim for dim in dims if not isinstance(dim, EllipsisType))
        if len(named) < len(dims) and not self.open:
            kind = type(self).__name__
            raise ModelError(f'"..." stands for images in place of vectors, as in {kind}("row", "feature", ...)')
        self._check(named, default)
        self.dims, self.default = named, default

    def _check(self, dims: tuple[str, ...], default: float | None) -> None:
        """Raise if these cannot be its dimensions and default."""
        for dim in dims:
            if not isinstance(dim, str) or not dim.isidentifier():
                raise ModelError(
                    f'a field\'s dimension must be a name, not {dim!r}: for example {type(self).__name__}("row")'
                )
        taken = [dim for dim in dims if dim in RESERVED]
        if taken:
            raise ModelError(f"a field's dimension cannot be called {taken[0]!r}, which ArviZ uses itself; rename it")
        if len(set(dims)) < len(dims):
            raise ModelError(f"a field's dimensions must differ, but {dims} names one twice")
        kind = type(self).__name__
        if default is not None and (len(dims) != 1 or self.open):
            raise ModelError(f"{kind}{dims}: only a field of one dimension has a default, found {len(dims)} dimensions")
        if default is not None and not bool(self.support.check(torch.as_tensor(default))):
            raise ModelError(f"{kind}(default={default!r}): expected {self.describes}")

    def shaped(self, dimensions: int) -> Self:
        """Return the field of data with so many dimensions, where it leaves that open; else the field itself.

        Examples
        --------
        >>> import zoo
        >>> zoo.VAE.fields["x"]  # rows of numbers, or images
        Real('row', 'feature', ...)
        >>> zoo.VAE.fields["x"].shaped(4)
        Real('row', 'channel', 'height', 'width', ...)
        >>> zoo.Real("row").shaped(4)
        Real('row')
        """
        if not self.open or dimensions not in IMAGES:
            return self
        shaped = copy.copy(self)
        shaped.dims = (self.dims[0], *IMAGES[dimensions])
        return shaped

    def __repr__(self) -> str:
        """Show the field as it is written in a model."""
        dims = (*map(repr, self.dims), *(("...",) if self.open else ()))
        default = () if self.default is None else (f"default={self.default!r}",)
        return f"{type(self).__name__}({', '.join((*dims, *default))})"


class Real(Field):
    """Real numbers, in (-inf, inf).

    Examples
    --------
    >>> import zoo
    >>> zoo.Real("row", "feature")
    Real('row', 'feature')
    """


class Positive(Field):
    """Numbers above zero.

    Examples
    --------
    >>> import zoo
    >>> @zoo.model(wait=zoo.Positive("bus"))
    ... def waits(wait): ...
    >>> waits().fields
    {'wait': Positive('bus')}
    """

    support = constraints.positive
    describes = "a number above 0"


class UnitInterval(Field):
    """Numbers in [0, 1].

    Examples
    --------
    >>> import zoo
    >>> zoo.UnitInterval("row").support
    Interval(lower_bound=0.0, upper_bound=1.0)
    """

    support = constraints.unit_interval
    describes = "a number from 0 to 1"


class Count(Field):
    """Counts: 0, 1, 2, ...

    Examples
    --------
    >>> import zoo
    >>> zoo.Count("row").support
    IntegerGreaterThan(lower_bound=0)
    """

    support = constraints.nonnegative_integer
    describes = "a whole number, 0 or above"


class Binary(Field):
    """Zeros and ones (or False and True).

    Examples
    --------
    >>> import zoo
    >>> zoo.Binary("toss").support
    Boolean()
    """

    support = constraints.boolean
    describes = "0 or 1"


class Category(Field):
    """Category codes 0, 1, ..., or labels, which are coded in sorted order. Handed to the model as integers.

    Parameters
    ----------
    *dims
        Names of the dimensions.
    levels
        How many categories there can be; None for as many as the data that are fitted have.

    Examples
    --------
    >>> import zoo
    >>> model = zoo.LatentClass()
    >>> model.fields["x"]
    Category('row', 'item')
    """

    support = constraints.nonnegative_integer
    describes = "a category code 0, 1, 2, ..."
    integer = True

    def __init__(self, *dims: str | EllipsisType, levels: int | None = None) -> None:
        super().__init__(*dims)
        if levels is not None and (isinstance(levels, bool) or not isinstance(levels, int) or levels < 1):
            raise ModelError(f"Category(levels={levels!r}): levels must be a whole number above 0")
        self.levels = levels
