"""What coordinate updates find: a distribution over the unknowns of one block, its moments, entropy and draws."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Self

from torch import Tensor

from inference.conjugate.exponential_family import ConjugatePrior, Moments, family_named, family_of
from zoo.errors import DataError
from zoo.replay.evaluate import Values
from zoo.replay.sites import base_distribution


class Posterior(ABC):
    """q over the unknowns of one block.

    Attributes
    ----------
    names
        The unknowns.
    kind
        What it is called in a saved fit.
    mixed
        Whether it is a mixture over the states of discrete latents, which is no family to go on with.
    """

    names: tuple[str, ...]
    kind: ClassVar[str]
    mixed: ClassVar[bool] = False

    @abstractmethod
    def mean(self) -> Values:
        """Mean of each unknown."""

    @abstractmethod
    def sample(self, count: int) -> Values:
        """Draw the unknowns together, stacked along a new dimension 0."""

    @abstractmethod
    def log_prob(self, values: Values) -> Values:
        """Log density by unknown, each given the ones it depends on, in the shape of its site's log density."""

    @abstractmethod
    def cross(self, other: Self) -> Values:
        """E[log other] by unknown, laid out as `log_prob`; `other` is of the same class and unknowns, a prior say."""

    def entropy(self) -> Values:
        """Entropy by unknown, each given the ones it depends on, in the shape of its site's log density."""
        return {name: -density for name, density in self.cross(self).items()}

    def kl(self, other: Self) -> Values:
        """KL(self || other) = E[log self - log other] by unknown, laid out as `entropy`."""
        cross = self.cross(other)
        return {name: -cross[name] - entropy for name, entropy in self.entropy().items()}

    @abstractmethod
    def moments(self, name: str) -> Moments:
        """Expected sufficient statistics of one unknown."""

    def own(self, name: str) -> Moments:
        """Moments as the unknown's own prior sees them: in each state of what that depends on."""
        return self.moments(name)

    def own_states(self) -> Values:
        """Probabilities of the states that an unknown has for itself, by unknown, (*batch, states)."""
        return {}

    @abstractmethod
    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """Distribution of one unknown given the ones it depends on, to serve as its prior."""

    @abstractmethod
    def blend(self, other: Self, rate: float) -> Self:
        """(1 - rate) times its natural parameters plus rate times another's: a natural-gradient step."""

    @classmethod
    def from_numbers(cls, names: tuple[str, ...], described: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Make it again from what `describe` and `tensors` gave."""
        make: Callable[..., Self] = cls
        return make(names, **tensors, **{n: _tuples(v) for n, v in described.items()})

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The numbers it is made of, by name."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """What else `read` needs to make it again, as JSON."""


@dataclass
class Single(Posterior):
    """One unknown, whose distribution is a conjugate prior's: all that there is to say follows from its family."""

    name: str
    distribution: Any

    kind: ClassVar[str] = "single"

    def __post_init__(self) -> None:
        """Name what it is over; note its family, and the dimensions on the right that are wrapped around that."""
        self.names = (self.name,)
        self.base = base_distribution(self.distribution)
        self.events = self.distribution.event_dim - self.base.event_dim
        family = family_of(self.base)
        if not isinstance(family, ConjugatePrior):
            raise TypeError(f"{type(self.base).__name__} is no ConjugatePrior")
        self.family = family

    @classmethod
    def like(cls, name: str, base: Any, prior: Any) -> Single:
        """Give a distribution over the same batch and event shape the prior's own event dimensions."""
        extra = prior.event_dim - base.event_dim
        return cls(name, base.to_event(extra) if extra > 0 else base)

    def mean(self) -> Values:
        """Mean of the distribution."""
        return {self.name: self.distribution.mean}

    def sample(self, count: int) -> Values:
        """Independent draws."""
        return {self.name: self.family.sample(self.base, count)}

    def log_prob(self, values: Values) -> Values:
        """Log density of the distribution."""
        return {self.name: self.distribution.log_prob(values[self.name])}

    def cross(self, other: Self) -> Values:
        """E[log other], by the family."""
        return {self.name: total(self.family.cross(self.base, other.base), self.events)}

    def entropy(self) -> Values:
        """Differential entropy, by the family."""
        return {self.name: total(self.family.entropy(self.base), self.events)}

    def moments(self, name: str) -> Moments:
        """Moments that likelihoods are linear in."""
        return dict(self._moments)

    @cached_property
    def _moments(self) -> Moments:
        return self.family.moments(self.base)

    def given(self, name: str, values: Mapping[str, Tensor]) -> Any:
        """The distribution itself."""
        return self.distribution

    def blend(self, other: Self, rate: float) -> Self:
        """Mix natural parameters."""
        made = self.family.blend(self.base, other.base, rate)
        return type(self)(self.name, made.to_event(self.events) if self.events else made)

    def tensors(self) -> dict[str, Tensor]:
        """Arguments of the distribution."""
        return {name: getattr(self.base, name) for name in self.family.parameters}

    def describe(self) -> dict[str, Any]:
        """Name of the distribution and how many dimensions are wrapped around it as one event."""
        return {"family": type(self.base).__name__, "event": self.events}


def mix(a: Tensor, b: Tensor, rate: float) -> Tensor:
    """(1 - rate) a + rate b."""
    return (1 - rate) * a + rate * b


def total(tensor: Tensor, events: int) -> Tensor:
    """Sum over event dimensions."""
    return tensor.sum(list(range(-events, 0))) if events else tensor


def read(kind: str, names: tuple[str, ...], described: Mapping[str, Any], tensors: dict[str, Tensor]) -> Posterior:
    """Make a posterior again from what `describe` and `tensors` gave.

    Raises
    ------
    DataError
        If the kind or its distribution is unknown.
    """
    if kind == Single.kind:
        family = family_named(described["family"])
        if not isinstance(family, ConjugatePrior):
            raise DataError(f"unknown distribution {described['family']!r} in a saved fit")
        (law,) = (law for law in family.distributions if law.__name__ == described["family"])
        base = law(**tensors)
        return Single(names[0], base.to_event(described["event"]) if described["event"] else base)
    kinds: dict[str, Any] = {cls.kind: cls for cls in _below(Posterior) if hasattr(cls, "kind")}
    if kind not in kinds:
        raise DataError(f"unknown posterior {kind!r} in a saved fit")
    made: Posterior = kinds[kind].from_numbers(names, described, tensors)
    return made


def remade(q: Posterior) -> Posterior:
    """Make a posterior again from its numbers alone, rows of matrices one after another: products round by layout."""
    return read(q.kind, q.names, q.describe(), {n: v.contiguous() for n, v in q.tensors().items()})


def _below(cls: Any) -> list[Any]:
    return [d for c in cls.__subclasses__() for d in (c, *_below(c))]


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
