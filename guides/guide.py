"""What a guide is: settings that build, from a program, a trainable distribution q over its unconstrained latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from guides.start import Start
from guides.variational import Variational
from zoo import catalogue
from zoo.declare.model import validate
from zoo.errors import MethodError
from zoo.program.program import Program
from zoo.replay.sites import Site

if TYPE_CHECKING:
    from guides.composition import Guides


class Guide(ABC):
    """Base class of guides. A subclass is a frozen dataclass of settings with `build`; it is made from the program.

    Guides compose: ``MeanField() & FullRank("loc", "scale")`` covers two sites by the second and the rest by the first.

    Attributes
    ----------
    point
        Whether q is a point, so that the objective is the log posterior and not an ELBO.
    counts
        Whether it has a family for counts: discrete latents with infinitely many states.
    sites
        Names of the sites it covers; empty for all that no other guide covers.
    """

    point = False
    counts = False
    sites: tuple[str, ...] = ()

    @property
    def still(self) -> bool:
        """Whether q is a point while it climbs, so that all draws are the same."""
        return self.point

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    def __and__(self, other: Guide) -> Guides:
        """Combine with a guide for other sites."""
        from guides.composition import Guides

        return Guides((*Guides.of(self), *Guides.of(other))) if isinstance(other, Guide) else NotImplemented

    def why_not(self, program: Program) -> str | None:
        """Return None if this guide fits the program, else the reason why not."""
        left = [s.name for s in program.latents if s.name not in self.sites]
        if not self.sites or (not left and len(self.sites) == len(program.latents)):
            return self.lacks_counts(program.latents)
        from guides.composition import Guides

        return Guides(Guides.of(self)).why_not(program)

    def lacks_counts(self, latents: Sequence[Site]) -> str | None:
        """Return the reason if one of these latents is a count and the guide has no family for it."""
        count = None if self.counts else next((s.name for s in latents if s.countable), None)
        if count is None:
            return None
        return (
            f"{type(self).__name__} has no family for {count!r}, a count with infinitely many states; use MeanField(), "
            f"{self!r} & MeanField({count!r}), or Custom(...)"
        )

    @abstractmethod
    def build(self, program: Program, start: Start) -> Variational:
        """Make q, at its starting point."""

    def claims(self, program: Program) -> tuple[str, ...]:
        """Names of the sites it is for; empty for all that no other guide covers."""
        return self.sites

    def caveats(self, program: Program) -> list[str]:
        """What a fit with this guide has to say of it."""
        return []

    def points(self, program: Program) -> tuple[str, ...]:
        """Names of the sites whose q is a point.

        Where these are some of the latents, the bound is one on log p(x, points), the evidence of the others, with the
        density of the points in their own space.
        """
        return tuple(s.name for s in program.latents) if self.point else ()

    def settle(self, **settings: Any) -> None:
        """Take settings and check them; for a guide whose ``__init__`` takes names of sites one by one."""
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        """Show the guide as it would be written, names of sites one by one."""
        found = {f.name: (getattr(self, f.name), f.default) for f in fields(self)}  # type: ignore[arg-type]
        before = list(found)[: list(found).index("sites")] if "sites" in found else []
        shown = [repr(found[n][0]) for n in before if self.sites or found[n][0] != found[n][1]]
        shown += [repr(name) for name in self.sites]
        shown += [f"{n}={v!r}" for n, (v, _) in found.items() if n not in before and n != "sites"]
        return f"{type(self).__name__}({', '.join(shown)})"


def as_guide(guide: object) -> object:
    """Return a guide for an instance, a class with its default settings, or a name.

    Raises
    ------
    MethodError
        For a class or name of a guide with settings that have no default.
    """
    if isinstance(guide, str):
        guide = catalogue.find("guide", guide)
    if not (isinstance(guide, type) and issubclass(guide, Guide)):
        return guide
    needed = [f.name for f in fields(guide) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]
    if needed:
        raise MethodError(f"{guide.__name__} has no defaults; give {guide.__name__}({', '.join(needed)})")
    return guide()


def check_settings(instance: Any) -> None:
    """Validate the fields of a dataclass of settings against their annotations.

    Raises
    ------
    ModelError
        Naming the setting.
    """
    hints = get_type_hints(type(instance), include_extras=True)
    for setting in fields(instance):
        value = getattr(instance, setting.name)
        if hints[setting.name] is Guide:
            value = as_guide(value)
        value = validate(type(instance).__name__, setting.name, value, hints[setting.name])
        object.__setattr__(instance, setting.name, value)
