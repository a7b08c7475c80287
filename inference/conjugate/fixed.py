"""Unknowns without any freedom: the probability of the only category there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch.distributions import constraints

from inference.conjugate.e_step import EStep
from inference.conjugate.family import Block, Family, uses
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Single
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class FixedFamily(Family):
    """Probabilities of a single category, which are 1: the posterior is the prior, and the maximum is where it is."""

    rank: ClassVar[int] = 0

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim simplices of one category: parameters, and latents with a Dirichlet prior; they feed nothing."""
        found: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            known = site.role == "parameter" or (site.family == "Dirichlet" and name in plan.plain)
            known = known and not any(parent.sites for parent in site.args.values())
            if known and _one_category(site) and not uses(plan.program, name):
                found.append(FixedBlock(name))
        return found


def _one_category(site: Site) -> bool:
    support = getattr(site.support, "base_constraint", site.support)
    return support is constraints.simplex and site.shape[-1:] == (1,)


@dataclass
class FixedBlock(Block):
    """The update of an unknown that cannot move."""

    name: str

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def posterior(self, expected: EStep) -> Single | None:
        """Return the prior; None for a parameter."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        return Single(self.name, expected.replay.distributions[self.name])

    def maximize(self, expected: EStep) -> Values:
        """Return the value that it has."""
        return {self.name: expected.values[self.name]}
