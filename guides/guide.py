"""What a guide is: settings that build, from a program, a trainable distribution q over its unconstrained latents.

A guide for some sites and a composition of guides are one recursive type, so both are defined here: a `Guide` is
combined into `Guides`, whose members are `Guide`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast, get_type_hints

from guides.scope import Composite, Side, in_constrained_space, restrict, restrict_start
from guides.start import Start
from guides.variational import Variational
from zoo import catalogue
from zoo.declare.model import validate, written
from zoo.errors import MethodError, short, unknown
from zoo.program.program import Program
from zoo.replay.sites import Site

Names = tuple[str, ...]
ROLES = {
    "enumerated": "is summed out exactly and needs no guide; leave it out",
    "integrated": "is integrated out exactly and needs no guide; leave it out",
    "observed": "is observed and needs no guide; leave it out",
    "parameter": "is a parameter, which climbs along without a guide; leave it out",
    "deterministic": "follows from other sites and needs no guide; leave it out",
}


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

    Examples
    --------
    >>> import zoo
    >>> from guides import Guide, MeanField
    >>> isinstance(MeanField(), Guide)
    True
    >>> zoo.catalogue.find("guide", "mean_field") is MeanField  # by its name, as on the command line
    True
    """

    point = False
    counts = False
    sites: tuple[str, ...] = ()

    def __init__(self, *names: str, sites: Sequence[str] = ()) -> None:
        """Take names of sites one by one: all there is to tell a guide without other settings."""
        self.set_fields(sites=names_of(type(self).__name__, names, sites))

    @property
    def still(self) -> bool:
        """Whether q is a point while it climbs, so that all draws are the same.

        Examples
        --------
        >>> from guides import Laplace, Point
        >>> Laplace().still, Laplace().point, Point().point
        (True, False, True)
        """
        return self.point

    def __post_init__(self) -> None:
        """Check the settings against their annotations."""
        check_settings(self)

    def __and__(self, other: Guide) -> Guides:
        """Combine with a guide for other sites."""
        second = as_guide(other)
        if not isinstance(second, Guide):
            raise MethodError(
                f"{self!r} & {type(other).__name__}: a guide is combined with a guide for other sites, such as "
                "MeanField() & FullRank('loc')"
            )
        return Guides((*Guides.of(self), *Guides.of(second)))

    def __rand__(self, other: object) -> Guides:
        """Combine with the name or class of a guide, and refuse anything else, as on the right of ``&``."""
        first = as_guide(other)
        return first & self if isinstance(first, Guide) else self.__and__(cast(Guide, other))

    def why_not(self, program: Program) -> str | None:
        """Return None if this guide fits the program, else the reason why not.

        Examples
        --------
        >>> import zoo
        >>> from guides import Encoder, MeanField
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BetaBernoulli(), [1.0, 0.0, 1.0])
        >>> MeanField().why_not(program) is None
        True
        >>> Encoder().why_not(program)
        'Encoder maps data rows to local latents, and there are none; use MeanField() or Point()'
        >>> MeanField("q").why_not(program)
        "MeanField('q'): unknown latent 'q'. Known: p."
        """
        left = [s.name for s in program.latents if s.name not in self.sites]
        if not self.sites or (not left and len(self.sites) == len(program.latents)):
            return self.lacks_counts(program.latents)
        return Guides(Guides.of(self)).why_not(program)

    def lacks_counts(self, latents: Sequence[Site]) -> str | None:
        """Return the reason if one of these latents is a count and the guide has no family for it.

        Examples
        --------
        >>> import pyro
        >>> import pyro.distributions as dist
        >>> import zoo
        >>> from guides import FullRank, MeanField
        >>> from zoo.program.prepare import prepare
        >>> @zoo.model(seen=zoo.Count("visit"))
        ... def birds(seen):
        ...     there = pyro.sample("there", dist.Poisson(20.0))
        ...     with pyro.plate("visit", len(seen)):
        ...         pyro.sample("seen", dist.Poisson(0.3 * there), obs=seen)
        >>> latents = prepare(birds, [5, 7]).latents
        >>> FullRank().lacks_counts(latents)
        "FullRank has no family for 'there', a count with infinitely many states; use MeanField(), ..."
        >>> MeanField().lacks_counts(latents) is None
        True
        """
        count = None if self.counts else next((s.name for s in latents if s.countable), None)
        if count is None:
            return None
        return (
            f"{type(self).__name__} has no family for {count!r}, a count with infinitely many states; use MeanField(), "
            f"{self!r} & MeanField({count!r}), or Custom(...)"
        )

    @abstractmethod
    def build(self, program: Program, start: Start) -> Variational:
        """Make q, at its starting point.

        Examples
        --------
        >>> import zoo
        >>> from guides import FullRank
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> from guides.start import Start
        >>> q = FullRank().build(program, Start.blank(program))
        >>> type(q).__name__
        'Variational'
        """

    def claims(self, program: Program) -> tuple[str, ...]:
        """Names of the sites it is for; empty for all that no other guide covers.

        Examples
        --------
        >>> import zoo
        >>> from guides import MeanField
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> MeanField().claims(program), MeanField("precision").claims(program)
        ((), ('precision',))
        """
        return self.sites

    def named(self, program: Program) -> tuple[str, ...]:
        """Names of the sites that are its own business, which no method may take from it by integrating them out.

        Examples
        --------
        >>> import zoo
        >>> from guides import MeanField
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> (MeanField() & MeanField("precision")).named(program)
        ('precision',)
        """
        return self.claims(program)

    def caveats(self, program: Program) -> list[str]:
        """What a fit with this guide has to say of it.

        Examples
        --------
        >>> import zoo
        >>> from guides import MeanField
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> MeanField().caveats(program)
        []
        """
        return []

    def points(self, program: Program) -> tuple[str, ...]:
        """Names of the sites whose q is a point.

        Where these are some of the latents, the bound is one on log p(x, points), the evidence of the others, with the
        density of the points in their constrained space.

        Examples
        --------
        >>> import zoo
        >>> from guides import MeanField, Point
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> Point().points(program)
        ('precision', 'coefficients', 'intercept')
        >>> (MeanField() & Point("precision")).points(program)
        ('precision',)
        """
        return tuple(s.name for s in program.latents) if self.point else ()

    def set_fields(self, **settings: Any) -> None:
        """Take settings and check them; for an ``__init__`` that takes names of sites one by one.

        Examples
        --------
        >>> from guides import LowRank, MeanField
        >>> guide = MeanField()
        >>> guide.set_fields(sites=("loc", "scale"))  # what MeanField("loc", "scale") does
        >>> guide
        MeanField('loc', 'scale')
        """
        for name, value in settings.items():
            object.__setattr__(self, name, value)
        self.__post_init__()

    def __repr__(self) -> str:
        """Show the guide as it would be written, names of sites one by one."""
        settings = {f.name: getattr(self, f.name) for f in fields(cast(Any, self))}
        defaults = {f.name: f.default for f in fields(cast(Any, self))}
        order = list(settings)
        before = order[: order.index("sites")] if "sites" in order else []  # given by position, ahead of the names
        shown = [repr(settings[n]) for n in before if self.sites or settings[n] != defaults[n]]
        shown += [repr(name) for name in self.sites]
        shown += [f"{n}={written(v)}" for n, v in settings.items() if n not in before and n != "sites"]
        return f"{type(self).__name__}({', '.join(shown)})"


