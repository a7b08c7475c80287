"""Tempered sequential Monte Carlo: draws of the posterior, several modes included, and the log evidence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from inference.approximations.completed import Collapse, all_latents, view_of, with_exact_draws
from inference.approximations.rows import chunk_for, log_mean_exp
from inference.approximations.sampled import Sampled
from inference.compiled.compile import Compile
from inference.coordinate.swept_path import SweptPath
from inference.diagnostics.agreement import RHAT_GOOD, ChainCheck, check_chains
from inference.diagnostics.bridge import bridge
from inference.diagnostics.coordinates import Names
from inference.diagnostics.one_labelling import ParticleLabels, shuffled
from inference.method import Method, Objective, Outcome, unsupported
from inference.runtime.interruption import listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.particles import Run, carry
from inference.sampling.tempered import Tempered, no_prior_draws, prior_draws
from inference.sampling.unconstrained import no_density
from zoo.errors import FitError
from zoo.program.exchangeable import exchangeable
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.states import draw_states
from zoo.replay.evaluate import many

TYPICAL_CALLS = 150  # gradients of all particles, to judge whether compiling pays
WITH_GRADIENT = 32  # times the memory that a density takes: all its operations, and their gradients
FEWEST = 64  # vectors in one call, however large the data
LARGEST = 2000  # coordinates: their covariance is factorized at every temperature
CHAINS = 4  # that the populations are shown as
ESS_GOOD = 100  # of each of these
ERROR_GOOD = 0.3  # of the log evidence: beyond it populations disagree by their own size
APART, SEEN = 3.5, 2.0  # standard errors between two estimates of the log evidence: too many, and more than chance
SHARE_GOOD = 0.1  # of the prior draws that may have no density


@dataclass(frozen=True)
class SMC(Method):
    """Particles carried from the prior to the posterior: draws, several modes included, and the log evidence.

    p_b(u) is proportional to p(u) p(x | u)^b, enumerated sites summed out, with temperatures b from 0 to 1 that are
    chosen on the way. At each, particles are weighed, resampled and moved by Hamiltonian trajectories that adapt to
    them (Del Moral, Doucet and Jasra 2006; Buchholz, Chopin and Jacob 2021). All particles are one batch. Several
    populations run side by side, each resampled by itself: their estimates of p(x) are independent and unbiased, so
    that the spread of these gives the error of the objective, the log evidence; bridge sampling from the particles
    at the end is held against it, and where the two differ by more than chance, the difference is the error. Modes
    that draws of the prior reach get their right mass, and exchangeable states random labels. Enumerated sites are
    drawn exactly afterwards. For ArviZ the populations are grouped in four chains, whose R-hat says whether they
    agree.

    Parameters
    ----------
    populations, particles
        Number of populations, and particles of each; all are kept as draws.
    share
        Share of the particles that are left in effect when the temperature rises; closer to 1, more temperatures.
    moves
        Most trajectories at a temperature.
    compile
        Compile the gradient: True, False, or "auto", where that is expected to save more time than it takes.
    collapse
        "auto": latents that can be integrated out given the others are, and are drawn exactly afterwards. False: all
        latents are carried along.

    Examples
    --------
    >>> import zoo
    >>> from inference import SMC, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=SMC(), seed=0)
    >>> print(result.objective.kind, round(result.objective.value))  # exactly: -4.654
    log_evidence -5
    """

    populations: Annotated[int, Field(ge=2)] = 32
    particles: Annotated[int, Field(ge=10)] = 128
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    moves: PositiveInt = 20
    compile: Compile = "auto"
    collapse: Collapse = "auto"

    def why_not(self, program: Program) -> str | None:
        # Refuse what has no posterior density, what cannot be drawn from the prior, and very many coordinates
        if (reason := unsupported(program) or no_density(program) or no_prior_draws(program)) is not None:
            return reason
        size = Density(view_of(program, self.collapse)).size
        if size > LARGEST:
            return f"it keeps a covariance of all {size} coordinates (at most {LARGEST} are allowed)"
        return None

    def how(self, program: Program) -> str:
        # Say what becomes of enumerated sites, and of those that are integrated out
        return with_exact_draws(program, self.collapse)

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Carry the particles, and check that the populations agree
        view = view_of(program, self.collapse)
        with listening(), Monitor("smc", 1, show=progress) as monitor:
            with torch.no_grad():
                target, run = self._carried(view, monitor)
            return self._outcome(program, view, target, run, monitor)

    def _outcome(self, program: Program, view: Program, target: Tempered, run: Run, monitor: Monitor) -> Outcome:
        """Return the particles, and whether the populations agree."""
        sampled = self._draws(target.density, run)
        value, error = (float(x) for x in log_mean_exp(run.log_evidence))
        names = Names(program, {n: v[0] for n, v in sampled.values.items()})
        check = check_chains({n: _by_chain(v, sampled.chains) for n, v in sampled.values.items()}, names.entry)
        complaints = complaints_of(run, check, error, sampled.chains)
        by_bridge = bridged(view, sampled)
        complaints += disagreement((value, error), by_bridge)
        error = with_lag((value, error), by_bridge)
        levels = len(run.temperatures) - 1
        reason = f"{self.populations} populations of {self.particles} particles, {levels} temperatures, "
        reason += f"{sum(run.moves)} moves, {target.calls} gradients of all"
        reason += f": {complaints[0]}" if complaints else ""
        notes = [target.lowered.note] if target.lowered.note else []
        verdict = f"log p(x) = {value:.3f} +- {error:.2g}; {check.praise}"
        verdict = (
            f"trust after fit.relabelled(): {verdict}; exchangeable states have other labels in each draw"
            if exchangeable(program)
            else f"trust: {verdict}"
        )
        return Outcome(
            approximation=sampled,
            points={},
            objective=Objective(value, "log_evidence", error),
            trace=monitor.trace,
            steps=target.calls,
            converged=not complaints,
            reason=reason,
            warnings=[*([reason] if complaints else []), *complaints[1:], *notes],
            diagnostics={
                "evidence": value,
                "evidence_error": error,
                "bridge": by_bridge[0],
                "bridge_error": by_bridge[1],
                "temperatures": float(levels),
                "acceptance": float(np.mean(run.acceptance)),
                "moves": float(sum(run.moves)),
                "correlation": run.correlation,
                "ancestors": float(run.ancestors),
                "rhat": check.rhat,
                "ess": check.ess,
            },
            verdict=f"do not trust without a look at this: {complaints[0]}" if complaints else verdict,
        )

    def _carried(self, program: Program, monitor: Monitor) -> tuple[Tempered, Run]:
        """Carry particles by sweeps over the rows of a mixture, where rounding allows it; else by the program."""
        count, chunk = self.populations * self.particles, max(FEWEST, chunk_for(program) // WITH_GRADIENT)
        target = None if self.compile is True or program.collapsed else SweptPath.of(program, count)
        density = Density(program)
        start = prior_draws(density, count, chunk)
        labels = ParticleLabels.of(density, start)
        if target is not None:
            run = carry(target, start, self.populations, self.share, self.moves, monitor, labels)
            if target.accurate(run.particles.u, run.particles.joint):
                return target, run
        plain = Tempered(program, count, chunk, self.compile, TYPICAL_CALLS)
        return plain, carry(plain, start, self.populations, self.share, self.moves, monitor, labels)

    def _draws(self, density: Density, run: Run) -> Sampled:
        """Values of all latents at the particles, with draws of the enumerated sites."""
        u, chunk = run.particles.u, chunk_for(density.program)
        chains = CHAINS if self.populations % CHAINS == 0 else self.populations
        with torch.no_grad():
            program, values, _ = all_latents(density.program, density.constrain_all(u), len(u))
            log_p = many(lambda v: program.log_joint(v).total(program.data.weights), values, len(u), chunk)
            states = draw_states(program, values, len(u), chunk) if program.enumerated else {}
            if program.enumerated:
                values, states = shuffled(program, values, states)
        population = np.repeat(np.arange(self.populations), self.particles).reshape(chains, -1)
        stats = {"population": population, "lp": run.particles.joint.double().cpu().numpy().reshape(chains, -1)}
        return Sampled(values, log_p, states, stats, "smc", chains)


def bridged(program: Program, sampled: Sampled) -> tuple[float, float]:
    """log p(x) by bridge sampling from the particles, and its error; NaN where it breaks down or they are too few."""
    try:
        return bridge(program, sampled)
    except FitError:
        return math.nan, math.nan


def disagreement(carried: tuple[float, float], by_bridge: tuple[float, float]) -> list[str]:
    """Say so where bridge sampling, which knows nothing of the way, finds another log p(x) than the way has.

    All populations lag behind together where the posterior changes faster with the temperature than they move, and
    their spread does not tell. What they find is too low then, while their draws at the end may well be right.
    """
    error = math.hypot(carried[1], by_bridge[1])
    if not abs(carried[0] - by_bridge[0]) > APART * error:
        return []
    return [
        f"log p(x) is {carried[0]:.3f} +- {carried[1]:.2g} by the way from the prior, but {by_bridge[0]:.3f} +- "
        f"{by_bridge[1]:.2g} by bridge sampling from the particles at its end; take share=0.9 or narrower priors, and "
        "compare with nuts"
    ]


def with_lag(carried: tuple[float, float], by_bridge: tuple[float, float]) -> float:
    """Error of the way's log p(x): the spread of the populations, or where bridge sampling shows a lag, its size."""
    off = abs(carried[0] - by_bridge[0])
    return off if off > SEEN * math.hypot(carried[1], by_bridge[1]) else carried[1]


def _by_chain(draws: Tensor, chains: int) -> np.ndarray:
    return draws.reshape(chains, -1, *draws.shape[1:]).double().cpu().numpy()


def complaints_of(run: Run, check: ChainCheck, error: float, chains: int) -> list[str]:
    """Say what makes the draws and the evidence less trustworthy."""
    complaints = []
    spread = float(run.log_evidence.std())
    if not error <= ERROR_GOOD:
        complaints.append(
            f"the populations' log evidences have standard deviation {spread:.2g}: some have missed what others found; "
            "take more particles"
        )
    if not check.rhat <= RHAT_GOOD:
        complaints.append(
            f"R-hat {check.rhat:.3f} > {RHAT_GOOD} for {check.worst_rhat}: populations disagree; take more particles"
        )
    enough = ESS_GOOD * chains
    if not check.ess >= enough:
        complaints.append(
            f"effective sample size {check.ess:.0f} < {enough} for {check.worst_ess}; take more particles"
        )
    if run.impossible > SHARE_GOOD:
        complaints.append(
            f"{run.impossible:.0%} of the draws of the prior have no density that is a number, and count as impossible"
        )
    return complaints
