"""Trainable distributions over unconstrained latents: what a guide builds, and the parts it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.data.data import Data
from zoo.replay.evaluate import Values

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Draw:
    """One reparameterized draw u = (globals, locals) with log q, or what stands for its mean.

    Attributes
    ----------
    globals, locals
        Shapes (G,) and (rows, L).
    log_q, log_q_rows
        log q of the globals (a scalar) and of each row's locals (rows,).
    score, score_rows
        The part of log q that is about what is drawn without a gradient (counts), as a function of the parameters
        whose gradient is the score; None where everything is reparameterized.
    share
        log q of the states of each row's discrete latent, (states, rows), where q has one; `locals` are then drawn in
        every state, (states, rows, L), and so is log q, (states, rows).
    """

    globals: Tensor
    locals: Tensor
    log_q: Tensor
    log_q_rows: Tensor
    score: Tensor | None = None
    score_rows: Tensor | None = None
    share: Tensor | None = None


class Pushforward(nn.Module):
    """A distribution over one block of unconstrained coordinates: standard Normal noise, pushed forward.

    Attributes
    ----------
    amortized
        Whether rows never seen have a distribution too.
    scored
        Whether some of its draws have no gradient, so that the parameters behind them climb by the score function.
    """

    amortized = False
    scored = False

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """Shape of the standard Normal noise behind one draw, `rows` rows of locals at a time."""
        raise NotImplementedError(type(self).__name__)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the draw that this noise stands for and its log q, one per row for a block of locals.

        log q holds the parameters fixed and lets the gradient flow through the draw only. That leaves the ELBO's
        gradient unbiased, and without noise where q is the posterior (Roeder, Wu and Duvenaud 2017, "Sticking the
        landing").
        """
        raise NotImplementedError(type(self).__name__)

    def log_prob(self, data: Data, value: Tensor) -> Tensor:
        """Log density of given locals of these rows, one per row; only an amortized part needs it."""
        raise NotImplementedError(type(self).__name__)

    def score(self, data: Data, rows: Tensor | None, value: Tensor) -> Tensor:
        """Log q of what in a draw has no gradient, with the gradient to its parameters; only a scored part needs it."""
        raise NotImplementedError(type(self).__name__)

    def finish(self, bound: Callable[[Values], Tensor], *, steady: bool) -> Values:
        """Return new values of parameters and buffers for when the climb has ended; by default there are none.

        Parameters
        ----------
        bound
            The bound on all rows where the climb has ended, over a fixed set of draws, as a function of other values of
            this part's parameters, by name. It can be differentiated twice.
        steady
            Whether nothing in it is drawn, so that it has no Monte Carlo error.
        """
        return {}


Noise = tuple[Tensor, Tensor]


