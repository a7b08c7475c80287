"""What a method is: settings with two verbs, `why_not` and `run`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

import pandas as pd

from guides.guide import check_settings
from inference.approximations.approximation import Approximation
from inference.coordinate.memory import Memory
from zoo import catalogue
from zoo.errors import MethodError, UnknownNameError
from zoo.program.program import Program
from zoo.replay.evaluate import Values


@dataclass(frozen=True)
class Objective:
    """What a method climbed, all constants kept.

    Attributes
    ----------
    value
        In nats.
    kind
        "log_evidence", "log_likelihood", "log_posterior" (log p(x, z), at a point or on average over draws of the
        posterior), "elbo" or "iwae"; "elbo_at_point" and "iwae_at_point" where some latents are at a point z* and the
        bound is one on log p(x, z*). Numbers of different kinds are not comparable.
    error
        Monte Carlo standard error; 0 for an exact value.
    """

    value: float
    kind: str
    error: float = 0.0


@dataclass(kw_only=True)
class Outcome:
    """What a method found.

    Attributes
    ----------
    approximation
        q over the latents.
    points
        Values of the parameters and network weights.
    objective, trace, steps, converged, reason, warnings, memory, diagnostics, verdict
        As in `Fit`.
    """

    approximation: Approximation
    points: Values
    objective: Objective
    trace: pd.DataFrame
    steps: int
    converged: bool
    reason: str
    warnings: list[str] = field(default_factory=list)
    memory: Memory | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    verdict: str = ""


class Method(ABC):
    """Base class of methods. A subclass is a frozen dataclass of settings with `why_not` and `run`.

    Its name, for `fit(..., method="name")`, is the class name in lower case.

    Attributes
    ----------
    streams
        Whether it can read rows in chunks from a file.
    """

    streams: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    @abstractmethod
    def why_not(self, program: Program) -> str | None:
        """Return None if the method is legal for this program, else the reason why not."""

    @abstractmethod
    def run(self, program: Program, *, progress: bool = False) -> Outcome:
        """Fit the program. The global RNG has been seeded by the caller."""

    def how(self, program: Program) -> str:
        """Say in a few words how the method goes about a program it is legal for; empty if there is nothing to say."""
        return ""

    def check(self, program: Program) -> None:
        """Raise if the method is not legal for this program.

        Raises
        ------
        MethodError
            With the reason, and a method that would work.
        """
        reason = self.why_not(program)
        if reason is None and program.data.stream is not None and not self.streams:
            raise MethodError(
                f"{type(self).__name__.lower()} needs all rows in memory and cannot read a stream; em, cavi and exact "
                "can"
            )
        if reason is None:
            return
        legal = [
            entry.name.lower() + (" with its defaults" if type(self).__name__ == entry.name else "")
            for entry in catalogue.entries("method").values()
            if entry.load()().why_not(program) is None
        ]
        reason = reason.rstrip(".")
        works = f"Legal here: {', '.join(legal)}." if legal else "No method is legal for this model."
        raise MethodError(
            f"{type(self).__name__.lower()} is not legal for {type(program.model).__name__}: {reason}. " + works
        )


def as_method(method: Method | type[Method] | str) -> Method:
    """Return a method for an instance, a class with its default settings, or a name.

    Raises
    ------
    UnknownNameError
        If it is none of these.
    """
    if isinstance(method, str):
        method = catalogue.find("method", method)
    if isinstance(method, type) and issubclass(method, Method):
        return method()
    if not isinstance(method, Method):
        raise UnknownNameError(
            f"expected a method, found {type(method).__name__}: give one such as EM(), or a name "
            f"among {', '.join(n.lower() for n in catalogue.entries('method'))}"
        )
    return method


def unsupported(program: Program, *, counts: bool = False) -> str | None:
    """Return the reason if a discrete latent cannot be enumerated; with `counts`, if it cannot be drawn either."""
    for site in program.sites.values():
        if site.role == "unsupported":
            return f"site {site.name!r} is a discrete latent ({site.family}) whose states cannot be enumerated"
        if site.countable and not counts:
            return (
                f"site {site.name!r} is a discrete latent ({site.family}) with infinitely many states, which cannot "
                "be enumerated"
            )
    return None
