"""What a family is: a likelihood in exponential-family form, and closed-form updates of what feeds it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from inference.conjugate.posteriors import Moments, Posterior
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.sites import Parent, Site

if TYPE_CHECKING:
    from inference.conjugate.e_step import EStep
    from inference.conjugate.plan import Plan

EMPTY = 1e-10  # expected count below which a cell has no data and keeps its value

Known = Callable[[str], dict[str, Tensor]]  # argument -> arguments of its posterior, or its "value"
Argument = Callable[[str, str], Moments]  # (argument, kind of its moments) -> moments, laid out beside the entries


@dataclass(frozen=True)
class Use:
    """One place where an unknown is an argument: of which site, which argument, and how it gets there."""

    site: Site
    argument: str
    parent: Parent


class Likelihood(ABC):
    """An exponential family: log p(x | args) = sum_j <T_j(x), eta_j(args)> + a(args) + h(x).

    Entries have the layout (enumeration dims, plates, event dims); T_j and eta_j may have dimensions of their own on
    the right (a category, a matrix), over which the product is summed.

    Attributes
    ----------
    distributions
        Names of the distributions this is.
    inner
        How many dimensions of its own each T_j has.
    joint
        How many of the site's event dimensions are among those of T_j (all, for a vector that is one observation).
    centered
        Whether T is taken about the mean of the data, for accuracy far from zero.
    completes
        Whether missing entries of a vector are completed by their moments given the others.
    """

    distributions: ClassVar[tuple[str, ...]] = ()
    inner: ClassVar[tuple[int, ...]] = (0,)
    joint: ClassVar[int] = 0
    centered: ClassVar[bool] = False
    completes: ClassVar[bool] = False

    @abstractmethod
    def statistics(self, fn: Any, value: Moments, program: Program) -> tuple[Tensor, ...]:
        """T_j of each entry, from the value's moments ("mean", and "var" where the value is itself uncertain)."""

    @abstractmethod
    def natural(self, fn: Any, argument: Argument, center: Tensor | None) -> tuple[tuple[Tensor, ...], Tensor]:
        """eta_j, and a, from the moments of the arguments."""

    def base(self, fn: Any, value: Moments) -> Tensor | float:
        """log h(x) of each entry; 0 unless said otherwise."""
        return 0.0

    def frame(self) -> dict[str, Tensor]:
        """Attributes that the statistics are relative to, made from the data of the first fit."""
        return {}

    def deviations(
        self, expected: EStep, site: Site, statistics: tuple[Tensor, tuple[Tensor, ...]]
    ) -> tuple[Tensor, Tensor]:
        """Weights of the entries, and weights times E[(x - m)^2], where the likelihood is a Normal."""
        raise NotImplementedError

    def predictive(self, fn: Any, known: Known) -> Any:
        """Distribution of a new value, what is uncertain in the arguments integrated out.

        Parameters
        ----------
        fn
            The site's distribution at the unknowns' means, without its wrappers.
        known
            Argument -> its posterior's own arguments beside the entries, or its "value" where it is certain.

        Raises
        ------
        MethodError
            If it is none that has a name.
        """
        raise MethodError(f"the predictive distribution of a {type(fn).__name__} has no closed form")

    def location(self, expected: EStep) -> Moments | None:
        """Moments of each entry's location by a linear predictor, None where the likelihood has none."""
        return None

    def coefficients(self, expected: EStep) -> Moments:
        """Moments of the coefficients of a linear predictor, where the likelihood has one."""
        raise NotImplementedError


class Block(ABC):
    """A closed-form update of some unknowns given the rest.

    Attributes
    ----------
    unknowns
        What is updated.
    last
        Whether this is updated after other blocks: a scale, about the new location.
    """

    unknowns: tuple[str, ...]
    last: ClassVar[bool] = False

    @abstractmethod
    def maximize(self, expected: EStep) -> Values:
        """Return the unknowns' values that maximize the expected log joint."""

    def posterior(self, expected: EStep) -> Posterior | None:
        """Return the conditionally conjugate posterior of the unknowns; None if there is none."""
        return None

    def why_not(self, program: Program) -> str | None:
        """Say why the unknowns have no conjugate posterior: a parameter has no prior; None if they have one."""
        for name in self.unknowns:
            if program.sites[name].role == "parameter":
                return f"{name!r} is a parameter without prior"
        return None

    def log_prior(self, expected: EStep, posterior: Posterior) -> Values | None:
        """Return E[log p] of the unknowns where it is not that of their own likelihoods, one by one."""
        return None

    def warnings(self, expected: EStep) -> list[str]:
        """Say what makes the fitted values less trustworthy."""
        return []


class Family(ABC):
    """Finds the unknowns of a program that it can update.

    Attributes
    ----------
    rank
        Order in which families claim unknowns; joint families come first.
    """

    rank: ClassVar[int] = 1

    @abstractmethod
    def match(self, plan: Plan, unknown: Iterable[str]) -> list[Block]:
        """Return the blocks this family can update."""


def beside(argument: Tensor, value: Tensor) -> Tensor:
    """A known argument, without the dimensions left of the value's along which it only repeats itself."""
    while argument.ndim > value.ndim and (argument.shape[0] == 1 or argument.stride(0) == 0):
        argument = argument[0]
    return argument


def uses(program: Program, name: str) -> list[tuple[Site, Mapping[str, Parent]]]:
    """Sites whose distribution depends on `name`, each with the arguments (in every parameterization) that do."""
    found: list[tuple[Site, Mapping[str, Parent]]] = []
    for site in program.sites.values():
        args = {key: parent for key, parent in site.args.items() if name in parent.sites}
        if args:
            found.append((site, args))
    return found


def recognized(parent: Parent) -> bool:
    """Whether the argument is an unknown itself, indexed or not, times a constant."""
    return parent.kind in ("site", "indexed")


def unscaled(parent: Parent) -> bool:
    """Whether the argument is an unknown itself, indexed or not."""
    return recognized(parent) and parent.scale == 1.0 and not parent.entrywise


def within(parent: Parent, other: Parent) -> bool:
    """Whether entries that share a cell of what feeds one argument share one of what feeds another."""
    return set(parent.index) <= set(other.index) and parent.by in ("", other.by)


def explained(site: Site) -> bool:
    """Whether a site's value is known up to enumeration: observed or enumerated."""
    return site.role in ("observed", "enumerated")
