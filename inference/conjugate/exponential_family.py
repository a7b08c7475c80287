"""The exponential family: sufficient statistics, natural parameters and log normalizer, and all that follows from them.

    log p(x | arguments) = sum_j <T_j(x), eta_j> - A + log h(x)

One class for each distribution says what T, eta, A and h are, wherever it stands in a model. Written once, in those
terms, are the rest:

- *as a likelihood* of data, log p is linear in weighted sums of T (`message`);
- *as a prior*, conjugate to the argument of some likelihood: the posterior's natural parameters are the prior's plus
  the weighted statistics (`ConjugatePrior.make`);
- *as a posterior*: moments, entropy, divergence, the mode, and natural-gradient steps (`blend`).

Expectations over what is uncertain go by *moments*: E[u] as "mean", E[log u] as "log", and so on. log p is linear in
them by conjugacy, so that the same formulas serve points (EM) and posteriors (CAVI).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Site, base_distribution, views

Moments = dict[str, Tensor]
Arguments = Callable[[str], Moments]  # argument of a distribution -> its moments, laid out beside the entries
Statistics = tuple[Tensor, tuple[Tensor, ...]]  # weights of the entries, and weights times each T_j

_families: dict[str, type[Likelihood]] = {}


class Current(Protocol):
    """What is known of the unknowns now: an E-step, as a family sees it."""

    @property
    def program(self) -> Program:
        """The rows at hand."""

    @property
    def values(self) -> Values:
        """A value for each unknown: a point, or the mean of its posterior."""

    @property
    def posteriors(self) -> Mapping[str, Any]:
        """Unknown -> the posterior of its block, where it is no point."""

    def argument(self, site: Site, name: str) -> Moments:
        """Moments of an argument of a site, laid out beside its entries."""

    def value(self, site: Site) -> Moments:
        """Moments of a site's own value."""

    def center(self, site: Site) -> Tensor | None:
        """What statistics of a site are taken about; None for 0."""

    def states(self, name: str) -> Tensor:
        """States of an enumerated site as indices, laid out along its dimension."""


@dataclass(frozen=True)
class Entries:
    """Weighted statistics of a site's entries, and what is known of its arguments: what messages are made of.

    Attributes
    ----------
    current, site, fn
        The site, and its distribution without wrappers.
    count
        Weights of the entries, (enumeration dims, plates, event dims outside T); a plate that was summed has size 1.
    sums
        Weights times T_j, each with the `dims[j]` dimensions of T_j on the right.
    offset
        What has to be added to x so that it is about the origin of the unknown location (0 elsewhere).
    """

    current: Current
    site: Site
    fn: Any
    count: Tensor
    sums: tuple[Tensor, ...]
    offset: Tensor | float = 0.0

    def argument(self, name: str) -> Moments:
        """Moments of an argument, laid out beside the entries."""
        return self.current.argument(self.site, name)


@dataclass(frozen=True)
class OuterProduct:
    """A statistic v v^T of each entry, not yet multiplied out: v has shape (..., d)."""

    vector: Tensor


