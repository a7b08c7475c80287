"""Maximum a posteriori by gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from guides.curvature import polish, slope
from guides.guide import Guide
from guides.point import Point
from inference.approximations.point import PointMass
from inference.conjugate import closed_form
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.maximum import Objective as Surface
from inference.diagnostics.maximum import judge_point
from inference.diagnostics.poles import pole
from inference.method import Objective, Outcome
from inference.methods.svi import SVI
from inference.runtime.interruption import asked, listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.paths import Path, climb
from inference.starts.values import settled_values
from zoo.errors import FitError, MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values

LARGEST = 200  # unknowns up to which the curvature is taken
CLIMB = 500  # steps of L-BFGS at most, before Newton's
EXACT = 1e-6  # standard deviations that the last step may be long


@dataclass(frozen=True)
class MAP(SVI):
    """The posterior mode: `SVI` with `Point()` as its guide, or Newton's method where the density is smooth.

    z* = argmax_z log p(x, z; theta), enumerated sites summed out. Where there is nothing to sum out, no latent of each
    row and no network, the climb is one by L-BFGS from where closed-form updates lead, with Newton steps at its end:
    exact, in tens of steps. Settings of the stochastic climb other than `steps` choose that one.

    Raises
    ------
    MethodError
        If the guide is not a point.

    Examples
    --------
    >>> import zoo
    >>> from inference import MAP, fit
    >>> result = fit(zoo.BetaBernoulli(a=2.0, b=2.0), [1, 0, 1, 1, 0, 1], method=MAP(), seed=0)
    >>> result.summary()["value"].round(3)  # (2 + 4 - 1) / (4 + 6 - 2)
    p    0.625
    Name: value, dtype: float64
    """

    guide: Guide = field(default_factory=Point)

    def __post_init__(self) -> None:
        """Check the settings, and that the guide is a point."""
        super().__post_init__()
        if not self.guide.point:
            raise MethodError(f"map needs a guide that is a point, not {self.guide!r}; use svi with that guide")

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb by Newton's method where that comes to a maximum, else as `SVI` does
        if self._smooth(program):
            try:
                return self._newton(program, progress=progress)
            except (FitError, RuntimeError):  # flat, at an edge, no number, or control flow that depends on values
                pass
        return super().run(program, progress=progress)

    def _smooth(self, program: Program) -> bool:
        """Whether the settings are the defaults, and the log joint is a smooth function of few numbers."""
        discrete = program.enumerated or program.integrated is not None or any(s.countable for s in program.latents)
        if self != MAP(steps=self.steps) or discrete or program.networks or program.locals:
            return False
        size = program.view.global_size + program.parameter_view.global_size
        return program.data.stream is None and 0 < size <= LARGEST

    def _newton(self, program: Program, *, progress: Told | bool) -> Outcome:
        """Climb from where closed-form updates lead.

        Raises
        ------
        FitError
            If the end is no maximum.
        """
        surface = Surface(program)
        values = settled_values(program)
        with listening(), Monitor("map", self.steps, show=progress) as monitor:
            path = self._path(surface, values)
            taken = len(path.v) - 1
            if taken >= self.steps:
                raise FitError("map: more steps are needed")
            for step, v in enumerate(path.v):
                place = torch.from_numpy(path.start + path.unit * v).to(surface.like)
                with torch.no_grad():
                    monitor.record(step, float(surface.log_prob(place)))
            mode, distance = torch.from_numpy(path.end), math.inf
            if not asked():
                mode, _, distance = polish(surface, mode)
            if not distance < EXACT and not asked():
                raise FitError("map: the end is no maximum")
            with torch.no_grad():
                height = float(surface.log_prob(mode.to(surface.like)))
                if height > path.value or taken:
                    values = surface.values(mode.to(surface.like))
                height = float(program.log_joint(values).total(program.data.weights))
            if not math.isfinite(height):
                raise FitError("map: the log density is no number")
            monitor.record(taken + 1, max(height, path.value))
            return self._outcome(program, values, height, taken, distance, monitor)

    @staticmethod
    def _outcome(
        program: Program, values: Values, height: float, taken: int, distance: float, monitor: Monitor
    ) -> Outcome:
        """Say of the end whether it is a maximum."""
        latents = {s.name: values[s.name] for s in program.latents}
        points = {s.name: values[s.name] for s in program.parameters}
        edge = pole(program, latents, points) if latents else ""
        closed = not taken and not closed_form(program).rest
        how = f"a maximum by {f'{taken} steps of L-BFGS and ' if taken else ''}Newton's method"
        how = "closed form" if closed else how
        reason = edge or f"{how}, within {distance:.1g} standard deviations"
        found = judge_point(program, values, [height], converged=not edge, reason=reason)
        objective = Objective(height, "log_posterior" if latents else "log_likelihood")
        judgement = Judgement(PointMass(latents), objective, found.diagnostics, [edge] if edge else [], found.verdict)
        return judgement.outcome(
            program, points=points, trace=monitor.trace, steps=taken + 1, converged=not edge, reason=reason
        )

    def _path(self, surface: Surface, values: Values) -> Path:
        """Climb by L-BFGS in units of the curvature at its start; not at all where that is the maximum."""
        u = surface.vector(values).double().cpu()

        def target(at: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = slope(surface, torch.from_numpy(at))
            return value, gradient.numpy()

        unit = surface.unit(u)
        value, gradient = slope(surface, u)
        start = u.numpy()
        if float((unit * gradient).norm()) < EXACT:
            return Path(start, unit.numpy(), np.zeros((1, len(u))), gradient[None].numpy(), value, "")
        return climb(target, start, unit.numpy(), min(self.steps, CLIMB))
