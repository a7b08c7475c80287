"""A closed-form update of some unknowns given the rest, and what finds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from inference.conjugate.e_step import EStep
from inference.conjugate.posteriors import Posterior
from inference.conjugate.recognition import Recognition
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, Site

EMPTY = 1e-10  # expected count below which a cell has no data and keeps its value


@dataclass(frozen=True)
class Use:
    """One place where an unknown is an argument: of which site, which argument, and how it gets there."""

    site: Site
    argument: str
    parent: Parent


class Block(ABC):
    """A closed-form update of some unknowns given the rest.

    Attributes
    ----------
    unknowns
        What is updated.
    last
        Whether this is updated after other blocks: a scale, about the new location.
    in_turns
        Whether an update goes from where the unknowns are, and has to be repeated with the rest unchanged.
    by_state
        Whether its posterior is one for each state of discrete latents.
    """

    unknowns: tuple[str, ...]
    last: bool = False
    in_turns: ClassVar[bool] = False
    by_state: ClassVar[bool] = False

    @abstractmethod
    def maximize(self, expected: EStep) -> Values:
        """Return the unknowns' values that maximize the expected log joint."""

    @abstractmethod
    def posterior(self, expected: EStep) -> Posterior | None:
        """Return the conditionally conjugate posterior of the unknowns; None if there is none."""

    def why_not(self, program: Program) -> str | None:
        """Say why the unknowns have no conjugate posterior: a parameter has no prior; None if they have one."""
        for name in self.unknowns:
            if program.sites[name].role == "parameter":
                return f"{name!r} is a parameter without prior"
        return None

    def kl(self, expected: EStep, posterior: Posterior) -> Values:
        """Return KL(posterior || prior) = E[log q - log p] by unknown, in the layout of their log densities."""
        sites, entropy = expected.program.sites, posterior.entropy()
        return {name: -entropy[name] - expected.log_density(sites[name]) for name in self.unknowns}

    def warnings(self, expected: EStep) -> list[str]:
        """Say what makes the fitted values less trustworthy."""
        return []


class Matcher(ABC):
    """Finds the unknowns of a program that a kind of block updates. A subclass is found by being defined.

    Attributes
    ----------
    rank
        Order in which unknowns are claimed; blocks of several unknowns come first.
    states
        Whether it takes latents whose prior depends on the state of a discrete one.
    """

    rank: ClassVar[int] = 1
    states: ClassVar[bool] = False
    classes: ClassVar[list[type[Matcher]]] = []

    def __init_subclass__(cls) -> None:
        """Register the class."""
        super().__init_subclass__()
        Matcher.classes.append(cls)

    @abstractmethod
    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Return the blocks that update some of the unknowns; `example` is a few rows at made-up values."""


def uses(program: Program, name: str) -> list[tuple[Site, Mapping[str, Parent]]]:
    """Sites whose distribution depends on `name`, each with the arguments (in every parameterization) that do."""
    pairs = ((s, {key: p for key, p in s.args.items() if name in p.sites}) for s in program.sites.values())
    return [(site, args) for site, args in pairs if args]


def is_unknown(parent: Parent) -> bool:
    """Whether the argument is an unknown itself, indexed or not, times a constant."""
    return parent.kind in ("site", "indexed")


def unscaled(parent: Parent) -> bool:
    """Whether the argument is an unknown itself, indexed or not."""
    return is_unknown(parent) and parent.scale == 1.0 and not parent.entrywise


def within(parent: Parent, other: Parent) -> bool:
    """Whether entries that share a cell of one unknown share one of another."""
    return set(parent.index) <= set(other.index) and parent.by in ("", other.by)
