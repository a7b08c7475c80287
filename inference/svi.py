"""Stochastic variational inference."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn

from guides.guide import Guide, Start, Variational
from guides.mean_field import MeanField
from inference.approximation import Approximation, PointMass, Trained
from inference.method import Method, Monitor, Objective, Outcome, unsupported
from inference.posterior import KHAT_GOOD, khat, khat_note
from inference.predictive import chunk_for
from inference.schedule import Schedule
from inference.start import natural_start, starting_values
from zoo.declare.data import Data
from zoo.declare.evaluate import Values, many
from zoo.declare.program import Program
from zoo.errors import FitError

NETWORK_BATCH = 128  # default rows per step where the model or guide has networks
FULL_ROWS = 5000  # otherwise all rows are used up to this many, and then BATCH at a time
BATCH = 1000
PARTICLES = 8  # one vectorized evaluation costs little more than one draw, and its gradient has far less noise
CLIP = 10.0  # largest gradient norm of the objective per row
NETWORK_RATE = 0.25  # learning rate of network weights relative to coordinates in natural units
MOST_BROKEN = 50  # steps that may fail before the fit does
RESTORE_EVERY = 5  # failed steps after which the best state so far is taken up again, at half the rate
FINAL_DRAWS = 1000
FEWEST_FOR_KHAT = 200
FINAL_CELLS = 20_000_000


@dataclass(frozen=True)
class SVI(Method):
    """Stochastic variational inference: climb the ELBO with any guide.

    max_q E_q[log p(x, z; theta)] - E_q[log q(z)] by stochastic gradient ascent (Hoffman et al. 2013). Enumerated sites
    are summed out exactly, so q covers the other latents only; draws are reparameterized (Kucukelbir et al. 2017).
    Parameters and network weights climb along. Steps are taken by Adam in natural units (one over the square root of
    the curvature at the start) at a constant rate until the ELBO stops rising beyond its noise; then the rate falls to
    zero and the last steps are averaged. If the end is worse than an earlier stretch, that one is kept.

    Parameters
    ----------
    guide
        The family for q: `MeanField()`, `FullRank()`, `Point()`, `Encoder(...)` or your own.
    steps
        Most steps.
    learning_rate
        Of coordinates in natural units; network weights use a quarter of it.
    batch_size
        Rows per step. None: 128 with networks; otherwise all rows up to 5000, beyond that 1000.
    particles
        Draws per step. None: 1 with networks, otherwise 8.
    """

    guide: Guide = field(default_factory=MeanField)
    steps: PositiveInt = 10_000
    learning_rate: PositiveFloat = 0.02
    batch_size: PositiveInt | None = None
    particles: PositiveInt | None = None

    def why_not(self, program: Program) -> str | None:
        """Refuse models with a latent that cannot be enumerated, with nothing to fit, or that the guide refuses."""
        if (reason := unsupported(program)) is not None:
            return reason
        if self.batch_size is not None and program.chained:
            return "batch_size breaks a chain of rows; leave it out"
        if not program.latents and not program.parameters and not program.networks:
            return "there is no latent or parameter to fit"
        if not program.latents:
            return None
        return self.guide.why_not(program)

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Climb until the schedule says stop."""
        values = starting_values(program)
        state = _State(program, self.guide, natural_start(program, values), values)
        program.model.train()
        batches = self._batches(program, state)
        exact = (self.guide.point or not program.latents) and state.steps_per_epoch == 1
        schedule = Schedule(self.steps, self.learning_rate, epoch=state.steps_per_epoch, exact=exact)
        optimizer = torch.optim.Adam(
            [
                {"params": state.coordinates, "relative": 1.0, "betas": (0.9, 0.99)},  # forgets the way to the mode
                {"params": state.weights, "relative": NETWORK_RATE},
            ],
            lr=self.learning_rate,
        )
        size = len(program.data) if program.data.weights is None else float(program.data.weights.sum())
        particles = self.particles or (1 if state.weights or self.guide.point or not program.latents else PARTICLES)
        broken = 0
        with Monitor("svi", self.steps, show=progress) as monitor:
            for step in range(1, self.steps + 1):
                for group in optimizer.param_groups:
                    group["lr"] = schedule.rate * group["relative"]
                optimizer.zero_grad(set_to_none=True)
                rows, part = next(batches)
                value = state.gradient(part, rows, particles, size)
                if value is None:
                    broken += 1
                    if broken > MOST_BROKEN:
                        raise FitError(
                            f"svi: the ELBO or its gradient was not finite in {broken} of {step} steps; the density "
                            "may be unbounded (a component that closes in on one row) or not a number somewhere. Try a "
                            f"prior, fewer components, a smaller learning_rate than {self.learning_rate:g}, or better "
                            "starting values"
                        )
                    if broken % RESTORE_EVERY == 0:
                        state.restore()
                        schedule.slow_down()
                    continue
                optimizer.step()
                if schedule.settling:
                    state.average()
                if schedule.record(step, value):
                    monitor.record(step, schedule.latest)
                    if schedule.is_best:
                        state.keep()
                if schedule.finished:
                    break
        if schedule.worse_than_best:
            state.restore()
        else:
            state.settle()
        program.model.eval()
        warnings = [] if schedule.converged else [schedule.reason]
        if broken:
            warnings.append(f"{broken} steps gave an ELBO that was not finite and were skipped")
        return self._outcome(program, state, monitor, schedule, warnings)

    def _batches(self, program: Program, state: _State) -> Iterator[tuple[Tensor | None, Program]]:
        """Yield mini-batches without replacement, each with its rows weighted to stand for all."""
        data = program.data
        rows = len(data)
        size = self.batch_size
        if program.chained:
            size = rows
        elif size is None:
            size = NETWORK_BATCH if state.weights else (rows if rows <= FULL_ROWS else BATCH)
        size = min(size, rows)
        state.steps_per_epoch = max(1, rows // size)
        weights = (
            data.weights if data.weights is not None else torch.ones(rows, dtype=program.dtype, device=program.device)
        )

        def batches() -> Iterator[tuple[Tensor | None, Program]]:
            if size == rows:
                while True:
                    yield None, program
            while True:
                order = torch.randperm(rows, device=program.device)
                for start in range(0, rows - size + 1, size):
                    at = order[start : start + size]
                    yield at, program.rebind(data.batch(at, weights[at] * (rows / size)))

        return batches()

    def _outcome(
        self, program: Program, state: _State, monitor: Monitor, schedule: Schedule, warnings: list[str]
    ) -> Outcome:
        """Evaluate the objective at the end with many draws and all rows."""
        with torch.no_grad():
            points = {n: v.detach().clone() for n, v in state.points().items()}
            point = not program.latents or self.guide.point
            approximation: Approximation
            if point:
                latents = {n: v.detach().clone() for n, v in state.latents().items()}
                approximation = PointMass(latents)
                value = float(program.log_joint({**points, **latents}).total(program.data.weights))
                if not math.isfinite(value):
                    raise FitError(f"the log density is {value} at the end; it is not a number near its mode")
                objective = Objective(value, "log_posterior" if program.latents else "log_likelihood")
            else:
                state.q.requires_grad_(False).eval()
                approximation = Trained(self.guide, state.q, program.data)
                objective, shape = final_elbo(program, approximation, points)
                if shape > KHAT_GOOD:
                    warnings = [*warnings, khat_note(shape)]
        return Outcome(
            approximation,
            points,
            objective,
            monitor.trace,
            schedule.step,
            schedule.converged,
            schedule.reason,
            warnings,
        )


def final_elbo(program: Program, approximation: Approximation, points: Values) -> tuple[Objective, float]:
    """Mean of log p - log q over fresh draws with its standard error, and the Pareto shape of the ratios."""
    cells = max(1, sum(v.numel() for v in program.data.values.values()))
    count = max(10, min(FINAL_DRAWS, FINAL_CELLS // cells))
    draws, log_q = approximation.draw(program, count)

    def joint(values: Values) -> Tensor:
        return program.log_joint({**points, **values}).total(program.data.weights)

    ratio = (many(joint, draws, count, chunk_for(program)) - log_q).double()
    bad = int((~ratio.isfinite()).sum())
    if bad:
        raise FitError(
            f"svi: the log density is not finite at {bad} of {count} draws from the fitted guide; the model's density "
            "is not a number, or zero, where the posterior has mass. Restrict the supports of its latents"
        )
    objective = Objective(float(ratio.mean()), "elbo", float(ratio.std() / math.sqrt(count)))
    return objective, khat(ratio.cpu().numpy()) if count >= FEWEST_FOR_KHAT and program.globals else float("nan")


class _State(nn.Module):
    """Everything that climbs: q, the model's parameters in natural units, and network weights."""

    def __init__(self, program: Program, guide: Guide, start: Start, values: Values) -> None:
        super().__init__()
        self.program, self.guide, self.start = program, guide, start
        self.view, self.theta = program.view, program.parameter_view
        self.q: Variational = guide.build(program, start) if program.latents else MeanField().build(program, start)
        self.shift = nn.Parameter(torch.zeros_like(start.parameters))
        self.names = sorted(program.networks)
        self.networks = nn.ParameterList([nn.Parameter(values[n].detach().clone()) for n in self.names])
        self.steps_per_epoch = 1
        self.vectorizes = True
        guide_weights = {id(p) for part in self.q.modules() if isinstance(part, nn.Linear) for p in part.parameters()}
        self.weights = [*self.networks, *(p for p in self.q.parameters() if id(p) in guide_weights)]
        self.coordinates = [self.shift, *(p for p in self.q.parameters() if id(p) not in guide_weights)]
        self.averaged = 0
        self.means = [p.detach().clone() for p in self.parameters()]
        self.keep()

    def keep(self) -> None:
        """Remember the present state as the best."""
        self.best = copy.deepcopy(self.state_dict())

    def gradient(self, program: Program, rows: Tensor | None, particles: int, size: float) -> float | None:
        """Estimate the ELBO and its gradient; None if either is not finite, as where a factorization breaks down."""
        try:
            elbo = self.elbo(program, rows, particles)
        except RuntimeError as error:
            if "linalg" not in str(error):
                raise
            return None
        (-elbo / size).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), CLIP)
        value = float(elbo.detach())
        return value if math.isfinite(value) and bool(norm.isfinite()) else None

    def average(self) -> None:
        """Add the present state to the average of the last steps (Polyak and Juditsky 1992)."""
        self.averaged += 1
        with torch.no_grad():
            torch._foreach_lerp_(self.means, list(self.parameters()), 1.0 / self.averaged)

    def settle(self) -> None:
        """Take the average of the last steps, which has less noise than any of them."""
        if self.averaged:
            with torch.no_grad():
                torch._foreach_copy_(list(self.parameters()), self.means)

    def restore(self) -> None:
        """Go back to the best state."""
        self.load_state_dict(self.best)

    def points(self) -> Values:
        """Parameters and network weights."""
        parameters, _ = self.theta.constrain_globals(self.start.parameters + self.start.parameter_unit * self.shift)
        return {**parameters, **dict(zip(self.names, self.networks, strict=True))}

    def latents(self) -> Values:
        """The latents at a draw of q: the point, for a point guide."""
        if not self.program.latents:
            return {}
        draw = self.q.draw(self.program.data)
        return {**self.view.constrain_globals(draw.globals)[0], **self.view.constrain_locals(draw.locals)[0]}

    def elbo(self, program: Program, rows: Tensor | None, particles: int) -> Tensor:
        """One estimate of the ELBO from `particles` draws."""
        points = self.points()

        def one(_: Tensor) -> Tensor:
            return self._elbo(program, program.data, rows, points)

        if particles > 1 and self.vectorizes:
            try:
                return torch.vmap(one, randomness="different")(torch.zeros(particles, device=program.device)).mean()
            except RuntimeError:  # the model's control flow depends on values
                self.vectorizes = False
        estimates = [one(self.shift) for _ in range(particles)]
        return torch.stack(estimates).mean()

    def _elbo(self, program: Program, data: Data, rows: Tensor | None, points: Values) -> Tensor:
        draw = self.q.draw(data, rows)
        globals_, jacobian = self.view.constrain_globals(draw.globals)
        locals_, row_jacobian = self.view.constrain_locals(draw.locals)
        if self.guide.point:  # the mode is that of the density in the latents' own space
            jacobian, row_jacobian = torch.zeros_like(jacobian), torch.zeros_like(row_jacobian)
        terms = program.log_joint({**points, **globals_, **locals_})
        per_row = terms.rows + row_jacobian - draw.log_q_rows
        weighted = per_row.sum() if data.weights is None else (data.weights * per_row).sum()
        return terms.rest + jacobian - draw.log_q + weighted
