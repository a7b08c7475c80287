"""Recognition: which family each site of a program is of, checked against the site's own log density."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from inference.conjugate.e_step import EStep
from inference.conjugate.exponential_family import Likelihood, family_of
from inference.conjugate.factors import FactorLikelihood
from inference.conjugate.linear import LinearLikelihood
from inference.conjugate.location_scale import LocationScale, Predictor
from inference.conjugate.mixed_shares import mixed_shares
from inference.conjugate.recognition import Recognition
from inference.conjugate.state_factors import StateFactorLikelihood
from inference.conjugate.sticks import broken_stick
from inference.conjugate.verify import in_values, made_values, mistaken, on_all_rows
from zoo.program.conditional import touching
from zoo.program.program import Program
from zoo.replay.evaluate import Replay, Values
from zoo.replay.normals import observed_density
from zoo.replay.sites import ALTERNATIVES, Parent, Site, base_distribution
from zoo.structure.structure import spread_rows

PREDICTORS = ("linear", "bilinear")  # kinds of locations that have a likelihood of their own
ROUNDING = 64  # rounding errors of the largest density that two ways to the same density may differ by


def recognize(seen: Recognition) -> EStep:
    """Match sites with families, and keep those whose formula gives the site's own log density.

    Returns
    -------
    EStep
        A few rows at made-up values, on which that was seen; what differs in other rows only is then looked for in all.
    """
    program, structure = seen.program, seen.program.structure
    data = program.data
    if structure.example_rows is not None:
        data = data.take(structure.example_rows.to(program.device))
    sample = program.rebind(data)
    values = {**structure.example, **{n: p.detach() for n, p in program.model.named_parameters()}}
    values = on_all_rows(sample, {n: v.to(program.device) for n, v in values.items()})  # other rows than were traced
    with torch.no_grad():
        example = EStep(seen, sample, values, sample.replay(values))
        made = made_values(program, values, example.replay)
        gone = program.integrated.names if program.integrated else frozenset()
        for site in program.sites.values():
            if site.name not in example.replay.distributions or site.name in gone:
                continue
            if _is_plain(example, site):
                _recognize_site(seen, example, site, made)
            elif site.role == "observed" and site.family != "Evidence":
                seen.weighed.append(site.name)
        seen.in_values = in_values(program, values, made)
        if structure.example_rows is not None:
            spread = spread_rows(program.data, program.networks)
            whole = program if spread is None else program.rebind(program.data.take(spread))

            def predicted(site: Site, values: Values, replay: Replay) -> Tensor | None:
                likelihood = seen.likelihoods.get(site.name)
                if not isinstance(likelihood, Predictor):
                    return None
                return likelihood.location(EStep(seen, whole, values, replay))["mean"]

            for name in mistaken(whole, values, predicted):
                seen.likelihoods.pop(name, None)
    return example


def _recognize_site(seen: Recognition, example: EStep, site: Site, made: Mapping[str, Tensor]) -> None:
    """Note the family of one site, if its log density is that of the family."""
    fn = base_distribution(example.replay.distributions[site.name])
    likelihood = _predictor(seen, site, example.replay) or _composed(seen, example, site) or family_of(fn)
    if likelihood is None:
        return
    vector = example.program.missing(site) is not None and likelihood.event_dim > 0 and not likelihood.skips
    if vector and not _completes(seen.program, site, likelihood):
        seen.incomplete.append(site.name)
        return
    seen.likelihoods[site.name] = likelihood
    known = ("loc",) if isinstance(likelihood, Predictor) else ()
    if likelihood.summable and _row_free(fn, site, known):
        seen.collapsible.add(site.name)
    if site.role == "observed" and (likelihood.centered or isinstance(likelihood, LocationScale)):
        seen.center_on(site, made[site.name] if site.name in made else seen.program.data.values[str(site.field)])
    if not _same(example.log_density(site), example.replay.log_probs[site.name]):
        del seen.likelihoods[site.name]


def _composed(seen: Recognition, example: EStep, site: Site) -> Likelihood | None:
    """The likelihood of categories whose probabilities are made of unknowns in a known way, None if there is none."""
    return broken_stick(seen, example, site) or mixed_shares(seen, example, site)


def _predictor(seen: Recognition, site: Site, replay: Replay) -> Likelihood | None:
    """The likelihood of a Normal site whose location is affine in unknowns, None if there is none."""
    if site.family != "Normal" or not site.observes:
        return None
    parent = site.args["loc"]
    if _one_coefficient(seen.program, parent):
        return LinearLikelihood(seen.program, site)
    if parent.kind not in PREDICTORS:
        return None
    local = [seen.program.sites[n] for n in parent.sites if seen.program.sites[n].role == "local"]
    if local:
        kind = StateFactorLikelihood if touching(seen.program, local[0]) else FactorLikelihood
        return kind.of(seen.program, site, seen.likelihoods, replay)
    return LinearLikelihood(seen.program, site) if parent.kind == "linear" else None


def _one_coefficient(program: Program, parent: Parent) -> bool:
    """Whether a location is data times the only entry of a vector of coefficients, as x @ b is with one predictor."""
    if parent.kind != "site" or not parent.entrywise:
        return False
    site = program.sites[parent.sites[0]]
    return site.role == "global" and site.event_dim == 1 and math.prod(program.site_shape(site)) == 1


def _is_plain(example: EStep, site: Site) -> bool:
    """Whether a site's log density is that of its distribution, neither scaled nor masked."""
    fn, value, cells = example.replay.distributions[site.name], example.replay.seen[site.name], None
    cells = example.program.missing(site)
    density = fn.log_prob(value) if cells is None else observed_density(site.name, fn, value, cells)
    return _same(density, example.replay.log_probs[site.name])


