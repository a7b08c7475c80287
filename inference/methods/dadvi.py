"""Deterministic variational inference: the ELBO over fixed draws, maximized like any other function."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice
from typing import NamedTuple

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from guides.curvature import factor as factor_of_curvature
from guides.full_rank import FullRank
from inference.approximations.completed import Collapse, integrated, view_of
from inference.approximations.trained import Trained
from inference.compiled.compile import Compile, Lowered
from inference.diagnostics.importance import handed_out, judge
from inference.diagnostics.judgement import Judgement
from inference.method import Method, Objective, Outcome, unsupported
from inference.methods.laplace import normal_guide
from inference.runtime.interruption import asked, listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.paths import climb
from inference.sampling.unconstrained import Target, centre_of, dispersed, no_density
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from inference.variational.fixed_draws import FixedDraws
from zoo.errors import FitError, MethodError
from zoo.program.flat_density import Density
from zoo.program.program import Program

MODE_STEPS = 200  # of the climb that looks for first coordinates; a density without a mode has none to find
HISTORY = 20  # steps that curvature is estimated from: coordinates may be all but collinear
ROUGH = 1e-2  # entry of the gradient, in natural units, at which Newton's steps take over
NEWTON = 10  # most of them
NEAR = 1e-5  # distance to the maximum, in standard deviations of the linear response, at which they end
SAME = 0.1  # over which the curvature changes too little to be taken anew
FAR = 1e-2  # at which this is no maximum
TRIED = 2  # points of which each climb begins at the better one,
MOST_TRIED = 5  # or more where none of these leads to a mode
NOISY = 0.25  # posterior standard deviations that a mean may be off because there are so few draws


class Maximum(NamedTuple):
    """Where the ELBO over the fixed draws is highest, and the linear response there.

    Attributes
    ----------
    mean, tril
        Of the Normal with the linear response's covariance, over unconstrained vectors: (size,), (size, size).
    bound
        The ELBO over the fixed draws.
    errors
        Of each mean for there being so few draws, in its standard deviations, (size,).
    distance
        From the maximum at the last step, in standard deviations.
    """

    mean: Tensor
    tril: Tensor
    bound: float
    errors: Tensor
    distance: float


@dataclass(frozen=True)
class DADVI(Method):
    """Mean-field variational inference over draws that stay the same, with covariances by linear response.

    max over m, s of 1/N sum_n log p(u_n) + sum_j log s_j, u_n = c + F (m + s z_n), log p with log|dz/du|, enumerated
    sites summed out (Giordano, Ingram and Broderick 2024). The draws z_n are fixed, so the bound is a function like any
    other: L-BFGS and Newton's steps find its maximum to all digits, without rates, schedules or a seed for each step.
    A mean-field Normal has standard deviations that are too small; how its means respond when log p is tilted,
    d m / d t for log p + t' u, are the posterior's covariances, from the bound's second derivatives (Giordano,
    Broderick and Jordan 2018). q is Normal with these. F is the factor of the inverse curvature at the mode where there
    is one and the bound is higher for it, else the natural units. The objective is the ELBO of q over fresh draws.
    The diagnostic "draws_error" is the standard error of the mean that the fixed draws put farthest off, in posterior
    sds.

    Parameters
    ----------
    draws
        N; in pairs z and -z, so it is even.
    restarts
        Number of climbs: from the starting values, and from points around them; the highest bound is taken.
    steps
        Most steps of a climb.
    compile
        Compile the gradient: True, False, or "auto", where that is expected to save more time than it takes.
    corrected
        Resample draws by Pareto-smoothed importance weights where k-hat allows it; False hands out the Normal's own.
    collapse
        "auto": latents that can be integrated out given the others are, and are drawn exactly afterwards, jointly for
        each draw of the others (`explain` says which); q is Normal in those that are left. False: q is of all of them.

    Examples
    --------
    >>> import zoo
    >>> from inference import DADVI, fit
    >>> result = fit(zoo.GammaPoisson(a=2.0, b=1.0), [3, 1, 4, 1, 5], method=DADVI(), seed=0)
    >>> print(result.objective.kind, result.converged)
    elbo True
    """

    draws: PositiveInt = 20
    restarts: PositiveInt = 1
    steps: PositiveInt = 500
    compile: Compile = "auto"
    corrected: bool = True
    collapse: Collapse = "auto"

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if self.draws % 2 or self.draws < 4:
            raise MethodError(f"dadvi: draws={self.draws} must be even and at least 4: draws come in pairs z and -z")

    def why_not(self, program: Program) -> str | None:
        # Refuse what has no posterior density, and more coordinates than a covariance is kept for
        reason = unsupported(program) or no_density(program)
        return reason or FullRank().why_not(view_of(program, self.collapse))

    def how(self, program: Program) -> str:
        # Say what is integrated out
        return integrated(program, self.collapse)

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb, respond and judge
        program = view_of(program, self.collapse)
        with listening(), Monitor("dadvi", self.restarts, show=progress) as monitor:
            best, q, fixed, same = self._fitted(program, monitor)
            return self._outcome(program, best, q, fixed, same, monitor)

    def _outcome(
        self, program: Program, best: Maximum, q: Trained, fixed: FixedDraws, same: int, monitor: Monitor
    ) -> Outcome:
        """Judge the Normal at the highest maximum."""
        judgement = judge(program, q, {}, converged=True, corrected=self.corrected)
        error = float(best.errors.max())
        reason = f"the ELBO over {self.draws} fixed draws is {best.bound:.4f}, {best.distance:.1e} standard deviations "
        reason += f"from its maximum; {fixed.calls} gradients"
        reason += f"; {same} of {self.restarts} climbs end there" if self.restarts > 1 else ""
        notes = [fixed.gradient.note] if fixed.gradient.note else []
        if error > NOISY:
            name = fixed.density.name(int(best.errors.argmax()))
            notes.append(f"{self.draws} draws leave the mean of {name!r} uncertain by {error:.2g} sds; give more draws")
        return judgement.outcome(
            program,
            trace=monitor.trace,
            steps=fixed.calls,
            reason=reason,
            warnings=notes,
            diagnostics={"fixed_elbo": best.bound, "draws_error": error},
        )

    def fit_unjudged(self, program: Program) -> Outcome:
        # The draws that `run` hands out, without a verdict on them
        program = view_of(program, self.collapse)
        with Monitor("dadvi", self.restarts, show=False) as monitor:
            best, q, fixed, _ = self._fitted(program, monitor)
        given = handed_out(program, q, {}, corrected=self.corrected)
        reason = "the ELBO over fixed draws is at its maximum"
        unjudged = Judgement(given, Objective(best.bound, "elbo"))
        return unjudged.outcome(program, trace=monitor.trace, steps=fixed.calls, reason=reason)

    def _fitted(self, program: Program, monitor: Monitor) -> tuple[Maximum, Trained, FixedDraws, int]:
        """The highest maximum of all climbs, q there, what was climbed, and how many climbs end there."""
        density = Density(program)
        start = natural_start(program, starting_values(program))
        centre, unit = centre_of(start)
        fixed = FixedDraws(density, self.draws, self.compile, torch.from_numpy(centre))
        target = Target(Lowered(density.gradient, False), program)
        ends: list[Maximum] = []
        for climbed in range(self.restarts):
            others = (elsewhere(program, target) for _ in range(MOST_TRIED))
            points = others if climbed else chain([(centre, unit)], others)
            ends.append(maximum(fixed, *first_coordinates(fixed, target, points), self.steps))
            monitor.record(climbed + 1, max(e.bound for e in ends))
            if asked():
                break
        fixed.calls += target.calls
        best = max(ends, key=lambda e: e.bound)
        q = normal_guide(program, start, best.mean, best.tril).requires_grad_(False).eval()
        same = sum(e.bound > best.bound - SAME for e in ends)
        return best, Trained(FullRank(), q, program.data), fixed, same


def elsewhere(program: Program, target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Another point and its units: starting values proposed or drawn anew, and a few natural units away."""
    centre, unit = centre_of(natural_start(program, starting_values(program)))
    return dispersed(target, centre, unit, 1)[0], unit