class Likelihood(ABC):
    """A distribution whose log density is linear in statistics of its value and in moments of its arguments.

    Entries of a site have the layout (enumeration dims, plates, event dims). A subclass is found by being defined.

    Attributes
    ----------
    distributions
        Classes of the distributions this is.
    dims
        How many dimensions each T_j has of its own: 0 for a number, 1 for a vector, 2 for a matrix.
    event_dim
        How many event dimensions of a value make one T (1 for a vector that is one observation).
    conjugate
        Argument -> name of the prior that is conjugate to it. Other arguments have to be known.
    alternatives
        Argument -> other parameterization of it -> its moments from those of the other.
    prior
        Name of the family that posteriors of its value are of, where it is the prior; its own if empty.
    by_bound
        Arguments whose update maximizes a bound on log p that touches it at the current values.
    composes
        Argument that is made of unknowns in a way of the family's own (`composed`); none if empty.
    lays_out
        Whether `log_density` has an entry for each of the site's own, which then need not be evaluated.
    given
        Arguments that updates of the others take at their current values: they may be unknowns that nothing updates.
    centered
        Whether T is taken about the mean of the data, for accuracy far from zero.
    completes
        Whether missing entries of a vector are completed by their moments given the others.
    skips
        Whether it leaves missing entries of a vector out of its density and statistics by itself.
    summable
        Whether weighted T can be summed over rows before the arguments are known.
    """

    distributions: ClassVar[tuple[Any, ...]] = ()
    dims: ClassVar[tuple[int, ...]] = (0,)
    event_dim: ClassVar[int] = 0
    conjugate: ClassVar[Mapping[str, str]] = {}
    alternatives: ClassVar[Mapping[str, Mapping[str, Callable[[Moments], Moments]]]] = {}
    prior: ClassVar[str] = ""
    by_bound: ClassVar[tuple[str, ...]] = ()
    composes: ClassVar[str] = ""
    lays_out: ClassVar[bool] = False
    given: ClassVar[tuple[str, ...]] = ()
    centered: ClassVar[bool] = False
    completes: ClassVar[bool] = False
    skips: ClassVar[bool] = False
    summable: ClassVar[bool] = True

    def __init_subclass__(cls) -> None:
        """Register the family under the names of its distributions; the last one defined counts."""
        super().__init_subclass__()
        _families.update({law.__name__: cls for law in cls.distributions})

    @abstractmethod
    def statistics(self, fn: Any, value: Moments) -> tuple[Tensor, ...]:
        """E[T_j] of each entry, from the moments of its value."""

    @abstractmethod
    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """E[log p(x)] of each entry, over what is uncertain of x and of the arguments; or a bound below it."""

    @abstractmethod
    def as_prior(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None) -> tuple[Tensor, ...]:
        """Natural parameters as a prior of its value, which is now known as well as `value` says."""

    def composed(self, current: Current) -> Moments:
        """Moments of the argument `composes`, from those of the unknowns that it is made of."""
        raise NotImplementedError

    def message(self, argument: str, entries: Entries) -> tuple[Tensor, ...]:
        """What multiplies each statistic of an argument's conjugate prior in sum_i w_i log p(x_i).

        T itself, unless said otherwise: where eta_j are the statistics of the argument.
        """
        return entries.sums

    def observed(self, program: Program, value: Tensor) -> Moments:
        """Moments of a value that is known, of all rows of a program."""
        return {"mean": value}

    def moments_at(self, argument: str, value: Tensor) -> Moments:
        """Moments of an argument that is known."""
        return prior_named(self.conjugate[argument]).at(value) if argument in self.conjugate else {"mean": value}


class ExponentialFamily(Likelihood):
    """log p(x | arguments) = sum_j <T_j(x), eta_j> - A + log h(x)."""

    @abstractmethod
    def natural(self, fn: Any, argument: Arguments, center: Tensor | None = None) -> tuple[tuple[Tensor, ...], Tensor]:
        """E[eta_j] and -E[A], from the moments of the arguments; with T about a center, if there is one."""

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """E[log h(x)] of each entry; 0 unless said otherwise."""
        return 0.0

    def row_statistics(self, fn: Any, value: Moments) -> tuple[Tensor | OuterProduct, ...]:
        """T_j of known values, outer products by the vector that they are made of."""
        return self.statistics(fn, value)

    def log_density(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None = None) -> Tensor:
        """sum_j <E[T_j], E[eta_j]> - E[A] + E[log h]."""
        if center is not None:
            value = {**value, "mean": value["mean"] - center}
        eta, density = self.natural(fn, argument, center)
        density = density + self.base(fn, value)
        for dims, t, e in zip(self.dims, self.statistics(fn, value), eta, strict=True):
            density = density + inner_product(t, e, dims)
        return density

    def as_prior(self, fn: Any, argument: Arguments, value: Moments, center: Tensor | None) -> tuple[Tensor, ...]:
        """E[eta_j], whatever the value."""
        return self.natural(fn, argument, center)[0]


