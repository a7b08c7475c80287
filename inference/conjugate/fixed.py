"""Unknowns without any freedom: the probability of the only category there is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch.distributions import constraints

from inference.conjugate.block import Block, Matcher, uses
from inference.conjugate.e_step import EStep
from inference.conjugate.posteriors import Single
from inference.conjugate.recognition import Recognition
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site


class FixedMatcher(Matcher):
    """Probabilities of a single category, which are 1: the posterior is the prior, and the maximum is where it is."""

    rank: ClassVar[int] = 0

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim simplices of one category that nothing depends on: parameters, and latents with a Dirichlet prior."""
        blocks: list[Block] = []
        for name in unknown:
            site = seen.program.sites[name]
            known = site.role == "parameter" or (site.family == "Dirichlet" and name in seen.likelihoods)
            known = known and not any(parent.sites for parent in site.args.values())
            if known and _one_category(site) and not uses(seen.program, name):
                blocks.append(FixedBlock(name))
        return blocks


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