class Variational(nn.Module):
    """q(globals) prod_i q(locals_i): a draw from each part.

    Parameters
    ----------
    over_globals, over_locals
        The two parts.
    """

    def __init__(self, over_globals: Pushforward, over_locals: Pushforward) -> None:
        super().__init__()
        self.over_globals, self.over_locals = over_globals, over_locals

    states = False  # whether locals are drawn in every state of a discrete latent of their row: see `guides.by_state`
    classifies = False  # whether it names the probabilities of these, for any row
    covers_rows = True  # whether the locals have a distribution of their own, apart from the globals'

    @property
    def amortized(self) -> bool:
        """Whether locals of rows never seen have a distribution."""
        return self.over_locals.amortized

    @property
    def apart(self) -> bool:
        """Whether the locals of each row can be drawn by themselves, whatever those of others and the globals are."""
        return self.covers_rows

    @property
    def for_new_rows(self) -> bool:
        """Whether so can those of rows never seen."""
        return self.amortized

    def row_noise(self, rows: int) -> tuple[int, ...]:
        """Shape of the noise behind one draw of the locals of `rows` rows; only where rows are `apart`."""
        return self.over_locals.noise_shape(rows)

    def draw_rows(self, data: Data, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the locals of these rows, and log q of each row's; only where rows are `apart`."""
        return self.over_locals.draw(data, None, noise)

    @property
    def scored(self) -> bool:
        """Whether some draws have no gradient."""
        return self.over_globals.scored or self.over_locals.scored

    def noise_shapes(self, rows: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the noise behind one draw of the globals, and of the locals of `rows` rows."""
        return self.over_globals.noise_shape(rows), self.over_locals.noise_shape(rows)

    def noise(self, data: Data, *sizes: int) -> Noise:
        """Draw the noise behind draws for these rows, `sizes` of them."""
        device = next(iter(data.values.values())).device
        one, other = (
            torch.randn(*sizes, *shape, dtype=data.dtype, device=device) for shape in self.noise_shapes(len(data))
        )
        return one, other

    def draw(self, data: Data, rows: Tensor | None = None, noise: Noise | None = None) -> Draw:
        """Draw globals and the locals of `data`, which are the rows `rows` of the fitted data (None: all)."""
        noise = self.noise(data) if noise is None else noise
        u, log_q = self.over_globals.draw(data, None, noise[0])
        v, log_q_rows = self.over_locals.draw(data, rows, noise[1])
        if not self.scored:
            return Draw(u, v, log_q.sum(), log_q_rows)
        first = self.over_globals.score(data, None, u) if self.over_globals.scored else u.new_zeros(())
        second = self.over_locals.score(data, rows, v) if self.over_locals.scored else torch.zeros_like(log_q_rows)
        return Draw(u, v, log_q.sum(), log_q_rows, first, second)

    def log_prob_rows(self, data: Data, locals_: Tensor) -> Tensor:
        """Log density (rows,) of given locals (rows, L) of these rows, whose gradient goes to the parameters."""
        return self.over_locals.log_prob(data, locals_)

    def in_states(self, data: Data, noise: Tensor) -> Tensor:
        """The locals of each row in every state, (states, rows, L); only where q `classifies`."""
        raise NotImplementedError(type(self).__name__)

    def log_share(self, data: Data) -> Tensor | None:
        """log q of the states of each row's discrete latent, (states, rows); None if q has none."""
        return None

    def forward(self, verb: str, *args: Any) -> Any:
        """Call one of the methods by name, as a module is called."""
        return getattr(self, verb)(*args)


class LocationScale(Pushforward):
    """A part in natural units: u = start + unit * (something of the shape of start).

    Parameters
    ----------
    start, unit
        Shape (G,) for globals or (rows, L) for locals.
    """

    start: Tensor
    unit: Tensor

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__()
        self.register_buffer("start", start.clone())
        self.register_buffer("unit", unit.clone())
        self.loc = nn.Parameter(torch.zeros_like(start))


class DiagonalNormal(LocationScale):
    """u = start + unit * (loc + exp(log_scale) * eps), eps ~ Normal(0, I)."""

    def __init__(self, start: Tensor, unit: Tensor) -> None:
        super().__init__(start, unit)
        self.log_scale = nn.Parameter(torch.zeros_like(start))

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """One number for each coordinate."""
        return tuple(self.loc.shape) if self.loc.ndim == 1 else (rows, self.loc.shape[1])

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw every coordinate, or those of the rows `rows`."""
        if not self.loc.shape[-1]:  # no latents
            return noise, noise.new_zeros(()).expand(noise.shape[:-1])
        if rows is None:
            return normal(self.start, self.unit, self.loc, self.log_scale, noise)
        return normal(self.start[rows], self.unit[rows], self.loc[rows], self.log_scale[rows], noise)


def normal(start: Tensor, unit: Tensor, loc: Tensor, log_scale: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw from a diagonal Normal in units `unit` around `start`; return the draw and log q summed over columns.

    log q holds the parameters fixed, as in `Pushforward.draw`.
    """
    at = loc + log_scale.exp() * noise
    fixed = log_scale.detach()
    square = ((at - loc.detach()) * (-fixed).exp()).square()
    return start + unit * at, -(0.5 * (LOG_2PI + square) + fixed + unit.log()).sum(-1)


class Delta(LocationScale):
    """A point: u = start + unit * loc; log q counts as 0."""

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """No noise."""
        return (0,)

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return the point."""
        u = self.start + self.unit * self.loc
        if rows is not None:
            u = u[rows]
        return u, torch.zeros_like(u).sum(-1)
