"""What a method is: settings with two verbs, `why_not` and `run`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import ClassVar, Protocol, Self, TypeVar

import pandas as pd

from guides.guide import check_settings
from inference.approximations.approximation import Approximation
from inference.coordinate.memory import Memory
from inference.runtime.monitor import Told
from inference.runtime.settings import settings_of
from zoo import catalogue
from zoo.data.bind import Source
from zoo.errors import FitError, MethodError, UnknownNameError, ZooError, short
from zoo.program.program import Program
from zoo.replay.evaluate import Values
from zoo.replay.vectors import MOST_VECTORS


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

    def __post_init__(self) -> None:
        """Refuse what is no number: a method that has none to report breaks down instead.

        Raises
        ------
        FitError
            If the value is NaN.
        """
        if math.isnan(self.value):
            raise FitError(f"the {self.kind} is not a number at the end of the fit")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a method hands back.

    Attributes
    ----------
    approximation
        q over the latents.
    points
        Values of the parameters and network weights.
    objective, trace, steps, converged, reason, warnings, memory, diagnostics, verdict
        As in `Fit`.
    shifts
        Statistic -> site -> array in the shape of the site: how far q is from its weighted draws.
    judge
        Says what verdict, diagnostics, shifts and more warnings there are, where that can wait until it is asked for.
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
    shifts: Mapping[str, Values] = field(default_factory=dict)
    judge: Callable[[Outcome], Outcome] | None = None

    def judged(self) -> Outcome:
        """Return the outcome with all that is said of it."""
        return self if self.judge is None else self.judge(replace(self, judge=None))

    def interrupted(self) -> Outcome:
        """Return the outcome of a run that was ended by Ctrl-C, which has not converged whatever its rule says."""
        reason = f"interrupted by Ctrl-C after {self.steps} steps; this is the best so far"
        judge = None if self.judge is None else partial(_judged_as_interrupted, self.judge)
        return replace(self, converged=False, reason=reason, judge=judge)


def _judged_as_interrupted(judge: Callable[[Outcome], Outcome], outcome: Outcome) -> Outcome:
    return replace(judge(outcome), converged=False, reason=outcome.reason)


class Fitted(Protocol):
    """What a method sees of a fit that it goes on from; `Fit` is one."""

    @property
    def method(self) -> Method:
        """The method that made it."""

    @property
    def program(self) -> Program:
        """The program on the rows so far."""

    @property
    def approximation(self) -> Approximation:
        """q over the latents."""

    @property
    def points(self) -> Values:
        """Values of the parameters and network weights."""

    @property
    def memory(self) -> Memory | None:
        """Expected statistics of the rows so far, if they are kept."""

    def updated(self, method: Method, new_data: Source, *, progress: Told | bool = False) -> Self:
        """Return the fit that a method makes of this one and more rows."""


AnyFit = TypeVar("AnyFit", bound=Fitted)


class Method(ABC):
    """Base class of methods. A subclass is a frozen dataclass of settings with `why_not` and `run`.

    Its name, for `fit(..., method="name")`, is the class name in lower case. One that can go on from a fit with more
    rows has `continued` too.

    Attributes
    ----------
    streams
        Whether it can read rows in chunks from a file.
    of_starts
        Settings of how a first fit is found, which mean nothing when a fit is continued.

    Examples
    --------
    >>> import zoo
    >>> from inference import Exact, Method
    >>> from zoo.program.prepare import prepare
    >>> isinstance(Exact(), Method), zoo.catalogue.find("method", "exact") is Exact  # names work too
    (True, True)
    >>> Exact().why_not(prepare(zoo.GMM(), "faithful"))
    "'weights' is a parameter without prior"
    """

    streams: ClassVar[bool] = False
    of_starts: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    @abstractmethod
    def why_not(self, program: Program) -> str | None:
        """Return None if the method is legal for this program, else the reason why not.

        Examples
        --------
        >>> import zoo
        >>> from inference import EM, Exact
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1])
        >>> EM().why_not(program)
        'nothing to enumerate: it has no discrete latent'
        >>> Exact().why_not(program) is None
        True
        """

    @abstractmethod
    def run(self, program: Program, *, progress: Told | bool = False) -> Outcome:
        """Fit the program. The global RNG has been seeded by the caller.

        Examples
        --------
        >>> import zoo
        >>> from inference import Exact
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1])
        >>> outcome = Exact().run(program)
        >>> outcome.objective.kind, outcome.converged
        ('log_evidence', True)
        """

    def fit_unjudged(self, program: Program) -> Outcome:
        """Fit the program for its draws alone: what `run` hands out, without what is said of it.

        Examples
        --------
        >>> import zoo
        >>> from inference import Laplace
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1])
        >>> Laplace().fit_unjudged(program).verdict
        ''
        """
        return self.run(program)

    def together(self, program: Program) -> int:
        """How many programs like this one `run_each` is best given at once.

        Examples
        --------
        >>> import zoo
        >>> from inference import SVI, Exact
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1])
        >>> Exact().together(program), SVI().together(program) > 1
        (1, True)
        """
        return 1

    def run_each(self, programs: Sequence[Program]) -> list[Outcome | ZooError]:
        """Fit programs that differ in what is observed only, or say what broke down; nobody looks at one of the fits.

        A method may do this in one tensor program for all. What it hands out has to be distributed as `run` has it.

        Examples
        --------
        >>> import zoo
        >>> from inference import Exact
        >>> from zoo.program.prepare import prepare
        >>> programs = [prepare(zoo.BetaBernoulli(), flips) for flips in ([1, 0, 1], [1, 1, 1])]
        >>> [round(outcome.objective.value, 3) for outcome in Exact().run_each(programs)]
        [-2.485, -1.386]
        """
        outcomes: list[Outcome | ZooError] = []
        for program in programs:
            try:
                outcomes.append(self.fit_unjudged(program))
            except ZooError as error:
                outcomes.append(error)
            except RuntimeError as error:
                if "linalg" not in str(error):
                    raise
                outcomes.append(FitError(str(error).partition("\n")[0]))
        return outcomes

    def continued(self, program: Program, fit: Fitted, *, progress: Told | bool = False) -> tuple[Program, Outcome]:
        """Go on from a fit with more rows.

        Parameters
        ----------
        program
            The fit's program, bound to the new rows.
        fit
            Of the rows so far.

        Returns
        -------
        tuple
            The program that the outcome is of (its priors may differ from the given one's), and the outcome.

        Raises
        ------
        MethodError
            If the method cannot go on from this fit.

        Examples
        --------
        >>> import zoo
        >>> from inference import Exact, fit
        >>> morning = fit(zoo.BetaBernoulli(), [1, 0, 1], method="exact", seed=0)
        >>> program, outcome = Exact().continued(morning.on([1, 1]), morning)
        >>> round(outcome.objective.value, 3)  # log p(1, 1 | 1, 0, 1) = log 3/5 + log 4/6
        -0.916
        """
        able = able_methods(lambda method: type(method).continued is not Method.continued)
        raise MethodError(
            f"{type(self).__name__.lower()} cannot go on from a fit with more rows, which {', '.join(able)} can; fit "
            "all rows at once"
        )

    def relabelled(self, program: Program, before: Outcome, outcome: Outcome) -> Outcome:
        """Return an outcome whose states have other labels than before, judged anew if the judgement sees labels.

        Examples
        --------
        >>> import zoo
        >>> from inference import EM
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.GMM(components=2), "faithful")
        >>> outcome = EM().run(program)
        >>> EM().relabelled(program, outcome, outcome) is outcome  # a point is judged the same under any labels
        True
        """
        return outcome

    def update(self, fit: AnyFit, new_data: Source) -> AnyFit:
        """Go on from a fit with more rows.

        Parameters
        ----------
        fit
            A fit by this method.
        new_data
            Rows like those fitted, independent of them given the latents and parameters.

        Returns
        -------
        Fit
            Of all rows so far; its objective is that of the new rows.

        Raises
        ------
        MethodError
            If the method cannot go on from this fit, or a setting means nothing there.
        FitError
            If `fit` is none.

        Examples
        --------
        >>> import zoo
        >>> from inference import Exact, fit
        >>> morning = fit(zoo.BetaBernoulli(), [1, 0, 1], method="exact", seed=0)
        >>> day = Exact().update(morning, [1, 1])
        >>> round(float(day.posterior["posterior"]["p"].mean()), 1)  # (1 + 4) / (2 + 5)
        0.7
        """
        if isinstance(fit, type) or not callable(getattr(fit, "updated", None)):
            name = type(self).__name__
            raise FitError(
                f"expected a fit, found {short(fit)}: {name}().update(fit(model, data, method=...), new_data)"
            )
        self.check_continuing()
        return fit.updated(self, new_data)

    def check_continuing(self) -> None:
        """Raise if a setting would be ignored when a fit is continued.

        Raises
        ------
        MethodError
            Naming the setting.

        Examples
        --------
        >>> from inference import EM
        >>> EM().check_continuing()
        >>> EM(restarts=3).check_continuing()
        Traceback (most recent call last):
            ...
        zoo.errors.MethodError: em: restarts=3 would be ignored, for an update goes on from where the fit ended; ...
        """
        usual = self.continuing()
        for name in sorted(self.of_starts):
            if (value := getattr(self, name)) != getattr(usual, name):
                raise MethodError(
                    f"{type(self).__name__.lower()}: {name}={value!r} would be ignored, for an update goes on from "
                    "where the fit ended; leave it out"
                )

    def continuing(self) -> Self:
        """Return the method without the settings of how a first fit is found: these at their defaults.

        Examples
        --------
        >>> from inference import EM
        >>> EM(restarts=3).continuing().restarts
        1
        """
        return type(self)(**{n: v for n, v in settings_of(self).items() if n not in self.of_starts})

    def how(self, program: Program) -> str:
        """Say in a few words how the method goes about a program it is legal for; empty if there is nothing to say.

        Examples
        --------
        >>> import zoo
        >>> from inference import EM, SVI
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.GMM(components=2), "faithful")
        >>> EM().how(program)
        'closed form: weights, means, covariances'
        """
        return ""

    def check(self, program: Program) -> None:
        """Raise if the method is not legal for this program.

        Raises
        ------
        MethodError
            With the reason, and a method that would work.

        Examples
        --------
        >>> import zoo
        >>> from inference import EM
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1, 0, 1, 1, 0, 1])
        >>> EM().check(program)
        Traceback (most recent call last):
            ...
        zoo.errors.MethodError: em is not legal for BetaBernoulli: nothing to enumerate: it has no discrete latent. ...
        """
        reason = self.why_not(program)
        name = type(self).__name__.lower()
        if reason is None and program.data.stream is not None and not self.streams:
            able = ", ".join(able_methods(lambda method: method.streams))
            raise MethodError(f"{name} needs all rows in memory and cannot read a stream, which {able} can")
        if reason is None:
            return
        legal = able_methods(lambda method: method.why_not(program) is None)
        legal = [n + (" with its defaults" if n == name else "") for n in legal]
        works = f"Legal here: {', '.join(legal)}." if legal else "No method is legal for this model."
        raise MethodError(f"{name} is not legal for {type(program.model).__name__}: {reason.rstrip('.')}. {works}")


def able_methods(test: Callable[[Method], bool]) -> list[str]:
    """Return the names of the methods that, with their default settings, pass a test."""
    able = []
    for entry in catalogue.entries("method").values():
        with entry.guarded():
            able += [entry.name.lower()] if test(entry.load()()) else []
    return able


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


def offered_name(method: Method | type[Method] | str) -> str:
    """Return what a method is called in tables: the name that it is offered under, or that of its class."""
    if isinstance(method, str):
        return catalogue.entry("method", method).name.lower()
    return (method if isinstance(method, type) else type(method)).__name__.lower()


def unsupported(program: Program, *, counts: bool = False) -> str | None:
    """Return the reason if a discrete latent cannot be enumerated; with `counts`, if it cannot be drawn either."""
    for site in program.sites.values():
        if site.role == "unsupported":
            reason = f"site {site.name!r} is a discrete latent ({site.family}) whose states cannot be enumerated"
            if site.family in ("Bernoulli", "Categorical"):  # it is their events that are vectors
                reason += (
                    f": its events are vectors, of which more than {MOST_VECTORS} are not summed over; take fewer "
                    "entries, or draw each by itself, as a site without to_event, if what depends on them needs a few "
                    "at a time"
                )
            return reason
        if site.countable and not counts:
            return (
                f"site {site.name!r} is a discrete latent ({site.family}) with infinitely many states, which cannot "
                f"be enumerated; sum over the first of them: pyro.sample({site.name!r}, dist.Categorical("
                f"logits=dist.{site.family}(...).log_prob(torch.arange(50.0))))"
            )
    return None
