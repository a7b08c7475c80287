"""Why an unknown has no update in closed form, in words."""

from __future__ import annotations

from inference.conjugate import closed_form
from inference.conjugate.block import uses
from zoo.program.program import Program
from zoo.replay.sites import primary


def no_posterior(program: Program, name: str) -> str:
    """Say why an unknown has no conjugate posterior given the others."""
    if name not in program.sites:
        return f"{name!r} belongs to a network, which has no closed-form update"
    gaps = [s.name for s, _ in uses(program, name) if s.name in closed_form(program).incomplete]
    if gaps:
        return f"site {gaps[0]!r} has missing values (NaN), and {name!r} has a closed form for complete rows only"
    site = program.sites[name]
    what = ", ".join(f"{k}={f}" for k, f in primary(site.args).items() if f.kind != "constant")
    return (
        f"no conjugate family is recognised for {site.name!r} ~ {site.family or site.support} "
        f"({what or 'constant arguments'}) and what it feeds"
    )


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
    children = ", ".join(f"{child.name} ~ {child.family}" for child, _ in uses(program, name)) or "no site"
    return f"{prior}it feeds {children}"
