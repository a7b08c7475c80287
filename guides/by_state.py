"""Guide with a Normal for each state of a row's discrete latent."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from guides.guide import Guide
from guides.mean_field import MeanField
from guides.scope import in_constrained_space, restrict, restrict_start
from guides.start import Start
from guides.variational import LOG_2PI, Draw, Noise, Pushforward, Variational
from zoo.data.data import Data
from zoo.program.conditional import by_state
from zoo.program.program import Program


@dataclass(frozen=True)
class ByState(Guide):
    """q(z_i) q(locals_i | z_i): a Normal for each state of a row's discrete latent, whose probabilities are exact.

    The locals of a row are drawn in every state k at once, and the states summed out of what the model says of them:

        L = E[log sum_k p(x_i, t_ik, z_i = k) / q(t_ik | k)] <= log p(x_i)

    With one Normal for all states, as in `MeanField`, a posterior of several modes loses all but one; this one is exact
    where p(t | z, x) is Normal. Once the climb has ended the states have their expected posterior probabilities, and
    q(t_i) is the mixture.

    Parameters
    ----------
    globals
        Guide for the global latents, where there are any.

    Examples
    --------
    >>> import pyro
    >>> import pyro.distributions as dist
    >>> import zoo
    >>> from guides import ByState
    >>> from inference import SVI, fit
    >>> @zoo.model(x=zoo.Real("row"))
    ... def gates(x):
    ...     with pyro.plate("row", len(x)):
    ...         z = pyro.sample("z", dist.Bernoulli(0.4))
    ...         t = pyro.sample("t", dist.Normal(4 * z, 1.0))
    ...         pyro.sample("x", dist.Normal(t, 1.0), obs=x)
    >>> result = fit(gates, [-1.0, 2.0, 5.0], method=SVI(guide=ByState(), steps=100), seed=0)
    >>> result.assign().round(1)
    z    0    1
    0  1.0  0.0
    1  0.6  0.4
    2  0.0  1.0
    """

    globals: Guide = field(default_factory=MeanField)

    def why_not(self, program: Program) -> str | None:
        # Refuse models whose local latents have no discrete latent of the row beside them
        if not program.locals:
            return "ByState needs local latents beside a discrete one of their row, and there are none; use MeanField()"
        states = {by_state(program, site) for site in program.locals}
        names = next(iter(states))
        rows = all(s.plates == (program.row,) and s.plate_dims == (-1,) for s in program.locals)
        if len(states) > 1 or len(names) != 1 or not rows or program.sites[names[0]].enum_dim != -2:
            return (
                "ByState needs local latents in no plate but that of rows, all of which depend on one discrete latent "
                "of the row, or feed what does; use MeanField()"
            )
        if (reason := self.lacks_counts(program.locals)) is not None:
            return reason
        return self.globals.why_not(self._globals(program)) if program.globals else None

    def build(self, program: Program, start: Start) -> Variational:
        # Make q, every state centred at the start
        seen = self._globals(program)
        q = self.globals.build(seen, restrict_start(program, start, [s.name for s in seen.latents]))
        if self.globals.point:
            q = in_constrained_space(q, seen.view)
        (name,) = by_state(program, program.locals[0])
        return StateVariational(q.over_globals, StateNormals(start, program.sites[name].cardinality))

    def points(self, program: Program) -> tuple[str, ...]:
        # Names of the globals whose q is a point
        return self.globals.points(self._globals(program)) if program.globals else ()

    @staticmethod
    def _globals(program: Program) -> Program:
        return restrict(program, [s.name for s in program.globals])


class StateNormals(Pushforward):
    """u_i | k = start_i + unit_i (loc_ik + exp(log_scale_ik) eps_k), and a probability of each state.

    `loc` and `log_scale` have shape (rows, states, L), `share`, the probabilities, (rows, states).
    """

    start: Tensor
    unit: Tensor
    share: Tensor

    def __init__(self, start: Start, states: int) -> None:
        super().__init__()
        rows, size = start.locals.shape
        self.register_buffer("start", start.locals.clone())
        self.register_buffer("unit", start.local_unit.clone())
        self.register_buffer("share", start.locals.new_full((rows, states), 1 / states))
        self.loc = nn.Parameter(start.locals.new_zeros(rows, states, size))
        self.log_scale = nn.Parameter(start.locals.new_zeros(rows, states, size))

    def noise_shape(self, rows: int) -> tuple[int, ...]:
        """A number for each coordinate in each state, and one that picks the state."""
        return rows, self.loc.shape[1], self.loc.shape[2] + 1

    def _of(self, rows: Tensor | None) -> tuple[Tensor, ...]:
        parts = self.start[:, None], self.unit[:, None], self.loc, self.log_scale, self.share
        return parts if rows is None else tuple(t[rows] for t in parts)

    def in_each(self, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw every row in every state, (states, rows, L), and log q given the state, (states, rows)."""
        start, unit, loc, log_scale, _ = self._of(rows)
        at = loc + log_scale.exp() * noise[..., :-1]
        square = ((at - loc.detach()) * (-log_scale.detach()).exp()).square()
        log_q = -(0.5 * (LOG_2PI + square) + log_scale.detach() + unit.log()).sum(-1)
        return (start + unit * at).movedim(1, 0), log_q.mT

    def draw(self, data: Data, rows: Tensor | None, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draw a state of each row and the locals in it, (rows, L); log q is that of the mixture, (rows,)."""
        start, unit, loc, log_scale, share = self._of(rows)
        level = torch.special.ndtr(noise[:, :1, -1])
        pick = (level > share.cumsum(1)[:, :-1]).sum(1)[:, None, None].expand(-1, 1, loc.shape[-1])
        at = (loc + log_scale.exp() * noise[..., :-1]).gather(1, pick)  # (rows, 1, L)
        square = ((at - loc.detach()) * (-log_scale.detach()).exp()).square()
        each = -(0.5 * (LOG_2PI + square) + log_scale.detach() + unit.log()).sum(-1)
        return (start + unit * at)[:, 0], (share.log() + each).logsumexp(1)


class StateVariational(Variational):
    """q(globals) prod_i q(z_i) q(locals_i | z_i)."""

    over_locals: StateNormals
    states = True

    def draw_states(self, data: Data, rows: Tensor | None, noise: Noise) -> Draw:
        """Draw the globals, and the locals of each row in every state: (states, rows, L), log q (states, rows)."""
        u, log_q = self.over_globals.draw(data, None, noise[0])
        v, log_q_rows = self.over_locals.in_each(rows, noise[1])
        return Draw(u, v, log_q.sum(), log_q_rows)
