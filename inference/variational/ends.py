"""What is made of the places where the starts of a climb have ended: q there, and what is said of the best."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from guides.guide import Guide
from inference.approximations.approximation import Approximation
from inference.approximations.corrected_rows import CorrectedRows
from inference.approximations.point import PointMass
from inference.approximations.trained import Trained
from inference.diagnostics.agreement import with_agreement
from inference.diagnostics.by_row import judge_rows, judged_by_row
from inference.diagnostics.importance import handed_out, judge
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.maximum import judge_point
from inference.diagnostics.poles import pole
from inference.method import Objective, Outcome
from inference.variational.last_step import finished
from inference.variational.optimize import Climb
from inference.variational.schedule import Schedule
from zoo.errors import FitError
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass(frozen=True)
class Ends:
    """Where the starts of a climb have ended.

    Attributes
    ----------
    climb
        After its last step.
    guide
        Whose q climbed.
    draws
        Of a step.
    particles
        Draws of the importance-weighted bound that is reported; 1 for the ELBO.
    corrected
        Whether draws that are handed out are resampled by their weights, where these allow it.
    """

    climb: Climb
    guide: Guide
    draws: int
    particles: int
    corrected: bool

    def best(self, note: str) -> Outcome:
        """Keep the best end, and evaluate it with many draws and all rows.

        Parameters
        ----------
        note
            Why steps were not compiled.

        Raises
        ------
        FitError
            If no start has come to an end.
        """
        climb, bound = self.climb, self.climb.bound
        program, starts = bound.program, len(climb.schedules)
        found, failures = self._approximations()
        best = next(iter(found))
        schedule, q = climb.schedules[best], found[best]
        warnings = self._warnings(best, note)
        if len(found) < starts:
            warnings.append(f"{starts - len(found)} of {starts} starts broke down")
        warnings += [*failures, *self.guide.caveats(program)]
        points, edge = {i: bound.points(climb.position, i) for i in found}, ""
        with torch.no_grad():
            if isinstance(q, PointMass):
                edge = pole(program, q.values, points[best]) if program.latents else ""
                heights = [climb.schedules[i].latest for i in found]
                judgement = _judged_point(program, q, points[best], heights, schedule, edge)
            else:
                judgement = self._judged(program, q, points[best], schedule)
                if len(found) > 1:
                    judgement = with_agreement(program, judgement, [(found[i], points[i]) for i in sorted(found)])
        trace, reason = climb.monitors[best].trace, edge or schedule.reason
        if climb.held_out is not None:
            trace = trace.assign(validation=schedule.validation())
        return judgement.outcome(
            program,
            points=points[best],
            trace=trace,
            steps=schedule.step,
            converged=schedule.converged and not edge,
            reason=reason,
            warnings=warnings,
        )

    def unjudged(self, program: Program, index: int) -> Outcome:
        """What a fit of one data set would hand out, that of the program, where each start has climbed for another.

        Raises
        ------
        FitError
            If this start has not come to an end.
        """
        climb = self.climb
        schedule = climb.schedules[index]
        if not schedule.means or schedule.abandoned:
            raise self._nowhere()
        climb.conclude(index)
        q = self._approximation(index)
        assert isinstance(q, Trained)
        q, points = replace(q, data=program.data), climb.bound.points(climb.position, index)
        with torch.no_grad():
            given: Approximation = CorrectedRows(q, points)
            if not (self.corrected and judged_by_row(program, q, points)):
                given = handed_out(program, q, points, corrected=self.corrected)
        return Judgement(given, Objective(schedule.latest, "elbo")).outcome(
            program,
            points=points,
            trace=climb.monitors[index].trace,
            steps=schedule.step,
            converged=schedule.converged,
            reason=schedule.reason,
        )

    def _nowhere(self) -> FitError:
        return FitError(f"svi: the bound was not finite often enough to judge it in {self.climb.taken} steps")

    def _approximations(self) -> tuple[dict[int, Approximation], list[str]]:
        """q at each end, the highest first, and why there is none at some of them."""
        climb = self.climb
        ends = [i for i, s in enumerate(climb.schedules) if s.means and not s.abandoned]
        if not ends:
            raise self._nowhere()
        for i in ends:
            climb.conclude(i)
        approximations: dict[int, Approximation] = {}
        failures: list[FitError] = []
        for i in sorted(ends, key=lambda i: -climb.schedules[i].latest):
            try:
                approximations[i] = self._approximation(i)
            except FitError as error:
                failures.append(error)
        if not approximations:
            raise failures[0]
        return approximations, list(dict.fromkeys(map(str, failures)))

    def _approximation(self, index: int) -> Approximation:
        bound = self.climb.bound
        q = finished(bound, self.climb.position, index, self.draws)
        if bound.point:
            draw = q.draw(bound.program.data)
            view, latents = bound.view, bool(bound.program.latents)
            values = view.constrain_globals(draw.globals)[0] | view.constrain_locals(draw.locals)[0] if latents else {}
            return PointMass({n: v.detach().clone() for n, v in values.items()})
        return Trained(self.guide, copy.deepcopy(q).requires_grad_(False).eval(), bound.program.data)

    def _warnings(self, index: int, note: str) -> list[str]:
        """What went less than well on the way up."""
        schedule, broken, way = self.climb.schedules[index], self.climb.broken[index], self.climb.bound.vectorized
        warnings = [note] if note else []
        if not way.ways:
            warnings.append(f"draws were evaluated one after the other, which is slow: {way.note}")
        if not schedule.converged:
            warnings.append(schedule.reason)
        if broken:
            warnings.append(f"{broken} steps gave an ELBO that was not finite and were skipped")
        return warnings

    def _judged(self, program: Program, q: Approximation, points: Values, schedule: Schedule) -> Judgement:
        """Weigh draws of the best end."""
        weigh = judge_rows if judged_by_row(program, q, points) else judge
        return weigh(
            program,
            q,
            points,
            converged=schedule.converged,
            particles=self.particles,
            corrected=self.corrected,
        )


def _judged_point(
    program: Program, q: PointMass, points: Values, heights: Sequence[float], schedule: Schedule, edge: str
) -> Judgement:
    """Say whether the best end is a maximum; `edge` says of what it is a pole, if of anything."""
    values = {**points, **q.values}
    found = judge_point(
        program, values, heights, converged=schedule.converged and not edge, reason=edge or schedule.reason
    )
    value = float(program.log_joint(values).total(program.data.weights))
    if not math.isfinite(value):
        raise FitError(f"the log density is {value} at the end; it is not a number near its mode")
    objective = Objective(value, "log_posterior" if program.latents else "log_likelihood")
    return Judgement(q, objective, found.diagnostics, [edge] if edge else [], found.verdict)
