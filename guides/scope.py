"""A guide on some of a program's sites: what it sees of the program, and how q is put together again."""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from guides.start import Start
from guides.variational import Draw, Noise, Pushforward, Variational
from zoo.data.data import Data
from zoo.program.program import Program
from zoo.program.terms import sum_of
from zoo.program.view import Slot, View

Piece = tuple[int, int, int]  # which part, and from where to where in its coordinates


def restrict(program: Program, names: Sequence[str]) -> Program:
    """Return the program as a guide of these latents sees it: the other latents are not among its latents."""
    seen = copy.copy(program)
    seen.latents, seen.locals, seen.globals = (
        [s for s in sites if s.name in names] for sites in (program.latents, program.locals, program.globals)
    )
    return seen


def restrict_start(program: Program, start: Start, names: Sequence[str]) -> Start:
    """Return the start's coordinates of these latents."""
    u, v = (_columns(slots, names) for slots in (program.view.globals, program.view.locals))
    return Start(
        start.globals[u], start.locals[:, v], start.parameters, start.global_unit[u], start.local_unit[:, v],
        start.parameter_unit,
    )  # fmt: skip


def _columns(slots: Sequence[Slot], names: Collection[str]) -> list[int]:
    return [i for slot in slots if slot.site.name in names for i in range(slot.start, slot.stop)]


def pieces(whole: Sequence[Slot], parts: Sequence[Sequence[Slot]]) -> list[Piece]:
    """Where each site of the whole stands among the parts, in the order of the whole."""
    where = {slot.site.name: (i, slot.start, slot.stop) for i, slots in enumerate(parts) for slot in slots}
    return [where[slot.site.name] for slot in whole]


def merge(draws: Sequence[Tensor], order: Sequence[Piece]) -> Tensor:
    """Put coordinates (..., size) of the parts in the order of the whole."""
    return torch.cat([draws[i][..., start:stop] for i, start, stop in order], -1) if order else draws[0][..., :0]


def split_noise(noise: Tensor, shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
    """Cut one vector of noise into tensors of these shapes."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    return [part.reshape(shape) for part, shape in zip(noise.split(sizes), shapes, strict=True)]


class ConstrainedPoint(Pushforward):
    """A point whose log density is that of z in constrained space, 0: in unconstrained space log q(u) = log|dz/du|."""

    def __init__(self, inner: Pushforward, view: View, *, local: bool) -> None:
        super().__init__()
        self.inner, self.view, self.local = inner, view, local

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """No noise."""
        return self.inner.noise_shape(rows)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point and its log Jacobian."""
        u, _ = self.inner.draw(data, rows, noise)
        _, jacobian = self.view.constrain_locals(u) if self.local else self.view.constrain_globals(u)
        return u, jacobian


def in_constrained_space(q: Variational, view: View) -> Variational:
    """Return a q of points for use beside a q that has a density."""
    return Variational(
        ConstrainedPoint(q.over_globals, view, local=False), ConstrainedPoint(q.over_locals, view, local=True)
    )


class Side(Pushforward):
    """q(u) = prod_k q_k(u_k): independent parts, each over some coordinates of the globals or of each row's locals."""

    def __init__(self, parts: Sequence[Pushforward], whole: Sequence[Slot], slots: Sequence[Sequence[Slot]]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.order = pieces(whole, slots)
        names = [{slot.site.name for slot in own} for own in slots]
        self.columns = [_columns(whole, own) for own in names]
        self.scored = any(part.scored for part in parts)
        self.amortized = all(part.amortized for part, own in zip(parts, names, strict=True) if own)

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One vector that holds the noise of each part."""
        return (sum(torch.Size(part.noise_shape(rows)).numel() for part in self._parts),)

    @property
    def _parts(self) -> list[Pushforward]:
        return [part for part in self.parts if isinstance(part, Pushforward)]

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw from each part."""
        each = split_noise(noise, [part.noise_shape(len(data)) for part in self._parts])
        draws = [part.draw(data, rows, one) for part, one in zip(self._parts, each, strict=True)]
        return merge([u for u, _ in draws], self.order), torch.stack([log_q for _, log_q in draws]).sum(0)

    def score(self, data: Data, rows: Tensor | None, value: Tensor) -> Tensor:
        """Log q of what has no gradient in any part."""
        parts = zip(self._parts, self.columns, strict=True)
        return sum_of(part.score(data, rows, value[..., own]) for part, own in parts if part.scored)

    def log_prob(self, data: Data, value: Tensor) -> Tensor:
        """Log density of given locals of these rows."""
        parts = zip(self._parts, self.columns, strict=True)
        return sum_of(part.log_prob(data, value[:, own]) for part, own in parts if own)


class Composite(Variational):
    """q(u) = prod_k q_k(u_k) where some q_k is not split into globals and rows."""

    covers_rows = False

    def __init__(self, parts: Sequence[Variational], program: Program, views: Sequence[View]) -> None:
        super().__init__(Pushforward(), Pushforward())
        self.members = nn.ModuleList(parts)
        self.orders = tuple(
            pieces(getattr(program.view, side), [getattr(view, side) for view in views])
            for side in ("globals", "locals")
        )

    def noise_shapes(self, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Two vectors that hold the noise of each member."""
        first, second = (
            sum(torch.Size(shapes[side]).numel() for shapes in (m.noise_shapes(rows) for m in self._members))
            for side in (0, 1)
        )
        return (first,), (second,)

    @property
    def scored(self) -> bool:
        """Whether some draws of a member have no gradient."""
        return any(m.scored for m in self._members)

    @property
    def _members(self) -> list[Variational]:
        return [m for m in self.members if isinstance(m, Variational)]

    def draw(self, data: Data, rows: Tensor | None = None, noise: Noise | None = None) -> Draw:
        """Draw from each member."""
        noise = self.noise(data) if noise is None else noise
        shapes = [m.noise_shapes(len(data)) for m in self._members]
        first, second = (split_noise(noise[side], [s[side] for s in shapes]) for side in (0, 1))
        draws = [m.draw(data, rows, (a, b)) for m, a, b in zip(self._members, first, second, strict=True)]
        scored = [d for d in draws if d.score is not None]
        return Draw(
            merge([d.globals for d in draws], self.orders[0]),
            merge([d.locals for d in draws], self.orders[1]),
            torch.stack([d.log_q for d in draws]).sum(),
            torch.stack([d.log_q_rows for d in draws]).sum(0),
            sum_of(d.score for d in scored if d.score is not None) if scored else None,
            sum_of(d.score_rows for d in scored if d.score_rows is not None) if scored else None,
        )
