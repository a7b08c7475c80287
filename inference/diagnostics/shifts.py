"""How far means and standard deviations over one set of draws are from those over another, scalar by scalar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from inference.approximations.rows import chunk_for
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

COLUMNS = 2000  # scalars at a time: some copies of their draws are made


@dataclass(frozen=True)
class Moments:
    """Means and standard deviations of scalars, with Monte Carlo standard errors; each of shape (scalars,)."""

    mean: np.ndarray
    sd: np.ndarray
    mean_error: np.ndarray
    sd_error: np.ndarray

    def off(self, other: Moments) -> Shifts:
        """How far these are from those of independent draws of `other`, in the other's standard deviations."""
        scale = np.where(other.sd > 0, other.sd, 1.0)
        return Shifts(
            mean=(self.mean - other.mean) / scale,
            sd=np.where(other.sd > 0, self.sd / scale, 1.0),
            mean_error=np.hypot(self.mean_error, other.mean_error) / scale,
            sd_error=np.hypot(self.sd_error, other.sd_error) / scale,
        )


@dataclass(frozen=True)
class Shifts:
    """Shifts of means in standard deviations, ratios of standard deviations, and their errors; shapes (scalars,)."""

    mean: np.ndarray
    sd: np.ndarray
    mean_error: np.ndarray
    sd_error: np.ndarray


def moments(x: np.ndarray, weights: np.ndarray) -> Moments:
    """Moments of draws (draws, scalars) with weights (draws,) that sum to 1.

    The errors are those of self-normalized importance sampling: var = sum_s w_s^2 psi_s^2, psi the influence of a draw,
    x - m for the mean and ((x - m)^2 - v) / (2 sqrt v) for the standard deviation (Owen 2013, section 9.3).
    """
    parts = []
    for at in range(0, x.shape[1], COLUMNS):
        centre, gap, variance = _centred(x[:, at : at + COLUMNS], weights)
        sd = np.sqrt(variance)
        square = np.square(weights)
        errors = [np.sqrt(square @ np.square(p)) for p in (gap, _of_sd(gap, variance))]
        parts.append((centre, sd, *errors))
    return Moments(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def shifts(x: np.ndarray, weights: np.ndarray) -> Shifts:
    """How far plain means and sds of draws (draws, scalars) are from the weighted ones, errors of both together."""
    even = np.full(len(x), 1 / len(x))
    parts = []
    for at in range(0, x.shape[1], COLUMNS):
        block = x[:, at : at + COLUMNS]
        centre, gap, variance = _centred(block, weights)
        plain, plain_gap, plain_variance = _centred(block, even)
        scale = np.sqrt(np.where(variance > 0, variance, 1.0))
        mean = (plain - centre) / scale
        ratio = np.where(variance > 0, np.sqrt(plain_variance) / scale, 1.0)
        apart = (even[:, None] * plain_gap - weights[:, None] * gap) / scale
        sds = (even[:, None] * _of_sd(plain_gap, plain_variance) - weights[:, None] * _of_sd(gap, variance)) / scale
        parts.append((mean, ratio, *(np.sqrt(np.square(p).sum(0)) for p in (apart, sds))))
    return Shifts(*(np.concatenate(p) for p in zip(*parts, strict=True)))


def _centred(x: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weighted mean, draws less it, and weighted variance; 0 for what only rounding moves."""
    first = x[:1]
    mean = weights @ (x - first)  # of small numbers, should all draws be far from 0
    gap = x - first - mean
    variance = weights @ np.square(gap)
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


def name_of(scalar: int, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Name a scalar by its site and place."""
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        if scalar < size:
            where = np.unravel_index(scalar, shape)
            return f"{name}[{', '.join(str(int(i)) for i in where)}]" if shape else name
        scalar -= size
    raise IndexError(scalar)