class ConjugatePrior(ExponentialFamily):
    """A family that is the conjugate prior, and so the posterior, of an argument of some likelihood.

    Attributes
    ----------
    parameters
        Arguments of the distribution that say all of it.
    powers
        Powers of c > 0 that multiply the statistics when a constant c multiplies the value; None if it must not.
    """

    parameters: ClassVar[tuple[str, ...]]
    powers: ClassVar[tuple[int, ...] | None] = None

    @abstractmethod
    def make(self, natural: tuple[Tensor, ...], center: Tensor | None = None) -> Any:
        """Return the distribution with these natural parameters; of T about a center, if there is one."""

    @abstractmethod
    def moments(self, fn: Any) -> Moments:
        """Moments that likelihoods are linear in."""

    @abstractmethod
    def mode(self, natural: tuple[Tensor, ...], *, interior: bool = False) -> Tensor:
        """Value that maximizes <T, eta>; not finite where there is none.

        With `interior`, where the maximum is on the edge of the support, a value next to it.
        """

    def at(self, value: Tensor) -> Moments:
        """Moments of a known value."""
        return {"mean": value}

    def observed(self, program: Program, value: Tensor) -> Moments:
        """Moments of a value that is known."""
        return self.at(value)

    def sample(self, fn: Any, count: int) -> Tensor:
        """Independent draws, stacked along a new dimension 0."""
        draws: Tensor = fn.sample((count,))
        return draws

    def known(self, fn: Any) -> Arguments:
        """Moments of the arguments of a distribution that is known."""
        every: dict[str, Tensor] = {}

        def argument(name: str) -> Moments:
            value = getattr(fn, name, None)
            if value is None:
                every.update(every or views(fn))
                value = every[name]
            return self.moments_at(name, value)

        return argument

    def cross(self, q: Any, p: Any) -> Tensor:
        """E_q[log p] of two distributions of the family."""
        moments = self.moments(q)
        return self.log_density(p, self.known(p), moments, moments["mean"] if self.centered else None)

    def entropy(self, fn: Any) -> Tensor:
        """-E[log p] = A - <E[T], eta> - E[log h]."""
        return -self.cross(fn, fn)

    def blend(self, q: Any, p: Any, rate: float) -> Any:
        """(1 - rate) times q's natural parameters plus rate times p's: a natural-gradient step."""
        center = q.loc if self.centered else None
        pairs = zip(*(self.natural(fn, self.known(fn), center)[0] for fn in (q, p)), strict=True)
        return self.make(tuple((1 - rate) * a + rate * b for a, b in pairs), center)


def family_named(name: str) -> Likelihood | None:
    """Return the family of a distribution, None if it has none."""
    return _families[name]() if name in _families else None


def family_of(fn: Any) -> Likelihood | None:
    """Return the family of a distribution in its wrappers, None if it has none."""
    return family_named(type(base_distribution(fn)).__name__)


def prior_named(name: str) -> ConjugatePrior:
    """Return a family that is a conjugate prior, by the name of its distribution."""
    family = family_named(name)
    if not isinstance(family, ConjugatePrior):
        raise TypeError(f"{name!r} is no ConjugatePrior, and something is said to be conjugate to it")
    return family


def inner_product(t: Tensor, eta: Tensor, dims: int) -> Tensor:
    """<T, eta> over `dims` dimensions on the right; of all rows under all states by one matrix product.

    An entry of T that is 0 adds 0 even where eta is infinite: no count of what is impossible is no surprise.
    """
    if not dims:
        return torch.where(t == 0, 0.0, t * eta)
    own = t.shape[t.ndim - dims :].numel()
    lead, rows = eta.shape[: eta.ndim - dims], t.shape[: t.ndim - dims]
    # eta (states, 1, own) and T (rows, own): one product (states, own) x (own, rows), no (states, rows, own) array.
    apart = len(rows) <= len(lead) and all(size == 1 for size in lead[len(lead) - len(rows) :])
    if apart and not torch._C._functorch.is_batchedtensor(eta) and bool(eta.isfinite().all()):
        product = eta.reshape(-1, own) @ t.reshape(-1, own).mT
        return product.reshape((*lead[: len(lead) - len(rows)], *rows))
    return torch.where(t == 0, 0.0, t * eta).sum(list(range(-dims, 0)))


def unexpanded(argument: Tensor, value: Tensor) -> Tensor:
    """A known argument, without the dimensions left of the value's along which it only repeats itself."""
    while argument.ndim > value.ndim and (argument.shape[0] == 1 or argument.stride(0) == 0):
        argument = argument[0]
    return argument
