"""The No-U-Turn sampler: draws from the posterior itself, a referee for every other method."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from inference.approximations.completed import Collapse, all_latents, view_of, with_exact_draws
from inference.approximations.rows import chunk_for
from inference.approximations.sampled import Sampled
from inference.compiled.compile import Compile, Lowered, lower_gradient
from inference.compiled.small_graphs import Compiled
from inference.diagnostics import relabelling
from inference.diagnostics.agreement import RHAT_GOOD, ChainCheck, check_chains, mean_error
from inference.diagnostics.coordinates import Names
from inference.diagnostics.importance import draws_for
from inference.diagnostics.relabelling import Relabelling, relabel, rows_for
from inference.diagnostics.second_look import SecondLook, second_look
from inference.method import Method, Objective, Outcome, unsupported
from inference.methods.pathfinder import PATHS, resampled
from inference.runtime.checkpoint import checkpoint_of
from inference.runtime.interruption import listening
from inference.runtime.monitor import Monitor, Told
from inference.sampling.chains import Chains, SamplerSettings, run
from inference.sampling.unconstrained import Target, centre_of, dispersed, no_density
from inference.starts.basins import highest
from inference.starts.centring import recentred
from inference.starts.natural import natural_start
from inference.starts.values import starting_values
from zoo.program.flat_density import Density
from zoo.program.program import Program
from zoo.program.recentred import Recentred, location_scale
from zoo.program.states import draw_states
from zoo.replay.evaluate import Values, many

TYPICAL_STEPS = 15  # gradients per draw, to judge whether compiling pays
ACCEPT = 0.9  # mean acceptance probability
ACCEPT_COLLAPSED = 0.8  # where what scales make funnels of is integrated out, and steps may be longer
ESS_GOOD = 100  # per chain
BFMI_GOOD = 0.3
FEW = 0.005  # share of draws that may have ended in a divergence where a wider look finds the same moments
SWITCHED = 0.01  # share of draws under other labels from which they are said to switch
LARGEST_STATES = 50_000_000  # draws of enumerated sites beyond which they are left out


@dataclass(frozen=True)
class NUTS(Method):
    """Draws from the posterior by Hamiltonian Monte Carlo: asymptotically exact, and its checks say when it is not.

    Chains follow the gradient of log p(x, z), enumerated sites summed out, and stop where they turn back (Hoffman and
    Gelman 2014; Betancourt 2017). The sampler is nutpie; the reason says of which version. Enumerated sites get exact
    draws given each draw of the others. The objective is the posterior mean of log p(x, z) with its Monte Carlo error,
    a number that only other runs of chains can be compared with. The fit counts as converged where no check complains:
    divergences, trees that reach the maximal depth, energies that mix badly, R-hat above 1.01 (Vehtari et al. 2021),
    effective sample sizes below 100 per chain, and modes that no chain has come to, though climbs from afar do.

    Parameters
    ----------
    chains, warmup, draws
        Number of chains, and draws of each during and after the adaptation of step size and metric.
    max_tree_depth
        A trajectory has at most 2^depth - 1 steps.
    target_accept
        Mean acceptance probability the step size is adapted to; closer to 1 where there are divergences. None: 0.9;
        0.8 where latents are integrated out; where latents are recentred, whose scales may fall far, 0.95 for ten
        coordinates, and 0.1 less for each ten times as many, down to 0.8: what is rejected then is the sum of many
        small errors, and not one sharp bend.
    correlated
        Whether the metric also adapts to correlations, for posteriors that are long and narrow in some direction.
    start
        "dispersed" around the model's starting values, or draws by "pathfinder".
    compile
        Compile the gradient: True, False, or "auto", where that is expected to save more time than it takes.
    collapse
        "auto": latents that can be integrated out given the others are, and are drawn exactly afterwards, jointly for
        each draw of the others (`explain` says which). False: chains move all of them.
    centring
        "learned": chains move location-scale latents in coordinates between value and noise, as far centred as the data
        say (`inference.starts.centring`), so that scales make no funnels of them; draws are values as declared.
        "declared": chains move the values themselves.
    checkpoint
        File to which each chain is written when it is complete. If it is there at the beginning, its chains are not run
        again, and the fit has the same draws as one that was never stopped.

    Examples
    --------
    >>> import zoo
    >>> from inference import NUTS, fit
    >>> method = NUTS(chains=2, warmup=200, draws=200)
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=method, seed=0)
    >>> dict(result.posterior["posterior"]["p"].sizes)
    {'chain': 2, 'draw': 200}
    """

    chains: PositiveInt = 4
    warmup: PositiveInt = 1000
    draws: PositiveInt = 1000
    max_tree_depth: Annotated[int, Field(ge=1, le=20)] = 10
    target_accept: Annotated[float, Field(gt=0, lt=1)] | None = None
    correlated: bool = False
    start: Literal["dispersed", "pathfinder"] = "dispersed"
    compile: Compile = "auto"
    collapse: Collapse = "auto"
    centring: Literal["learned", "declared"] = "learned"
    checkpoint: str | None = None

    def why_not(self, program: Program) -> str | None:
        # Refuse what has no posterior density: infinitely many states, parameters or networks without a prior
        return unsupported(program) or no_density(program)

    def how(self, program: Program) -> str:
        # Say what is summed or integrated out, and what moves in other coordinates
        said, moved = with_exact_draws(program, self.collapse), []
        if self.centring == "learned" and view_of(program, self.collapse) is program:
            moved = [s.name for s in location_scale(program)]
        if not moved:
            return said
        between = f"{', '.join(moved)} between value and noise, as the data say"
        return f"{said}; {between}" if said else f"with {between}"

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Start chains apart from each other, run them, and check them
        file = checkpoint_of(self, program.model, program.data)
        view, learned = view_of(program, self.collapse), 0
        moved, values = view, starting_values(view)
        if self.centring == "learned" and view is program:
            moved, values, learned = recentred(program, values)
        density = Density(moved)
        expected = self.chains * (self.warmup + self.draws) * TYPICAL_STEPS
        gradient = lower_gradient(density, self.compile, expected)
        target = Target(gradient, moved)
        target.calls = learned
        centre, unit = highest(moved, target, *centre_of(natural_start(moved, values)), expected)
        starts = dispersed(target, centre, unit, max(self.chains, PATHS if self.start == "pathfinder" else 0))
        if self.start == "pathfinder":
            starts = resampled(density, target, starts, unit, self.chains).numpy()
        usual = ACCEPT if view is program else ACCEPT_COLLAPSED
        accept = self.target_accept or (usual if moved is view else accept_for(density.size))
        settings = SamplerSettings(self.warmup, self.draws, self.max_tree_depth, accept, self.correlated)
        with listening(), Monitor("nuts", self.chains * (self.warmup + self.draws), show=progress) as monitor:
            chains = run(target, starts, settings, monitor, file)
            monitor.rows = chains.trace
            return self._concluded(program, density, gradient, chains, monitor)

    def _concluded(
        self, program: Program, density: Density, gradient: Lowered, chains: Chains, monitor: Monitor
    ) -> Outcome:
        """Return the draws, and what is to be said of them."""
        moved = density.program
        view = moved.origin if isinstance(moved, Recentred) else moved
        sampled, notes = posterior_of(density, chains)
        notes = [*notes, *([gradient.note] if gradient.note else [])]
        outcome = Outcome(
            approximation=sampled,
            points={},
            objective=Objective(
                float(sampled.log_p.mean()), "log_posterior", mean_error(_by_chain(sampled.log_p, sampled))
            ),
            trace=monitor.trace,
            steps=chains.gradients,
            converged=False,
            reason="",
        )
        compiled = gradient.call.each if moved is view and isinstance(gradient.call, Compiled) else None
        return self._judged(program, outcome, notes, Density(view, compiled=compiled))

    def relabelled(self, program: Program, before: Outcome, outcome: Outcome) -> Outcome:
        # Judge the chains under their new labels
        said = self._judged(program, before, []).warnings
        return self._judged(program, outcome, [w for w in before.warnings if w not in said])

    def _judged(self, program: Program, outcome: Outcome, notes: list[str], density: Density | None = None) -> Outcome:
        """Say of an outcome whether its chains can be trusted; `notes` come last among the warnings.

        `density` is that of the latents that chains moved.
        """
        q = outcome.approximation
        assert isinstance(q, Sampled)
        draws = {n: _by_chain(v, q) for n, v in q.values.items()}
        labels = relabel(program, {}, q.values, rows=rows_for(program, len(q.log_p)), pivot=q.log_p)
        names = Names(program, {n: v[0] for n, v in q.values.items()})
        drawn = check = check_chains(draws, names.entry)
        if labels:  # judged by what no labels change, and by the rest under labels that agree
            agreeing = {n: _by_chain(v, q) for n, v in relabelling.relabelled(q.values, labels).items()}
            check = check_chains({**agreeing, "the log joint": _by_chain(q.log_p, q)}, names.entry)
        switching = switching_of(labels, drawn, check)
        complaints, bent = complaints_of(q.stats, check, relabelled=bool(labels)), bent_note(q.stats)
        look, few = SecondLook(), bool(q.stats["diverging"].mean() <= FEW)
        if not complaints and not labels and few:
            view = view_of(program, self.collapse)
            moved = {s.name: q.values[s.name] for s in view.latents}
            look = second_look(view, moved, draws_for(program), check.ess, density)
            complaints = [look.missed] if look.missed else []
        if bent and not look.agreement:
            complaints = [bent, *complaints]
        notes = [*([bent] if bent and look.agreement else []), *cut_off(q.stats, self.max_tree_depth), *notes]
        praise = check.praise + (f"; {look.agreement}" if bent else "")
        reason = f"{q.sampler}, {self.chains} chains of {self.draws} draws"
        reason += f": {complaints[0]}" if complaints else f": {praise}{' after relabelling' if switching else ''}"
        verdict = f"trust: {praise}"
        if complaints:
            verdict = f"do not trust without a look at this: {complaints[0]}"
        elif switching:
            verdict = f"trust after fit.relabelled(): {praise} there, but labels switch between these draws"
        return replace(
            outcome,
            converged=not complaints,
            reason=reason,
            warnings=[*([reason] if complaints else []), *complaints[1:], *([switching] if switching else []), *notes],
            diagnostics={
                "rhat": check.rhat,
                "ess": check.ess,
                **({"rhat_as_drawn": drawn.rhat, "ess_as_drawn": drawn.ess} if labels else {}),
                "divergences": float(q.stats["diverging"].sum()),
                "ebfmi": float(energy_fraction(q.stats["energy"]).min()),
            },
            verdict=verdict,
        )


def accept_for(size: int) -> float:
    """Mean acceptance probability to adapt to with so many coordinates, some of them recentred."""
    return float(np.clip(0.95 - 0.1 * math.log10(size / 10), 0.8, 0.95))


def posterior_of(density: Density, chains: Chains) -> tuple[Sampled, list[str]]:
    """Values of all latents at the draws, with draws of the enumerated sites; and what was left out."""
    notes: list[str] = []
    with torch.no_grad():
        moved = density.program
        u = torch.from_numpy(chains.u).flatten(0, 1).to(moved.device, moved.dtype)
        values = density.constrain_all(u)
        if isinstance(moved, Recentred):
            values = moved.declared(values, len(u), chunk_for(moved))
            moved = moved.origin
        program, values, log_c = all_latents(moved, values, len(u))
        chunk = chunk_for(program)

        def joint(v: Values) -> Tensor:
            return program.log_joint(v).total(program.data.weights)

        if program is moved:
            log_p = many(joint, values, len(u), chunk)
        else:  # of all latents: what the chains have moved on, and what was drawn given that
            lp = torch.from_numpy(chains.stats["lp"]).flatten().to(log_c)
            log_p = lp - torch.vmap(density.log_volume)(u) + log_c
        size = len(u) * sum(math.prod(program.site_shape(s)) for s in program.enumerated)
        states: Values = {}
        if 0 < size <= LARGEST_STATES:
            states = draw_states(program, values, len(u), chunk)
        elif size:
            notes.append(f"no draws of {', '.join(s.name for s in program.enumerated)}: they would be {size} numbers")
    return Sampled(values, log_p, states, chains.stats, chains.sampler, len(chains.u)), notes


def _by_chain(draws: Tensor, q: Sampled) -> np.ndarray:
    return draws.reshape(q.chains, -1, *draws.shape[1:]).double().cpu().numpy()


def switching_of(labels: Sequence[Relabelling], drawn: ChainCheck, check: ChainCheck) -> str:
    """Say that labels of states switch between draws; empty if they do not.

    Parameters
    ----------
    labels
        Labels under which the draws agree best.
    drawn, check
        R-hat of the draws as they are, and under those labels.
    """
    share = max([0.0, *(each.switched for each in labels)])
    if share < SWITCHED or not drawn.rhat > check.rhat:
        return ""
    sites = ", ".join(n for each in labels if each.switched >= SWITCHED for n in each.group.sites)
    return (
        f"label switching: {share:.0%} of the draws have the states of {sites} under other labels than the rest (R-hat "
        f"{drawn.rhat:.3f} for {drawn.worst_rhat} as drawn, at most {check.rhat:.3f} relabelled); means of what the "
        "states index say nothing as they are, however long the chains: use fit.relabelled()"
    )


def bent_note(stats: Mapping[str, np.ndarray]) -> str:
    """Say how many draws ended in a divergence; empty if none did."""
    divergences = int(stats["diverging"].sum())
    if not divergences:
        return ""
    return (
        f"{divergences} of {stats['diverging'].size} draws ended in a divergence: the posterior bends more sharply "
        "somewhere than the step size can follow, and draws are missing there; reparameterize, or raise target_accept"
    )


def cut_off(stats: Mapping[str, np.ndarray], max_tree_depth: int) -> list[str]:
    """Say how many trajectories were cut off, which costs time and no rightness."""
    deep = int((stats["tree_depth"] >= max_tree_depth).sum())
    if not deep:
        return []
    return [
        f"{deep} of {stats['tree_depth'].size} trajectories were cut off at max_tree_depth={max_tree_depth}: draws are "
        "more dependent than they need be; try correlated=True"
    ]


def complaints_of(stats: Mapping[str, np.ndarray], check: ChainCheck, *, relabelled: bool = False) -> list[str]:
    """Say what makes draws less trustworthy; `relabelled` if states had labels that agree when they were checked."""
    complaints = []
    bad = [(i, b) for i, b in enumerate(energy_fraction(stats["energy"])) if b < BFMI_GOOD]
    if bad:
        complaints.append(
            f"E-BFMI {min(b for _, b in bad):.2f} < {BFMI_GOOD} in chain {', '.join(str(i) for i, _ in bad)}: energies "
            "are explored slowly, as with heavy tails; reparameterize"
        )
    if not check.rhat <= RHAT_GOOD:
        chains = "the chains disagree; run longer, or look for several modes"
        if relabelled:
            chains = (
                "the chains disagree under any labels, which is more than label switching: they are in different "
                "modes, or too short"
            )
        complaints.append(f"R-hat {check.rhat:.3f} > {RHAT_GOOD} for {check.worst_rhat}: {chains}")
    enough = ESS_GOOD * len(stats["diverging"])
    if not check.ess >= enough:
        complaints.append(f"effective sample size {check.ess:.0f} < {enough} for {check.worst_ess}; take more draws")
    return complaints


def energy_fraction(energy: np.ndarray) -> np.ndarray:
    """E-BFMI of each chain: mean (E_n - E_{n-1})^2 / var E (Betancourt 2016, "Diagnosing suboptimal cotangent...")."""
    variance = energy.var(1)
    fraction: np.ndarray = np.square(np.diff(energy)).mean(1) / np.where(variance > 0, variance, np.nan)
    return fraction
