"""Draws of locals that importance weights have moved to the posterior row by row, as after SVI with an encoder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation, describe, read
from inference.approximations.pareto import KHAT_GOOD, smoothed_rows
from inference.approximations.rows import local_draws, pointwise
from inference.runtime.tensor_folder import TensorFolder
from zoo.program.program import Program
from zoo.replay.evaluate import Values

WEIGHED = 4000  # draws of each row that are weighed, if no more are asked for
CELLS = 100_000_000  # entries of the data times draws, beyond which no more are weighed than are asked for
NUMBERS = 20_000_000  # of all draws of some rows that are held at once: 160 MB


@dataclass
class CorrectedRows(Approximation):
    """Draws of each row's locals, resampled by weights of their own: p(x_i, z_i | points) / q(z_i).

    Given the points, rows are independent, so a row's draws can be corrected whatever those of others are worth. Its
    weights are Pareto-smoothed (Vehtari et al. 2024); where its k-hat is above 0.7, or not to be had, its draws stay
    those of q. They are made anew whenever draws are asked for; locals of new rows are proposed by q, as before.

    Attributes
    ----------
    uncorrected
        q itself, in which latents that rows share are at a point.
    points
        Values of parameters and network weights.
    """

    uncorrected: Approximation
    points: Values = field(repr=False)
    exact = True
    kind = "corrected_rows"

    @property
    def covers_new_rows(self) -> bool:
        """Whether q also says what the locals of rows never seen are."""
        return self.uncorrected.covers_new_rows

    def responsibilities(self, program: Program, points: Values) -> Values | None:
        """Those of q: weights are about continuous latents."""
        return self.uncorrected.responsibilities(program, points)

    def at(self, points: Values) -> CorrectedRows:
        """Return it with these values of parameters and network weights, which its files leave out."""
        return replace(self, points=points)

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw the locals of the program's rows `count` times; log q is that of q itself, over all rows."""
        values, _, log_q = self.weighed(program, count)
        return values, log_q

    def weighed(self, program: Program, count: int) -> tuple[Values, Tensor, Tensor]:
        """The same with log p(x, z) before log q(z): they are known from the weights."""
        points, shared = shared_points(program, self.uncorrected, self.points)
        tried = max(count, _affordable(program, self.uncorrected))
        parts, logs = [], torch.zeros(2, count, dtype=torch.float64, device=program.device)  # log p and log q
        for some in _row_parts(program, self.uncorrected, tried):
            drawn = draws_by_row(some, self.uncorrected, points, tried)
            entries = {n: by_row(some, n, v, 1) for n, v in drawn.values.items()}  # (draws, rows, entries of a row)
            at = resampled_rows(drawn.log_ratio, next(iter(entries.values()))[..., 0], count)
            parts.append({n: v.take_along_dim(at[..., None], 0) for n, v in entries.items()})
            rows = torch.stack([drawn.log_ratio + drawn.log_q, drawn.log_q.double()]).take_along_dim(at[None], 1)
            logs += rows.sum(2) if some.data.weights is None else rows @ some.data.weights.double()
        values = {n: back(program, n, torch.cat([p[n] for p in parts], 1), 1) for n in parts[0]}
        logs[0] += float(program.log_joint({**points, **{n: v[0] for n, v in values.items()}}).rest)
        log_p, log_q = logs.to(program.dtype)
        return {**{n: v.expand(count, *v.shape) for n, v in shared.items()}, **values}, log_p, log_q

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals of the program's rows from q."""
        return self.uncorrected.propose(program, points, count)

    def row_moments(self, program: Program, points: Values) -> tuple[Values, Values] | None:
        """Return mean and standard deviation of locals under q, as it was before its draws were corrected."""
        return self.uncorrected.row_moments(program, points)

    def fixed(self, program: Program) -> Values | None:
        """Return the globals, which are at a point in q."""
        return self.uncorrected.fixed(program)

    def describe(self) -> dict[str, Any]:
        """Return what q is."""
        return {"uncorrected": describe(self.uncorrected)}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of q; the points are the fit's own."""
        tensors = TensorFolder()
        tensors.add("q", self.uncorrected.tensors())
        return tensors

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> CorrectedRows:
        """Make it again, without the points."""
        return cls(read(described["uncorrected"], TensorFolder(tensors).folder("q"), program), {})


