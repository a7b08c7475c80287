"""Bounds on the log evidence and their gradients, as pure functions of flat vectors, noise and rows.

log w = log p(x, z; theta) - log q(z; phi) at draws z of q is behind all of them. With w_k the weights of K draws, the
Rényi bound (Li and Turner 2016, equation 8) is

    L_alpha = 1 / (1 - alpha) log 1/K sum_k w_k^(1 - alpha),

the ELBO as alpha -> 1 and the importance-weighted bound (Burda, Grosse and Salakhutdinov 2016) at alpha = 0. Draws are
reparameterized and log q holds phi fixed, so the gradient of draw k counts c_k for theta and alpha c_k + (1 - alpha)
c_k^2 for phi, c the normalized w^(1 - alpha) (Tucker et al. 2019, "Doubly reparameterized gradient estimators"). To
make q cover p instead, phi goes down a divergence from p to q, estimated by the same weights (`renyi.py`). What is
drawn without a gradient (counts) adds its score to that of the ELBO (`score.py`).

Letters for shapes: S starts that climb at once, K draws of noise for each, n rows of the batch, G and L unconstrained
coordinates of the global latents and of one row's local ones, C numbers that climb and W network weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from guides.factors import SiteFactor
from guides.guide import Guide
from guides.mean_field import MeanField
from guides.start import Start
from guides.variational import Draw, Noise, Pushforward, Variational
from inference.variational.layout import Layout
from inference.variational.position import Fixed, Named, Position
from inference.variational.renyi import Shares, shares
from inference.variational.score import advantages
from inference.variational.vectorize import Vectorizer
from zoo.program.marginals import averaged_terms
from zoo.program.program import Program
from zoo.program.rows import Batch, on
from zoo.program.terms import Terms
from zoo.replay.evaluate import Values
from zoo.replay.masked import OBSERVED
from zoo.replay.swapped import called_with

# Of coordinates (C,), weights (W,), fixed, one draw of noise, the factor of a warm-up and a batch.
Evaluation = Callable[[Tensor, Tensor, Fixed, Noise, Tensor, Batch], tuple[Tensor, ...]]


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
    covering
        Whether q goes down the divergence of order 1 - alpha from p to q.
    asleep
        Fit the encoder to draws of the model itself (wake-sleep).
    warmed
        Whether the continuous latents' log p - log q is multiplied by a factor that steps give.
    free
        Nats that q of a row's locals may be from their prior, on average over a batch, without a pull back.
    """

    def __init__(
        self,
        program: Program,
        guide: Guide,
        starts: list[tuple[Start, Values]],
        *,
        alpha: float = 1.0,
        covering: bool = False,
        asleep: bool = False,
        warmed: bool = False,
        free: float = 0.0,
    ) -> None:
        self.program, self.alpha, self.covering, self.asleep, self.free = program, alpha, covering, asleep, free
        self.warmed = warmed or free > 0
        self.point = guide.point or not program.latents
        self.view, self.theta = program.view, program.parameter_view
        self.vectorized = Vectorizer()
        family = guide if program.latents else MeanField()
        built = [family.build(program, start) for start, _ in starts]
        self.q: Variational = built[0]
        self.scored = self.q.scored
        # Coordinates are in natural units, and one learning rate serves them all; weights of networks have another.
        own = (Variational, Pushforward, SiteFactor, nn.ParameterList)
        inside = [(name, part) for name, part in self.q.named_modules() if not isinstance(part, own)]
        of_networks = {f"{name}.{n}" for name, part in inside for n, _ in part.named_parameters(recurse=False)}
        self._of_networks = {f"{name}.{n}" for name, part in inside for n, _ in part.named_buffers(recurse=False)}
        parameters = dict(self.q.named_parameters())
        first, networks = starts[0]
        self.coordinates = Layout(
            {n: p for n, p in parameters.items() if n not in of_networks}, {"shift": first.parameters}
        )
        self.weights = Layout(
            {n: p for n, p in parameters.items() if n in of_networks},
            {n: networks[n] for n in sorted(program.networks)},
        )
        self.start = self._stacked([self._position(q, *start) for q, start in zip(built, starts, strict=True)])
        total = program.data.weights
        self.size = float(len(program.data) if total is None else total.sum())
        # Whether all that is drawn or summed out belongs to one row: the bound is then a sum of bounds of rows.
        self.by_row = not (program.globals or program.chained) and all(
            program.row in s.plates for s in program.sites.values() if s.role in ("observed", "enumerated")
        )

    def _position(self, q: Variational, start: Start, networks: Values) -> Position:
        like = torch.empty(0, dtype=self.program.dtype, device=self.program.device)
        parameters = {n: p.detach() for n, p in q.named_parameters()}
        shift = torch.zeros_like(start.parameters)
        return Position(
            self.coordinates.pack(parameters, {"shift": shift}, like=like),
            self.weights.pack(parameters, {n: v.detach() for n, v in networks.items()}, like=like),
            Fixed(dict(q.named_buffers()), start.parameters, start.parameter_unit, {}),
        )

    @staticmethod
    def _stacked(positions: list[Position]) -> Position:
        first = positions[0].fixed
        fixed = Fixed(
            {n: torch.stack([p.fixed.buffers[n] for p in positions]) for n in first.buffers},
            torch.stack([p.fixed.origin for p in positions]),
            torch.stack([p.fixed.unit for p in positions]),
            {},
        )
        return Position(
            torch.stack([p.coordinates for p in positions]), torch.stack([p.weights for p in positions]), fixed
        )

    # -- at one start ------------------------------------------------------------------------------------------

    def named(self, coordinates: Tensor, weights: Tensor) -> Named:
        """Views of what climbs at one start, (C,) and (W,), by name."""
        (own, theta), (inside, networks) = self.coordinates.unpack(coordinates), self.weights.unpack(weights)
        return Named(own | inside, theta["shift"], networks)

    def running(self, fixed: Fixed) -> list[Tensor]:
        """What networks note as they train, such as the running moments of batch norm; updated in place."""
        of_model = self.program.model.buffers() if self.program.networks else ()
        return [*(t for n, t in fixed.buffers.items() if n in self._of_networks), *of_model]

    def points(self, position: Position, index: int = 0) -> Values:
        """Parameters and network weights at one start."""
        one = position.only(index)
        values = self._points(self.named(one.coordinates[0], one.weights[0]), one.fixed.map(lambda v: v[0]))
        return {n: v.detach().clone() for n, v in values.items()}

    def _points(self, named: Named, fixed: Fixed) -> Values:
        parameters, _ = self.theta.constrain_globals(fixed.origin + fixed.unit * named.shift)
        return parameters | named.networks

    def q_at(self, position: Position, index: int = 0) -> Variational:
        """Return q with parameters and buffers as they are at one start."""
        one = position.only(index)
        state = self.named(one.coordinates[0], one.weights[0]).q | one.fixed.map(lambda v: v[0]).buffers
        self.q.load_state_dict({n: state[n] for n in self.q.state_dict()})
        return self.q

    def _ask(self, named: Named, fixed: Fixed, *call: Any) -> Any:
        """Call a method of q with these parameters and buffers."""
        return called_with(self.q, named.q | fixed.buffers, *call)

    def _log_weight(
        self, coordinates: Tensor, weights: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, ...]:
        """log w of one draw: what is outside the data plate, a scalar, and one number per row, (n,).

        The same of the score follows, if there is one, and of log w without the factor beta, while it is warmed up.
        """
        named, program = self.named(coordinates, weights), on(self.program, batch)
        factors, rest, rows, draw = self._weighed(named, fixed, program, noise, batch)
        terms = self._summed(program, factors, draw)
        plain = terms.rest + rest, terms.rows + rows
        score = () if draw.score is None or draw.score_rows is None else (draw.score, draw.score_rows)
        if not self.warmed:
            return *plain, *score
        latent = {s.name for s in program.latents}
        if self.free:
            counts = program.data.weights
            kl = -rows - torch.stack([factors[n] for n in sorted(latent)]).sum(0)  # of each row, (n,)
            kl = kl.mean() if counts is None else (counts * kl).sum() / counts.sum()
            beta = torch.where(kl.detach() > self.free, beta, 0.0)
        terms = self._summed(program, {n: beta * v if n in latent else v for n, v in factors.items()}, draw)
        return terms.rest + beta * rest, terms.rows + beta * rows, *score, *(t.detach() for t in plain)

    def _summed(self, program: Program, factors: Values, draw: Draw) -> Terms:
        """The log joint, its discrete latents summed out; where q has one of each row, averaged over its states.

        q of a state that is known is known. What is known then pulls at q's log probability of it, by the weight that q
        gives to that, and without a change of the bound's value (Kingma et al. 2014, equation 9).
        """
        if draw.share is None:
            return program.eliminate(factors)
        inside = [n for n in factors if program.row in program.sites[n].plates]
        evidence = factors.get(program.enumerated[0].name + OBSERVED)
        share = draw.share if evidence is None else (draw.share + evidence.detach()).log_softmax(0)
        terms = averaged_terms(factors, inside, len(program.data), share)
        if evidence is None or not (alpha := getattr(self.q, "alpha", 0.0)):
            return terms
        known = (draw.share + evidence.detach()).logsumexp(0)
        return Terms(terms.rest, terms.rows + alpha * (known - known.detach()))

    def _weighed(
        self, named: Named, fixed: Fixed, program: Program, noise: Noise, batch: Batch
    ) -> tuple[Values, Tensor, Tensor, Draw]:
        """Log densities of all sites at a draw, minus log q outside the data plate and of each row, and the draw.

        Where locals are drawn in every state of their row, log q given the state is in the log density of the first.
        """
        verb = "draw_states" if self.q.states else "draw"
        draw: Draw = self._ask(named, fixed, verb, program.data, batch.rows, noise)
        globals_, jacobian = self.view.constrain_globals(draw.globals)
        constrain = torch.vmap(self.view.constrain_locals) if self.q.states else self.view.constrain_locals
        locals_, row_jacobian = constrain(draw.locals)
        if self.point:  # the mode is that of the density in the latents' constrained space
            jacobian, row_jacobian = torch.zeros_like(jacobian), torch.zeros_like(row_jacobian)
        factors = program.log_probs({**self._points(named, fixed), **globals_, **locals_})
        rest, rows = jacobian - draw.log_q, row_jacobian - draw.log_q_rows
        if self.q.states:  # a number for each state of each row, which goes into the sum over the states
            name = program.locals[0].name
            factors[name] = factors[name] + rows
            rows = torch.zeros_like(rows[0])
        return factors, rest, rows, draw

    def shares(self, position: Position, noise: Noise) -> Tensor:
        """Expected posterior probability of the states that locals are drawn in, (rows, states).

        Parameters
        ----------
        position
            One start.
        noise
            Behind the draws that it is an average over, shapes (draws, ...).
        """
        named = self.named(position.coordinates[0], position.weights[0])
        fixed, name, total = position.fixed.map(lambda v: v[0]), self.program.locals[0].name, None
        for one in zip(*noise, strict=True):
            factors, *_ = self._weighed(named, fixed, self.program, one, Batch({}))
            share = self.program.marginals({n: v.detach() for n, v in factors.items()})[1][name]  # (states, rows)
            total = share if total is None else total + share
        assert total is not None
        whole = total.sum(0)
        return torch.where(whole > 0, total / whole, 1 / len(total)).mT

    def _dream(
        self, coordinates: Tensor, weights: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, ...]:
        """log q(z | x) per row, (n,), at a draw of z and x from the model: the sleep phase."""
        named, program = self.named(coordinates, weights), on(self.program, batch)
        drawn = program.simulate({n: v.detach() for n, v in self._points(named, fixed).items()})
        values = program.data.values | {s.field: drawn[s.name] for s in program.observed if s.field}
        u = self.view.unconstrain_locals(drawn).detach()
        log_q: Tensor = self._ask(named, fixed, "log_prob_rows", replace(program.data, values=values), u)
        return log_q.new_zeros(()), log_q

    # -- at all starts -----------------------------------------------------------------------------------------

    def noise(self, rows: int, *sizes: int) -> Noise:
        """Noise behind `sizes` draws, for so many rows."""
        like = self.start.coordinates
        first, second = (
            torch.randn(*sizes, *shape, dtype=like.dtype, device=like.device) for shape in self.q.noise_shapes(rows)
        )
        return first, second

    def _each(
        self, function: Evaluation, c: Tensor, w: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, ...]:
        """Evaluate at every start for every draw of noise: shapes (S, K) and (S, K, n)."""

        def one(c: Tensor, w: Tensor, fixed: Fixed, noise: Noise) -> tuple[Tensor, ...]:
            return function(c, w, fixed, noise, beta, batch)

        return self.vectorized(one, c, w, fixed, noise)

    def gradient(
        self, coordinates: Tensor, weights: Tensor, fixed: Fixed, noise: Noise, beta: Tensor, batch: Batch
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Estimate the bound at every start, and its gradient.

        Every gradient here is that of a sum of log weights, each times a share that is held fixed: `_pull`. One forward
        pass serves all of them; what differs is which share a draw has, and which numbers take the result.

        Parameters
        ----------
        coordinates, weights, fixed
            A position.
        noise
            Standard Normal noise, shapes (S, K, ...).
        beta
            Factor of the latents' log p - log q, a scalar; read where that is warmed up.
        batch
            Rows, weighted so that they stand for all.

        Returns
        -------
        tuple
            The bound, shape (S,), and its gradient, in the shapes of coordinates and weights.
        """
        with torch.enable_grad():
            sides = self._sides(coordinates, weights)
            c, w = (torch.cat(parts, 1) if len(parts) > 1 else parts[0] for parts in zip(*sides, strict=True))
            rest, rows, *others = self._each(self._log_weight, c, w, fixed, noise, beta, batch)  # (S, K), (S, K, n)
            row_weights = self.program.data.weights if batch.weights is None else batch.weights
            held = rest.detach(), rows.detach()
            value, theta, phi = self.reached(*held, row_weights)
            if self.warmed:  # climbed with the factor, shown without it
                value, _, _ = self.reached(others[-2], others[-1], row_weights)
            whole = self._pull((rest, rows), theta, sides[-1], keep=len(sides) > 1 or self.scored)
            if self.scored:  # adds E[(log w - b) grad log q] of what is drawn without a gradient
                together = self.program.chained or bool(self.program.shared)
                advantage = advantages(*held, row_weights, together=together)
                a, b = self._pull((others[0], others[1]), advantage, sides[-1])
                whole = whole[0] + a, whole[1] + b
            if len(sides) > 1:
                if self.asleep:  # q's own numbers climb log q at draws of the model instead
                    _, rows = self._each(self._dream, c, w, fixed, noise, beta, batch)
                    share = torch.full_like(rows, 1 / rows.shape[1])
                    phi = torch.zeros_like(rest), share if row_weights is None else share * row_weights
                own = self._pull((rest, rows), phi or theta, sides[0])
                whole = torch.cat([own[0], whole[0]], 1), torch.cat([own[1], whole[1]], 1)
        return value, *whole

    def value(self, position: Position, noise: Noise, changed: Values) -> Tensor:
        """Mean of the bound on all rows over groups of draws, which can be differentiated any number of times.

        Parameters
        ----------
        position
            One start.
        noise
            Shapes (groups, K, ...): groups stand where starts do elsewhere.
        changed
            Other values of some of q's coordinates, by name.
        """
        groups = len(noise[0])
        own, theta = self.coordinates.unpack(position.coordinates[0])
        coordinates = self.coordinates.pack(own | changed, theta, like=position.coordinates).expand(groups, -1)
        weights = position.weights.expand(groups, -1)
        fixed = position.fixed.map(lambda v: v.expand(groups, *v.shape[1:]))
        terms = self.log_weights(Position(coordinates, weights, fixed), noise, Batch({}))
        return self.reached(*terms, self.program.data.weights)[0].mean()

    def log_weights(self, position: Position, noise: Noise, batch: Batch) -> tuple[Tensor, Tensor]:
        """log w at every start for every draw of noise: outside the data plate, (S, K), and of rows, (S, K, n)."""
        one = position.coordinates.new_ones(())
        rest, rows, *_ = self._each(
            self._log_weight, position.coordinates, position.weights, position.fixed, noise, one, batch
        )
        return rest, rows

    @contextmanager
    def seeing(self, program: Program) -> Iterator[None]:
        """Evaluate on other rows of the same model."""
        before, self.program = self.program, program
        try:
            yield
        finally:
            self.program = before

    def reached(self, rest: Tensor, rows: Tensor, weights: Tensor | None) -> tuple[Tensor, Shares, Shares | None]:
        """The bound at every start and the shares of `renyi.shares`; a point has one log weight, so its ELBO."""
        alpha = 1.0 if self.point else self.alpha
        return shares(rest, rows, weights, alpha=alpha, by_row=self.by_row, covering=self.covering)

    def _sides(self, coordinates: Tensor, weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Leaves (S, C) and (S, W): all in one, or q's own numbers, which come first, and the model's.

        They are apart where each side climbs by other shares, so that no pass backward makes what the other side has.
        """
        own = self.coordinates.sizes[0], self.weights.sizes[0]
        parts = [(coordinates, weights)]
        if self.asleep or (self.alpha != 1 and not self.point):
            parts = [(coordinates[:, : own[0]], weights[:, : own[1]]), (coordinates[:, own[0] :], weights[:, own[1] :])]
        return [(c.detach().requires_grad_(), w.detach().requires_grad_()) for c, w in parts]

    @staticmethod
    def _pull(
        log_weights: tuple[Tensor, Tensor],
        counts: Shares,
        leaves: tuple[Tensor, Tensor],
        *,
        keep: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Gradient of sum_k count_k log w_k to the leaves (S, C) and (S, W); starts do not meet, so one sum does."""
        total = (log_weights[0] * counts[0]).sum() + (log_weights[1] * counts[1]).sum()
        if not total.requires_grad:
            return torch.zeros_like(leaves[0]), torch.zeros_like(leaves[1])
        a, b = torch.autograd.grad(total, leaves, retain_graph=keep, allow_unused=True, materialize_grads=True)
        return a, b
