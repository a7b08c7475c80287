"""What q is after a fit: a point, a conjugate posterior, or a trained guide; each can be drawn from."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from guides.guide import Guide
from guides.variational import Noise, Variational
from inference.conjugate import EStep, closed_form
from inference.conjugate.posteriors import Posterior
from inference.coordinate.ascent import Coordinates, State, distinct
from zoo.data.bind import Data
from zoo.program.program import Program
from zoo.replay.evaluate import Values

LOCAL_ROUNDS = 20  # of updates of several blocks of local latents of new rows


class Approximation(ABC):
    """q(latents): the answer of a method.

    Attributes
    ----------
    point
        Whether q is a single value, so that there are no draws to summarize.
    exact
        Whether its draws are of the posterior itself, so that there is no log q to correct them by.
    kept
        How many draws it consists of, in so many `chains`; None where it can be drawn from afresh.
    states, stats
        Draws of the enumerated sites, (draws, ...), and what a sampler says of each draw, (chains, draws).
    """

    point = False
    exact = False
    chains = 1
    states: Mapping[str, Tensor] = MappingProxyType({})
    stats: Mapping[str, np.ndarray] = MappingProxyType({})

    @property
    def kept(self) -> int | None:
        """How many draws it consists of."""
        return None

    @property
    def covers_new_rows(self) -> bool:
        """Whether q also says what the locals of rows never seen are."""
        return False

    @abstractmethod
    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return `count` draws of the latents, stacked along dimension 0, and log q of each, shape (count,)."""

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Return `count` draws of the locals of the program's rows and log q per row, (count, rows).

        None if q says nothing of these rows, so that the model's own prior has to propose.
        """
        return None

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """Return q(z_i = k) of each enumerated site of a row, (rows, states); None if q does not say."""
        return None


@dataclass
class PointMass(Approximation):
    """One value per latent."""

    values: Values
    point = True

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Return the point, repeated."""
        zeros = torch.zeros(count, dtype=program.dtype, device=program.device)
        return {n: v.expand(count, *v.shape) for n, v in self.values.items()}, zeros


