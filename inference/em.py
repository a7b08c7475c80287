"""Expectation maximization."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import PositiveFloat, PositiveInt

from inference.approximation import PointMass
from inference.coordinate import Coordinates, State
from inference.families import Expected, closed_form
from inference.gradient_step import GradientStep
from inference.method import Method, Monitor, Objective, Outcome, unsupported
from inference.start import first_marginals, first_update, proposes
from zoo.declare.evaluate import Values
from zoo.declare.program import Program
from zoo.errors import FitError

FIRST_ROUNDS = 20  # gradient M-steps from the clustering, which starts far from where it belongs


@dataclass(frozen=True)
class EM(Method):
    """Expectation maximization: the discrete latents exactly, the rest as points.

    theta_{t+1} = argmax_theta E_{p(z | x, theta_t)}[log p(x, z, theta)] (Dempster, Laird and Rubin 1977). The E-step
    enumerates the discrete latents exactly. The M-step is in closed form wherever the structure of the model shows one;
    what is left is climbed by gradient (generalized EM). Latents with priors are set to their mode, so the objective is
    the log likelihood plus the log prior (MAP-EM). The objective never decreases.

    Parameters
    ----------
    restarts
        Number of starts, of which the best end is kept.
    tolerance
        Stop when the objective is within this many nats of its limit, judged by Aitken extrapolation (McLachlan and
        Krishnan 2008, section 4.9).
    max_steps
        Most steps from each start.
    """

    restarts: PositiveInt = 1
    tolerance: PositiveFloat = 1e-6
    max_steps: PositiveInt = 1000
    hard: bool = False

    def why_not(self, program: Program) -> str | None:
        """Refuse models with nothing to enumerate or with continuous local latents."""
        if (reason := unsupported(program)) is not None:
            return reason
        if not program.enumerated:
            return "nothing to enumerate: it has no discrete latent"
        if program.locals:
            return f"site {program.locals[0].name!r} is a continuous local latent, which the E-step cannot sum over"
        return None

    def how(self, program: Program) -> str:
        """Say which unknowns have a closed-form M-step and which are climbed by gradient."""
        plan = closed_form(program)
        exact = ", ".join(n for block in plan.blocks for n in block.unknowns)
        climbed = ", ".join(GradientStep(program, plan.rest).names)
        return "; ".join(f"{kind}: {names}" for kind, names in (("closed form", exact), ("gradient", climbed)) if names)

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Climb from each start; keep the best end."""
        climb = GradientStep(program, closed_form(program).rest)
        best: tuple[float, Values, Monitor, bool, int] | None = None
        failed: list[str] = []
        for start in range(self.restarts):
            with Monitor(f"em {start + 1}/{self.restarts}", self.max_steps, show=progress) as monitor:
                try:
                    values, converged, steps = self._climb(program, climb, monitor, random=start % 2 == 1)
                except (FitError, RuntimeError) as error:
                    if not isinstance(error, FitError) and "linalg" not in str(error):
                        raise
                    failed.append(str(error))
                    continue
            value = monitor.rows[-1][2]
            if best is None or value > best[0]:
                best = value, values, monitor, converged, steps
        if best is None:
            raise FitError(
                f"em broke down from every start: {failed[0]}. Try fewer components, a prior, or EM(restarts=10)"
            )
        value, values, monitor, converged, steps = best
        kind = "log_posterior" if program.latents else "log_likelihood"
        points = {n: values[n] for n in values if n not in {s.name for s in program.latents}}
        latents = {s.name: values[s.name] for s in program.latents}
        reason = (
            f"within {self.tolerance:g} of the limit after {steps} steps"
            if converged
            else f"stopped at max_steps={self.max_steps} before reaching tolerance={self.tolerance:g}"
        )
        warnings = [] if converged else [reason]
        if failed:
            warnings.append(f"{len(failed)} of {self.restarts} starts broke down: {failed[0]}")
        return Outcome(
            PointMass(latents),
            points,
            Objective(value, kind),
            monitor.trace,
            steps,
            converged,
            reason,
            warnings + thin_components(program, values) + collapsed(program, values),
        )

    def _climb(
        self, program: Program, climb: GradientStep, monitor: Monitor, *, random: bool
    ) -> tuple[Values, bool, int]:
        """Take steps from one start until the objective stands still."""
        values = program.initial()
        if not proposes(program):
            marginals = first_marginals(program, random=random)
            for _ in range(FIRST_ROUNDS if climb.names and marginals is not None else 1):
                if marginals is not None:
                    values = climb(first_update(program, values, marginals), marginals)
        values = climb.admit(values)
        ascent = Coordinates(program, hard=self.hard)
        ascent.prepare(State(values, {}))
        history: list[float] = []
        for step in range(self.max_steps + 1):
            objective, expected = ascent.expect(State(values, {}))
            value = float(objective)
            if value != value:
                raise FitError(f"the objective is not a number after {step} steps")
            history.append(value)
            monitor.record(step, value)
            if arrived(history, self.tolerance, torch.finfo(program.dtype).eps):
                return values, True, step
            if step < self.max_steps:
                values = climb(ascent.maximize(expected), expected.marginals)
        return values, False, self.max_steps


def collapsed(program: Program, values: Values) -> list[str]:
    """Warn of scales that stand at their floor."""
    plan = closed_form(program)
    with torch.no_grad():
        replay = program.replay(values)
        _, marginals = program.marginals(replay.log_probs)
        expected = Expected(plan, program, values, replay, marginals)
        return [note for block in plan.blocks for note in block.warnings(expected)]


def arrived(history: list[float], tolerance: float, eps: float) -> bool:
    """Tell whether a sequence with linear convergence is within `tolerance` of its limit (Aitken extrapolation)."""
    if len(history) < 3:
        return False
    before, now = history[-2] - history[-3], history[-1] - history[-2]
    if abs(now) <= 8 * eps * abs(history[-1]):
        return True
    rate = now / before if before > 0 else 1.0
    return 0 <= rate < 1 and now * rate / (1 - rate) < tolerance


def thin_components(program: Program, values: Values) -> list[str]:
    """Warn of states that hold almost no rows, by number and effective size."""
    with torch.no_grad():
        found = program.responsibilities(values) if program.row else {}
    matrices = any(s.family == "MultivariateNormal" for s in program.observed)
    least = program.data.features().shape[1] + 1 if matrices else 2
    notes = []
    for name, probability in found.items():
        sizes = probability.sum(0)
        thin = [(k, float(s)) for k, s in enumerate(sizes) if float(s) < least]
        notes += [
            f"component {k} of {name!r} holds {s:.2f} rows in effect; its parameters are hardly determined"
            for k, s in thin
        ]
    return notes
