"""How far means and standard deviations over one set of draws are from those over another, scalar by scalar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from inference.approximations.rows import chunk_for
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

TAIL = 0.05  # mass beyond each of the quantiles that are looked at
COLUMNS = 2000  # scalars at a time: some copies of their draws are made


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations of scalars, with Monte Carlo standard errors; each of shape (scalars,).

    `tail` is the mass below one cut and above another, (2, scalars); of shape (2, 0) where there are no cuts.
    """

    mean: np.ndarray
    sd: np.ndarray
    mean_error: np.ndarray
    sd_error: np.ndarray
    tail: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))
    tail_error: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))

    def off(self, other: Moments) -> Shifts:
        """How far these are from those of independent draws of `other`, in the other's standard deviations."""
        scale = np.where(other.sd > 0, other.sd, 1.0)
        return Shifts(
            mean=(self.mean - other.mean) / scale,
            sd=np.where(other.sd > 0, self.sd / scale, 1.0),
            mean_error=np.hypot(self.mean_error, other.mean_error) / scale,
            sd_error=np.hypot(self.sd_error, other.sd_error) / scale,
            tail=self.tail - other.tail,
            tail_error=np.hypot(self.tail_error, other.tail_error),
        )


@dataclass(frozen=True)
class Shifts:
    """Shifts of means in standard deviations, ratios of standard deviations, and their errors; shapes (scalars,).

    `tail` is by how much the masses beyond two quantiles differ, (2, scalars); of shape (2, 0) where nobody looked.
    """

    mean: np.ndarray
    sd: np.ndarray
    mean_error: np.ndarray
    sd_error: np.ndarray
    tail: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))
    tail_error: np.ndarray = field(default_factory=lambda: np.empty((2, 0)))

    @property
    def table(self) -> dict[str, np.ndarray]:
        """Columns of a table of them."""
        return {
            "mean_shift": self.mean,
            "sd_ratio": self.sd,
            "mean_error": self.mean_error,
            "sd_error": self.sd_error,
        }


def moments(x: np.ndarray, weights: np.ndarray, cuts: np.ndarray | None = None) -> Moments:
    """Moments of draws (draws, scalars) with weights (draws,) that sum to 1; masses beyond `cuts` (2, scalars).

    The errors are those of self-normalized importance sampling: var = sum_s w_s^2 psi_s^2, psi the influence of a draw,
    x - m for the mean and ((x - m)^2 - v) / (2 sqrt v) for the standard deviation (Owen 2013, section 9.3).
    """
    parts = []
    for at in range(0, x.shape[1], COLUMNS):
        centre, gap, variance = _centred(x[:, at : at + COLUMNS], weights[:, None])
        sd = np.sqrt(variance)
        square = np.square(weights)
        errors = [np.sqrt(square @ np.square(p)) for p in (gap, _of_sd(gap, variance))]
        parts.append((centre, sd, *errors))
    mean, sd, mean_error, sd_error = (np.concatenate(p) for p in zip(*parts, strict=True))
    if cuts is None:
        return Moments(mean, sd, mean_error, sd_error)
    tail, tail_error = _tails(x, weights, cuts)
    return Moments(mean, sd, mean_error, sd_error, np.where(sd > 0, tail, 0.5), np.where(sd > 0, tail_error, 0.0))


def quantiles(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """5 % and 95 % quantiles of weighted draws (draws, scalars): (2, scalars)."""
    order = x.argsort(0)
    mass = weights[order].cumsum(0)
    at = np.stack([(mass < TAIL).sum(0), (mass < 1 - TAIL).sum(0)]).clip(max=len(x) - 1)
    found: np.ndarray = np.take_along_axis(np.take_along_axis(x, order, 0), at, 0)
    return found


def _tails(x: np.ndarray, weights: np.ndarray, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mass below the first cut and above the second, half of what is on it, and its error; (2, scalars)."""
    sides = ((x - cuts[0]), (cuts[1] - x))
    beyond = [(side < 0) + 0.5 * (side == 0) for side in sides]
    mass = np.stack([weights @ b for b in beyond])
    error = [np.sqrt(np.square(weights) @ np.square(b - m)) for b, m in zip(beyond, mass, strict=True)]
    return mass, np.stack(error)


def shifts(x: np.ndarray, weights: np.ndarray) -> Shifts:
    """How far plain means and sds of draws (draws, scalars) are from the weighted ones, errors of both together.

    Weights are those of draws, (draws,), or of each scalar by itself, (draws, scalars).
    """
    even = np.full((len(x), 1), 1 / len(x))
    parts = []
    for at in range(0, x.shape[1], COLUMNS):
        block = x[:, at : at + COLUMNS]
        own = weights[:, None] if weights.ndim == 1 else weights[:, at : at + COLUMNS]
        centre, gap, variance = _centred(block, own)
        plain, plain_gap, plain_variance = _centred(block, even)
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        mean = (plain - centre) / scale
        ratio = np.where(variance > 0, np.sqrt(plain_variance) / scale, 1.0)
        apart = (even * plain_gap - own * gap) / scale
        sds = (even * _of_sd(plain_gap, plain_variance) - own * _of_sd(gap, variance)) / scale
        parts.append((mean, ratio, *(np.sqrt(np.square(p).sum(0)) for p in (apart, sds))))
    return Shifts(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _centred(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean, draws less it, and weighted variance; 0 for what only rounding moves.

    Weights are (draws, 1), or (draws, scalars).
    """

    def mean_of(values: np.ndarray) -> np.ndarray:
        same = weights.shape[1] == 1
        found: np.ndarray = weights[:, 0] @ values if same else np.einsum("ds,ds->s", weights, values)
        return found

    first = x[:1]
    mean = mean_of(x - first)  # of small numbers, should all draws be far from 0
    gap = x - first - mean
    variance = mean_of(np.square(gap))
    still = np.sqrt(variance) <= 1e-12 * np.abs(first[0] + mean)
    return first[0] + mean, gap, np.where(still, 0.0, variance)


def _of_sd(gap: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Influence of each draw on the standard deviation."""
    influence: np.ndarray = (np.square(gap) - variance) / (2 * np.sqrt(np.where(variance > 0, variance, np.inf)))
    return influence


def scalars(
    program: Program, points: Values, values: Values, count: int
) -> tuple[np.ndarray, Mapping[str, tuple[int, ...]]]:
    """Lay out draws of latents and of what is derived from them as (draws, scalars); and the shape of each site."""
    values = {s.name: values[s.name] for s in program.latents}
    if any(s.role == "deterministic" for s in program.sites.values()):

        def derived(v: Values) -> Values:
            return {n: x for n, x in program.deterministic({**points, **v}).items() if x.is_floating_point()}

        values = {**values, **many(derived, values, count, chunk_for(program))}
    flat = [v.detach().double().reshape(count, -1).cpu().numpy() for v in values.values()]
    return np.concatenate(flat, 1), {n: tuple(v.shape[1:]) for n, v in values.items()}


def by_site(row: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Take a number for each scalar apart into an array for each site."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])
    parts = np.split(row, ends[:-1])
    return {n: part.reshape(shape) for (n, shape), part in zip(shapes.items(), parts, strict=True)}


def place_of(scalar: int, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, tuple[int, ...]]:
    """The site that a scalar is an entry of, and its place there."""
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        if scalar < size:
            return name, tuple(int(i) for i in np.unravel_index(scalar, shape)) if shape else ()
        scalar -= size
    raise IndexError(scalar)
