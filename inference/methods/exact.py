"""Exact inference by conjugacy, or by variable elimination where all latents are discrete."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from inference.approximations.approximation import Approximation
from inference.approximations.conjugate import Conjugate
from inference.approximations.given_states import SampledGivenStates
from inference.approximations.sampled import Sampled
from inference.conjugate import closed_form
from inference.conjugate.block import uses
from inference.conjugate.by_state import settled
from inference.conjugate.given_states import GivenStates, given_states
from inference.conjugate.posteriors import Posterior
from inference.coordinate.ascent import Coordinates, State, distinct
from inference.coordinate.no_closed_form import no_posterior
from inference.coordinate.source import RowSource
from inference.method import Fitted, Method, Objective, Outcome, unsupported
from inference.runtime.monitor import Monitor, Told
from inference.starts.posteriors import given_posteriors
from zoo.errors import DataError, FitError, ModelError
from zoo.program.configurations import check_possible, largest_factor, state_chunks, state_draws
from zoo.program.program import Program
from zoo.replay.evaluate import Values, many

DRAWS, FEWEST_DRAWS = 1000, 50  # of discrete states
LARGEST = 20_000_000  # numbers of all draws, beyond which fewer are made: 160 MB


@dataclass(frozen=True)
class Exact(Method):
    """The posterior in closed form, by conjugacy or by variable elimination, with the log evidence.

    log p(x) = log p(x, z) - log p(z | x), the same at every z (Chib 1995, equation 5). Legal where the structure of the
    model shows that every latent has the conjugate prior of its likelihood; or where all latents are discrete with
    states that can be listed (a Bayesian network with known tables): then log p(x) = log sum_z p(x, z), site after
    site, and `assign`, `most_probable` and draws of the states are of p(z | x) (Koller and Friedman 2009, chapter 9).

    Examples
    --------
    >>> import zoo
    >>> from inference import Exact, fit
    >>> result = fit(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1], method=Exact(), seed=0)
    >>> print(result.objective.kind, round(result.objective.value, 4))  # log 4! 2! / 7!
    log_evidence -4.654
    """

    streams: ClassVar[bool] = True

    def why_not(self, program: Program) -> str | None:
        # Refuse models with parameters, enumerated sites, or a latent whose prior is not conjugate
        if (reason := unsupported(program)) is not None:
            return reason
        if not program.latents and not program.enumerated and program.integrated is None:
            return "there is no latent to have a posterior"
        unknown = [s.name for s in program.parameters] + sorted(program.networks)
        if unknown:
            return f"{unknown[0]!r} is a parameter without prior"
        if _all_discrete(program):
            return _too_large(program)
        if program.enumerated and _given_states(program) is not None:
            return None
        if _by_rows(program):
            return None
        if program.enumerated:
            return f"the posterior over {program.enumerated[0].name!r} and the other latents is a mixture"
        plan = closed_form(program)
        if plan.rest:
            return no_posterior(program, plan.rest[0])
        gone = program.integrated.names if program.integrated else frozenset()
        fed = next((s.name for s in program.latents for child, _ in uses(program, s.name) if child.name in gone), None)
        if program.integrated is not None and fed is not None:
            return f"{fed!r} and the states {program.integrated.chains[0].name!r} are dependent given the data"
        for site in program.observed:
            if site.name in gone:
                continue
            if program.missing(site) is not None and plan.likelihoods[site.name].completes:
                return (
                    f"site {site.name!r} has vectors with missing values (NaN), given which the posterior is no longer "
                    "conjugate"
                )
        home = {n: i for i, block in enumerate(plan.blocks) for n in block.unknowns}
        for site in program.sites.values():
            near = {home[n] for parent in site.args.values() for n in (*parent.sites, site.name) if n in home}
            if len(near) > 1:
                return f"site {site.name!r} depends on several latents, which are dependent given the data"
        return next((why for block in plan.blocks if (why := block.why_not(program)) is not None), None)

    def how(self, program: Program) -> str:
        # Say how large the factors become where discrete latents are eliminated
        if program.enumerated and program.latents:
            of = " of each row" if _by_rows(program) else ""
            return f"a mixture of conjugate posteriors{of}, by {', '.join(s.name for s in program.enumerated)}"
        if not _all_discrete(program):
            return ""
        return f"variable elimination, largest factor: {largest_factor(program, {}):,} cells"

    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        # Update every latent once and evaluate the evidence; or eliminate the discrete ones, if these are all
        if _all_discrete(program):
            return _eliminated(program, progress=progress)
        if (given := _given_states(program)) is not None:
            return _mixture(program, given, progress=progress)
        if _by_rows(program):
            return _row_mixtures(program, progress=progress)
        with Monitor("exact", 1, show=progress) as monitor, torch.no_grad():
            ascent = Coordinates(program, rows=RowSource(program))
            state = ascent.step(State(program.initial(), {}))
            posteriors = distinct(state.posteriors)
            # The bound at the posterior is the evidence; where rows are at hand, their own log density says it too.
            streamed = program.data.stream is not None
            evidence = float(ascent.expect(state)[0]) if streamed else _evidence(program, posteriors)
            monitor.record(1, evidence)
        return _outcome(Conjugate(posteriors), evidence, monitor, "closed form")

    def continued(self, program: Program, fit: Fitted, *, progress: Told | bool = False) -> tuple[Program, Outcome]:
        # Condition on more rows: yesterday's posterior is today's prior. The objective is log p(new rows | earlier
        # rows).
        conditioned = given_posteriors(program, fit, "Exact")
        self.check(conditioned)
        return conditioned, self.run(conditioned, progress=progress)


def _outcome(q: Approximation, evidence: float, monitor: Monitor, reason: str) -> Outcome:
    """What is handed back of an exact posterior."""
    return Outcome(
        approximation=q,
        points={},
        objective=Objective(evidence, "log_evidence"),
        trace=monitor.trace,
        steps=1,
        converged=True,
        reason=reason,
    )


def _evidence(program: Program, posteriors: list[Posterior]) -> float:
    """log p(x) = log p(x, z) - log p(z | x), seen to be the same at the posterior's mean and at a draw.

    Raises
    ------
    FitError
        If it is not.
    """
    mean = {n: v for q in posteriors for n, v in q.mean().items()}
    drawn = {n: v[0] for q in posteriors for n, v in q.sample(1).items()}

    def difference(values: Values) -> float:
        joint = program.log_joint(values).total(program.data.weights)
        return float(joint - sum(program.weigh(n, v) for q in posteriors for n, v in q.log_prob(values).items()))

    evidence, other = difference(mean), difference(drawn)
    if abs(evidence - other) > 1e-4 * (1 + abs(evidence)):
        raise FitError(
            f"the posterior by conjugacy does not match the model's log density ({evidence:g} at its mean, {other:g} "
            "at a draw): where data lie so far from zero that they vary by little more than rounding, subtract their "
            "mean; else please report the model, and use svi"
        )
    return evidence


def _given_states(program: Program) -> GivenStates | None:
    """The posterior given the states of discrete latents that all rows share, where that is conjugate."""
    if not program.enumerated:
        return None
    if "given states" not in program.plans:
        program.plans["given states"] = given_states(program)
    found = program.plans["given states"]
    return found if isinstance(found, GivenStates) else None


def _mixture(program: Program, given: GivenStates, *, progress: Told | bool) -> Outcome:
    """Draw states and then latents: the posterior is a mixture of conjugate ones."""
    with Monitor("exact", 1, show=progress) as monitor, torch.no_grad():
        evidence = float(given.evidence)
        if not math.isfinite(evidence):
            raise DataError("what is observed has probability 0 under the model; correct the data or the model")
        values, states = given.draw(DRAWS)
        monitor.record(1, evidence)

        def joint(v: Values) -> Tensor:
            return program.log_joint(v).total(program.data.weights)

        log_p = many(joint, values, DRAWS, 100)
    sites, p = [s.name for s in program.shared], given.probabilities
    probabilities = {n: p.sum([j for j in range(p.ndim) if j != i]) if p.ndim > 1 else p for i, n in enumerate(sites)}
    drawn = dict(zip(sites, states, strict=True))
    return _outcome(
        SampledGivenStates(values, log_p, drawn, sampler="exact", probabilities=probabilities, evidence=evidence),
        evidence,
        monitor,
        "closed form for each state",
    )


def _by_rows(program: Program) -> bool:
    """Whether all latents are those of single rows, the continuous one conjugate given each state of its row."""
    if not program.enumerated or not program.locals or program.globals or program.shared or program.chains:
        return False
    plan = closed_form(program)
    home = [b for b in plan.blocks if b.by_state]
    known = not plan.incomplete and not program.coupled and program.integrated is None
    return known and len(home) == 1 and {s.name for s in program.locals} == set(home[0].unknowns)


def _row_mixtures(program: Program, *, progress: Told | bool) -> Outcome:
    """Sum over the states of each row, its continuous latent integrated out in each: one E-step."""
    with Monitor("exact", 1, show=progress) as monitor, torch.no_grad():
        value, expected = Coordinates(program, averaged=True).expect(State(program.initial(), {}))
        monitor.record(1, float(value))
        approximation = Conjugate(settled(expected))
    return _outcome(approximation, float(value), monitor, "closed form for each state of each row")


def _all_discrete(program: Program) -> bool:
    """Whether all latents are discrete."""
    return not program.latents and program.integrated is None


def _too_large(program: Program) -> str | None:
    """Say if the discrete latents cannot be eliminated."""
    if program.chains and len(program.enumerated) > len(program.chains):
        chain = next(iter(program.chains))
        return f"site {chain!r} is a chain beside other discrete latents, given which its paths are not drawn"
    try:
        largest_factor(program, {})
    except ModelError as error:
        return str(error)
    return None


def _eliminated(program: Program, *, progress: Told | bool) -> Outcome:
    """Sum all latents out, and draw them jointly; rows in as many goes as memory asks for."""
    cells = sum(math.prod(s.shape) if program.row not in s.plates else len(program.data) for s in program.enumerated)
    count = max(FEWEST_DRAWS, min(DRAWS, LARGEST // max(1, cells)))
    with Monitor("exact", 1, show=progress) as monitor, torch.no_grad():
        evidence, drawn = 0.0, list[Values]()
        for part in state_chunks(program, {}, count):
            terms = part.eliminate(part.replay({}, zeros=True).log_probs)
            check_possible(part, terms)
            evidence += float(terms.total(part.data.weights))
            drawn.append(state_draws(part, {}, count))
        monitor.record(1, evidence)
    axis = {s.name: 1 + s.plates.index(program.row) if program.row in s.plates else 0 for s in program.enumerated}
    states = {n: torch.cat([part[n] for part in drawn], axis[n]) if len(drawn) > 1 else drawn[0][n] for n in axis}
    log_p = torch.full((count,), evidence, dtype=program.dtype)
    return _outcome(Sampled({}, log_p, states, sampler="elimination"), evidence, monitor, "variable elimination")
