"""Families with one unknown: conjugate to one prior, updated from sums of two or so statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from inference.families.family import Block, Expected, Family, Use, add_up, explained, recognized, uses
from zoo.declare.evaluate import Values
from zoo.declare.program import Program
from zoo.declare.sites import Site, base_distribution


class SingleFamily(Family):
    """A likelihood with one unknown argument and its conjugate prior.

    Attributes
    ----------
    prior
        Name of the conjugate prior's distribution.
    vector
        Whether the unknown's last dimension is part of the argument (probabilities of categories).
    """

    prior: ClassVar[str]
    vector: ClassVar[bool] = False

    @abstractmethod
    def statistics(self, fn: Any, value: Tensor) -> tuple[Tensor, ...]:
        """Sufficient statistics of each entry, including what counts as exposure."""

    @abstractmethod
    def maximize(self, statistics: tuple[Tensor, ...], current: Tensor) -> Tensor:
        """Maximum-likelihood value; cells without data keep the current one."""

    @abstractmethod
    def posterior(self, prior: Any, statistics: tuple[Tensor, ...]) -> Any:
        """Conjugate posterior: the prior's distribution with updated arguments."""

    @abstractmethod
    def mode(self, posterior: Any) -> Tensor:
        """Mode of a distribution of the prior's family, in the interior of the support."""

    def accepts(self, name: str, use: Use) -> bool:
        """Whether the likelihood's other arguments are constant."""
        others = {k: f for k, f in use.site.args.items() if k not in (use.argument, "logits", "probs")}
        return all(not f.sites for f in others.values())

    def event_dim(self, site: Site) -> int:
        """How many dimensions of the statistics are one entry's own."""
        return site.event_dim

    def match(self, program: Program, unknown: Iterable[str]) -> list[Block]:
        """Claim each unknown that is only ever an argument of this likelihood, with the conjugate prior or none."""
        blocks: list[Block] = []
        for name in unknown:
            site = program.sites[name]
            if site.role != "parameter" and (
                site.family != self.prior or any(f.sites or f.index for f in site.args.values())
            ):
                continue
            found = []
            for child, args in uses(program, name):
                argument = self.likelihoods.get(child.family, "")
                feed = args.get(argument)
                if feed is None or not recognized(feed) or not explained(child) or (feed.pad > 0 and self.vector):
                    break
                use = Use(child, argument, feed)
                if not self.accepts(name, use):
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

    def totals(self, expected: Expected) -> tuple[Tensor, ...]:
        """Weighted sufficient statistics in the unknown's shape."""
        shape = tuple(expected.values[self.name].shape)
        sums: list[tuple[Tensor, ...]] = []
        for use in self.found:
            fn = expected.replay.distributions[use.site.name]
            statistics = self.family.statistics(base_distribution(fn), expected.value(use.site))
            event_dim = self.family.event_dim(use.site)
            sums.append(tuple(add_up(expected, use, s, shape, event_dim, self.name) for s in statistics))
        return tuple(sum(parts[1:], parts[0]) for parts in zip(*sums, strict=True))

    def posterior(self, expected: Expected) -> dict[str, Any] | None:
        """Return the conjugate posterior, None for a parameter without prior."""
        if expected.program.sites[self.name].role == "parameter":
            return None
        prior = expected.replay.distributions[self.name]
        return {self.name: self.family.posterior(prior, self.totals(expected))}

    def maximize(self, expected: Expected) -> Values:
        """Maximum likelihood without a prior, the posterior's mode with one."""
        posterior = self.posterior(expected)
        if posterior is not None:
            return {self.name: self.family.mode(posterior[self.name])}
        return {self.name: self.family.maximize(self.totals(expected), expected.values[self.name])}


def wrapped(base: Any, prior: Any) -> Any:
    """Give a distribution over the same batch and event shape the prior's own event dimensions."""
    extra = prior.event_dim - base.event_dim
    return base.to_event(extra) if extra > 0 else base