def first_coordinates(
    fixed: FixedDraws, target: Target, points: Iterable[tuple[np.ndarray, np.ndarray]]
) -> tuple[Tensor, Tensor]:
    """Centre c (size,) and factor F (size, size) to begin with: a mode and its curvature, or a start and its units.

    Where the bound over the fixed draws is highest: a mode may be where there is little mass, or at no place at all,
    and what is drawn from a wide prior may be where no climb comes away from.
    """
    starts: list[tuple[Tensor, Tensor]] = []
    modes: list[tuple[Tensor, Tensor]] = []
    for point, unit in islice(points, MOST_TRIED):
        if len(starts) >= TRIED and modes:
            break
        starts.append((torch.from_numpy(point), torch.diag(torch.from_numpy(unit))))
        mode = torch.from_numpy(climb(target, point, unit, MODE_STEPS, ROUGH, HISTORY).end)
        fixed.calls += 2 * len(mode)
        try:
            root = factor_of_curvature(fixed.density, mode)
        except FitError:  # flat, a saddle, or no number there
            continue
        modes.append((mode, torch.linalg.solve_triangular(root.mT, torch.eye(len(root)).to(root), upper=True)))
    nothing = torch.zeros(2 * fixed.density.size, dtype=torch.float64)
    bounds = torch.stack([fixed.slopes(*each, nothing)[0] for each in (*starts, *modes)]).nan_to_num(-math.inf)
    return (*starts, *modes)[int(bounds.argmax())]


