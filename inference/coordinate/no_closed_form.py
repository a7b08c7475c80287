"""Why an unknown has no update in closed form, in words."""

from __future__ import annotations

from inference.conjugate import closed_form
from inference.conjugate.block import uses
from zoo.program.program import Program
from zoo.replay.sites import Site, primary


def no_posterior(program: Program, name: str) -> str:
    """Say why an unknown has no conjugate posterior given the others."""
    if name not in program.sites:
        return f"{name!r} belongs to a network, which has no closed-form update"
    gaps = [s.name for s, _ in uses(program, name) if s.name in closed_form(program).incomplete]
    if gaps:
        return f"site {gaps[0]!r} has missing values (NaN), and {name!r} has a closed form for complete rows only"
    weighed = [s.name for s, _ in uses(program, name) if s.name in closed_form(program).weighed]
    if weighed:
        return (
            f"site {weighed[0]!r} is masked or scaled, and what {name!r} feeds has a closed form where it is neither; "
            "write NaN in place of a mask, and give rows weights in place of a scale"
        )
    site = program.sites[name]
    if (reason := _by_state(program, site)) is not None:
        return reason
    what = ", ".join(f"{k}={f}" for k, f in primary(site.args).items() if f.kind != "constant")
    return (
        f"no conjugate family is recognised for {site.name!r} ~ {site.family or site.support} "
        f"({what or 'constant arguments'}) and what it feeds"
    )


def _by_state(program: Program, site: Site) -> str | None:
    """Say why a latent whose prior depends on states has no posterior in each of them; None if that is not why."""
    for name in site.by_state:
        z = program.sites[name]
        fed = [
            s.name for s in program.sites.values() for p in s.args.values() if name in p.index and s.name != site.name
        ]
        if program.row not in z.plates and site.role == "local":
            return f"the prior of the local {site.name!r} depends on the state of {name!r}, which all rows share"
        if site.role == "global" and fed:
            return (
                f"the prior of {site.name!r} and the density of {fed[0]!r} both depend on the state of {name!r}, so "
                "that what is seen of one is no message to the other"
            )
        if site.role == "global" and z.plates != site.plates:
            return (
                f"the prior of {site.name!r}, in plates {list(site.plates) or 'none'}, depends on the state of "
                f"{name!r}, in plates {list(z.plates) or 'none'}: each entry needs a state of its own"
            )
    if len(site.by_state) > 1 and site.role == "global":
        return f"the prior of {site.name!r} depends on the states of {' and '.join(map(repr, site.by_state))} together"
    return None


def no_maximum(program: Program, name: str) -> str:
    """Say which use or prior of an unknown keeps its M-step from having a closed form."""
    if name not in program.sites:
        return "weights of a network"
    site = program.sites[name]
    for child, args in uses(program, name):
        for key, parent in primary(dict(args)).items():
            if parent.kind == "function":
                return f"{child.name}: {key} is a {parent}"
    prior = "" if site.role == "parameter" else f"with a {site.family} prior "
    children = ", ".join(f"{child.name} ~ {child.family}" for child, _ in uses(program, name))
    closed = [s for s in program.observed if not s.args]  # distributions made of others
    if not children and closed:
        return f"{prior}it may be inside of {closed[0].name} ~ {closed[0].family}, whose parts are not told apart"
    return f"{prior}it feeds {children or 'no site'}"
