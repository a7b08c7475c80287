"""Coordinate-ascent variational inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt

from inference.approximations.conjugate import Conjugate
from inference.conjugate import EStep, closed_form
from inference.conjugate.family import uses
from inference.coordinate.ascent import Coordinates, State, distinct
from inference.coordinate.convergence import arrived
from inference.coordinate.restarts import noted
from inference.coordinate.source import RowSource
from inference.coordinate.stepwise import RunningAverages, checked
from inference.diagnostics.components import empty_components, floored_scales
from inference.method import Method, Objective, Outcome, unsupported
from inference.runtime.monitor import Monitor
from inference.starts.start import start_state
from zoo.data.bind import Source
from zoo.errors import FitError
from zoo.program.program import Program

if TYPE_CHECKING:
    from inference.posterior.fit import Fit


@dataclass(frozen=True)
class CAVI(Method):
    """Coordinate-ascent variational inference: conjugate updates of a factorized posterior, block by block.

    q(z, u) = q(z) prod_b q(u_b); each step sets q(z) of the enumerated sites to their exact posterior under the
    expected log densities, then each q(u_b) proportional to exp E[log p(x, z, u)], which is in its prior's family
    (Bishop 2006, equation 10.9). The ELBO, every constant kept, never decreases. Unknowns whose priors are conjugate
    together (Normal-Gamma, Normal-Wishart, all coefficients of a linear predictor) share one block. Parameters without
    prior are set to the maximum of the ELBO.

    Parameters
    ----------
    restarts
        Number of starts, of which the best end is kept.
    tolerance
        Stop when the ELBO is within this many nats of its limit, judged by Aitken extrapolation.
    max_steps
        Most steps from each start; passes over the data with `batch_size`.
    batch_size
        Rows per step of the stochastic variant: natural-gradient steps of size (step + delay)^-forgetting
        (Hoffman et al. 2013, algorithm 1). None for all rows.
    forgetting, delay
        Of that step size; 0.5 < forgetting <= 1.
    start
        "kmeans" or "random" for the first guess of the enumerated sites.
    distributed
        Each process of a `torch.distributed` group works on its share of the rows, and statistics are summed; as for
        `EM`.
    """

    restarts: PositiveInt = 1
    tolerance: PositiveFloat = 1e-6
    max_steps: PositiveInt = 1000
    batch_size: PositiveInt | None = None
    forgetting: Annotated[float, Field(gt=0.5, le=1.0)] = 0.7
    delay: PositiveFloat = 1.0
    start: Literal["kmeans", "random"] = "kmeans"
    distributed: bool = False

    streams: ClassVar[bool] = True

    def why_not(self, program: Program) -> str | None:
        """Refuse models with no latent to have a posterior, or one without conjugate updates."""
        if (reason := unsupported(program)) is not None:
            return reason
        if not program.latents:
            return "there is no continuous latent to have a posterior: its unknowns are parameters without prior"
        plan = closed_form(program)
        if plan.rest:
            return no_update(program, plan.rest[0])
        for block in plan.blocks:
            roles = {program.sites[n].role == "parameter" for n in block.unknowns}
            if len(roles) > 1:
                return f"{' and '.join(block.unknowns)} are updated together, and not all have a prior"
        if self.batch_size is not None and self.distributed:
            return "batch_size and distributed do not go together"
        return None if self.batch_size is None else RunningAverages.why_not(program)

    def how(self, program: Program) -> str:
        """Say which latents share a block."""
        blocks = [block.unknowns for block in closed_form(program).blocks]
        return "blocks: " + "; ".join(", ".join(names) for names in blocks)

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Climb from each start; keep the best end."""
        best: tuple[float, State, Monitor, bool, int, EStep] | None = None
        failed: list[str] = []
        for start in range(self.restarts):
            with (
                Monitor(f"cavi {start + 1}/{self.restarts}", self.max_steps, show=progress) as monitor,
                noted(failed, self.restarts),
            ):
                random = self.start == "random" or (start % 2 == 1 and not program.proposes)
                state = start_state(program, "random" if random else "kmeans")
                climb = self._climb if self.batch_size is None else self._climb_by_batches
                state, converged, steps, expected = climb(program, state, monitor)
                value = monitor.rows[-1][2]
                if best is None or value > best[0]:
                    best = value, state, monitor, converged, steps, expected
        if best is None:
            raise FitError(f"cavi broke down from every start: {failed[0]}. Try weaker data or a stronger prior")
        value, state, monitor, converged, steps, expected = best
        reason = f"within {self.tolerance:g} of the limit after {steps} steps"
        if self.batch_size is not None:
            reason = f"the objective stands still within its noise after {steps} passes"
        if not converged:
            reason = f"stopped at max_steps={self.max_steps} before reaching tolerance={self.tolerance:g}"
        warnings = [] if converged else [reason]
        if failed:
            warnings.append(f"{len(failed)} of {self.restarts} starts broke down: {failed[0]}")
        latents = {s.name for s in program.latents}
        points = {n: v for n, v in state.values.items() if n not in latents}
        if points:
            warnings += floored_scales(program, state.values)
        return Outcome(
            approximation=Conjugate(distinct(state.beliefs)),
            points=points,
            objective=Objective(value, "elbo"),
            trace=monitor.trace,
            steps=steps,
            converged=converged,
            reason=reason,
            warnings=warnings + empty_components(program, expected),
        )

    def _climb(self, program: Program, state: State, monitor: Monitor) -> tuple[State, bool, int, EStep]:
        """Update all blocks from all rows until the ELBO stands still."""
        ascent = Coordinates(program, rows=RowSource(program, distributed=self.distributed))
        ascent.prepare(state)
        history: list[float] = []
        _, expected = ascent.expect(state)
        state = ascent.believe(expected)
        for step in range(1, self.max_steps + 1):
            value, expected = ascent.expect(state)
            history.append(checked(float(value), f"{step} steps"))
            monitor.record(step, history[-1])
            if arrived(history, self.tolerance, torch.finfo(program.dtype).eps):
                return state, True, step, expected
            if step < self.max_steps:
                state = ascent.believe(expected)
        return state, False, self.max_steps, expected

    def _climb_by_batches(self, program: Program, state: State, monitor: Monitor) -> tuple[State, bool, int, EStep]:
        """Take natural-gradient steps from mini-batches; the ELBO of all rows is evaluated after each pass."""
        assert self.batch_size is not None
        averages = RunningAverages(program, beliefs=True, forgetting=self.forgetting, delay=self.delay)
        whole = Coordinates(program, rows=RowSource(program))
        whole.prepare(state)
        return averages.climb(
            whole, state, size=self.batch_size, tolerance=self.tolerance, passes=self.max_steps, monitor=monitor
        )

    def update(self, fit: Fit, new_data: Source) -> Fit:
        """Condition a fit on more data: yesterday's posterior is today's prior (Broderick et al. 2013).

        Parameters
        ----------
        fit
            A fit by `CAVI` (or `Exact`).
        new_data
            Rows that are independent of the earlier ones given the latents.

        Returns
        -------
        Fit
            Its objective bounds log p(new data | earlier data), as far as the earlier posterior is right.

        Raises
        ------
        MethodError
            If the fit has no conjugate posterior, or a latent belongs to the earlier rows.
        """
        from inference.updating import conditioned

        return conditioned(self, fit, new_data)


def no_update(program: Program, name: str) -> str:
    """Say that an unknown has no conjugate update."""
    from zoo.replay.sites import primary

    if name not in program.sites:
        return f"{name!r} belongs to a network, which has no closed-form update"
    gaps = [s.name for s, _ in uses(program, name) if s.name in closed_form(program).incomplete]
    if gaps:
        return f"site {gaps[0]!r} has missing values (NaN), and {name!r} has a closed form for complete rows only"
    site = program.sites[name]
    what = ", ".join(f"{k}={f}" for k, f in primary(site.args).items() if f.kind != "constant")
    return (
        f"no conjugate family is recognised for {site.name!r} ~ {site.family or site.support} "
        f"({what or 'constant arguments'}) and what it feeds"
    )
