"""Coordinate ascent on L(q, theta) = E_q[log p(x, z; theta)] - E_q[log q(z)]: what EM, CAVI and Exact share.

Each step takes the posterior of the enumerated sites given the rest (exactly), then updates the unknowns block by
block: to a point (EM) or to a posterior (CAVI). Both raise L, so it never falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor

from inference.conjugate import EStep, Plan, closed_form, load
from inference.conjugate.block import Block
from inference.conjugate.chain_variances import chain_factors
from inference.conjugate.exponential_family import Statistics
from inference.conjugate.posteriors import Posterior
from inference.coordinate.factor_sums import FactorSums
from inference.coordinate.mixture import Mixture
from inference.coordinate.source import RowSource
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.program.terms import Terms
from zoo.replay.evaluate import Values

load()
SINGULAR: type[RuntimeError] = vars(torch.linalg)["LinAlgError"]  # which torch's types do not tell of


@dataclass
class State:
    """Where coordinate ascent is: a value for every unknown, and a posterior for those that have one.

    Attributes
    ----------
    values
        Points; means of the unknowns with a posterior.
    posteriors
        Unknown -> the posterior of its block.
    """

    values: Values
    posteriors: dict[str, Posterior]


class Coordinates:
    """E-steps and updates of one program.

    Parameters
    ----------
    program
        The program.
    hard
        Give each row to its most probable state (classification EM).
    averaged
        Take expectations over the posterior of the local latents too (EM), instead of keeping what the state says.
    plan
        The plan of the same model on other rows; None to find it.
    rows
        Where the rows come from; None for the program's own.
    """

    def __init__(
        self,
        program: Program,
        *,
        hard: bool = False,
        averaged: bool = False,
        plan: Plan | None = None,
        rows: RowSource | None = None,
    ) -> None:
        self.rows = RowSource(program) if rows is None else rows
        self.program, self.hard, self.averaged = program, hard, averaged
        self.plan: Plan = closed_form(program) if plan is None else plan
        self.mixture: Mixture | None = None
        self.factors: FactorSums | None = None
        tied = next((s.name for s in (*program.locals, *program.shared)), None)
        if not self.rows.whole and (tied is not None or program.tied):
            why = program.tied or f"{tied!r} ties them to one another or grows with them"
            raise MethodError(
                f"rows in parts (a stream, several processes) must be independent given the globals; {why}"
            )
        kinds = self.plan.likelihoods
        self._laid_out = {s.name for s in program.observed if s.name in kinds and kinds[s.name].lays_out}
        self.local_blocks = [b for b in self.plan.blocks if any(program.sites[n].role == "local" for n in b.unknowns)]

    def prepare(self, state: State) -> None:
        """Lay out the rows of a mixture or a factor model, if all its updates are in closed form."""
        if not self.plan.rest:
            with torch.no_grad(), suppress(SINGULAR):  # a prior made from all rows, run on a few
                self.mixture = Mixture.of(self.plan, self.rows, state.values)
                self.factors = FactorSums.of(self.plan, self.program) if self.rows.whole else None

    # -- E-step ------------------------------------------------------------------------------------------------

    def expect(self, state: State) -> tuple[Tensor, EStep]:
        """Return L at the current state, with the enumerated sites at their posterior, and what updates see."""
        with torch.no_grad():
            if self.mixture is not None:
                swept = self._swept(self.mixture, state)
                if swept is not None:
                    return swept
            if self.factors is not None:
                inside, expected = self.factors.expect(state.values, state.posteriors, averaged=self.averaged)
                return inside + self.factors.rest(expected, self._factors(expected, outside=True)), expected
            return self._all(state) if self.rows.whole else self._by_parts(state)

    def _all(self, state: State) -> tuple[Tensor, EStep]:
        """`expect` on the program's own rows."""
        terms, expected = self._terms(state)
        return terms.total(self.program.data.weights), expected

    def _by_parts(self, state: State) -> tuple[Tensor, EStep]:
        """`expect` on rows that come in parts: statistics and L are sums over them, and add up."""
        value = torch.zeros((), dtype=torch.float64, device=self.program.device)
        sums: dict[str, Statistics] = {}
        sites = self.plan.summed(self.program)
        for part in self.rows.parts():
            own = Coordinates(part, hard=self.hard, plan=self.plan)
            terms, expected = own._terms(state)
            value = value + terms.total(part.data.weights) - terms.rest
            for site in sites:
                statistics, known = expected.statistics(site), sums.get(site.name)
                sums[site.name] = statistics if known is None else added(known, statistics)
        if not sums:  # a process with no chunk of its own
            _, expected = self._terms(state)
            empty = {s.name: expected.statistics(s) for s in sites}
            sums = {n: (0 * count, tuple(0 * p for p in parts)) for n, (count, parts) in empty.items()}
        # One message between processes holds them all.
        flat = [t for count, parts in sums.values() for t in (count, *parts)]
        value, *flat = self.rows.add_up([value, *flat])
        whole = iter(flat)
        sums = {n: (next(whole), tuple(next(whole) for _ in parts)) for n, (_, parts) in sums.items()}
        terms, expected = self._terms(state)  # of the program's own rows, for all that is outside the data plate
        expected.sums = sums
        return value + terms.rest, expected

    def _terms(self, state: State) -> tuple[Terms, EStep]:
        replay = self.program.replay(state.values, left_out=() if self.averaged else self._laid_out)
        expected = EStep(self.plan, self.program, state.values, replay, posteriors=state.posteriors)
        if self.averaged:
            expected = self.over_locals(expected)
        factors = {**replay.log_probs, **self._factors(expected)}
        terms, marginals = (self.program.hard_marginals if self.hard else self.program.marginals)(factors)
        expected.marginals = marginals
        expected.complete()
        return terms, expected

    def over_locals(self, expected: EStep) -> EStep:
        """Update the posterior of the local latents given everything else."""
        if not self.program.several:
            expected.marginals = {n: self._once(n, v) for n, v in expected.replay.log_probs.items()}
        values, posteriors = dict(expected.values), dict(expected.posteriors)
        for block in self.local_blocks:
            posterior = block.posterior(expected.at(values, posteriors))
            assert posterior is not None
            values.update(posterior.mean())
            posteriors.update(dict.fromkeys(block.unknowns, posterior))
        return expected.at(values, posteriors)

    def _once(self, name: str, log_prob: Tensor) -> Tensor:
        """Weight of each entry of a site without enumerated sites: that of its row."""
        site, weights = self.program.sites[name], self.program.data.weights
        if weights is None or self.program.row not in site.plates:
            return torch.ones_like(log_prob)
        axis = site.plate_dims[site.plates.index(self.program.row)]
        return weights.reshape([-1, *[1] * (-1 - axis)]).expand(log_prob.shape)

    def _swept(self, mixture: Mixture, state: State) -> tuple[Tensor, EStep] | None:
        """`expect` by one sweep over the rows; None where that would not be accurate."""
        expected = mixture.expected(state.values, state.posteriors)
        natural, constant, shared = mixture.natural(expected)
        if mixture.careful(natural, constant):
            return None
        swept = mixture.sweep(natural[None], constant[None], hard=self.hard)
        rest = mixture.rest(expected, self._factors(expected, outside=True) if state.posteriors else None)
        value = swept.value[0] + shared + mixture.base + rest
        expected.sums = mixture.statistics(swept.counts[0], swept.sums[0])
        return value, expected

    def _factors(self, expected: EStep, *, outside: bool = False) -> Values:
        """Expected log densities of the sites that depend on an uncertain unknown, and minus KL of the unknowns.

        In the layout of the sites' log densities. With `outside`, of sites outside the data plate only.
        """
        factors: Values = {}
        for block in self.plan.blocks:
            posterior = expected.posteriors.get(block.unknowns[0])
            if posterior is not None and not (outside and block in self.local_blocks):
                factors.update({name: -kl for name, kl in block.kl(expected, posterior).items()})
        gone: frozenset[str] = frozenset()
        if self.program.integrated is not None:
            gone = self.program.integrated.names
            factors.update({} if outside else chain_factors(self.plan.blocks, expected))
        for site in self.program.sites.values():
            if site.name in factors or site.name in gone or (outside and self.program.row in site.plates):
                continue
            uncertain = any(n in expected.posteriors for parent in site.args.values() for n in parent.sites)
            if uncertain or site.name in self._laid_out:
                factors[site.name] = expected.log_density(site)
        return factors

    def step(self, state: State) -> State:
        """One E-step, and one update of each block."""
        return self.condition(self.expect(state)[1])

    # -- updates -----------------------------------------------------------------------------------------------

    def maximize(self, expected: EStep) -> Values:
        """M-step: each block to its maximum, one after the other."""
        with torch.no_grad(), pyro.validation_enabled(False):
            values = dict(expected.values)
            for block in self.plan.blocks:
                if block not in self.local_blocks:
                    values.update(block.maximize(expected.at(values)))
            return values

    def condition(self, expected: EStep, blocks: Sequence[Block] | None = None) -> State:
        """Update each block (or these) to its conditionally conjugate posterior, or its maximum if it has no prior."""
        with torch.no_grad(), pyro.validation_enabled(False):
            values, posteriors = dict(expected.values), dict(expected.posteriors)
            for block in self.plan.blocks if blocks is None else blocks:
                now = expected.at(values, posteriors)
                posterior = block.posterior(now)
                if posterior is None:
                    values.update(block.maximize(now))
                    continue
                values.update(posterior.mean())
                posteriors.update(dict.fromkeys(block.unknowns, posterior))
            return State(values, posteriors)


def added(a: Statistics, b: Statistics) -> Statistics:
    """Sum of two sets of statistics."""
    return a[0] + b[0], tuple(x + y for x, y in zip(a[1], b[1], strict=True))


def distinct(posteriors: Mapping[str, Posterior]) -> list[Posterior]:
    """Return the posteriors, each once."""
    return list({id(p): p for p in posteriors.values()}.values())