def _completes(program: Program, site: Site, likelihood: Likelihood) -> bool:
    """Whether missing entries of a vector have a posterior of their own: not one with that of a local latent."""
    roles = {program.sites[n].role for parent in site.args.values() for n in parent.sites}
    return likelihood.completes and site.event_dim == likelihood.event_dim and "local" not in roles


def _same(mine: Tensor, own: Tensor) -> bool:
    """Whether two log densities agree up to rounding."""
    try:
        shape = torch.broadcast_shapes(mine.shape, own.shape)
    except RuntimeError:
        return False
    mine, own = mine.expand(shape), own.expand(shape)
    tolerance = 1e-7 if own.dtype == torch.float64 else 1e-2
    # Squares about a center far from a value cancel, with errors in proportion to the largest density.
    size = torch.where(own.isfinite(), own.abs(), 0.0)
    rounding = ROUNDING * torch.finfo(own.dtype).eps * (size.max() if size.numel() else size.sum())
    return bool(((mine - own).abs() <= tolerance * (1 + own.abs()) + rounding).logical_or(mine == own).all())


def _row_free(fn: Any, site: Site, known: tuple[str, ...]) -> bool:
    """Whether no argument of a distribution varies along the plates of its site, those that are known aside."""
    given = [n for n in fn.arg_constraints if isinstance(fn.__dict__.get(n), Tensor)]
    given = given or list(fn.arg_constraints)  # arguments that are kept by a distribution inside this one
    for name in given:
        if name in known:
            continue
        # Of alternatives (probs or logits) one is derived from the other, entry by entry.
        others = next((group for group in ALTERNATIVES if name in group), {name})
        data = any(site.args[n].data for n in others if n in site.args)
        if not any(_without_rows(fn, getattr(fn, n), site, data=data) for n in given if n in others):
            return False
    return True


def _without_rows(fn: Any, value: Tensor, site: Site, *, data: bool) -> bool:
    """Whether an argument is the same all along the plates; of one row only where it does not come from the data."""
    # Dimensions on the right that are an event: those of the base distribution, and those wrapped around it.
    events = value.ndim - len(fn.batch_shape) + max(site.event_dim - len(fn.event_shape), 0)
    for dim in range(max((-d for d in site.plate_dims), default=0)):
        axis = value.ndim - events - 1 - dim
        if axis >= 0 and (value.stride(axis) != 0 if value.shape[axis] > 1 else data):
            return False
    return True
