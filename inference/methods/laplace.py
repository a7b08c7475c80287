"""The Laplace approximation: a Normal at the posterior's mode."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from pydantic import PositiveInt
from torch import Tensor

from guides.curvature import polish, triangular_of_inverse
from guides.full_rank import FullRank
from guides.start import Start
from guides.variational import Variational
from inference.approximations.completed import Collapse, integrated, view_of
from inference.approximations.trained import Trained
from inference.compiled.compile import Compile, lower_gradient
from inference.diagnostics.importance import handed_out, judge
from inference.diagnostics.judgement import Judgement
from inference.diagnostics.labelling import APART
from inference.method import Method, Objective, Outcome, unsupported
from inference.runtime.interruption import asked, listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.paths import Path, climb
from inference.sampling.unconstrained import Target, centre_of, dispersed, no_density
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from zoo.program.flat_density import Density
from zoo.program.program import Program


class Mode(NamedTuple):
    """A mode and the Normal there.

    Attributes
    ----------
    q
        The Normal.
    height, evidence
        Log density at the mode, and Laplace's estimate of log p(x).
    distance
        Of the end from the mode, in standard deviations.
    same, calls, note
        How many climbs end there, gradients of all, and why they were not compiled.
    """

    q: Trained
    height: float
    evidence: float
    distance: float
    same: int
    calls: int
    note: str


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
    collapse
        "auto": latents that can be integrated out given the others are, so that the Normal is one of the others only;
        they are drawn exactly given these. False: the Normal is one of all.

    Examples
    --------
    >>> import zoo
    >>> from inference import Laplace, fit
    >>> geyser = zoo.datasets.load("faithful")
    >>> geyser["long"] = (geyser["eruptions"] > 3).astype(int)
    >>> model = zoo.LogisticRegression.from_formula("long ~ waiting", geyser)
    >>> result = fit(model, geyser, method=Laplace(), seed=0)
    >>> list(result.summary().index)
    ['intercept', 'coefficients[waiting]']
    """

    restarts: PositiveInt = 1
    steps: PositiveInt = 2000
    compile: Compile = "auto"
    corrected: bool = True
    collapse: Collapse = "auto"

    def why_not(self, program: Program) -> str | None:
        # Refuse what has no posterior density, and more coordinates than a covariance is kept for
        reason = unsupported(program) or no_density(program)
        return reason or FullRank().why_not(view_of(program, self.collapse))

    def how(self, program: Program) -> str:
        # Say what is integrated out
        return integrated(program, self.collapse)

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb to the mode and take the curvature there
        program = view_of(program, self.collapse)
        with listening(), Monitor("laplace", self.restarts, show=progress) as monitor:
            mode = self._mode(program, monitor)
            return self._outcome(program, mode, monitor)

    def _outcome(self, program: Program, mode: Mode, monitor: Monitor) -> Outcome:
        """Judge the Normal at the mode."""
        judgement = judge(program, mode.q, {}, converged=True, corrected=self.corrected)
        modes = judgement.diagnostics.get("log_labellings", 0.0)
        apart = bool(modes) and judgement.diagnostics["own_labelling"] > APART
        evidence = mode.evidence + (modes if apart else 0.0)
        reason = f"mode with log density {mode.height:.4f}, {mode.distance:.1e} standard deviations away at the end; "
        reason += f"{mode.same} of {self.restarts} climbs end there; " if self.restarts > 1 else ""
        reason += f"Laplace's estimate of log p(x) is {evidence:.4f}"
        return judgement.outcome(
            program,
            trace=monitor.trace,
            steps=mode.calls,
            reason=reason,
            warnings=[note for note in (mode.note,) if note],
            diagnostics={"laplace_evidence": evidence},
        )

    def fit_unjudged(self, program: Program) -> Outcome:
        # The draws that `run` hands out, without a verdict on them
        program = view_of(program, self.collapse)
        with Monitor("laplace", self.restarts, show=False) as monitor:
            mode = self._mode(program, monitor)
        given = handed_out(program, mode.q, {}, corrected=self.corrected)
        unjudged = Judgement(given, Objective(mode.height, "log_posterior"))
        return unjudged.outcome(program, trace=monitor.trace, steps=mode.calls, reason="a mode")

    def _mode(self, program: Program, monitor: Monitor) -> Mode:
        """The highest end of all climbs, and the Normal there."""
        density = Density(program)
        target = Target(lower_gradient(density, self.compile, 100 * self.restarts), program)
        start = natural_start(program, starting_values(program))
        centre, unit = centre_of(start)
        ends: list[Path] = []
        for i, point in enumerate([centre, *dispersed(target, centre, unit, self.restarts - 1)]):
            ends.append(climb(target, point, unit, self.steps))
            monitor.record(i + 1, max(e.value for e in ends))
            if asked():
                break
        best = max(ends, key=lambda e: e.value)
        mode, root, distance = polish(density, torch.from_numpy(best.end))
        q = normal_guide(program, start, mode, triangular_of_inverse(root))
        height = float(density.log_prob(mode.to(program.device, program.dtype)))
        return Mode(
            q=Trained(FullRank(), q.requires_grad_(False).eval(), program.data),
            height=height,
            evidence=height + 0.5 * len(mode) * math.log(2 * math.pi) - float(root.diagonal().log().sum()),
            distance=distance,
            same=sum(e.value > best.value - 0.1 for e in ends),
            calls=target.calls,
            note=target.gradient.note,
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