@dataclass
class Conjugate(Approximation):
    """A distribution of a known family for each block of latents, independent between blocks."""

    posteriors: list[Posterior]
    _kept: tuple[Program, list[Posterior]] | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def distributions(self) -> dict[str, Any]:
        """Posterior distribution of each latent that is independent of the others."""
        return {q.names[0]: q.given(q.names[0], {}) for q in self.posteriors if len(q.names) == 1}

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw each block."""
        values: Values = {}
        for q in self.posteriors:
            values.update(q.sample(count))
        log_q = torch.zeros(count, dtype=program.dtype, device=program.device)
        for q in self.posteriors:
            for name, density in q.log_prob(values).items():
                log_q = log_q + program.weigh(name, density, lead=1)
        return {s.name: values[s.name] for s in program.latents}, log_q

    def _state(self, program: Program, points: Values) -> State:
        """Points and posteriors of everything that is not local."""
        kept = [q for q in self.posteriors if not any(program.sites[n].role == "local" for n in q.names)]
        values = {**points, **{n: v for q in kept for n, v in q.mean().items()}}
        return State(values, {n: q for q in kept for n in q.names})

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals from their posterior given the rest, updated for these rows."""
        plan = closed_form(program)
        for site in program.observed:
            likelihood = plan.likelihoods.get(site.name)
            if program.missing(site) is not None and likelihood is not None and likelihood.joint:
                return None  # the closed form is that of complete rows
        if self._kept is None or self._kept[0] is not program:
            self._kept = program, self._over_locals(program, points)
        values: Values = {}
        log_q = torch.zeros(count, len(program.data), dtype=program.dtype, device=program.device)
        for q in self._kept[1]:
            values.update(q.sample(count))
            for name, density in q.log_prob(values).items():
                axis = density.ndim + program.sites[name].plate_dims[program.sites[name].plates.index(program.row)]
                log_q += density.movedim(axis, 1).reshape(count, len(program.data), -1).sum(-1)
        return values, log_q

    def _over_locals(self, program: Program, points: Values) -> list[Posterior]:
        """Posteriors of the local latents of a program's rows, given those of everything else."""
        ascent, state = Coordinates(program), self._state(program, points)
        with torch.no_grad():
            if program.enumerated:  # their states and the locals in turn, from a draw of the prior
                drawn = program.simulate(state.values, observed=False)
                state.values.update({s.name: drawn[s.name] for s in program.locals})
                for _ in range(LOCAL_ROUNDS):
                    expected = ascent.over_locals(ascent.expect(state)[1])
                    state = State(expected.values, dict(expected.beliefs))
            else:
                for site in program.locals:
                    shape = program.site_shape(site)
                    state.values[site.name] = torch.zeros(shape, dtype=program.dtype, device=program.device)
                replay = program.replay(state.values, densities=False)
                replay.log_probs = {n: f.log_prob(replay.seen[n]) for n, f in replay.distributions.items()}
                expected = EStep(ascent.plan, program, state.values, replay, beliefs=state.beliefs)
                for _ in range(1 if len(ascent.local_blocks) == 1 else LOCAL_ROUNDS):
                    expected = ascent.over_locals(expected)
            return distinct({n: expected.beliefs[n] for block in ascent.local_blocks for n in block.unknowns})

    def responsibilities(self, program: Program, points: Values) -> dict[str, Tensor] | None:
        """Posterior of the enumerated sites under expected log densities: the q(z) of coordinate ascent."""
        if program.locals or not program.assigned:
            return None
        plain = program if program.data.weights is None else program.rebind(replace(program.data, weights=None))
        _, expected = Coordinates(plain).expect(self._state(program, points))
        return {s.name: plain.states_of(expected.marginals, s) for s in plain.assigned}


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

    def __post_init__(self) -> None:
        """A point guide gives points."""
        self.point = self.guide.point

    @property
    def covers_new_rows(self) -> bool:
        """Whether the guide is amortized."""
        return self.q.amortized

    def draw(self, program: Program, count: int) -> tuple[Values, Tensor]:
        """Draw globals, and the locals of the fitted rows; log q is that of the values in their own space."""
        view, data = program.view, self.data
        weights = data.weights

        def one(noise: Noise) -> tuple[Values, Tensor]:
            u = self.q.draw(data, None, noise)
            values, jacobian = view.constrain_globals(u.globals)
            local, row_jacobian = view.constrain_locals(u.locals)
            found = u.log_q - jacobian
            if view.locals:
                rows = u.log_q_rows - row_jacobian
                found = found + (rows.sum() if weights is None else (weights * rows).sum())
            return {**values, **local}, found

        shape, other = self.q.noise_shapes(len(data))
        first = quasi_normal(count, math.prod(shape), program).reshape(count, *shape)
        with torch.no_grad():
            values, log_q = stack(
                one, lambda some: (first[some], normal(some.stop - some.start, other, program)), count, program
            )
        return values, log_q

    def propose(self, program: Program, points: Values, count: int) -> tuple[Values, Tensor] | None:
        """Draw locals from the encoder, or from the rows' own parts if these are the fitted rows."""
        known = program.data is self.data
        if self.point or not self.q.covers_rows or not (self.q.amortized or known):
            return None
        view = program.view

        def one(noise: Tensor) -> tuple[Values, Tensor]:
            v, log_q = self.q.over_locals.draw(program.data, None, noise)
            values, jacobian = view.constrain_locals(v)
            return values, log_q - jacobian

        shape = self.q.over_locals.noise_shape(len(program.data))
        with torch.no_grad():
            values, log_q = stack(one, lambda some: normal(some.stop - some.start, shape, program), count, program)
        return values, log_q


def normal(count: int, shape: tuple[int, ...], program: Program) -> Tensor:
    """Standard Normal noise, `count` times."""
    return torch.randn(count, *shape, dtype=program.dtype, device=program.device)


def quasi_normal(count: int, size: int, program: Program) -> Tensor:
    """Standard Normal vectors, shape (count, size), that fill space evenly: a scrambled Sobol sequence in random order.

    Means and quantiles over them have a fraction of the error of independent draws (Owen 1997).
    """
    if not 0 < size <= torch.quasirandom.SobolEngine.MAXDIM:
        return torch.randn(count, size, dtype=program.dtype, device=program.device)
    engine = torch.quasirandom.SobolEngine(size, scramble=True, seed=int(torch.randint(2**31, ())))
    uniform = engine.draw(count, dtype=torch.float64)[torch.randperm(count)]
    eps: Tensor = torch.special.ndtri(uniform.clamp(1e-10, 1 - 1e-10))
    return eps.to(program.device, program.dtype)


def stack(function: Any, noise: Callable[[slice], Any], count: int, program: Program, chunk: int = 256) -> Any:
    """Draw `count` times, each with noise of its own: in vectorized chunks, or one by one where that cannot be."""
    width = sum(s.stop - s.start for s in program.view.locals) * len(program.data) + program.view.global_size + 1
    size = max(1, min(chunk, 20_000_000 // width))
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
        found = [function(n) for n in (noise if single else zip(*noise, strict=True))]
        return {n: torch.stack([f[0][n] for f in found]) for n in found[0][0]}, torch.stack([f[1] for f in found])
