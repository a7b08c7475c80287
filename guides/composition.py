"""Guides for different sites, together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from guides.guide import Guide, as_guide
from guides.scope import Composite, Side, in_own_space, restrict, restrict_start
from guides.start import Start
from guides.variational import Variational
from zoo.errors import MethodError, unknown
from zoo.program.program import Program

Names = tuple[str, ...]
ROLES = {
    "enumerated": "is summed out exactly and needs no guide; leave it out",
    "observed": "is observed and needs no guide; leave it out",
    "parameter": "is a parameter, which climbs along without a guide; leave it out",
    "deterministic": "follows from other sites and needs no guide; leave it out",
}


@dataclass(frozen=True, init=False, repr=False)
class Guides(Guide):
    """A guide for each site or group of sites.

    q(u) = prod_k q_k(u_k), one factor for each member, each in its own family.
    ``Guides({"weights": MeanField(), ("loc", "scale"): FullRank()})`` is the same as
    ``MeanField("weights") & FullRank("loc", "scale")``. One member may be left without names: it covers the rest, as in
    ``Guides({"z": Encoder()}) & MeanField()``. Every latent has to be covered once.

    Beside others, a `Point` has no entropy: the bound E_q[log p(x, z, z*)] - E_q[log q(z)] is one on log p(x, z*), the
    evidence of the other latents z at the point z*, with the density of z* in its own space.

    Parameters
    ----------
    members
        From name of a site, or tuple of names, to its guide.
    """

    members: tuple[tuple[Names, Guide], ...]

    def __init__(self, members: Mapping[str | Names, Guide] | Iterable[tuple[Names, Guide]]) -> None:
        pairs = list(members.items()) if isinstance(members, Mapping) else list(members)
        found: list[tuple[Names, Any]] = [((n,) if isinstance(n, str) else tuple(n), as_guide(g)) for n, g in pairs]
        for names, guide in found:
            if not isinstance(guide, Guide):
                raise MethodError(
                    f"Guides: {guide!r}, for {', '.join(names)}, is no guide; give one such as MeanField()"
                )
            if names and guide.sites:
                raise MethodError(f"Guides: the guide for {', '.join(names)} names sites of its own, {guide!r}")
        if not found:
            raise MethodError('Guides: there is none; give them by site, such as Guides({"loc": MeanField()})')
        object.__setattr__(self, "point", all(g.point for _, g in found))
        self.settle(members=tuple(found))

    @property
    def still(self) -> bool:
        """Whether every member is a point while it climbs."""
        return all(guide.still for _, guide in self.members)

    @staticmethod
    def of(guide: Guide) -> tuple[tuple[Names, Guide], ...]:
        """Members of a guide: its own, or itself."""
        return guide.members if isinstance(guide, Guides) else (((), guide),)

    def why_not(self, program: Program) -> str | None:
        """Refuse where a site is covered not at all or twice, or a member does not fit its sites."""
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

    def build(self, program: Program, start: Start) -> Variational:
        """Make each member's q on its own sites."""
        division = self.division(program)
        seen = [restrict(program, names) for names in division]
        views = [part.view for part in seen]
        built = []
        for (_, guide), names, part, view in zip(self.members, division, seen, views, strict=True):
            q = guide.build(part, restrict_start(program, start, names))
            built.append(in_own_space(q, view) if guide.point and not self.point else q)
        if not all(q.covers_rows for q in built):
            return Composite(built, program, views)
        whole = program.view
        return Variational(
            Side([q.over_globals for q in built], whole.globals, [view.globals for view in views]),
            Side([q.over_locals for q in built], whole.locals, [view.locals for view in views]),
        )

    def caveats(self, program: Program) -> list[str]:
        """What the members have to say."""
        members = zip(self.members, self.division(program), strict=True)
        return [said for (_, guide), names in members for said in guide.caveats(restrict(program, names))]

    def points(self, program: Program) -> tuple[str, ...]:
        """Names of the sites whose q is a point."""
        division = zip(self.members, self.division(program), strict=True)
        found = {n for (_, guide), names in division for n in guide.points(restrict(program, names))}
        return tuple(s.name for s in program.latents if s.name in found)

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