class RowDraws(NamedTuple):
    """Draws of locals that each row weighs by itself.

    Attributes
    ----------
    values
        Site -> draws, stacked along dimension 0.
    log_q, log_ratio
        log q(z_i) and log p(x_i, z_i) - log q(z_i) of each row's, (draws, rows).
    """

    values: Values
    log_q: Tensor
    log_ratio: Tensor


def draws_by_row(program: Program, q: Approximation, points: Values, count: int) -> RowDraws:
    """Draw the locals of all rows of a program `count` times and weigh them; `points` are of all that rows share."""
    values, log_q = local_draws(program, q, points, {}, count)
    return RowDraws(values, log_q, pointwise(program, points, {}, (values, log_q)).double())


def shared_points(program: Program, q: Approximation, points: Values) -> tuple[Values, Values]:
    """Values of all that rows share: parameters, network weights and latents at a point; and the latents alone."""
    if not program.globals:
        return points, {}
    shared = q.fixed(program)
    if shared is None:
        drawn, _ = q.draw(program, 1)
        shared = {s.name: drawn[s.name][0] for s in program.globals}
    return {**points, **shared}, shared


def resampled_rows(log_ratio: Tensor, along: Tensor, count: int) -> Tensor:
    """Which of each row's draws to take by log weights (draws, rows): (count, rows), in random order.

    Systematic resampling (Kitagawa 1996) by smoothed weights of draws in the order of `along` (draws, rows), whose
    distribution the draws taken then have next to exactly; the first draws as they are of rows whose Pareto shape is
    above 0.7, or whose density is somewhere no number.
    """
    draws = len(log_ratio)
    sound = ~(log_ratio.isnan() | (log_ratio == torch.inf)).any(0) & log_ratio.isfinite().any(0)
    weights, shapes = smoothed_rows(torch.where(sound, log_ratio, 0.0))
    sound &= ~(shapes > KHAT_GOOD)
    order = along.mT.argsort(1)  # (rows, draws)
    edges = weights.mT.gather(1, order).cumsum(1)
    places = (torch.arange(count, device=edges.device) + _uniform(edges, 1)) / count * edges[:, -1:]
    at = order.gather(1, torch.searchsorted(edges, places).clamp_max(draws - 1))
    shuffled = at.gather(1, _uniform(edges, count).argsort(1))  # else draws of two rows would rise together
    return torch.where(sound[:, None], shuffled, torch.arange(count, device=at.device)).mT


def _uniform(like: Tensor, count: int) -> Tensor:
    """Uniform numbers, (rows, count)."""
    return torch.rand(len(like), count, dtype=like.dtype, device=like.device)


def by_row(program: Program, name: str, value: Tensor, lead: int) -> Tensor:
    """Lay out values of a local as (..., rows, entries), `lead` dimensions being left where they are."""
    moved = value.movedim(lead + _axis(program, name), lead)
    return moved.reshape(*moved.shape[: lead + 1], -1)


def back(program: Program, name: str, value: Tensor, lead: int) -> Tensor:
    """Lay out (..., rows, entries) as values of a local."""
    shape = list(program.site_shape(program.sites[name]))
    rows = shape.pop(_axis(program, name))
    return value.reshape(*value.shape[:lead], rows, *shape).movedim(lead, lead + _axis(program, name))


def _axis(program: Program, name: str) -> int:
    """Dimension of the rows in a local's value."""
    site = program.sites[name]
    return site.batch_dim + site.plate_dim(program.row)


def _affordable(program: Program, q: Approximation) -> int:
    """How many draws of each row to weigh."""
    most = min(WEIGHED, CELLS // max(1, sum(v.numel() for v in program.data.values.values())))
    if q.covers_new_rows:
        return most
    return min(most, NUMBERS // _width(program) // len(program.data))


def _width(program: Program) -> int:
    """Numbers that are held of a row's draw: its locals and two log densities."""
    return program.view.local_size + 2


def _row_parts(program: Program, q: Approximation, count: int) -> Iterator[Program]:
    """The program's rows, as many at a time as can be held; all together where q knows the fitted rows only."""
    rows = len(program.data)
    size = max(1, NUMBERS // (count * _width(program)))
    if size >= rows or not q.covers_new_rows:
        yield program
        return
    for at in torch.arange(rows, device=program.device).split(size):
        yield program.rebind(program.data.take(at))
