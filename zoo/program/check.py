"""Find what is wrong in a model of one's own: data, forward, plates, supports, enumeration, density, gradient, rows."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from dataclasses import dataclass

import torch

from zoo.data.bind import Source
from zoo.data.match import Columns
from zoo.declare.function import ModelLike
from zoo.declare.model import Model
from zoo.errors import ZooError
from zoo.program.looks import LOOKS, Faults, Subject
from zoo.replay.random import reseed
from zoo.structure.failures import line_of

SITE = re.compile(r"(?:site|parameter|plate|field) '([^']+)'")
NOT_LOOKED_AT = "not looked at; mend what is above first"


@dataclass(frozen=True)
class Tick:
    """One check.

    Attributes
    ----------
    what
        What was looked at.
    passed
        None if it was not looked at.
    text
        What was found; if it failed, the reason and the remedy.
    site
        The site, parameter, plate or field that fails, if it is one.
    """

    what: str
    passed: bool | None
    text: str
    site: str = ""

    def __str__(self) -> str:
        """Show it in a line: a tick, what was looked at, what was found."""
        return f"{'-' if self.passed is None else '✓' if self.passed else '✗'} {self.what:<12}{self.text}"


@dataclass(frozen=True)
class ModelCheck:
    """What `zoo.check` found: print it.

    Attributes
    ----------
    model
        As it would be written.
    ticks
        The checks, in the order in which they were made.
    """

    model: str
    ticks: tuple[Tick, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was made and passed."""
        return all(tick.passed for tick in self.ticks)

    @property
    def failed(self) -> tuple[Tick, ...]:
        """The checks that failed."""
        return tuple(tick for tick in self.ticks if tick.passed is False)

    def __str__(self) -> str:
        """Show a tick for each check."""
        count, later = len(self.failed), ", ".join(tick.what for tick in self.ticks if tick.passed is None)
        lines = [str(tick) for tick in self.ticks if tick.passed is not None]
        lines += [f"- {later}: {NOT_LOOKED_AT}"] if later else []
        end = "ok" if self.ok else f"{count} check{'s' if count != 1 else ''} failed"
        return "\n".join([self.model, "", *lines, "", end])

    def __repr__(self) -> str:
        """Show it as it is printed."""
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def check(model: ModelLike | str, data: Source, *, columns: Columns | None = None) -> ModelCheck:
    """Look for what is wrong in a model on data, step by step, and say of each fault the reason and the remedy.

    Looked at are the data (fields, shapes, supports); that `forward` runs; plates against the data; shapes and supports
    at each site; that latents reach the densities through torch; that summing discrete latents out gives what is
    meant; that the log density at the start is a number, and its gradient that of finite differences; what ties rows.

    Parameters
    ----------
    model
        A `zoo.Model`, a class of one, or the name of a model of the zoo.
    data
        As for `fit`; some rows suffice.
    columns
        As for `fit`.

    Returns
    -------
    ModelCheck
        To print; `ok` says whether all is well, `failed` holds what is not. It raises nothing for a user's mistake.

    Examples
    --------
    >>> import zoo
    >>> zoo.check(zoo.BetaBernoulli(), [1, 0, 1]).ok
    True
    """
    subject = Subject(model, data, columns)
    ticks: list[Tick] = []
    stuck = False
    with torch.random.fork_rng(devices=[]):
        reseed(0)
        for what, look in LOOKS.items():
            if stuck:
                ticks.append(Tick(what, None, NOT_LOOKED_AT))
                continue
            found = _tick(subject, what, look)
            ticks += found
            stuck = any(tick.passed is False for tick in found)
    return ModelCheck(_name(subject), tuple(ticks))


def _name(subject: Subject) -> str:
    given = getattr(subject, "model", subject.given)
    return repr(given) if isinstance(given, Model) else getattr(given, "__name__", repr(given))


def _tick(subject: Subject, what: str, look: Callable[[Subject], str]) -> list[Tick]:
    """Make one check: a tick if it passes, else one for each fault."""
    try:
        return [Tick(what, True, look(subject))]
    except Faults as faults:
        errors = faults.errors
    except Exception as error:  # whatever goes wrong in a user's own code is what is looked for
        errors = [error]
    return [Tick(what, False, text, _site(text)) for text in dict.fromkeys(_said(subject, e) for e in errors)]


def _said(subject: Subject, error: Exception) -> str:
    if isinstance(error, ZooError):
        return str(error)
    first = str(error).strip().partition("\n")[0]
    line = line_of(subject.model, error) if hasattr(subject, "model") else ""
    return f"{type(error).__name__}: {first}{line}"


def _site(text: str) -> str:
    found = SITE.search(text)
    return found[1] if found else ""
