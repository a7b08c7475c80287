"""Coordinate-ascent variational inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from inference.approximations.conjugate import Conjugate
from inference.conjugate import closed_form
from inference.conjugate.by_state import settled
from inference.coordinate.acceleration import Acceleration
from inference.coordinate.ascent import SINGULAR, Coordinates, State
from inference.coordinate.convergence import StoppingRule, WithinNoise, WithinTolerance
from inference.coordinate.journal import Climbs
from inference.coordinate.loop import Way
from inference.coordinate.measured import finish
from inference.coordinate.natural_steps import NaturalSteps
from inference.coordinate.no_closed_form import no_posterior
from inference.coordinate.restarts import Restarts
from inference.coordinate.source import RowSource
from inference.coordinate.steps import OneStart
from inference.coordinate.stepwise import Averages, Passes, RunningAverages
from inference.diagnostics.components import empty_components, floored_scales
from inference.diagnostics.importance import draws_for, judge
from inference.diagnostics.maximum import SAME
from inference.diagnostics.verdict import CARE
from inference.method import Fitted, Method, Objective, Outcome, unsupported
from inference.runtime.checkpoint import CHECKPOINT, checkpoint_of
from inference.runtime.interruption import listening
from inference.runtime.monitor import Told
from inference.runtime.processes import ALONE, Processes
from inference.starts.posteriors import given_posteriors
from inference.starts.values import apart, candidates, few_rows, start_state
from zoo.errors import FitError
from zoo.program.program import Program

WEIGHED, CELLS = (
    2000,
    5_000_000,
)  # draws of q that are weighed, and entries of the data times these: a quick fit stays so


@dataclass(frozen=True)
class CAVI(Method):
    """Coordinate-ascent variational inference: conjugate updates of a factorized posterior, block by block.

    q(z, u) = q(z) prod_b q(u_b); each step sets q(z) of the enumerated sites to their exact posterior under the
    expected log densities, then each q(u_b) proportional to exp E[log p(x, z, u)], which is in its prior's family
    (Bishop 2006, equation 10.9). The ELBO, every constant kept, never decreases. Unknowns whose priors are conjugate
    together (Normal-Gamma, Normal-Wishart, all coefficients of a linear predictor) share one block. Parameters without
    prior are set to the maximum of the ELBO. Draws of q are handed out as they are; the verdict on them is by weighing
    them against the posterior, enumerated sites summed out.

    Parameters
    ----------
    restarts
        Number of starts, of which the best end is kept.
    tolerance
        Stop when the ELBO is within this many nats of its limit, judged by Aitken extrapolation; with `batch_size`,
        when passes gain less than 1000 times this, or than their noise. 0 takes all steps.
    max_steps
        Most steps from each start; passes over the data with `batch_size`.
    batch_size
        Rows per step of the stochastic variant: natural-gradient steps of size (step + delay)^-forgetting
        (Hoffman et al. 2013, algorithm 1); local latents settle batch by batch. None for all rows.
    forgetting, delay
        Of that step size; 0.5 < forgetting <= 1.
    start
        "kmeans" or "random" for the first guess of the enumerated sites.
    distributed
        Each process of a `torch.distributed` group works on its share of the rows, and statistics are summed; as for
        `EM`.
    checkpoint
        File to which all that the next step depends on is written every `checkpoint_every` steps. If it is there at the
        beginning, the fit goes on from it, and ends at the same numbers as one that was never stopped; with more
        `max_steps` than before it goes on to these.
    checkpoint_every
        Steps between two writes.

    Examples
    --------
    >>> import zoo
    >>> from inference import CAVI, fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> result = fit(zoo.BayesianGMM(components=2), geyser, method=CAVI(restarts=2), seed=0)
    >>> print(result.objective.kind, round(result.objective.value))
    elbo -1165
    """

    restarts: PositiveInt = 1
    tolerance: NonNegativeFloat = 1e-6
    max_steps: PositiveInt = 1000
    batch_size: PositiveInt | None = None
    forgetting: Annotated[float, Field(gt=0.5, le=1.0)] = 0.7
    delay: PositiveFloat = 1.0
    start: Literal["kmeans", "random"] = "kmeans"
    distributed: bool = False
    acceleration: Literal["auto"] | None = "auto"
    checkpoint: str | None = None
    checkpoint_every: PositiveInt = 1

    streams: ClassVar[bool] = True
    of_starts: ClassVar[frozenset[str]] = CHECKPOINT

    def why_not(self, program: Program) -> str | None:
        # Refuse models with no latent to have a posterior, or one without conjugate updates
        if (reason := unsupported(program)) is not None:
            return reason
        if not program.latents:
            why = ": its unknowns are parameters without prior" if program.parameters or program.networks else ""
            return f"there is no continuous latent to have a posterior{why}"
        plan = closed_form(program)
        if plan.rest:
            return no_posterior(program, plan.rest[0])
        for block in plan.blocks:
            roles = {program.sites[n].role == "parameter" for n in block.unknowns}
            if len(roles) > 1:
                return f"{' and '.join(block.unknowns)} are updated together, and not all have a prior"
        if self.batch_size is not None and self.distributed:
            return "batch_size and distributed do not go together"
        if self.batch_size is None:
            return None
        return (NaturalSteps if program.locals else RunningAverages).why_not(program)

    def how(self, program: Program) -> str:
        # Say which latents share a block
        blocks = [block.unknowns for block in closed_form(program).blocks]
        return "blocks: " + "; ".join(", ".join(names) for names in blocks)

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb from each start; keep the best end. Draws of it are weighed against the posterior when asked for.
        outcome = self._fit(program, progress=progress)
        if program.data.stream is not None or self.distributed:  # no process has all rows at hand
            return outcome
        return replace(outcome, judge=partial(_judged, program))

    def fit_unjudged(self, program: Program) -> Outcome:
        # Climb from each start; keep the best end
        return self._fit(program)

    def _fit(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        group = Processes.running() if self.distributed else ALONE
        file = checkpoint_of(self, program.model, program.data, group, apart=("max_steps",))
        with group.watched(), listening():
            starts = replace(self.starts(program), journal=None if file is None else Climbs(file))
            return self._climbed(program, starts, progress=progress)

    def _climbed(self, program: Program, starts: Restarts, *, progress: Told | bool) -> Outcome:
        """Climb from each start; keep the best end."""
        best, notes, heights = starts.climb("Try fewer components or a stronger prior", progress=progress)
        assert best.state is not None
        assert best.expected is not None
        latents = {s.name for s in program.latents}
        points = {n: v for n, v in best.state.values.items() if n not in latents}
        if points:
            notes += floored_scales(program, best.state.values)
        return Outcome(
            approximation=Conjugate(settled(best.expected)),
            points=points,
            objective=Objective(best.value, "elbo"),
            trace=best.monitor.trace,
            steps=best.steps,
            converged=best.converged,
            reason=best.reason,
            warnings=notes + empty_components(program, best.expected),
            diagnostics={"agreeing": float(sum(h > best.value - SAME for h in heights))} if len(heights) > 1 else {},
        )

    def starts(self, program: Program) -> Restarts:
        """Return where it starts, and how it climbs from there.

        Examples
        --------
        >>> import zoo
        >>> from inference import CAVI
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianGMM(components=2), "faithful")
        >>> starts = CAVI(restarts=5).starts(program)
        >>> starts.name, starts.count
        ('cavi', 5)
        """
        as_asked = self.start == "random" or self.batch_size is not None or self.distributed
        rule = self._rule(program)
        return Restarts(
            name="cavi",
            count=self.restarts,
            start=lambda index: self._start(program, index),
            way=lambda state: self._way(program, state),
            rule=rule,
            apart=None if self.distributed else partial(apart, program),
            finish=partial(finish, program, rule),
            candidates=None if as_asked else partial(self._candidates, program),
        )

    def _candidates(self, program: Program) -> Iterable[Callable[[], State]]:
        """Starts of which the first one is to be the best."""
        few = few_rows(program)
        if few is not program and not few.proposes:
            return [lambda: State(self.starts(few).screened().values, {})]
        return candidates(program)

    def _rule(self, program: Program) -> StoppingRule:
        """When to stop."""
        if self.batch_size is not None:
            return WithinNoise(self.tolerance, self.max_steps)
        return WithinTolerance(self.tolerance, self.max_steps, torch.finfo(program.dtype).eps)

    def _start(self, program: Program, index: int) -> State:
        """Starting values of one start: every second one from a random guess."""
        random = self.start == "random" or (index % 2 == 1 and not program.proposes)
        return start_state(program, "random" if random else "kmeans")

    def _way(self, program: Program, state: State) -> Way:
        """Return the way up from one start, one step after it: before that there is no posterior to have a bound."""
        ascent = Coordinates(program, rows=RowSource(program, distributed=self.distributed))
        if self.batch_size is not None:
            return Passes(self._averages(program), ascent, state, self.batch_size)
        ascent.prepare(state)
        acceleration = None
        if self.tolerance > 0:
            acceleration = Acceleration(program, self.tolerance, extrapolates=self.acceleration is not None)
        return OneStart(ascent, ascent.step(state), ascent.condition, first=1, acceleration=acceleration)

    def _averages(self, program: Program) -> Averages:
        """Return what mini-batches move: sums over rows, or posteriors where rows have latents of their own."""
        if program.locals:
            return NaturalSteps(program, forgetting=self.forgetting, delay=self.delay)
        return RunningAverages(program, posteriors=True, forgetting=self.forgetting, delay=self.delay)

    def continued(self, program: Program, fit: Fitted, *, progress: Told | bool = False) -> tuple[Program, Outcome]:
        # Condition on more rows: yesterday's posterior is today's prior (Broderick et al. 2013). The objective bounds
        # log p(new rows | earlier rows), as far as the earlier posterior is right.
        conditioned = given_posteriors(program, fit, "CAVI")
        self.check(conditioned)
        return conditioned, self.run(conditioned, progress=progress)


def _judged(program: Program, outcome: Outcome) -> Outcome:
    """Weigh draws of q against the posterior."""
    try:
        judgement = judge(
            program,
            outcome.approximation,
            outcome.points,
            converged=outcome.converged,
            corrected=False,
            draws=min(WEIGHED, draws_for(program, CELLS)),
        )
    except (FitError, SINGULAR) as error:
        first = str(error).partition("\n")[0]
        return replace(outcome, verdict=f"{CARE}: draws of q could not be weighed against the posterior ({first})")
    return replace(
        outcome,
        diagnostics={**outcome.diagnostics, **judgement.diagnostics},
        verdict=judgement.verdict,
        shifts=judgement.shifts,
        warnings=[*outcome.warnings, *(n for n in judgement.warnings if n not in outcome.warnings)],
    )
