"""Exponential families: a weighted sufficient statistic per site, then a closed-form update. One family per file."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

from inference.families.family import Block, Family
from zoo.declare.program import Program


def families() -> list[Family]:
    """One of each family in this package, joint families (of several unknowns) first."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")

    def below(cls: Any) -> list[Any]:
        return [d for c in cls.__subclasses__() for d in (c, *below(c))]

    found: list[Family] = [cls() for cls in below(Family) if cls.likelihoods]
    return sorted(found, key=lambda family: (family.rank, type(family).__name__))


def closed_form(program: Program) -> tuple[list[Block], list[str]]:
    """Split the unknowns of a program into blocks with a closed-form update and names without one."""
    unknown = [s.name for s in (*program.parameters, *program.latents)]
    blocks: list[Block] = []
    for family in families():
        for block in family.match(program, unknown):
            if set(block.unknowns) <= set(unknown):
                blocks.append(block)
                unknown = [n for n in unknown if n not in block.unknowns]
    return blocks, unknown + sorted(program.networks)


__all__ = ["Block", "Family", "closed_form", "families"]
