"""Bounds on the log evidence and their gradients, as pure functions of flat vectors, noise and rows.

log w = log p(x, z; theta) - log q(z; phi) at draws z of q is behind all of them. With w_k the weights of K draws, the
Rényi bound (Li and Turner 2016, equation 8) is

    L_alpha = 1 / (1 - alpha) log 1/K sum_k w_k^(1 - alpha),

the ELBO as alpha -> 1 and the importance-weighted bound (Burda, Grosse and Salakhutdinov 2016) at alpha = 0. Draws are
reparameterized and log q holds phi fixed, so the gradient of draw k counts c_k for theta and alpha c_k + (1 - alpha)
c_k^2 for phi, c the normalized w^(1 - alpha) (Tucker et al. 2019, "Doubly reparameterized gradient estimators"). What
is drawn without a gradient (counts) adds its score to that of the ELBO (`score.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from guides.guide import Guide
from guides.mean_field import MeanField
from guides.start import Start
from guides.variational import Draw, Noise, Variational
from inference.variational.layout import Layout
from inference.variational.score import advantages
from inference.variational.vectorize import Everywhere
from zoo.program.program import Program
from zoo.program.rows import on
from zoo.replay.evaluate import Values

SHIFT = "theta"  # the model's parameters among the coordinates, in natural units from their start
MODEL = "model."  # what the names of the model's network weights begin with
BEGIN, UNIT = "begin", "unit"  # where the model's parameters start, and their natural units

Evaluation = Callable[[Tensor, Tensor, Values, Noise, Tensor, Values], tuple[Tensor, ...]]


@dataclass
class Position:
    """What climbs, and what it is relative to; one row for each start.

    Attributes
    ----------
    coordinates
        Of q and of the model's parameters, shape (starts, size).
    weights
        Of networks in the guide and in the model, shape (starts, size).
    fixed
        Buffers of q and starting values, each with one row for each start.
    """

    coordinates: Tensor
    weights: Tensor
    fixed: dict[str, Tensor]

    def only(self, index: int) -> Position:
        """One of the starts."""
        at = slice(index, index + 1)
        return Position(self.coordinates[at], self.weights[at], {n: v[at] for n, v in self.fixed.items()})


class Bound:
    """One bound of one program and guide.

    Parameters
    ----------
    program
        The program on all rows.
    guide
        The guide.
    starts
        Where q and the parameters start, and values of the network weights.
    alpha
        Of the Rényi bound.
    asleep
        Fit the encoder to draws of the model itself (wake-sleep).
    warmed
        Whether the continuous latents' log p - log q is multiplied by a factor that steps give.
    """

    def __init__(
        self,
        program: Program,
        guide: Guide,
        starts: list[tuple[Start, Values]],
        *,
        alpha: float = 1.0,
        asleep: bool = False,
        warmed: bool = False,
    ) -> None:
        self.program, self.alpha, self.asleep, self.warmed = program, alpha, asleep, warmed
        self.point = guide.point or not program.latents
        self.view, self.theta = program.view, program.parameter_view
        self.networks = sorted(program.networks)
        self.everywhere = Everywhere()
        family = guide if program.latents else MeanField()
        built = [family.build(program, start) for start, _ in starts]
        self.q: Variational = built[0]
        self.scored = self.q.scored
        linear = [(name, part) for name, part in self.q.named_modules() if isinstance(part, nn.Linear)]
        inside = {f"{name}.{n}" for name, part in linear for n, _ in part.named_parameters()}
        own = dict(self.q.named_parameters())
        model = {MODEL + n: starts[0][1][n] for n in self.networks}
        coordinates = {n: p for n, p in own.items() if n not in inside}
        weights = {n: p for n, p in own.items() if n in inside}
        self.ours = sum(p.numel() for p in coordinates.values()), sum(p.numel() for p in weights.values())
        self.coordinates = Layout({**coordinates, SHIFT: starts[0][0].parameters})
        self.weights = Layout({**weights, **model})
        self.start = self._stacked([self._position(q, *start) for q, start in zip(built, starts, strict=True)])
        total = program.data.weights
        self.size = float(len(program.data) if total is None else total.sum())
        self.by_row = not (program.globals or program.chained) and all(
            program.row in s.plates for s in program.sites.values() if s.role in ("observed", "enumerated")
        )

    def _position(self, q: Variational, start: Start, values: Values) -> Position:
        like = torch.empty(0, dtype=self.program.dtype, device=self.program.device)
        named = {n: p.detach() for n, p in q.named_parameters()}
        named |= {SHIFT: torch.zeros_like(start.parameters)} | {MODEL + n: values[n] for n in self.networks}
        fixed = dict(q.named_buffers()) | {BEGIN: start.parameters, UNIT: start.parameter_unit}
        return Position(self.coordinates.pack(named, like), self.weights.pack(named, like), fixed)

    @staticmethod
    def _stacked(found: list[Position]) -> Position:
        fixed = {n: torch.stack([f.fixed[n] for f in found]) for n in found[0].fixed}
        return Position(torch.stack([f.coordinates for f in found]), torch.stack([f.weights for f in found]), fixed)

    # -- at one start ------------------------------------------------------------------------------------------

    def _named(self, coordinates: Tensor, weights: Tensor) -> dict[str, Tensor]:
        return self.coordinates.unpack(coordinates) | self.weights.unpack(weights)

    def points(self, position: Position, index: int = 0) -> Values:
        """Parameters and network weights at one start."""
        one = position.only(index)
        fixed = {n: v[0] for n, v in one.fixed.items()}
        found = self._points(self._named(one.coordinates[0], one.weights[0]), fixed)
        return {n: v.detach().clone() for n, v in found.items()}

    def _points(self, named: dict[str, Tensor], fixed: dict[str, Tensor]) -> Values:
        parameters, _ = self.theta.constrain_globals(fixed[BEGIN] + fixed[UNIT] * named[SHIFT])
        return parameters | {n: named[MODEL + n] for n in self.networks}

    def q_at(self, position: Position, index: int = 0) -> Variational:
        """Return q, set to where one start has come to."""
        one = position.only(index)
        named = self._named(one.coordinates[0], one.weights[0]) | {n: v[0] for n, v in one.fixed.items()}
        self.q.load_state_dict({n: named[n] for n in self.q.state_dict()})
        return self.q

    def _ask(self, named: Values, fixed: Values, *call: Any) -> Any:
        """Call a method of q with these parameters and buffers."""
        inside = {n: v for n, v in (named | fixed).items() if n not in (SHIFT, BEGIN, UNIT) and not n.startswith(MODEL)}
        return functional_call(self.q, inside, call)

    def _log_weight(
        self, coordinates: Tensor, weights: Tensor, fixed: Values, noise: Noise, beta: Tensor, batch: Values
    ) -> tuple[Tensor, ...]:
        """log w of one draw: what is outside the data plate, a scalar, and one number per row.

        The same of the score follows, if there is one, and of log w without the factor beta, while it is warmed up.
        """
        named, program = self._named(coordinates, weights), on(self.program, batch)
        draw: Draw = self._ask(named, fixed, "draw", program.data, batch.get("rows"), noise)
        globals_, jacobian = self.view.constrain_globals(draw.globals)
        locals_, row_jacobian = self.view.constrain_locals(draw.locals)
        if self.point:  # the mode is that of the density in the latents' constrained space
            jacobian, row_jacobian = torch.zeros_like(jacobian), torch.zeros_like(row_jacobian)
        factors = program.log_probs({**self._points(named, fixed), **globals_, **locals_})
        terms = program.eliminate(factors)
        rest, rows = jacobian - draw.log_q, row_jacobian - draw.log_q_rows
        plain = terms.rest + rest, terms.rows + rows
        score = () if draw.score is None or draw.score_rows is None else (draw.score, draw.score_rows)
        if not self.warmed:
            return *plain, *score
        latent = {s.name for s in program.latents}
        terms = program.eliminate({n: beta * v if n in latent else v for n, v in factors.items()})
        return terms.rest + beta * rest, terms.rows + beta * rows, *score, *(t.detach() for t in plain)

    def _dream(
        self, coordinates: Tensor, weights: Tensor, fixed: Values, noise: Noise, beta: Tensor, batch: Values
    ) -> tuple[Tensor, ...]:
        """log q(z | x) per row at a draw of z and x from the model."""
        named, program = self._named(coordinates, weights), on(self.program, batch)
        drawn = program.simulate({n: v.detach() for n, v in self._points(named, fixed).items()})
        values = program.data.values | {s.field: drawn[s.name] for s in program.observed if s.field}
        u = self.view.unconstrain_locals(drawn).detach()
        found: Tensor = self._ask(named, fixed, "log_prob_rows", replace(program.data, values=values), u)
        return found.new_zeros(()), found

    # -- at all starts -----------------------------------------------------------------------------------------

    def noise(self, rows: int, *sizes: int) -> Noise:
        """Noise behind `sizes` draws, for so many rows."""
        like = self.start.coordinates
        first, second = (
            torch.randn(*sizes, *shape, dtype=like.dtype, device=like.device) for shape in self.q.noise_shapes(rows)
        )
        return first, second

    def _each(
        self, function: Evaluation, c: Tensor, w: Tensor, fixed: Values, noise: Noise, beta: Tensor, batch: Values
    ) -> tuple[Tensor, ...]:
        """Evaluate at every start for every draw of noise: shapes (starts, draws) and (starts, draws, rows)."""

        def one(c: Tensor, w: Tensor, fixed: Values, noise: Noise) -> tuple[Tensor, ...]:
            return function(c, w, fixed, noise, beta, batch)

        return self.everywhere(one, c, w, fixed, noise)

    def gradient(
        self, coordinates: Tensor, weights: Tensor, fixed: Values, noise: Noise, beta: Tensor, batch: Values
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate the bound at every start, and its gradient.

        Parameters
        ----------
        coordinates, weights, fixed
            A position.
        noise
            Standard Normal noise, shapes (starts, draws, ...).
        beta
            Factor of the latents' log p - log q, a scalar; read where that is warmed up.
        batch
            Tensors of the rows, from `batch`; empty for all rows as they are.

        Returns
        -------
        tuple
            The bound, shape (starts,), and its gradient, in the shapes of coordinates and weights.
        """
        with torch.enable_grad():
            c, w = (t.detach().requires_grad_() for t in (coordinates, weights))
            rest, rows, *others = self._each(self._log_weight, c, w, fixed, noise, beta, batch)
            row_weights = batch.get("weights", self.program.data.weights)
            held = rest.detach(), rows.detach()
            value, theta, phi = self._shares(*held, row_weights)
            if self.warmed:
                value, _, _ = self._shares(others[-2], others[-1], row_weights)
            whole = self._pull((rest, rows), theta, (c, w), keep=phi is not None or self.asleep or self.scored)
            if self.scored:
                together = self.program.chained or bool(self.program.shared)
                advantage = advantages(*held, row_weights, together=together)
                a, b = self._pull((others[0], others[1]), advantage, (c, w))
                whole = whole[0] + a, whole[1] + b
            if phi is not None:
                whole = self._merged(self._pull((rest, rows), phi, (c, w), keep=self.asleep), whole)
            if self.asleep:
                _, asleep = self._each(self._dream, c, w, fixed, noise, beta, batch)
                share = torch.full_like(asleep, 1 / asleep.shape[1])
                share = share if row_weights is None else share * row_weights
                whole = self._merged(self._pull((rest, asleep), (torch.zeros_like(rest), share), (c, w)), whole)
        return value, *whole

    def value(self, position: Position, noise: Noise, changed: Values) -> Tensor:
        """Mean of the bound on all rows over groups of draws, which can be differentiated any number of times.

        Parameters
        ----------
        position
            One start.
        noise
            Shapes (groups, draws, ...).
        changed
            Other values of some of q's coordinates, by name.
        """
        groups = len(noise[0])
        named = self.coordinates.unpack(position.coordinates[0]) | changed
        coordinates = torch.cat([named[n].reshape(-1) for n in self.coordinates.shapes]).expand(groups, -1)
        weights, fixed = (
            position.weights.expand(groups, -1),
            {n: v.expand(groups, *v.shape[1:]) for n, v in position.fixed.items()},
        )
        one = coordinates.new_ones(())
        rest, rows, *_ = self._each(self._log_weight, coordinates, weights, fixed, noise, one, {})
        return self._shares(rest, rows, self.program.data.weights)[0].mean()

    def _shares(
        self, rest: Tensor, rows: Tensor, weights: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor] | None]:
        """Return the bound, and what each log weight counts in its gradient to theta, and to phi where that differs."""
        draws, power = rest.shape[1], 1.0 - self.alpha
        one = torch.ones_like(rows) if weights is None else weights.expand_as(rows)
        if power == 0 or draws == 1 or self.point:
            value = (rest + (one * rows).sum(-1)).mean(1)
            return value, (torch.full_like(rest, 1 / draws), one / draws), None
        if self.by_row:
            c = torch.softmax(power * rows, 1)
            each = (torch.logsumexp(power * rows, 1) - math.log(draws)) / power
            value = rest.mean(1) + (one[:, 0] * each).sum(-1)
            flat = torch.full_like(rest, 1 / draws)
            return value, (flat, one * c), (flat, one * (self.alpha * c + power * c.square()))
        total = rest + (one * rows).sum(-1)
        c = torch.softmax(power * total, 1)
        value = (torch.logsumexp(power * total, 1) - math.log(draws)) / power
        d = self.alpha * c + power * c.square()
        return value, (c, one * c[..., None]), (d, one * d[..., None])

    @staticmethod
    def _pull(
        found: tuple[Tensor, Tensor],
        shares: tuple[Tensor, Tensor],
        leaves: tuple[Tensor, Tensor],
        *,
        keep: bool = False,
    ) -> tuple[Tensor, Tensor]:
        total = (found[0] * shares[0]).sum() + (found[1] * shares[1]).sum()
        if not total.requires_grad:
            return torch.zeros_like(leaves[0]), torch.zeros_like(leaves[1])
        a, b = torch.autograd.grad(total, leaves, retain_graph=keep, allow_unused=True, materialize_grads=True)
        return a, b

    def _merged(self, phi: tuple[Tensor, Tensor], theta: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Gradient to q's own entries from the one, to the model's from the other."""
        a, b = (torch.cat([p[:, :n], t[:, n:]], 1) for p, t, n in zip(phi, theta, self.ours, strict=True))
        return a, b
