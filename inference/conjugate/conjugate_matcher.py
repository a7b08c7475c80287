"""Finding unknowns whose prior, or no prior, is conjugate to everything that they are an argument of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from inference.conjugate.block import Block, Matcher, Use, is_unknown, unscaled, uses
from inference.conjugate.conjugate_block import ConjugateBlock, ScaleBlock
from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import ConjugatePrior, Likelihood, prior_named
from inference.conjugate.location_scale import LocationScale
from inference.conjugate.recognition import Recognition, parameterizations
from zoo.replay.sites import Parent, Site


class ConjugateMatcher(Matcher):
    """Unknowns that have the conjugate prior, or none, of everything that they are an argument of."""

    rank = 3

    def match(self, seen: Recognition, example: EStep, unknown: Iterable[str]) -> list[Block]:
        """Claim each unknown whose uses all have a message to the family of its prior."""
        blocks = [self._block(seen, example, name) for name in unknown]
        return [block for block in blocks if block is not None]

    def _block(self, seen: Recognition, example: EStep, name: str) -> Block | None:
        site, wanted, bound = seen.program.sites[name], "", ""
        if site.role != "parameter":
            own = seen.likelihoods.get(name)
            if own is None or not all(self._prior_argument(own, a, p) for a, p in site.args.items()):
                return None
            wanted, bound = own.prior or site.family, name if own.prior else ""
        found: list[Use] = []
        scale = False
        for child, args in uses(seen.program, name):
            likelihood = seen.likelihoods.get(child.name)
            argument = None if likelihood is None else _argument(likelihood, child, args, wanted)
            if likelihood is None or argument is None:
                return None
            family = _family(likelihood, argument)
            use = Use(child, argument, args[argument])
            wanted = wanted or family
            if family != wanted or not _placed(prior_named(family), use, example, site):
                return None
            found.append(use)
            bound = child.name if argument in likelihood.by_bound else bound
            scale = scale or (isinstance(likelihood, LocationScale) and argument in likelihood.scales)
        if not found or (site.role == "parameter" and len({use.argument for use in found}) > 1):
            return None
        kind = ScaleBlock if scale else ConjugateBlock
        return kind(name, prior_named(wanted), tuple(found), bound)

    def _prior_argument(self, own: Likelihood, argument: str, parent: Parent) -> bool:
        """Whether an argument of a prior is constant, or one that may be an unknown itself."""
        if isinstance(own, LocationScale) or not (parent.sites or parent.index):
            return True
        return argument in own.conjugate and is_unknown(parent) and not parent.index


def _argument(likelihood: Likelihood, child: Site, args: Mapping[str, Parent], wanted: str) -> str | None:
    """Argument of a site that an unknown is, its prior being of the family `wanted`, or any; None if there is none.

    It must be no other argument too, and those without a conjugate prior must be known.
    """
    names = [a for a, family in likelihood.conjugate.items() if family == (wanted or family)]
    if not wanted and isinstance(likelihood, LocationScale):
        names += likelihood.scales
    argument = next((a for a in names if a in args and is_unknown(args[a])), None)
    if argument is None or set(args) - parameterizations(argument):
        return None
    free = {"loc"}.union(*(parameterizations(a) for a in likelihood.conjugate))
    held = {a for a in likelihood.given if a in child.args and is_unknown(child.args[a])}
    return argument if not any(p.sites for a, p in child.args.items() if a not in free | held) else None


def _family(likelihood: Likelihood, argument: str) -> str:
    """Name of the family that an argument's prior is of, or that of another parameterization."""
    if argument in likelihood.conjugate:
        return likelihood.conjugate[argument]
    return next(family for a, family in likelihood.conjugate.items() if a in parameterizations(argument))


def _placed(family: ConjugatePrior, use: Use, example: EStep, site: Site) -> bool:
    """Whether sums over the entries can be added up to the unknown's shape: of vectors and matrices as wholes."""
    if family.event_dim and use.parent.broadcast_dims:
        return False
    if unscaled(use.parent):
        return True
    if family.powers is None or (family.event_dim and site.role == "parameter"):
        return False
    return not family.event_dim or one_factor(example, use.site, use.argument)


def one_factor(example: EStep, site: Site, argument: str) -> bool:
    """Whether the constant that multiplies a matrix is one number, or one for each matrix."""
    if not site.args[argument].entrywise:
        return True
    factor = torch.as_tensor(example.factor(site, argument))
    if factor.ndim < 2:
        return True
    return torch.allclose(factor, factor[..., :1, :1].expand_as(factor), rtol=1e-9, atol=0.0)
