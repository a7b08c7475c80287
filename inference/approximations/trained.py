"""A guide after training: what q is after SVI and Laplace."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from guides.guide import Guide
from guides.start import Start
from guides.variational import Noise, Variational
from inference.approximations.approximation import Approximation
from inference.approximations.noise import normal, quasi_normal
from inference.runtime.settings import describe, make
from zoo.data.data import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values

CHUNK = 2048  # draws in one vectorized call
ALIKE = 1e-4  # relative and absolute difference of numbers that are the same but for rounding in float32
CELLS = 2_000_000  # coordinates in it, so that a tensor of them stays in the processor's caches or near


@dataclass
class Trained(Approximation):
    """A guide after training.

    Attributes
    ----------
    guide
        Its settings.
    q
        Its trained distribution.
    data
        The rows it was trained on.
    """

    guide: Guide
    q: Variational
    data: Data
    kind = "trained"

    def __post_init__(self) -> None:
        """A point guide gives points."""
        self.point = self.guide.point

    @property
    def covers_new_rows(self) -> bool:
        """Whether the guide is amortized."""
        return self.q.for_new_rows

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw globals, and the locals of the fitted rows; log q is that of the values in their constrained space."""
        view, data = program.view, self.data
        weights = data.weights

        def one(noise: Noise) -> tuple[Values, Tensor]:
            u = self.q.draw(data, None, noise)
            values, jacobian = view.constrain_globals(u.globals)
            local, row_jacobian = view.constrain_locals(u.locals)
            log_q = u.log_q - jacobian
            if view.locals:
                rows = u.log_q_rows - row_jacobian
                log_q = log_q + (rows.sum() if weights is None else (weights * rows).sum())
            return {**values, **local}, log_q

        shape, other = self.q.noise_shapes(len(data))
        first = quasi_normal(count, math.prod(shape), program).reshape(count, *shape)
        with torch.no_grad():
            values, log_q = stack(
                one, lambda some: (first[some], normal(some.stop - some.start, other, program)), count, program
            )
        return values, log_q

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals by an amortized guide, or from the rows' own parts if these are the fitted rows."""
        known = program.data is self.data
        if self.point or not self.q.apart or not (self.q.for_new_rows or known):
            return None
        view = program.view

        def one(noise: Tensor) -> tuple[Values, Tensor]:
            v, log_q = self.q.draw_rows(program.data, noise)
            values, jacobian = view.constrain_locals(v)
            return values, log_q - jacobian

        shape = self.q.row_noise(len(program.data))
        with torch.no_grad():
            values, log_q = stack(one, lambda some: normal(some.stop - some.start, shape, program), count, program)
        return values, log_q

    def row_moments(self, program: Program, points: Values) -> tuple[Values, Values] | None:
        """Return mean and standard deviation of locals, exactly where they are affine in the noise behind them.

        That is seen from a few values of the noise z: the mean is at z = 0; where sds do not change with the signs of
        z = (+-1, ..., +-1) each entry has noise of its own, else the squares of all columns of the map add up. Where q
        is a mixture over the states of a discrete latent, those of each state are averaged.
        """
        if self.point or not self.q.apart or not (self.q.for_new_rows or program.data is self.data):
            return None
        shape = self.q.row_noise(len(program.data))
        origin = torch.zeros(shape, dtype=program.dtype, device=program.device)

        states, view = self.q.classifies, program.view

        def at(noise: Tensor) -> Values:
            if states:
                found: Values = torch.vmap(lambda u: view.constrain_locals(u)[0])(self.q.in_states(program.data, noise))
                return found
            return view.constrain_locals(self.q.draw_rows(program.data, noise)[0])[0]

        with torch.no_grad():
            signs = torch.randint_like(origin, 2) * 2 - 1
            mean, same, mixed, far = (at(noise) for noise in (origin, origin + 1, signs, -2 * signs))
            off = {n: mixed[n] - v for n, v in mean.items()}
            if not all(torch.allclose(far[n] - v, -2 * off[n], ALIKE, ALIKE) for n, v in mean.items()):
                return None
            sd = {n: (same[n] - v).abs() for n, v in mean.items()}
            if all(torch.allclose(off[n].abs(), v, ALIKE, ALIKE) for n, v in sd.items()):
                return self._over_states(program, mean, sd) if states else (mean, sd)
            if len(shape) == 1 or states:  # whose noise is whose is not known
                return None
            square = {n: torch.zeros_like(v) for n, v in mean.items()}
            for column in torch.eye(shape[1], dtype=program.dtype, device=program.device):
                moved = at(origin + column)
                square = {n: v + (moved[n] - mean[n]).square() for n, v in square.items()}
        return mean, {n: v.sqrt() for n, v in square.items()}

    def _over_states(self, program: Program, mean: Values, sd: Values) -> tuple[Values, Values]:
        """Moments of a mixture whose components have these, states along dimension 0."""
        share, moments = self.q.log_share(program.data), (dict[str, Tensor](), dict[str, Tensor]())
        assert share is not None
        for site in program.locals:
            at = [len(share), *[1] * (mean[site.name].ndim - 1)]
            at[1 + site.batch_dim + site.plate_dim(program.row)] = share.shape[1]
            weight, own = share.exp().reshape(at), mean[site.name]
            moments[0][site.name] = centre = (weight * own).sum(0)
            moments[1][site.name] = (weight * (sd[site.name].square() + (own - centre).square())).sum(0).sqrt()
        return moments

    def responsibilities(self, program: Program, points: Values) -> Values | None:
        """q(y_i = k) of the discrete latent of each row, where the guide has a classifier; of a known label, 0 or 1."""
        with torch.no_grad():
            share = self.q.log_share(program.data)
            if share is None:
                return None
            site = program.enumerated[0]
            told = program.structure.completed.get(site.name)
            if told is not None:
                codes, gone = program.data.values[told], program.data.missing.get(told)
                states = torch.arange(len(share), device=share.device)[:, None]
                possible = codes == states if gone is None else gone | (codes == states)
                share = share.masked_fill(~possible, -math.inf)
            return {site.name: share.softmax(0).mT}

    def fixed(self, program: Program) -> Values | None:
        """Return the globals where the guide has all of them at a point, drawn with one row where rows are apart."""
        names = [s.name for s in program.globals]
        if not names or self.point or not set(names) <= set(self.guide.points(program)):
            return None
        q, seen = self, program
        if self.q.for_new_rows:
            first = self.data.take(torch.zeros(1, dtype=torch.long))
            q, seen = replace(self, data=first), program.rebind(first)
        values, _ = q.draw(seen, 1)
        return {n: values[n][0] for n in names}

    def describe(self) -> dict[str, Any]:
        """Return the guide's settings."""
        return {"guide": describe("guide", self.guide)}

    def tensors(self) -> dict[str, Tensor]:
        """Return parameters and buffers of q."""
        return dict(self.q.state_dict())

    @classmethod
    def read(cls, described: Mapping[str, Any], tensors: dict[str, Tensor], program: Program) -> Trained:
        """Build q anew and put its parameters and buffers where they were."""
        guide: Guide = make("guide", described["guide"], Guide)
        q = guide.build(program, Start.blank(program))
        q.load_state_dict(tensors)
        return cls(guide, q.requires_grad_(False).eval(), program.data)


def stack(function: Any, noise: Callable[[slice], Any], count: int, program: Program) -> Any:
    """Draw `count` times, each with noise of its own: in vectorized chunks, or one by one where that cannot be."""
    width = sum(s.stop - s.start for s in program.view.locals) * len(program.data) + program.view.global_size + 1
    size = max(1, min(CHUNK, CELLS // width))
    one = torch.vmap(function, randomness="different")
    pieces = (noise(slice(at, min(at + size, count))) for at in range(0, count, size))
    parts = [_together(one, function, piece) for piece in pieces]
    values = {n: torch.cat([p[0][n] for p in parts]) for n in parts[0][0]}
    return values, torch.cat([p[1] for p in parts])


def _together(vectorized: Any, function: Any, noise: Any) -> Any:
    """Apply a function to each of several draws of noise, a tensor or a pair of them."""
    try:
        return vectorized(noise)
    except RuntimeError:  # a hand-written guide whose control flow depends on values, or a sampler with a loop
        single = isinstance(noise, Tensor)
        draws = [function(n) for n in (noise if single else zip(*noise, strict=True))]
        values = {n: torch.stack([v[n] for v, _ in draws]) for n in draws[0][0]}
        return values, torch.stack([log_q for _, log_q in draws])
