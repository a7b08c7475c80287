"""Expectation maximization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.conjugate import Conjugate
from inference.approximations.point import PointMass
from inference.conjugate import closed_form
from inference.conjugate.family import uses
from inference.coordinate.ascent import Coordinates, State, distinct
from inference.coordinate.convergence import arrived
from inference.coordinate.gradient_step import GradientStep
from inference.coordinate.restarts import climb_together, noted
from inference.coordinate.source import RowSource
from inference.coordinate.stepwise import RunningAverages, checked
from inference.diagnostics.components import floored_scales, thin_components
from inference.method import Method, Objective, Outcome, unsupported
from inference.runtime.monitor import Monitor
from inference.starts.start import start_state
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import primary

if TYPE_CHECKING:
    from inference.posterior.fit import Fit
    from zoo.data.bind import Source

FIRST_ROUNDS = 20  # gradient M-steps from the clustering, which starts far from where it belongs


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximization: discrete latents (and conjugate local ones) exactly, the rest as points.

    theta_{t+1} = argmax_theta E_{p(z | x, theta_t)}[log p(x, z, theta)] (Dempster, Laird and Rubin 1977). The E-step
    enumerates the discrete latents exactly; where there are none, it takes the exact posterior of continuous local
    latents that are conjugate given the rest (factor models, random effects). The M-step is in closed form wherever the
    structure of the model shows one; what is left is climbed by gradient (generalized EM). Latents with priors are set
    to their mode, so the objective is the log likelihood plus the log prior (MAP-EM). The objective never decreases.

    Parameters
    ----------
    restarts
        Number of starts, of which the best end is kept; all in one tensor program where every update is in closed form.
    tolerance
        Stop when the objective is within this many nats of its limit, judged by Aitken extrapolation (McLachlan and
        Krishnan 2008, section 4.9); with `batch_size`, when passes gain less than 1000 times this, or than their noise.
    max_steps
        Most steps from each start; passes over the data with `batch_size`.
    start
        "kmeans" (k-means++, or the model's own proposal), "random", or a dict from parameter or latent to value; what
        a dict leaves out starts as with "kmeans".
    hard
        Classification EM (Celeux and Govaert 1992): give each row to its most probable state. The objective is then
        max_z log p(x, z, theta); with equal spherical components this is k-means.
    gradient
        Climb everything by gradient, also what has a closed form.
    matrices
        How a gradient step keeps covariance matrices positive definite: "log_cholesky" (L L^T, log diagonal of L),
        "cholesky" (L L^T, any diagonal), "additive" (A A^T + c I), "matrix_log" (exp of a symmetric matrix).
    batch_size
        Rows per step of stepwise EM (Cappe and Moulines 2009): expected statistics are averaged over mini-batches with
        step size (step + delay)^-forgetting. None for all rows at once.
    forgetting, delay
        Of that step size; 0.5 < forgetting <= 1.
    distributed
        Each process of a `torch.distributed` group (torchrun; gloo or nccl) works on its share of the rows, and
        statistics are summed. All processes call `fit` with the same data and seed, and get the same fit.
    """

    restarts: PositiveInt = 1
    tolerance: PositiveFloat = 1e-6
    max_steps: PositiveInt = 1000
    start: Literal["kmeans", "random"] | Mapping[str, Any] = "kmeans"
    hard: bool = False
    gradient: bool = False
    matrices: Literal["log_cholesky", "cholesky", "additive", "matrix_log"] = "log_cholesky"
    batch_size: PositiveInt | None = None
    forgetting: Annotated[float, Field(gt=0.5, le=1.0)] = 0.7
    delay: PositiveFloat = 1.0
    distributed: bool = False

    streams: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the settings; keep starting values as plain numbers, which compare and can be written to a file."""
        super().__post_init__()
        if not isinstance(self.start, str):
            plain = {n: v.tolist() if isinstance(v, Tensor | np.ndarray) else v for n, v in self.start.items()}
            object.__setattr__(self, "start", plain)

    def why_not(self, program: Program) -> str | None:
        """Refuse models with nothing to enumerate or with continuous local latents."""
        if (reason := unsupported(program)) is not None:
            return reason
        if self.distributed and (self.batch_size is not None or self.gradient):
            return "distributed needs all rows at once and closed forms: leave out batch_size and gradient"
        if program.locals:
            return self._over_locals(program)
        if not program.enumerated:
            return "nothing to enumerate: it has no discrete latent"
        return None if self.batch_size is None else RunningAverages.why_not(program, gradient=self.gradient)

    def _over_locals(self, program: Program) -> str | None:
        """Say why the E-step has no exact posterior of the continuous local latents, None if it has."""
        first = program.locals[0].name
        plan = closed_form(program)
        local = {s.name for s in program.locals}
        blocks = [b for b in plan.blocks if local & set(b.unknowns)]
        if plan.incomplete:
            return (
                f"site {plan.incomplete[0]!r} has missing values (NaN), and the posterior of the local {first!r} has a "
                "closed form for complete rows only"
            )
        if program.enumerated or len(blocks) != 1 or set(blocks[0].unknowns) != local:
            return f"site {first!r} is a continuous local latent, which the E-step cannot sum over"
        if not program.parameters and not program.globals:
            return f"there is no parameter to estimate, and nothing to enumerate beside the local {first!r}"
        if plan.rest:
            return f"{plan.rest[0]!r} has no closed-form update given the posterior of the local {first!r}"
        if program.globals:
            return (
                f"it averages over the local {first!r}, and {program.globals[0].name!r} has a prior: em needs "
                "parameters there"
            )
        if self.batch_size is not None or self.gradient or self.hard:
            return f"batch_size, gradient and hard need a model without local latents such as {first!r}"
        return None

    def how(self, program: Program) -> str:
        """Say which unknowns have a closed-form M-step and which are climbed by gradient."""
        plan = closed_form(program)
        names = plan.names if self.gradient else plan.rest
        climbed = [f"{n} ({_not_closed(program, n)})" for n in GradientStep(program, names).names]
        exact = [n for n in plan.names if n not in names]
        return "; ".join(
            f"{kind}: {', '.join(found)}" for kind, found in (("closed form", exact), ("gradient", climbed)) if found
        )

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Climb from each start; keep the best end."""
        ends, failed = self._ends(program, progress=progress)
        if not ends:
            raise FitError(
                f"em broke down from every start: {failed[0]}. Try fewer components, a prior, or EM(restarts=10)"
            )
        best = max(ends, key=lambda end: end.value)
        values = best.values
        kind = "log_posterior" if program.globals or self.hard else "log_likelihood"
        latents = {s.name: values[s.name] for s in program.latents}
        warnings = [] if best.converged else [best.reason]
        if failed:
            warnings.append(f"{len(failed)} of {self.restarts} starts broke down: {failed[0]}")
        approximation: Approximation = PointMass(latents)
        if program.locals:
            _, expected = Coordinates(program, averaged=True).expect(State(values, {}))
            approximation = Conjugate(distinct(expected.beliefs))
        return Outcome(
            approximation=approximation,
            points={n: v for n, v in values.items() if n not in latents},
            objective=Objective(best.value, kind),
            trace=best.monitor.trace,
            steps=best.steps,
            converged=best.converged,
            reason=best.reason,
            warnings=warnings + thin_components(program, values) + floored_scales(program, values),
        )

    def _ends(self, program: Program, *, progress: bool) -> tuple[list[End], list[str]]:
        """Where each start leads, and what stopped the others."""
        ends: list[End] = []
        failed: list[str] = []
        plan = closed_form(program)
        climb = GradientStep(program, plan.names if self.gradient else plan.rest, self.matrices)
        together = self.restarts > 1 and not climb.names and self.batch_size is None
        states: list[State] = []
        if together:
            for i in range(self.restarts):
                with noted(failed, self.restarts):
                    states.append(self._start(program, climb, i))
            with Monitor("em", self.max_steps, show=progress) as monitor:
                found = climb_together(self._ascent(program), states, self._tolerance(climb), self.max_steps, monitor)
            if found is not None:
                return [self._end(climb, *end) for end in found[0]], failed + found[1]
        take = self._climb if self.batch_size is None else self._climb_by_batches
        for i in range(len(states) if together else self.restarts):
            with (
                Monitor(f"em {i + 1}/{self.restarts}", self.max_steps, show=progress) as monitor,
                noted(failed, self.restarts),
            ):
                state = states[i] if together else self._start(program, climb, i)
                ends.append(self._end(climb, *take(program, climb, state.values, monitor)))
        return ends, failed

    def _tolerance(self, climb: GradientStep) -> float:
        """Classification in closed form goes on until nothing moves: one row may be what many others wait for."""
        return 0.0 if self.hard and not climb.names else self.tolerance

    def _end(self, climb: GradientStep, values: Values, monitor: Monitor, steps: int, converged: bool) -> End:
        what = f"within {self.tolerance:g} of the limit after {steps} steps"
        if self.batch_size is not None:
            what = f"the objective stands still within its noise after {steps} passes"
        elif self._tolerance(climb) == 0:
            what = f"rows keep their states after {steps} steps"
        if not converged:
            what = f"stopped at max_steps={self.max_steps} before reaching tolerance={self.tolerance:g}"
        return End(monitor.rows[-1][2], values, monitor, converged, steps, what)

    def _start(self, program: Program, climb: GradientStep, index: int) -> State:
        """Starting values of one start: every second one from a random guess."""
        kind = self.start if isinstance(self.start, str) else "kmeans"
        if index % 2 == 1 and not program.proposes:
            kind = "random"
        given = {} if isinstance(self.start, str) else dict(self.start)
        rounds = FIRST_ROUNDS if climb.names else 1
        return start_state(program, kind, given=given, rounds=rounds, improve=climb)

    def _ascent(self, program: Program) -> Coordinates:
        return Coordinates(
            program,
            hard=self.hard,
            averaged=bool(program.locals),
            rows=RowSource(program, distributed=self.distributed),
        )

    def _climb(
        self, program: Program, climb: GradientStep, values: Values, monitor: Monitor
    ) -> tuple[Values, Monitor, int, bool]:
        """Take steps from one start until the objective stands still."""
        values = climb.admit(values)
        ascent = self._ascent(program)
        if not self.gradient:
            ascent.prepare(State(values, {}))
        history: list[float] = []
        for step in range(self.max_steps + 1):
            objective, expected = ascent.expect(State(values, {}))
            history.append(checked(float(objective), f"{step} steps"))
            monitor.record(step, history[-1])
            if arrived(history, self._tolerance(climb), torch.finfo(program.dtype).eps):
                return values, monitor, step, True
            if step < self.max_steps:
                values = climb(expected.values if self.gradient else ascent.maximize(expected), expected.marginals)
        return values, monitor, self.max_steps, False

    def _climb_by_batches(
        self, program: Program, climb: GradientStep, values: Values, monitor: Monitor
    ) -> tuple[Values, Monitor, int, bool]:
        """Stepwise EM: average expected statistics over mini-batches; judge all rows after each pass."""
        assert self.batch_size is not None
        averages = RunningAverages(program, hard=self.hard, forgetting=self.forgetting, delay=self.delay)
        whole, state = self._ascent(program), State(values, {})
        whole.prepare(state)
        state, converged, passes, _ = averages.climb(
            whole, state, size=self.batch_size, tolerance=self.tolerance, passes=self.max_steps, monitor=monitor
        )
        return state.values, monitor, passes, converged

    def update(self, fit: Fit, new_data: Source) -> Fit:
        """Go on from a fit with more rows, whose statistics are added to those of the rows so far.

        Parameters
        ----------
        fit
            A fit by `EM`.
        new_data
            Rows like those fitted.

        Returns
        -------
        Fit
            Its objective is that of the new rows at the new values.

        Raises
        ------
        MethodError
            If the fit is of another method, or its statistics are no sums over rows.
        """
        from inference.updating import continued

        return continued(self, fit, new_data)


@dataclass
class End:
    """Where one start led."""

    value: float
    values: Values
    monitor: Monitor
    converged: bool
    steps: int
    reason: str


def _not_closed(program: Program, name: str) -> str:
    """Say which use or prior of an unknown no family claims."""
    if name not in program.sites:
        return "weights of a network"
    site = program.sites[name]
    for child, args in uses(program, name):
        for key, parent in primary(dict(args)).items():
            if parent.kind == "function":
                return f"{child.name}: {key} is a {parent}"
    prior = "" if site.role == "parameter" else f"with a {site.family} prior "
    children = ", ".join(f"{child.name} ~ {child.family}" for child, _ in uses(program, name)) or "no site"
    return f"{prior}it feeds {children}"