@dataclass(frozen=True, init=False, repr=False)
class Guides(Guide):
    """A guide for each site or group of sites.

    q(u) = prod_k q_k(u_k), one factor for each member, each in its own family.
    ``Guides({"weights": MeanField(), ("loc", "scale"): FullRank()})`` is the same as
    ``MeanField("weights") & FullRank("loc", "scale")``. One member may be left without names: it covers the rest, as in
    ``Guides({"z": Encoder()}) & MeanField()``. Every latent has to be covered once.

    Beside others, a `Point` has no entropy: the bound E_q[log p(x, z, z*)] - E_q[log q(z)] is one on log p(x, z*), the
    evidence of the other latents z at the point z*, with the density of z* in its constrained space.

    Parameters
    ----------
    members
        From name of a site, or tuple of names, to its guide.

    Examples
    --------
    >>> import zoo
    >>> from guides import FullRank, Guides, MeanField
    >>> from inference import SVI, fit
    >>> line = {"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0.1, 0.9, 2.2, 2.9]}
    >>> guide = MeanField("precision") & FullRank("coefficients", "intercept")
    >>> isinstance(guide, Guides)
    True
    >>> result = fit(zoo.BayesianRegression(), line, method=SVI(guide=guide, steps=100), seed=0)
    >>> list(result.posterior["posterior"].data_vars)
    ['precision', 'coefficients', 'intercept']
    """

    members: tuple[tuple[Names, Guide], ...]

    def __init__(self, members: Mapping[str | Names, Guide] | Iterable[tuple[Names, Guide]]) -> None:
        try:
            pairs = list(members.items()) if isinstance(members, Mapping) else [(n, g) for n, g in members]
            given: list[tuple[Names, Any]] = [((n,) if isinstance(n, str) else tuple(n), as_guide(g)) for n, g in pairs]
        except (TypeError, ValueError):
            raise MethodError(
                f"Guides takes a guide for each site, such as Guides({{'loc': MeanField()}}), not {short(members)}"
            ) from None
        for names, guide in given:
            if not isinstance(guide, Guide):
                raise MethodError(
                    f"Guides: {guide!r}, for {', '.join(names)}, is no guide; give one such as MeanField()"
                )
            if names and guide.sites:
                raise MethodError(f"Guides: the guide for {', '.join(names)} names sites of its own, {guide!r}")
        if not given:
            raise MethodError('Guides: there is none; give them by site, such as Guides({"loc": MeanField()})')
        object.__setattr__(self, "point", all(g.point for _, g in given))
        self.set_fields(members=tuple(given))

    @property
    def still(self) -> bool:
        # Whether every member is a point while it climbs
        return all(guide.still for _, guide in self.members)

    @staticmethod
    def of(guide: Guide) -> tuple[tuple[Names, Guide], ...]:
        """Members of a guide: its own, or itself.

        Examples
        --------
        >>> from guides import FullRank, Guides, MeanField
        >>> Guides.of(MeanField() & FullRank("loc"))
        (((), MeanField()), ((), FullRank('loc')))
        >>> Guides.of(MeanField())
        (((), MeanField()),)
        """
        return guide.members if isinstance(guide, Guides) else (((), guide),)

    def why_not(self, program: Program) -> str | None:
        # Refuse where a site is covered not at all or twice, or a member does not fit its sites
        try:
            division = self.division(program)
        except MethodError as error:
            return str(error)
        for (_, guide), names in zip(self.members, division, strict=True):
            if (reason := guide.why_not(restrict(program, names))) is not None:
                return f"for {', '.join(names)}, {reason}"
        return None

    def division(self, program: Program) -> list[Names]:
        """Return the names of the sites of each member.

        Raises
        ------
        MethodError
            If they do not cover every latent once.

        Examples
        --------
        >>> import zoo
        >>> from guides import MeanField, Point
        >>> from zoo.program.prepare import prepare
        >>> program = prepare(zoo.BayesianRegression(), {"x": [[0.0], [1.0], [3.0]], "y": [0.0, 1.1, 2.9]})
        >>> (MeanField() & Point("precision")).division(program)
        [('coefficients', 'intercept'), ('precision',)]
        >>> (MeanField("intercept") & Point("precision")).division(program)
        Traceback (most recent call last):
            ...
        zoo.errors.MethodError: no guide covers 'coefficients'; name it in one, or add & MeanField() for the rest
        """
        latents = [s.name for s in program.latents]
        claims = [names or guide.claims(program) for names, guide in self.members]
        owner: dict[str, Guide] = {}
        for own, (_, guide) in zip(claims, self.members, strict=True):
            for name in own:
                if name not in latents:
                    site = program.sites.get(name)
                    if site is None or site.role not in ROLES:
                        raise MethodError(f"{guide!r}: {unknown('latent', name, latents)}")
                    raise MethodError(f"{guide!r}: site {name!r} {ROLES[site.role]}")
                if own.count(name) > 1:
                    raise MethodError(f"{guide!r} names {name!r} twice; take out one")
                if name in owner:
                    raise MethodError(f"site {name!r} is covered twice, by {owner[name]!r} and {guide!r}; take out one")
                owner[name] = guide
        left = tuple(n for n in latents if n not in owner)
        rest = [guide for own, (_, guide) in zip(claims, self.members, strict=True) if not own]
        if left and not rest:
            raise MethodError(
                f"no guide covers {', '.join(map(repr, left))}; name it in one, or add & MeanField() for the rest"
            )
        if len(rest) > 1:
            raise MethodError(f"{' and '.join(map(repr, rest))} name no sites; at most one guide can cover the rest")
        if rest and not left:
            raise MethodError(f"{rest[0]!r} has no site left to cover; leave it out")
        return [own or left for own in claims]

    def named(self, program: Program) -> tuple[str, ...]:
        # Names of the sites that members name
        return tuple(n for names, guide in self.members for n in names or guide.named(program))

    def build(self, program: Program, start: Start) -> Variational:
        # Make each member's q on its own sites
        division = self.division(program)
        seen = [restrict(program, names) for names in division]
        views = [part.view for part in seen]
        built = []
        for (_, guide), names, part, view in zip(self.members, division, seen, views, strict=True):
            q = guide.build(part, restrict_start(program, start, names))
            built.append(in_constrained_space(q, view) if guide.point and not self.point else q)
        if not all(q.covers_rows for q in built):
            return Composite(built, program, views)
        whole = program.view
        return Variational(
            Side([q.over_globals for q in built], whole.globals, [view.globals for view in views]),
            Side([q.over_locals for q in built], whole.locals, [view.locals for view in views]),
        )

    def caveats(self, program: Program) -> list[str]:
        # What the members have to say
        members = zip(self.members, self.division(program), strict=True)
        return [said for (_, guide), names in members for said in guide.caveats(restrict(program, names))]

    def points(self, program: Program) -> tuple[str, ...]:
        # Names of the sites whose q is a point
        division = zip(self.members, self.division(program), strict=True)
        points = {n for (_, guide), names in division for n in guide.points(restrict(program, names))}
        return tuple(s.name for s in program.latents if s.name in points)

    def __repr__(self) -> str:
        """Show the guides as they would be written."""
        terms: list[str] = []
        named: dict[Any, Guide] = {}
        for names, guide in (*self.members, ((), None)):
            if names and guide is not None:
                named[names if len(names) > 1 else names[0]] = guide
                continue
            if named:
                terms.append(f"Guides({named!r})")
                named = {}
            if guide is not None:
                terms.append(repr(guide))
        return " & ".join(terms)


def names_of(owner: str, names: Sequence[str], sites: Sequence[str]) -> Names:
    """Return names of sites that were given one by one, or together.

    Raises
    ------
    MethodError
        If what was given together is no sequence of names.
    """
    together = (sites,) if isinstance(sites, str) else sites
    try:
        found = (*names, *together)
    except TypeError:
        raise MethodError(
            f"{owner}: sites={short(sites)} is not valid: it takes names of sites, ('loc', 'scale')"
        ) from None
    for name in found:
        if not isinstance(name, str):
            raise MethodError(f"{owner}: {type(name).__name__} is no name of a site; write {owner}('loc', 'scale')")
    return found


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
    settings = fields(cast(Any, guide))
    needed = [f.name for f in settings if f.default is MISSING and f.default_factory is MISSING]
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
