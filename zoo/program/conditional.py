"""Which discrete latents the posterior of a continuous one depends on, state by state."""

from __future__ import annotations

from zoo.program.program import Program
from zoo.replay.sites import Site


def touching(program: Program, site: Site) -> tuple[str, ...]:
    """Enumerated sites that the log densities of a latent and of what it feeds depend on."""
    near = [s for s in program.sites.values() if s is site or any(site.name in p.sites for p in s.args.values())]
    found = {n for s in near for p in s.args.values() for n in p.index}
    return tuple(s.name for s in program.enumerated if s.name in found)


def by_state(program: Program, site: Site) -> tuple[str, ...]:
    """Enumerated sites by whose states a local latent has a posterior each; none if it has one, or none of the kind.

    The states have to be those of the row, or of fewer plates.
    """
    if site.role != "local":
        return ()
    names = touching(program, site)
    others = [program.sites[n] for n in names]
    plates = all(program.row in z.plates and set(z.plates) <= set(site.plates) for z in others)
    fits = all(site.symbols.get(z.enum_dim) == z.symbols[z.enum_dim] for z in others)
    return names if plates and fits else ()
