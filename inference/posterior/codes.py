"""Codes of rows: what q says of the continuous latents of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from inference.approximations.adapted import incomplete, proposals
from inference.approximations.conjugate import Conjugate
from inference.approximations.rows import NUMBERS, pointwise
from inference.diagnostics.coordinates import dimension_names, labels_of
from inference.posterior.answer import Answer
from inference.posterior.local_moments import exact_moments
from inference.posterior.rows import row_chunks
from inference.posterior.streams import Stream
from zoo.data.bind import Source
from zoo.data.data import Data
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site

SAMPLED = 2000  # draws behind moments that q does not know in closed form: means to 0.02 of a standard deviation
SPREAD = 500  # fitted rows that say how far codes spread: a standard deviation to 3 %
SD = "_sd"  # after the name of a latent, its standard deviations


def coded(answer: Answer) -> list[Site]:
    """The continuous latents of rows.

    Raises
    ------
    FitError
        If there are none.
    """
    sites = [s for s in answer.program.locals if not s.countable]
    if not sites:
        raise FitError(
            f"{type(answer.program.model).__name__} has no continuous latent of each row, so rows have no codes; "
            "`assign` has discrete ones, `posterior` what rows share"
        )
    return sites


def encode(answer: Answer, new: Source | Data | None = None, draws: int = 0, seed: int | None = None) -> xr.Dataset:
    """Mean and standard deviation of q(z_i) of each row, or `draws` of it: variables z and z_sd, or z alone.

    Raises
    ------
    FitError
        If q says nothing of these rows.
    """
    return _of_rows(answer, answer.on(new), draws, seed, lambda some: _coded(answer, some, draws))


def spread_codes(answer: Answer) -> xr.Dataset:
    """Moments of q itself of some fitted rows, whatever they lack: where codes are and how far they spread."""
    return _of_rows(answer, answer.on(some_rows(answer, SPREAD)), 0, None, lambda some: _moments(answer, some))


def _of_rows(
    answer: Answer, program: Program, draws: int, seed: int | None, said: Callable[[Program], Values]
) -> xr.Dataset:
    """What is `said` of the program's rows, some at a time."""
    sites = coded(answer)
    whole = not answer.approximation.covers_new_rows
    with answer.running(Stream.ENCODE, seed):
        parts = [said(c) for c in row_chunks(program, whole=whole, draws=max(1, draws) * program.view.local_size)]
    lead = 1 if draws else 0
    made: dict[str, tuple[list[str], np.ndarray]] = {}
    for site in sites:
        dims = ["draw"] * lead + list(dimension_names(program, site))
        for name in (site.name,) if draws else (site.name, site.name + SD):
            whole_site = torch.cat([p[name] for p in parts], lead + row_axis(program, site))
            made[name] = dims, whole_site.cpu().numpy()
    return xr.Dataset(made, labels(program, made))


def row_axis(program: Program, site: Site) -> int:
    """Dimension of the rows in a site's value."""
    return site.batch_dim + site.plate_dim(program.row)


def labels(program: Program, made: Mapping[str, tuple[Sequence[str], np.ndarray]]) -> dict[str, Any]:
    """Labels of all dimensions that have some of this length."""
    sizes = {d: n for dims, array in made.values() for d, n in zip(dims, array.shape, strict=True)}
    known = labels_of(program, {n: tuple(dims) for n, (dims, _) in made.items()})
    return {d: known[d] for d, size in sizes.items() if d in known and len(known[d]) == size}


