"""Expectation maximization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.conjugate import Conjugate
from inference.approximations.point import PointMass
from inference.conjugate import EStep, closed_form
from inference.conjugate.by_state import settled
from inference.coordinate.acceleration import Acceleration
from inference.coordinate.ascent import Coordinates, State
from inference.coordinate.convergence import ByRate, StoppingRule, UntilLevel, WithinNoise, WithinTolerance
from inference.coordinate.gradient_step import GradientStep
from inference.coordinate.incremental import MoreRows, remembered
from inference.coordinate.journal import Climbs
from inference.coordinate.loop import Ascent, Way, ascend
from inference.coordinate.measured import finish
from inference.coordinate.no_closed_form import no_maximum
from inference.coordinate.restarts import SCREENS, SLOW_SCREENS, Restarts
from inference.coordinate.source import RowSource
from inference.coordinate.steps import OneStart
from inference.coordinate.stepwise import Passes, RunningAverages
from inference.coordinate.together import Together
from inference.diagnostics.components import floored_scales, thin_components
from inference.diagnostics.maximum import judge_point
from inference.diagnostics.poles import pole
from inference.method import Fitted, Method, Objective, Outcome, unsupported
from inference.runtime.checkpoint import CHECKPOINT, checkpoint_of
from inference.runtime.interruption import listening
from inference.runtime.monitor import Monitor, Told
from inference.runtime.processes import ALONE, Processes
from inference.starts.values import apart, candidates, few_rows, start_state
from zoo.errors import FitError, MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

EXACT = 1e-12  # tolerance where steps are blocks of a closed form
ONE_STEP = 2  # steps of an update that is the maximum: it, and one that changes nothing
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
        0 takes all steps.
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
    acceleration
        "auto" extrapolates steps by Anderson's method where many are left to the limit, and never to a lower place;
        None takes plain steps. Not with `hard`, `batch_size` or tolerance 0.
    checkpoint
        File to which all that the next step depends on is written every `checkpoint_every` steps. If it is there at the
        beginning, the fit goes on from it, and ends at the same numbers as one that was never stopped; with more
        `max_steps` than before it goes on to these.
    checkpoint_every
        Steps between two writes.

    Examples
    --------
    >>> import zoo
    >>> from inference import EM, fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> result = fit(zoo.GMM(components=2), geyser, method=EM(restarts=3, tolerance=1e-8), seed=0)
    >>> print(result.objective.kind, round(result.objective.value, 3))
    log_likelihood -1130.264
    >>> result.converged, result.trace["value"].is_monotonic_increasing
    (True, True)
    """

    restarts: PositiveInt = 1
    tolerance: NonNegativeFloat = 1e-6
    max_steps: PositiveInt = 1000
    start: Literal["kmeans", "random"] | Mapping[str, Any] = "kmeans"
    hard: bool = False
    gradient: bool = False
    matrices: Literal["log_cholesky", "cholesky", "additive", "matrix_log"] = "log_cholesky"
    batch_size: PositiveInt | None = None
    forgetting: Annotated[float, Field(gt=0.5, le=1.0)] = 0.7
    delay: PositiveFloat = 1.0
    distributed: bool = False
    acceleration: Literal["auto"] | None = "auto"
    checkpoint: str | None = None
    checkpoint_every: PositiveInt = 1

    streams: ClassVar[bool] = True
    of_starts: ClassVar[frozenset[str]] = frozenset(
        {"restarts", "start", "matrices", "batch_size", "forgetting", "delay", "distributed", *CHECKPOINT}
    )

    def __post_init__(self) -> None:
        """Check the settings; keep starting values as plain numbers, which compare and can be written to a file."""
        super().__post_init__()
        if not isinstance(self.start, str):
            plain = {n: v.tolist() if isinstance(v, Tensor | np.ndarray) else v for n, v in self.start.items()}
            object.__setattr__(self, "start", plain)

    def why_not(self, program: Program) -> str | None:
        # Refuse models with nothing to enumerate or with continuous local latents
        if (reason := unsupported(program)) is not None:
            return reason
        if self.distributed and (self.batch_size is not None or self.gradient):
            return "distributed needs all rows at once and closed forms: leave out batch_size and gradient"
        if program.locals:
            return self._over_locals(program)
        if program.integrated is not None and not (program.parameters or program.globals or program.networks):
            chain = program.integrated.chains[0].name
            return f"there is no parameter to estimate beside the states {chain!r}; exact has their posterior"
        if not program.enumerated and program.integrated is None:
            return self._observed(program)
        return None if self.batch_size is None else RunningAverages.why_not(program, gradient=self.gradient)

    def _observed(self, program: Program) -> str | None:
        """Say why there is no maximum in closed form where everything is observed, None if there is."""
        rest = closed_form(program).rest
        if not program.parameters and not self._labels(program):
            return "nothing to enumerate: it has no discrete latent"
        if rest or self.gradient or self.batch_size is not None or self.distributed:
            what = f"{rest[0]!r} has no closed-form maximum" if rest else "closed forms need all rows at once"
            return f"nothing to enumerate, and {what}; use map"
        return None

    @staticmethod
    def _labels(program: Program) -> bool:
        """Whether discrete states are there and were all observed: what others depend on, as on the class of a row."""
        labels = {s.field for s in program.observed if s.field and s.support.is_discrete}
        return any(
            labels.intersection(p.data) and s.field not in p.data for s in program.observed for p in s.args.values()
        )

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
        apart = not program.several or all(b.by_state for b in blocks)
        if not apart or len(blocks) != 1 or set(blocks[0].unknowns) != local:
            return f"site {first!r} is a continuous local latent, which the E-step cannot sum over"
        if (reason := blocks[0].why_not(program)) is not None:
            return reason
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
        # Say which unknowns have a closed-form M-step and which are climbed by gradient
        plan = closed_form(program)
        names = plan.names if self.gradient else plan.rest
        climbed = [f"{n} ({no_maximum(program, n)})" for n in GradientStep(program, names).names]
        exact = [n for n in plan.names if n not in names]
        return "; ".join(
            f"{kind}: {', '.join(found)}" for kind, found in (("closed form", exact), ("gradient", climbed)) if found
        )

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb from each start; keep the best end
        advice = "Try fewer components, a prior, or EM(restarts=10)"
        group = Processes.running() if self.distributed else ALONE
        file = checkpoint_of(self, program.model, program.data, group, apart=("max_steps",))
        with group.watched(), listening():
            starts = replace(self.starts(program), journal=None if file is None else Climbs(file))
            best, notes, heights = starts.climb(advice, progress=progress)
            assert best.state is not None
            values = best.state.values
            thin, floored = thin_components(program, values), floored_scales(program, values)
            outcome = self._outcome(program, best, notes + floored + thin)
        if self.hard:  # what climbs is not smooth, so there is no curvature to look at
            return outcome
        return replace(outcome, judge=partial(_judged, program, values, heights, floored, thin))

    def starts(self, program: Program) -> Restarts:
        """Return where it starts, and how it climbs from there.

        Examples
        --------
        >>> import zoo
        >>> from inference import EM
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.GMM(components=2), "faithful")
        >>> starts = EM(restarts=5).starts(program)
        >>> starts.name, starts.count
        ('em', 5)
        """
        plan = closed_form(program)
        gradient = GradientStep(program, plan.names if self.gradient else plan.rest, self.matrices)

        def several(values: Values, marginals: Values) -> Values:
            for _ in range(FIRST_ROUNDS if gradient.names else 0):
                values = gradient(values, marginals)
            return values

        as_asked = self.start == "random" or self.hard or self.batch_size is not None or self.distributed
        rule = self._rule(program, closed=not gradient.names)
        return Restarts(
            name="em",
            count=self.restarts,
            start=lambda index: self._start(program, gradient, index),
            way=lambda state: self._way(program, gradient, state),
            rule=rule,
            together=None if gradient.names or self.batch_size else lambda s: self._together(program, s),
            apart=None if self.distributed else partial(apart, program, improve=several),
            screens=SLOW_SCREENS if gradient.names else SCREENS,
            finish=partial(finish, program, rule),
            candidates=None if as_asked else partial(self._candidates, program, gradient),
        )

    def _outcome(self, program: Program, best: Ascent, warnings: list[str]) -> Outcome:
        """Return the end of an ascent."""
        assert best.state is not None
        values = best.state.values
        latents = {s.name: values[s.name] for s in program.latents}
        points = {n: v for n, v in values.items() if n not in latents}
        edge = "" if program.locals else pole(program, latents, points)
        reason = best.reason
        if best.converged and self._seen(program):
            reason = "closed form" if best.steps <= ONE_STEP else f"closed form of each block in turn, {reason}"
        approximation: Approximation = PointMass(latents)
        if program.locals:
            _, expected = Coordinates(program, averaged=True).expect(State(values, {}))
            approximation = Conjugate(settled(expected))
        return Outcome(
            approximation=approximation,
            points=points,
            objective=Objective(best.value, "log_posterior" if program.globals or self.hard else "log_likelihood"),
            trace=best.monitor.trace,
            steps=best.steps,
            converged=best.converged and not edge,
            reason=edge or reason,
            warnings=[*warnings, edge] if edge else warnings,
        )

    def _rule(self, program: Program, *, closed: bool) -> StoppingRule:
        """When to stop: classification in closed form goes on until nothing moves."""
        if self.batch_size is not None:
            return WithinNoise(self.tolerance, self.max_steps)
        rule = (UntilLevel if self.hard else WithinTolerance) if closed else ByRate
        # Steps are cheap where nothing is summed out, and every one is exact.
        tolerance = min(self.tolerance, EXACT) if self._seen(program) else self.tolerance
        return rule(tolerance, self.max_steps, torch.finfo(program.dtype).eps)

    @staticmethod
    def _seen(program: Program) -> bool:
        """Whether there is nothing to sum out or to average over."""
        return not (program.enumerated or program.locals or program.integrated is not None)

    def _start(self, program: Program, gradient: GradientStep, index: int) -> State:
        """Starting values of one start: every second one from a random guess."""
        kind: Literal["kmeans", "random"] = self.start if isinstance(self.start, str) else "kmeans"
        if index % 2 == 1 and not program.proposes:
            kind = "random"
        given = {} if isinstance(self.start, str) else dict(self.start)
        rounds = FIRST_ROUNDS if gradient.names else 1
        return start_state(program, kind, given=given, rounds=rounds, improve=gradient)

    def _candidates(self, program: Program, gradient: GradientStep) -> Iterable[Callable[[], State]]:
        """Starts of which the first one is to be the best."""
        few = few_rows(program)
        if few is not program and not few.proposes:
            return [lambda: State(self.starts(few).screened().values, {})]
        given = {} if isinstance(self.start, str) else dict(self.start)
        rounds = FIRST_ROUNDS if gradient.names else 1
        return candidates(program, given=given, rounds=rounds, improve=gradient)

    def _together(self, program: Program, states: list[State]) -> Way | None:
        """Return the way up from several starts at once."""
        return Together.of(self._ascent(program), states, self._accelerated(program, len(states)))

    def _accelerated(self, program: Program, starts: int | None = None) -> Acceleration | None:
        """Return what extrapolates steps, None for plain steps."""
        if self.hard or self.tolerance == 0:
            return None
        return Acceleration(program, self.tolerance, starts, extrapolates=self.acceleration is not None)

    def _ascent(self, program: Program) -> Coordinates:
        rows = RowSource(program, distributed=self.distributed)
        return Coordinates(program, hard=self.hard, averaged=bool(program.locals), rows=rows)

    def _way(self, program: Program, gradient: GradientStep, state: State) -> Way:
        """Return the way up from one start."""
        ascent = self._ascent(program)
        if self.batch_size is not None:
            averages = RunningAverages(program, hard=self.hard, forgetting=self.forgetting, delay=self.delay)
            return Passes(averages, ascent, state, self.batch_size)
        if not self.gradient:
            ascent.prepare(state)

        def maximize(expected: EStep) -> State:
            values = expected.values if self.gradient else ascent.maximize(expected)
            return State(gradient(values, expected.marginals), {})

        gradient.note_floors(state.values)
        return OneStart(ascent, state, maximize, gradient.obstacle, acceleration=self._accelerated(program))

    def continued(self, program: Program, fit: Fitted, *, progress: Told | bool = False) -> tuple[Program, Outcome]:
        # Go on with rows whose expected statistics are added to those of the rows so far
        if not isinstance(fit.approximation, PointMass):
            raise MethodError(
                f"EM().update continues a fit of EM(); this one was made by {type(fit.method).__name__}, or averages "
                "over local latents"
            )
        reason = RunningAverages.why_not(fit.program, gradient=self.gradient)
        if reason is not None:
            raise MethodError(f"EM().update cannot continue this fit: {reason}")
        values = {**fit.points, **fit.approximation.values}
        with torch.no_grad(), listening(), Monitor("em", self.max_steps, show=progress) as monitor:
            memory = fit.memory or remembered(fit.program, values, hard=self.hard)
            way = MoreRows(program, values, memory, hard=self.hard)
            (ascent,) = ascend(way, self._rule(program, closed=True), [monitor])
            if ascent.failure:
                raise FitError(f"em broke down on the new rows: {ascent.failure}")
            assert ascent.expected is not None
            memory = way.memory(ascent.expected)
        outcome = self._outcome(program, ascent, [] if ascent.converged else [ascent.reason])
        return program, replace(outcome, memory=memory)


def _judged(
    program: Program,
    values: Values,
    heights: Sequence[float],
    floored: Sequence[str],
    thin: Sequence[str],
    end: Outcome,
) -> Outcome:
    """Say whether the point is a maximum."""
    found = judge_point(
        program, values, heights, converged=end.converged, reason=end.reason, floored=floored, notes=thin
    )
    return replace(end, diagnostics=found.diagnostics, verdict=found.verdict)