def maximum(fixed: FixedDraws, centre: Tensor, factor: Tensor, steps: int) -> Maximum:
    """Climb the bound over the fixed draws from m = 0, s = 1 and take the linear response where it is highest.

    Raises
    ------
    FitError
        If it has no maximum, naming a site along which it rises.
    """
    size = len(centre)

    def bound(eta: np.ndarray) -> tuple[float, np.ndarray]:
        value, pairs = fixed.slopes(centre, factor, torch.from_numpy(eta))
        return float(value), pairs.mean(0).numpy()

    path = climb(bound, np.zeros(2 * size), np.ones(2 * size), steps, ROUGH, HISTORY)
    eta, root, moved, distance = torch.from_numpy(path.end), None, 0.0, math.inf
    value, pairs = fixed.slopes(centre, factor, eta)
    for _ in range(NEWTON):
        if root is None or moved > SAME:
            root, failed = torch.linalg.cholesky_ex(-fixed.hessian(centre, factor, eta))
            moved = 0.0
            if int(failed) or not bool(root.isfinite().all()):
                raise no_maximum(fixed, pairs.mean(0), int(failed) - 1, float(value))
        gradient = pairs.mean(0)
        step = torch.cholesky_solve(gradient[:, None], root)[:, 0]
        distance = float((gradient @ step).clamp_min(0).sqrt())
        if distance < NEAR:
            eta = eta + step
            break
        there, other = fixed.slopes(centre, factor, eta + step)
        if not there > value:  # too far, or rounding says no more
            break
        eta, value, pairs, moved = eta + step, there, other, moved + distance
    if not distance < FAR or root is None:
        raise no_maximum(fixed, pairs.mean(0), int((gradient * step).abs().argmax()), float(value))
    # Of the inverse, the block over m: A A^T with A the rows of R^-T that belong to m.
    half = torch.linalg.solve_triangular(root.mT, torch.eye(2 * size, dtype=root.dtype), upper=True)[:size]
    tril = lower_factor(factor @ half)
    shifts = torch.cholesky_solve((pairs - pairs.mean(0)).mT, root)[:size]  # (size, N / 2): what each pair pulls at m
    pulled = (factor @ shifts).square().sum(1) / (len(pairs.double()) * max(1, len(pairs) - 1))
    return Maximum(
        mean=centre + factor @ eta[:size],
        tril=tril,
        bound=float(value),
        errors=(pulled / tril.square().sum(1)).sqrt(),
        distance=distance,
    )


def lower_factor(half: Tensor) -> Tensor:
    """L lower triangular with a positive diagonal, L L^T = A A^T, from A (size, more), without forming the product."""
    upper = torch.linalg.qr(half.mT).R
    tril: Tensor = (upper * upper.diagonal().sign()[:, None]).mT
    return tril


def no_maximum(fixed: FixedDraws, gradient: Tensor, which: int, value: float) -> FitError:
    """Say along which site the bound goes on rising, or is flat."""
    name = fixed.density.name(which % fixed.density.size)
    return FitError(
        f"dadvi: the ELBO over the fixed draws has no maximum where the climb ends, at {value:.4g}: along {name!r} it "
        f"still rises or is flat. Give {name!r} a more informative prior, another parameterization or starting values, "
        "more draws, more steps, or use nuts"
    )
