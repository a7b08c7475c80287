"""The Laplace approximation: a Normal at the posterior's mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from pydantic import PositiveInt
from torch import Tensor

from guides.curvature import polish, triangular_of_inverse
from guides.full_rank import FullRank
from guides.start import Start
from guides.variational import Variational
from inference.approximations.trained import Trained
from inference.compiled.compile import Compile, lower_gradient
from inference.diagnostics.importance import judge
from inference.diagnostics.labelling import APART
from inference.method import Method, Outcome, unsupported
from inference.runtime.monitor import Monitor
from inference.sampling.paths import climb
from inference.sampling.unconstrained import Target, centre_of, dispersed, no_density
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from zoo.program.flat_density import Density
from zoo.program.program import Program


@dataclass(frozen=True)
class Laplace(Method):
    """A Normal at the posterior mode, with the curvature there: q(u) = Normal(u*, (-H)^-1).

    u* maximizes log p(x, z(u)) + log|dz/du| over unconstrained vectors, enumerated sites summed out, by L-BFGS and
    Newton steps; H is the Hessian there (Tierney and Kadane 1986; MacKay 2003, chapter 27). Exact for a Normal
    posterior. The objective is its ELBO; its own estimate of the evidence, log p(x, u*) + d/2 log 2 pi - 1/2 log|-H|,
    is the diagnostic "laplace_evidence", with log K! more where K exchangeable states have as many modes that lie
    apart. Pareto k-hat says whether the posterior is close to Normal.

    Parameters
    ----------
    restarts
        Number of climbs: from the starting values, and from points around them; the highest end is taken.
    steps
        Most steps of a climb.
    compile
        Compile the gradient: True, False, or "auto", where that is expected to save more time than it takes.
    corrected
        Resample draws by Pareto-smoothed importance weights where k-hat allows it; False hands out the Normal's own.
    """

    restarts: PositiveInt = 1
    steps: PositiveInt = 2000
    compile: Compile = "auto"
    corrected: bool = True

    def why_not(self, program: Program) -> str | None:
        """Refuse what has no posterior density, and more coordinates than a covariance is kept for."""
        return unsupported(program) or no_density(program) or FullRank().why_not(program)

    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Climb to the mode and take the curvature there."""
        density = Density(program)
        target = Target(lower_gradient(density, self.compile, 100 * self.restarts), program)
        values = starting_values(program)
        start = natural_start(program, values)
        centre, unit = centre_of(start)
        points = [centre, *dispersed(target, centre, unit, self.restarts - 1)]
        with Monitor("laplace", self.restarts, show=progress) as monitor:
            ends = []
            for i, point in enumerate(points):
                ends.append(climb(target, point, unit, self.steps))
                monitor.record(i + 1, max(e.value for e in ends))
        best = max(ends, key=lambda e: e.value)
        mode, root, distance = polish(density, torch.from_numpy(best.end))
        q = normal_guide(program, start, mode, triangular_of_inverse(root))
        height = float(density.log_prob(mode.to(program.device, program.dtype)))
        log_p = height + 0.5 * len(mode) * math.log(2 * math.pi) - float(root.diagonal().log().sum())
        fitted = Trained(FullRank(), q.requires_grad_(False).eval(), program.data)
        judgement = judge(program, fitted, {}, converged=True, corrected=self.corrected)
        modes = judgement.diagnostics.get("log_labellings", 0.0)
        if modes and judgement.diagnostics["own_labelling"] > APART:
            log_p += modes
        same = sum(e.value > best.value - 0.1 for e in ends)
        reason = f"mode with log density {height:.4f}, {distance:.1e} standard deviations away at the end; "
        reason += f"{same} of {self.restarts} climbs end there; " if self.restarts > 1 else ""
        reason += f"Laplace's estimate of log p(x) is {log_p:.4f}"
        return Outcome(
            approximation=judgement.approximation,
            points={},
            objective=judgement.objective,
            trace=monitor.trace,
            steps=target.calls,
            converged=True,
            reason=reason,
            warnings=[*(note for note in (target.gradient.note,) if note), *judgement.warnings],
            diagnostics={"laplace_evidence": log_p, **judgement.diagnostics},
            verdict=judgement.verdict,
            shifts=judgement.shifts,
        )


def normal_guide(program: Program, start: Start, mean: Tensor, tril: Tensor) -> Variational:
    """Full-rank guide that is Normal(mean, L L^T), in units of its standard deviations."""
    unit = tril.square().sum(1).sqrt()
    cut = start.globals.numel()

    def parts(vector: Tensor) -> tuple[Tensor, Tensor]:
        there = vector.to(program.device, program.dtype)
        return there[:cut], there[cut:].reshape(start.locals.shape)

    (globals_, locals_), (global_unit, local_unit) = parts(mean), parts(unit)
    q = FullRank().build(
        program, Start(globals_, locals_, start.parameters, global_unit, local_unit, start.parameter_unit)
    )
    scaled = (tril / unit[:, None]).to(program.device, program.dtype)
    with torch.no_grad():
        state = q.over_globals.state_dict()
        state["log_scale"].copy_(scaled.diagonal().log())
        state["lower"].copy_(scaled.tril(-1))
    return q
