"""Grey levels made into what a likelihood takes: zeros and ones, numbers without gaps between them, other units.

Random numbers are a function of seed, pass, row and pixel (SplitMix64: Steele, Lea and Flood 2014), whatever rows are
asked for together: a static draw is the first pass of a dynamic one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import torch
from torch import Tensor

from zoo.data.indexed import Array, Indexed
from zoo.errors import DataError

How = Literal["static", "dynamic"]
LEVELS = 256  # of uint8
AT_ONCE = 1000  # rows
GAMMA = np.uint64(0x9E3779B97F4A7C15)  # steps of SplitMix64's counter


@dataclass(frozen=True, eq=False)
class Changed(Indexed):
    """Rows of another stream, changed when they are read.

    Attributes
    ----------
    source
        The rows as they are.
    levels
        How many grey levels there are.
    how, seed
        Whether every pass draws anew, and what draws follow from; None for the seed of the fit.
    """

    source: Indexed
    levels: int = LEVELS
    how: How = "static"
    seed: int | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.source)

    def __str__(self) -> str:
        """Name the source, and what is done with it."""
        word = type(self).__name__.lower()
        return (
            f"{self.source}, {word} anew in every pass (seed {self.seed})"
            if not self.fixed
            else f"{self.source}, {word}"
        )

    @property
    def fixed(self) -> bool:
        """Whether a row is the same in every pass."""
        return self.how == "static" and self.source.fixed

    def seeded(self) -> Self:
        """Return it with seeds, drawn from torch's random numbers where none was given."""
        seed = int(torch.randint(2**31, ())) if self.seed is None else self.seed
        return replace(self, source=self.source.seeded(), seed=seed)

    def at(self, rows: np.ndarray, epoch: int = 0) -> Any:
        """Return these rows, as this pass over all has them."""
        values = self.source.at(rows, epoch)
        if isinstance(values, dict):
            raise DataError(f"{self.source} has fields by name; change grey levels in its items (their `transform`)")
        values = np.asarray(values)
        noise = uniforms(self.seed or 0, epoch if self.how == "dynamic" else 0, rows, values[0].size)
        return self.changed(values, noise.reshape(values.shape))

    def changed(self, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Change rows, given a uniform number for each of their entries."""
        raise NotImplementedError(type(self).__name__)


class Binarised(Changed):
    """1 with the probability that the grey value is, else 0."""

    def changed(self, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Draw."""
        drawn: np.ndarray = (noise < shares(values, self.levels)).astype(np.uint8)
        return drawn


class Dequantized(Changed):
    """(x + u) / levels, u uniform."""

    def changed(self, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Add noise."""
        if not np.array_equal(values, np.round(values)) or values.min() < 0 or values.max() >= self.levels:
            raise DataError(
                f"dequantized(levels={self.levels}): expected grey levels 0, 1, ..., {self.levels - 1}, found values "
                f"from {values.min():g} to {values.max():g}"
            )
        smooth: np.ndarray = ((values + noise) / self.levels).astype(np.float32)
        return smooth


class Scaled(Changed):
    """x / (levels - 1)."""

    def changed(self, values: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Divide."""
        return shares(values, self.levels).astype(np.float32)


def shares(values: np.ndarray, levels: int) -> np.ndarray:
    """Grey values in [0, 1]: whole numbers are levels, others have to be that already."""
    grey = values / (levels - 1) if values.dtype.kind in "iu" else values
    if grey.min() < 0 or grey.max() > 1 or np.isnan(grey).any():
        allowed = f"levels 0 to {levels - 1}" if values.dtype.kind in "iu" else "grey values from 0 to 1"
        raise DataError(
            f"expected {allowed}, found values from {np.nanmin(values):g} to {np.nanmax(values):g}; say how many "
            "levels there are (levels=...), or scale them"
        )
    return grey


def uniforms(seed: int, epoch: int, rows: np.ndarray, width: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (rows, width), each a function of seed, pass, row number and column alone."""
    key = _mixed(_mixed(np.array([seed], dtype=np.uint64)) + np.uint64(epoch))
    counter = rows.astype(np.uint64)[:, None] * np.uint64(width) + np.arange(1, width + 1, dtype=np.uint64)
    uniform: np.ndarray = (_mixed(key + counter * GAMMA) >> np.uint64(11)) * 2.0**-53
    return uniform


def _mixed(z: Any) -> Any:
    """Scramble 64 bits, modulo 2^64."""
    z = z + GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _made(stream: Changed, given: Any) -> Any:
    """Return what is fixed and in memory as an array or tensor, the rest as a stream."""
    if not stream.fixed or not isinstance(stream.source, Array) or isinstance(given, np.memmap):
        return stream
    parts = [stream.at(np.arange(a, min(a + AT_ONCE, len(stream)))) for a in range(0, len(stream), AT_ONCE)]
    array = np.concatenate(parts)
    return torch.from_numpy(array) if isinstance(given, Tensor) else array


def _rows(x: Any) -> Indexed:
    if isinstance(x, Indexed):
        return x
    if isinstance(x, Tensor | np.ndarray):
        x = x.detach().cpu() if isinstance(x, Tensor) else x
    elif isinstance(x, Sequence) and not isinstance(x, str):
        x = np.asarray(x)
    else:
        raise DataError(f"expected an array, a tensor or zoo.image_files(...), found {type(x).__name__}")
    if x.ndim == 0 or len(x) == 0:
        raise DataError(f"expected rows of grey values, found shape {tuple(x.shape)}")
    return Array(x)


def _check(how: str, seed: int | None, name: str) -> None:
    if how not in ("static", "dynamic"):
        raise DataError(f"{name}(how={how!r}): expected 'static' (drawn once) or 'dynamic' (drawn anew in every pass)")
    if how == "static" and seed is None:
        raise DataError(f"{name}(how='static') draws once, and needs a seed: {name}(x, seed=0)")


def binarised(x: Any, how: How = "static", *, seed: int | None = None, levels: int = LEVELS) -> Any:
    """Zeros and ones drawn with the grey values for probabilities: P(b = 1) = x / (levels - 1).

    "static" draws once (Larochelle and Murray 2011): an array like any other. "dynamic" draws anew in every pass over
    the rows (Burda, Grosse and Salakhutdinov 2016), in the mini-batches of `fit` with SVI; the density of new rows is
    that of one static draw: ``fit.log_prob(zoo.binarised(test, seed=0))``.

    Parameters
    ----------
    x
        Whole numbers 0 to `levels` - 1, or real ones in [0, 1]: an array or tensor, also one on disk
        (``np.load(path, mmap_mode="r")``), or `zoo.image_files`.
    how
        When to draw.
    seed
        What draws follow from. None, for "dynamic" only: from the seed of the fit.
    levels
        How many levels whole numbers have.

    Raises
    ------
    DataError
        If there is no seed for a static draw, or x is no grey value.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> zoo.binarised(np.array([[0, 128, 255]]), seed=0)[:, [0, 2]]  # 0 and 255 are sure
    array([[0, 1]], dtype=uint8)
    """
    _check(how, seed, "binarised")
    return _made(Binarised(_rows(x), levels, how, seed), x)


def dequantized(x: Any, how: How = "static", *, seed: int | None = None, levels: int = LEVELS) -> Any:
    """Grey levels with uniform noise between them, in (0, 1): y = (x + u) / levels, u ~ Uniform(0, 1).

    A density of y is a bound on the probability of the levels (Theis, van den Oord and Bethge 2016): with d pixels,
    E_u[log p(y)] - d log(levels) <= log P(x), which in bits per pixel is -(log p(y) / d - log(levels)) / log 2.

    Parameters
    ----------
    x, how, seed, levels
        As for `binarised`; x are whole numbers.

    Raises
    ------
    DataError
        If there is no seed for a static draw, or x are no levels.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> np.floor(zoo.dequantized(np.array([[0, 128, 255]]), seed=0) * 256)  # where they were, and a uniform part
    array([[  0., 128., 255.]], dtype=float32)
    """
    _check(how, seed, "dequantized")
    return _made(Dequantized(_rows(x), levels, how, seed), x)


def scaled(x: Any, *, levels: int = LEVELS) -> Any:
    """Grey levels in [0, 1]: y = x / (levels - 1).

    Parameters
    ----------
    x, levels
        As for `binarised`; what is on disk stays there until it is read.

    Raises
    ------
    DataError
        If x is no grey value.

    Examples
    --------
    >>> import numpy as np
    >>> import zoo
    >>> zoo.scaled(np.array([[0, 51, 255]]))  # in units of the largest level
    array([[0. , 0.2, 1. ]], dtype=float32)
    """
    return _made(Scaled(_rows(x), levels), x)
