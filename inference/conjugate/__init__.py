"""Exponential families: a weighted sufficient statistic per site, then a closed-form update. One family per file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from inference.conjugate.block import Block, Matcher
from inference.conjugate.e_step import EStep
from inference.conjugate.plan import Plan
from zoo.program.program import Program


@cache
def load() -> None:
    """Import every file of this folder, which registers its families; a user's own register when they are defined."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def closed_form(program: Program) -> Plan:
    """Find which unknowns of a program have a closed-form update; what is left is in `rest`."""
    known = program.plans.get("closed_form")
    if isinstance(known, Plan):
        return known
    load()
    plan = program.plans["closed_form"] = Plan.of(program)
    return plan


__all__ = ["Block", "EStep", "Matcher", "Plan", "closed_form", "load"]