def _coded(answer: Answer, program: Program, draws: int) -> Values:
    """Draws of q, or moments; of rows with missing cells those of their posterior, which an encoder does not know.

    Labels that some fitted rows lack are none of these: the encoder was trained on rows without them.
    """
    found = _drawn(answer, program, draws) if draws else _moments(answer, program)
    q, rows = answer.approximation, incomplete(program, answer.program.structure.completed.values())
    if not len(rows) or not q.covers_new_rows or isinstance(q, Conjugate) or len(coded(answer)) < len(program.locals):
        return found
    chunks = row_chunks(program.rebind(program.data.take(rows)), whole=False, draws=SAMPLED)
    parts = [_weighed(answer, c, draws) for c in chunks]
    for site in program.locals:
        axis = row_axis(program, site) + (1 if draws else 0)
        for name in found.keys() & {site.name, site.name + SD}:
            mended = torch.cat([p[name] for p in parts], axis)
            found[name] = found[name].index_copy(axis, rows, mended.to(found[name]))
    return found


def _weighed(answer: Answer, program: Program, draws: int) -> Values:
    """Moments of each row's posterior by weighted draws, or `draws` of these by their weights."""
    globals_ = answer.globals(SAMPLED, program)
    local, log_q = proposals(program, answer.approximation, answer.points, globals_, SAMPLED)
    share = torch.softmax(pointwise(program, answer.points, globals_, (local, log_q)).double(), 0)  # (draws, rows)
    taken = torch.multinomial(share.T, draws, replacement=True).T if draws else None
    found: Values = {}
    for site in program.locals:
        value = local[site.name].movedim(1 + row_axis(program, site), 1)  # (draws, rows, ...)
        if taken is not None:
            each = value[taken, torch.arange(value.shape[1], device=value.device)]
            found[site.name] = each.movedim(1, 1 + row_axis(program, site))
            continue
        weight = share.reshape(*share.shape, *[1] * (value.ndim - 2))
        mean = (weight * value).sum(0)
        sd = (weight * (value - mean).square()).sum(0).sqrt()
        found[site.name], found[site.name + SD] = (v.movedim(0, row_axis(program, site)) for v in (mean, sd))
    return found


def _drawn(answer: Answer, program: Program, draws: int) -> Values:
    found = answer.approximation.propose(program, answer.points, draws)
    if found is None:
        raise _not_known(answer, program)
    return found[0]


def _moments(answer: Answer, program: Program) -> Values:
    """Means and standard deviations, the latter under the names of their own."""
    q = answer.approximation
    known = q.row_moments(program, answer.points)
    if known is None and isinstance(q, Conjugate):
        known = exact_moments(answer, program, program.locals)
    if known is None:
        known = _sampled(answer, program)
    mean, sd = known
    return {**mean, **{n + SD: v for n, v in sd.items()}}


def _sampled(answer: Answer, program: Program) -> tuple[Values, Values]:
    """Moments over draws of q, as many at a time as can be held."""
    first, second, done = dict[str, Tensor](), dict[str, Tensor](), 0
    size = max(2, min(SAMPLED, NUMBERS // (len(program.data) * program.view.local_size)))
    while done < SAMPLED:
        for name, v in _drawn(answer, program, size).items():
            first[name] = first.get(name, 0.0) + v.double().sum(0)
            second[name] = second.get(name, 0.0) + v.double().square().sum(0)
        done += size
    mean = {n: v / done for n, v in first.items()}
    sd = {n: (second[n] / done - v.square()).clamp_min(0.0).sqrt().to(program.dtype) for n, v in mean.items()}
    return {n: v.to(program.dtype) for n, v in mean.items()}, sd


def _not_known(answer: Answer, program: Program) -> FitError:
    if answer.is_point:
        return FitError("a point estimate has no distribution of codes; `posterior['point_estimate']` holds the point")
    if program is answer.program:
        return FitError("q does not say what each row's latents are apart from those of others; see `assign()`")
    return FitError(
        "q says nothing of rows that were not fitted: fit with SVI(guide=Encoder()), or use assign(new), which weighs "
        "draws of the prior"
    )


def some_rows(answer: Answer, most: int = 10_000) -> Data | None:
    """Fitted rows, evenly spread if they are many: enough for the spread of codes."""
    data = answer.program.data
    if len(data) <= most or not answer.approximation.covers_new_rows:
        return None
    return data.take(torch.linspace(0, len(data) - 1, most).long())
