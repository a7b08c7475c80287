"""Pathfinder: Normal approximations along climbs to the mode, the best of each resampled."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor

from inference.approximations.completed import Collapse, view_of, with_exact_draws
from inference.approximations.corrected import Corrected
from inference.approximations.normals import Normals
from inference.approximations.pareto import KHAT_GOOD, khat_note, smoothed
from inference.approximations.rows import chunk_for
from inference.compiled.compile import Compile, lower_gradient
from inference.diagnostics.importance import judge
from inference.method import Method, Outcome, unsupported
from inference.runtime.interruption import asked, listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.paths import Normal, along, climb, log_densities
from inference.sampling.unconstrained import Target, centre_of, dispersed, no_density
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from zoo.errors import FitError
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.states import draw_states

PATHS = 4
LARGEST = 1000  # coordinates: a covariance is kept for every step of a climb
STEPS = 500
EVEN = 0.2  # share of the draws that all paths have alike
ELBO_DRAWS = 10  # for the bound of each approximation along a path
POOL = 2000  # draws of each path that starts of chains are taken from


@dataclass(frozen=True)
class Pathfinder(Method):
    """Normals along L-BFGS climbs, the one with the best ELBO of each path, resampled toward the posterior.

    Each path climbs log p(x, z(u)) + log|dz/du| from a point around the starting values; its steps and gradients give
    a Normal at each point, and draws the ELBO of each (Zhang, Carpenter, Gelman and Vehtari 2022). q is a
    mixture of the best Normal of every path; its draws are resampled by Pareto-smoothed importance weights p / q where
    k-hat allows it. The objective is the ELBO of that mixture. A matter of some hundred gradients, and a good start for
    `NUTS(start="pathfinder")`.

    Parameters
    ----------
    paths
        Number of climbs.
    draws
        How many draws are kept.
    steps
        Most steps of a climb.
    compile
        Compile the gradient: True, False, or "auto", where that is expected to save more time than it takes.
    corrected
        Resample draws by these weights where k-hat allows it; False hands out draws of the mixture itself.
    collapse
        "auto": latents that can be integrated out given the others are, and are drawn exactly afterwards. False: paths
        are of all latents.

    Examples
    --------
    >>> import zoo
    >>> from inference import Pathfinder, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=Pathfinder(), seed=0)
    >>> round(float(result.posterior["posterior"]["p"].mean()), 1)  # exactly: (1 + 4) / (2 + 6)
    0.6
    """

    paths: PositiveInt = PATHS
    draws: PositiveInt = 1000
    steps: PositiveInt = STEPS
    compile: Compile = "auto"
    corrected: bool = True
    collapse: Collapse = "auto"

    def why_not(self, program: Program) -> str | None:
        # Refuse what has no posterior density, and more coordinates than a covariance is kept for
        if (reason := unsupported(program) or no_density(program)) is not None:
            return reason
        size = Density(view_of(program, self.collapse)).size
        if size > LARGEST:
            return f"it keeps a covariance of all {size} coordinates at every step (at most {LARGEST} are allowed)"
        return None

    def how(self, program: Program) -> str:
        # Say what becomes of enumerated sites, and of those that are integrated out
        return with_exact_draws(program, self.collapse)

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Climb, weigh and resample
        view = view_of(program, self.collapse)
        density = Density(view)
        target = Target(lower_gradient(density, self.compile, 100 * self.paths), view)
        centre, unit = centre_of(natural_start(view, starting_values(view)))
        with listening(), Monitor("pathfinder", self.paths, show=progress) as monitor:
            paths: list[tuple[Normal, float]] = []  # the best Normal of each, and its ELBO
            for point in dispersed(target, centre, unit, self.paths):
                paths.append(best_along(density, target, point, unit, self.steps))
                monitor.record(len(paths), max(bound for _, bound in paths))
                if asked():
                    break
            return self._outcome(program, density, target, paths, monitor)

    def _outcome(
        self, program: Program, density: Density, target: Target, paths: list[tuple[Normal, float]], monitor: Monitor
    ) -> Outcome:
        """Weigh the Normals, and resample their draws."""
        view, q = density.program, balanced(density, Normals.of([normal for normal, _ in paths]))
        judgement = judge(view, q, {}, converged=True, corrected=self.corrected, holes=True, keep=self.draws)
        shape = judgement.diagnostics["khat"]
        bounds = ", ".join(f"{bound:.2f}" for _, bound in paths)
        reason = f"{len(paths)} climbs, ELBO {bounds}; {target.calls} gradients"
        good = shape <= KHAT_GOOD or math.isnan(shape)
        reason = reason if good else f"{reason}; {khat_note(shape)}"
        outcome = replace(judgement, warnings=[]).outcome(  # the reason says it
            view,
            trace=monitor.trace,
            steps=target.calls,
            reason=reason,
            converged=good,
            warnings=[note for note in ("" if good else reason, target.gradient.note) if note],
        )
        given = outcome.approximation
        if isinstance(given, Corrected) and program.enumerated:
            with torch.no_grad():
                given = replace(given, states=draw_states(program, given.values, self.draws, chunk_for(program)))
        return replace(outcome, approximation=given)


def best_along(
    density: Density, target: Target, point: np.ndarray, unit: np.ndarray, steps: int = STEPS
) -> tuple[Normal, float]:
    """Climb from a point; return the Normal along the way with the highest ELBO, and that.

    Raises
    ------
    FitError
        If no point of the climb has one.
    """
    normals = along(climb(target, point, unit, steps))
    if normals:
        draws = torch.stack([n.draw(ELBO_DRAWS) for n in normals])
        log_p = log_densities(density, draws.flatten(0, 1), chunk_for(density.program)).reshape(len(normals), -1)
        log_q = torch.stack([n.log_prob(u) for n, u in zip(normals, draws, strict=True)])
        bounds = (log_p - log_q).mean(1)
        best = int(bounds.argmax())
        if bool(bounds[best].isfinite()):
            return normals[best], float(bounds[best])
    raise FitError(
        "pathfinder: a climb found no point around which the posterior is a Normal with a finite ELBO; the density may "
        "rise without bound, or be zero or no number near its mode. Try nuts or svi"
    )


def balanced(density: Density, q: Normals) -> Normals:
    """Give each Normal the share of the posterior that it stands for, and at least a part of an even one.

    E_p[q_k / q] of an even mixture, by weighted draws: one step of population Monte Carlo (Cappé et al. 2008). Of eight
    paths, seven may end at the smaller of two modes.
    """
    u, ratio = pooled(density, q.members)
    weights = torch.from_numpy(smoothed(ratio.numpy())[0])
    parts = q.log_parts(u)
    shares = ((parts - parts.logsumexp(0)).exp() * weights).sum(1)
    return replace(q, shares=(1 - EVEN) * shares + EVEN / len(shares))


def pooled(density: Density, normals: list[Normal]) -> tuple[Tensor, Tensor]:
    """Draws of an even mixture of Normals, and log p - log q of each."""
    u = torch.cat([n.draw(POOL) for n in normals])
    log_q = torch.stack([n.log_prob(u) for n in normals]).logsumexp(0) - math.log(len(normals))
    return u, log_densities(density, u, chunk_for(density.program)) - log_q


def resampled(density: Density, target: Target, points: np.ndarray, unit: np.ndarray, count: int) -> Tensor:
    """Different draws of Pathfinder from climbs that begin at `points`, shape (count, size), to start chains at."""
    pool, ratio = pooled(density, [best_along(density, target, p, unit)[0] for p in points])
    weights, _ = smoothed(ratio.numpy())
    return pool[torch.multinomial(torch.from_numpy(weights).clamp_min(1e-300), count)]
