"""Families with one unknown: conjugate to one prior, updated from sums of one or two statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from inference.conjugate.e_step import EStep, fn_of
from inference.conjugate.family import Block, Family, Use, recognized, uses
from inference.conjugate.plan import Plan
from inference.conjugate.posteriors import Single
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, base_distribution


class SingleFamily(Family):
    """A likelihood with one unknown argument and its conjugate prior.

    Attributes
    ----------
    arguments
        Distribution name -> the argument that the unknown is.
    prior
        Name of the conjugate prior's distribution.
    scalable
        Whether the argument may be a constant times the unknown.
    """

    arguments: ClassVar[Mapping[str, str]]
    prior: ClassVar[str]
    scalable: ClassVar[bool] = False

    @abstractmethod
    def totals(self, expected: EStep, use: Use, name: str) -> tuple[Tensor, ...]:
        """Weighted sufficient statistics of one use, in the unknown's shape."""

    @abstractmethod
    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Maximum-likelihood value; cells without data keep the current one."""

    @abstractmethod
    def update(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Conjugate posterior: the prior's distribution with updated arguments."""

    @abstractmethod
    def mode(self, posterior: Any) -> Tensor:
        """Mode of a distribution of the prior's family, in the interior of the support."""

    def prior_of(self, expected: EStep, name: str) -> Any:
        """Prior of an unknown."""
        return fn_of(expected, name)

    def accepts(self, plan: Plan, name: str, use: Use) -> bool:
        """Whether this use is one the family can sum up."""
        plain = use.parent.scale == 1.0 and not use.parent.entrywise
        return (plain or self.scalable) and (use.parent.broadcast_dims == 0 or not self.vector)

    vector: ClassVar[bool] = False  # whether the unknown's last dimension is part of the argument
    fed: ClassVar[tuple[str, ...]] = ()  # arguments of the prior that may be an unknown themselves

    def known(self, argument: str, parent: Parent) -> bool:
        """Whether an argument of the prior is constant, or one that may be an unknown itself."""
        plain = not (parent.sites or parent.index)
        return plain or (argument in self.fed and recognized(parent) and not parent.index)

    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Claim each unknown that is only ever an argument of this likelihood, with the conjugate prior or none."""
        blocks: list[Block] = []
        for name in unknown:
            site = plan.program.sites[name]
            if site.role != "parameter" and (
                site.family != self.prior
                or name not in plan.plain
                or any(not self.known(argument, parent) for argument, parent in site.args.items())
            ):
                continue
            found = []
            for child, args in uses(plan.program, name):
                argument = self.arguments.get(child.family, "")
                parent = args.get(argument)
                if parent is None or not recognized(parent) or child.name not in plan.likelihoods:
                    break
                use = Use(child, argument, parent)
                if not self.accepts(plan, name, use):
                    break
                found.append(use)
            else:
                if found:
                    blocks.append(SingleBlock(self, name, tuple(found)))
        return blocks


@dataclass
class SingleBlock(Block):
    """The update of one unknown from all its uses."""

    family: SingleFamily
    name: str
    found: tuple[Use, ...]

    def __post_init__(self) -> None:
        """Name what is updated."""
        self.unknowns = (self.name,)

    def totals(self, expected: EStep) -> tuple[Tensor, ...]:
        """Weighted sufficient statistics of all uses in the unknown's shape."""
        sums = [self.family.totals(expected, use, self.name) for use in self.found]
        return tuple(sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))

    def posterior(self, expected: EStep) -> Single | None:
        """Return the conjugate posterior, None for a parameter without prior."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        prior = expected.replay.distributions[self.name]
        base = self.family.prior_of(expected, self.name)
        return Single(self.name, wrapped(self.family.update(base, self.totals(expected)), prior))

    def maximize(self, expected: EStep) -> Values:
        """Maximum likelihood without a prior, the posterior's mode with one."""
        posterior = self.posterior(expected)
        if posterior is not None:
            return {self.name: self.family.mode(base_distribution(posterior.distribution))}
        return {self.name: self.family.maximize(self.totals(expected), expected.values[self.name])}


def wrapped(base: Any, prior: Any) -> Any:
    """Give a distribution over the same batch and event shape the prior's own event dimensions."""
    extra = prior.event_dim - base.event_dim
    return base.to_event(extra) if extra > 0 else base
