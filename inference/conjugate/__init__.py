"""Exponential families: a weighted sufficient statistic per site, then a closed-form update. One family per file."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

from inference.conjugate.e_step import EStep
from inference.conjugate.factor_posteriors import GroupedNormal, LocalNormal
from inference.conjugate.family import Block, Family, Likelihood
from inference.conjugate.joint_posteriors import NormalGamma, NormalWishart
from inference.conjugate.linear_posterior import LinearPosterior
from inference.conjugate.plan import Plan
from zoo.program.program import Program
from zoo.replay.sites import Site


def _below(cls: Any) -> list[Any]:
    return [d for c in cls.__subclasses__() for d in (c, *_below(c))]


@cache
def _found() -> tuple[dict[str, Likelihood], list[Family]]:
    """Likelihoods by distribution, and families, joint ones (of several unknowns) first."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    likelihoods = {name: cls() for cls in _below(Likelihood) if cls.distributions for name in cls.distributions}
    families: list[Family] = [cls() for cls in _below(Family) if not getattr(cls, "__abstractmethods__", None)]
    return likelihoods, sorted(families, key=lambda family: (family.rank, type(family).__name__))


def predictor(plan: Plan, site: Site) -> Likelihood | None:
    """Return the likelihood of a Normal site whose location is affine in unknowns, None if there is none."""
    from inference.conjugate.factors import FactorLikelihood
    from inference.conjugate.regression import LinearLikelihood

    parent = site.args["loc"]
    if any(plan.program.sites[n].role == "local" for n in parent.sites):
        return FactorLikelihood.of(plan, site)
    return LinearLikelihood(plan, site) if parent.kind == "linear" else None


def load() -> None:
    """Import every family, so that the first fit does not have to."""
    _found()


def closed_form(program: Program) -> Plan:
    """Find which unknowns of a program have a closed-form update; what is left is in `rest`."""
    known = program.plans.get("closed_form")
    if isinstance(known, Plan):
        return known
    likelihoods, families = _found()
    plan = Plan(program)
    plan.recognize(likelihoods, predictor)
    every = [s.name for s in (*program.parameters, *program.latents)]
    unknown = [n for n in every if n not in plan.in_values]
    for family in families:
        for block in family.match(plan, unknown):
            if set(block.unknowns) <= set(unknown):
                plan.blocks.append(block)
                unknown = [n for n in unknown if n not in block.unknowns]
    order = {site.name: (site.role != "local", i) for i, site in enumerate(program.sites.values())}
    plan.blocks.sort(key=lambda block: (block.last, min(order[n] for n in block.unknowns)))
    plan.rest = [n for n in every if n in unknown or n in plan.in_values] + sorted(program.networks)
    program.plans["closed_form"] = plan
    return plan


__all__ = [
    "Block",
    "EStep",
    "Family",
    "GroupedNormal",
    "Likelihood",
    "LinearPosterior",
    "LocalNormal",
    "NormalGamma",
    "NormalWishart",
    "Plan",
    "closed_form",
]
